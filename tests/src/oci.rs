//! Writes OCI image layouts: layers from tar streams, then a config, a manifest and an index.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer whose blob is in the layout.
#[derive(Clone, Debug)]
pub struct Layer {
    pub digest: String,
    pub diff_id: String,
    pub size: u64,
    pub media_type: &'static str,
}

/// The part of an image's config that decides how it runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: String,
    pub working_dir: String,
}

/// A directory in the OCI image layout.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))
            .with_context(|| format!("creating {}", dir.display()))?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a layer; a tar stream goes in.
    pub fn layer(&self, compression: Compression) -> Result<LayerWriter> {
        let partial = tempfile::NamedTempFile::new_in(&self.dir).context("creating a blob")?;
        let out = Hashing { inner: partial, hash: Sha256::new(), count: 0 };
        let encoder = match compression {
            Compression::None => Encoder::None(out),
            Compression::Gzip => {
                Encoder::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::fast()))
            }
            Compression::Zstd => Encoder::Zstd(zstd::Encoder::new(out, 3)?),
        };
        Ok(LayerWriter {
            layout: self.clone(),
            hashing: Hashing { inner: encoder, hash: Sha256::new(), count: 0 },
        })
    }

    /// A layer made by a function that fills a tar archive.
    pub fn tar_layer(
        &self,
        compression: Compression,
        fill: impl FnOnce(&mut tar::Builder<LayerWriter>) -> Result<()>,
    ) -> Result<Layer> {
        let mut archive = tar::Builder::new(self.layer(compression)?);
        archive.mode(tar::HeaderMode::Deterministic);
        fill(&mut archive)?;
        archive.into_inner().context("ending the archive")?.finish()
    }

    /// Writes the image's config and manifest, and makes `tag` its only name in the index.
    pub fn image(&self, tag: &str, layers: &[Layer], config: &Config) -> Result<String> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {
                "Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd,
                "User": config.user, "WorkingDir": config.working_dir,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            // Builders insist on one entry for each layer.
            "history": vec![json!({"created": "2020-01-01T00:00:00Z"}); layers.len()],
        });
        let config = self.json_blob(CONFIG, &config)?;
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.json_blob(MANIFEST, &manifest)?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(self.dir.join("index.json"), index.to_string()).context("writing index.json")?;
        Ok(descriptor["digest"].as_str().unwrap_or_default().to_owned())
    }

    /// A layer whose blob is these bytes, whatever they are.
    pub fn raw_layer(&self, blob: &[u8], diff_id: &str, media_type: &'static str) -> Result<Layer> {
        let name = hex::encode(Sha256::digest(blob));
        fs::write(self.blob(&name), blob).context("writing a blob")?;
        let diff_id = diff_id.to_owned();
        Ok(Layer { digest: format!("sha256:{name}"), diff_id, size: blob.len() as u64, media_type })
    }

    /// Copies the blob of another layout's layer, which can then be part of an image of this one.
    pub fn adopt(&self, from: &Self, layer: &Layer) -> Result<()> {
        let (from, to) = (from.blob(&layer.digest), self.blob(&layer.digest));
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).context("opening a blob to others")
    }

    /// Where a blob lies.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn json_blob(&self, media_type: &str, value: &Value) -> Result<Value> {
        let bytes = value.to_string();
        let digest = hex::encode(Sha256::digest(bytes.as_bytes()));
        fs::write(self.dir.join("blobs/sha256").join(&digest), &bytes).context("writing a blob")?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
    }

    /// The blobs by digest, for a server that hands them out itself.
    pub fn blobs(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut blobs = BTreeMap::new();
        for entry in fs::read_dir(self.dir.join("blobs/sha256"))? {
            let entry = entry?;
            blobs.insert(format!("sha256:{}", entry.file_name().to_string_lossy()), fs::read(entry.path())?);
        }
        Ok(blobs)
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Takes an uncompressed tar stream.
pub struct LayerWriter {
    layout: Layout,
    hashing: Hashing<Encoder>,
}

impl LayerWriter {
    pub fn finish(self) -> Result<Layer> {
        let diff_id = format!("sha256:{}", hex::encode(self.hashing.hash.finalize()));
        let (out, media_type) = self.hashing.inner.finish().context("ending a layer")?;
        let name = hex::encode(out.hash.finalize());
        let to = self.layout.dir.join("blobs/sha256").join(&name);
        let file: File = out.inner.persist(&to).with_context(|| format!("publishing {}", to.display()))?;
        // Supervisors that read it are of another user.
        file.set_permissions(fs::Permissions::from_mode(0o644)).context("opening a layer to others")?;
        file.sync_data().context("syncing a layer")?;
        Ok(Layer { digest: format!("sha256:{name}"), diff_id, size: out.count, media_type })
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hashing.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.hashing.flush()
    }
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Blob = Hashing<tempfile::NamedTempFile>;

enum Encoder {
    None(Blob),
    Gzip(flate2::write::GzEncoder<Blob>),
    Zstd(zstd::Encoder<'static, Blob>),
}

impl Encoder {
    fn finish(self) -> io::Result<(Blob, &'static str)> {
        Ok(match self {
            Self::None(out) => (out, "application/vnd.oci.image.layer.v1.tar"),
            Self::Gzip(encoder) => (encoder.finish()?, "application/vnd.oci.image.layer.v1.tar+gzip"),
            Self::Zstd(encoder) => (encoder.finish()?, "application/vnd.oci.image.layer.v1.tar+zstd"),
        })
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// A header for an entry made by hand.
pub fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_577_836_800);
    header
}

/// Adds a regular file.
pub fn file<W: Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    archive.append_data(&mut header, path, content).with_context(|| format!("adding {path}"))
}

/// Adds a directory.
pub fn dir<W: Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32) -> Result<()> {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    archive.append_data(&mut header, path, io::empty()).with_context(|| format!("adding {path}"))
}

/// Adds a symbolic link.
pub fn symlink<W: Write>(archive: &mut tar::Builder<W>, path: &str, target: &str) -> Result<()> {
    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
    archive.append_link(&mut header, path, target).with_context(|| format!("adding {path}"))
}

/// Adds an extended header for the entry that follows it.
pub fn pax<W: Write>(archive: &mut tar::Builder<W>, records: &[(&str, &[u8])]) -> Result<()> {
    archive.append_pax_extensions(records.iter().copied()).context("adding an extended header")
}

/// Adds an entry under a name that the archive writer would refuse (absolute, or with `..`).
pub fn raw<W: Write>(
    archive: &mut tar::Builder<W>,
    kind: tar::EntryType,
    path: &str,
    link: &str,
    content: &[u8],
) -> Result<()> {
    let mut header = header(kind, 0o644, content.len() as u64);
    let fields = header.as_old_mut();
    fields.name[..path.len()].copy_from_slice(path.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive.append(&header, content).with_context(|| format!("adding {path}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blobs_have_the_digests_that_the_manifest_names() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let layer = layout.tar_layer(compression, |tar| file(tar, "a/b", 0o644, b"hello")).unwrap();
            let blob = &layout.blobs().unwrap()[&layer.digest];
            assert_eq!(layer.size, blob.len() as u64);
            assert_eq!(layer.digest, format!("sha256:{}", hex::encode(Sha256::digest(blob))));
        }
        let layer = layout.tar_layer(Compression::None, |tar| file(tar, "a", 0o644, b"x")).unwrap();
        assert_eq!(layer.digest, layer.diff_id);
        let digest = layout.image("latest", &[layer], &Config::default()).unwrap();
        assert!(layout.blobs().unwrap().contains_key(&digest));
    }

    #[test]
    fn raw_entries_keep_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let add =
            |tar: &mut tar::Builder<LayerWriter>| raw(tar, tar::EntryType::Regular, "../../escape", "", b"x");
        let layer = layout.tar_layer(Compression::None, add).unwrap();
        let blob = layout.blobs().unwrap().remove(&layer.digest).unwrap();
        let mut archive = tar::Archive::new(blob.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("../../escape"));
    }
}
