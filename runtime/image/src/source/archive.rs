//! Images of a `docker save` archive. It is read in place: an index of its members is made first, and no
//! member's name is ever used as a path.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::layout::copy_file;
use super::sink::LayerSink;
use super::{Resolved, assemble};
use crate::config::{Limits, StoreConfig};
use crate::digest::Digest;
use crate::error::{ImageError, LayerError};
use crate::manifest::Blob;
use crate::unpack::tar::{Kind, Skip, TarReader};

const MAX_MEMBERS: usize = 10_000;

pub(crate) struct ArchiveSource {
    image: String,
    file: PathBuf,
    limits: Limits,
}

/// Offset and length in the archive.
type Member = (u64, u64);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveManifest {
    config: String,
    layers: Vec<String>,
}

impl ArchiveSource {
    pub(crate) fn new(image: String, file: PathBuf, config: &StoreConfig) -> Self {
        Self { image, file, limits: config.limits.clone() }
    }

    pub(crate) async fn resolve(&self) -> Result<Resolved, ImageError> {
        let (image, path, limits) = (self.image.clone(), self.file.clone(), self.limits.clone());
        let failed = |reason: String| ImageError::Local { image: image.clone(), path: path.clone(), reason };
        let read = {
            let path = self.file.clone();
            tokio::task::spawn_blocking(move || read(&path, &limits)).await
        };
        let (config, layers) = read.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        // There is no manifest as registries have it: the configuration's digest names the image.
        let digest = Digest::of(&config);
        assemble(&self.image, digest, config, layers)
    }

    pub(crate) async fn copy(&self, blob: &Blob, sink: &mut LayerSink) -> Result<(), LayerError> {
        copy_file(&self.file, blob.offset, blob.size, sink).await
    }
}

fn read(path: &Path, limits: &Limits) -> Result<(Vec<u8>, Vec<Blob>), String> {
    // A named pipe in its place must not be waited for.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut start = [0; 4];
    let known = file.read_at(&mut start, 0).map_err(|e| e.to_string())?;
    if start[..known].starts_with(&[0x1f, 0x8b]) || start[..known].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err("it is compressed: decompress it first".into());
    }
    let members = index(&file, limits)?;
    let content = |name: &str, limit: usize| -> Result<Vec<u8>, String> {
        let (offset, length) = find(&members, name)?;
        if length > limit as u64 {
            return Err(format!("its member {name:?} is longer than {limit} bytes"));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|e| e.to_string())?;
        Ok(bytes)
    };
    let manifest: Vec<ArchiveManifest> =
        serde_json::from_slice(&content("manifest.json", limits.manifest_bytes)?)
            .map_err(|e| format!("its manifest.json is damaged: {e}"))?;
    let [image] = manifest.as_slice() else {
        return Err(format!("it holds {} images: save one image per archive", manifest.len()));
    };
    if image.layers.len() > limits.layers {
        return Err(format!("it has more than {} layers", limits.layers));
    }
    let config = content(&image.config, limits.config_bytes)?;
    let blob = |name: &String| find(&members, name).map(|(offset, size)| Blob { digest: None, size, offset });
    Ok((config, image.layers.iter().map(blob).collect::<Result<_, _>>()?))
}

#[derive(Debug)]
enum Item {
    Content(Member),
    /// Older archives name a layer that several images share by a link.
    Link(String),
}

fn index(file: &File, limits: &Limits) -> Result<HashMap<String, Item>, String> {
    let reader = Seeking { length: file.metadata().map_err(|e| e.to_string())?.len(), file, at: 0 };
    let mut tar = TarReader::new(reader, limits.extension_bytes);
    let mut members = HashMap::new();
    loop {
        let entry = tar.next_entry().map_err(|fault| LayerError::from(fault).to_string())?;
        let Some(entry) = entry else { return Ok(members) };
        if members.len() >= MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} members"));
        }
        let name = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
        match entry.kind {
            Kind::File if entry.pieces.is_none() => {
                members.insert(name, Item::Content((tar.position(), entry.size)));
            }
            Kind::Symlink | Kind::Hardlink => {
                let link = String::from_utf8_lossy(&entry.link).into_owned();
                let target = if entry.kind == Kind::Symlink { beside(&name, &link) } else { link };
                members.insert(name, Item::Link(target));
            }
            _ => {}
        }
    }
}

fn find(members: &HashMap<String, Item>, name: &str) -> Result<Member, String> {
    let mut current = name.to_owned();
    for _ in 0..8 {
        match members.get(&current) {
            Some(Item::Content(member)) => return Ok(*member),
            Some(Item::Link(target)) => current = target.clone(),
            None => return Err(format!("it has no member {current:?}")),
        }
    }
    Err(format!("its member {name:?} is a loop of links"))
}

/// The name that a link in `name` means: a name in the archive, whatever it looks like.
fn beside(name: &str, link: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

struct Seeking<'a> {
    file: &'a File,
    length: u64,
    at: u64,
}

impl Read for Seeking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Skip for Seeking<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let target = self.at.checked_add(count).filter(|target| *target <= self.length.next_multiple_of(512));
        let target = target.ok_or_else(|| io::Error::other("it ends within a member"))?;
        self.file.seek(SeekFrom::Start(target))?;
        self.at = target;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_no_archive_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("image.tar");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let begun = std::time::Instant::now();
        let reader = std::thread::spawn(move || read(&pipe, &Limits::default()).unwrap_err());
        while !reader.is_finished() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it waits for a writer");
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap().contains("not a regular file"));
    }

    #[test]
    fn links_stay_names_in_the_archive() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("a/layer.tar", "../../../../etc/passwd"), "etc/passwd");
        let members = HashMap::from([
            ("a".to_owned(), Item::Link("b".into())),
            ("b".to_owned(), Item::Link("a".into())),
            ("c".to_owned(), Item::Link("d".into())),
            ("d".to_owned(), Item::Content((1, 2))),
        ]);
        assert_eq!(find(&members, "c"), Ok((1, 2)));
        assert!(find(&members, "a").is_err());
        assert!(find(&members, "etc/passwd").is_err());
    }
}
