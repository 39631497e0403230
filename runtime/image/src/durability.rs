//! Layers and views survive a power cut without an fsync per file.
//!
//! A layer is published as soon as it is complete in the page cache, with the id of the boot in which that
//! happened. A background task then flushes the file system and leaves a `synced` mark. At the next start, a
//! layer without the mark that was written in *another* boot may be torn, and is discarded; in the same boot
//! the page cache is still the truth.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic;

const MARK: &str = "synced";

pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether a published layer that was written in boot `written_in` can be relied on now.
pub(crate) fn is_reliable(layer: &Path, written_in: &str) -> bool {
    layer.join(MARK).exists() || (!written_in.is_empty() && written_in == boot_id())
}

/// Flushes and marks what was just published, in the background.
pub(crate) fn flush_later(staging: PathBuf, published: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = flush(&staging, &published) {
            tracing::warn!(path = %published.display(), %error, "a layer could not be flushed to disk");
        }
    });
}

/// Blocks for as long as the disk needs.
fn flush(staging: &Path, layer: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(layer)?)?;
    atomic::write(staging, &layer.join(MARK), b"")
}
