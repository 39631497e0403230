//! The log of a process of ours, on its standard error, kept within a bound.
//!
//! Whoever starts a supervisor in the background, or the broker, gives it a file that it may read as well as append to. When
//! that has grown beyond [`MOST`], the process drops all but the last `KEPT` bytes of it, in place: the confined broker
//! can neither rename nor open anything. What is no such file (a terminal, the journal) is somebody else's to bound.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, ftruncate, seek},
    io::{Errno, read, write},
};
use tracing_subscriber::fmt::MakeWriter;

/// Beyond this many bytes the file is cut.
pub const MOST: u64 = 8 << 20;
/// What then stays of it.
const KEPT: u64 = 1 << 20;
/// How much is written between two looks at the file.
const LOOK: u64 = 256 << 10;

/// Writes to standard error.
#[derive(Debug, Default)]
pub struct OwnLog {
    since: AtomicU64,
    cutting: Mutex<()>,
}

impl OwnLog {
    /// For a process that begins: its file may be long already.
    pub fn new() -> Self {
        let log = Self::default();
        log.cut();
        log
    }

    fn cut(&self) {
        let _turn = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
        // There is no other place to complain to.
        let _ = keep_tail(io::stderr().as_fd(), MOST, KEPT);
    }
}

impl<'a> MakeWriter<'a> for OwnLog {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &OwnLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().lock().write(bytes)?;
        if self.since.fetch_add(written as u64, Ordering::Relaxed) + written as u64 >= LOOK {
            self.since.store(0, Ordering::Relaxed);
            self.cut();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Leaves the last `kept` bytes, from the beginning of a line, of a file that is longer than `most`. Lines that another
/// process appends in this moment may be lost.
fn keep_tail(file: impl AsFd, most: u64, kept: u64) -> Result<(), Errno> {
    let file = file.as_fd();
    let stat = fstat(file)?;
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length <= most {
        return Ok(());
    }
    let flags = fcntl_getfl(file)?;
    if !flags.contains(OFlags::APPEND) || !flags.contains(OFlags::RDWR) {
        return Ok(());
    }
    seek(file, SeekFrom::Start(length - kept))?;
    let mut tail = vec![0; usize::try_from(kept).unwrap_or(0)];
    let mut filled = 0;
    while filled < tail.len() {
        match read(file, &mut tail[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    tail.truncate(filled);
    let line = tail.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    ftruncate(file, 0)?;
    let mut rest = &tail[line..];
    while !rest.is_empty() {
        match write(file, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_long_file_keeps_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || File::options().create(true).read(true).append(true).open(&path).unwrap();
        let mut log = open();
        for line in 0..1000 {
            writeln!(log, "line {line}").unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        keep_tail(&log, whole.len() as u64, 100).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole, "it was not too long");
        keep_tail(&log, 1000, 100).unwrap();
        writeln!(log, "afterwards").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 111 && text.ends_with("line 998\nline 999\nafterwards\n"), "{text}");
        assert!(text.lines().next().unwrap().starts_with("line 9"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "x".repeat(5000)).unwrap();
        keep_tail(File::options().append(true).open(&path).unwrap(), 1000, 100).unwrap();
        keep_tail(File::options().read(true).write(true).open(&path).unwrap(), 1000, 100).unwrap();
        keep_tail(io::pipe().unwrap().1, 0, 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 5000);
    }
}
