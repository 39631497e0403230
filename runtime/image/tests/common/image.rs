//! Images made by hand, right and wrong.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar archive, entry by entry; nothing is checked, names least of all.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

pub struct Item<'a> {
    pub path: &'a str,
    pub kind: EntryType,
    pub data: &'a [u8],
    pub link: &'a str,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub device: Option<(u32, u32)>,
}

impl Default for Item<'_> {
    fn default() -> Self {
        Self {
            path: "",
            kind: EntryType::Regular,
            data: b"",
            link: "",
            mode: 0o644,
            uid: 0,
            gid: 0,
            device: None,
        }
    }
}

impl Tar {
    pub fn add(self, item: Item<'_>) -> Self {
        let mut header = Header::new_gnu();
        {
            let old = header.as_old_mut();
            old.name[..item.path.len().min(100)]
                .copy_from_slice(&item.path.as_bytes()[..item.path.len().min(100)]);
            old.linkname[..item.link.len()].copy_from_slice(item.link.as_bytes());
        }
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_uid(item.uid);
        header.set_gid(item.gid);
        header.set_mtime(1_700_000_000);
        header.set_size(item.data.len() as u64);
        if let Some((major, minor)) = item.device {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        header.set_cksum();
        self.raw(header.as_bytes(), item.data)
    }

    pub fn raw(mut self, header: &[u8], data: &[u8]) -> Self {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(Item { path, data, ..Item::default() })
    }

    pub fn dir(self, path: &str) -> Self {
        self.add(Item { path, kind: EntryType::Directory, mode: 0o755, ..Item::default() })
    }

    pub fn symlink(self, path: &str, link: &str) -> Self {
        self.add(Item { path, link, kind: EntryType::Symlink, mode: 0o777, ..Item::default() })
    }

    pub fn hardlink(self, path: &str, link: &str) -> Self {
        self.add(Item { path, link, kind: EntryType::Link, ..Item::default() })
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let base = key.len() + value.len() + 3;
            let mut length = base + 1;
            while length != base + length.to_string().len() {
                length += 1;
            }
            write!(data, "{length} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(Item { path: "pax", kind: EntryType::XHeader, data: &data, ..Item::default() })
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: String,
    pub media_type: &'static str,
}

pub fn plain(tar: Vec<u8>) -> Layer {
    Layer { diff_id: sha256(&tar), blob: tar, media_type: "application/vnd.oci.image.layer.v1.tar" }
}

pub fn gzip(tar: &[u8]) -> Layer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    Layer { diff_id: sha256(tar), blob: encoder.finish().unwrap(), media_type }
}

pub fn zstd(tar: &[u8]) -> Layer {
    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    Layer { diff_id: sha256(tar), blob: zstd::encode_all(tar, 3).unwrap(), media_type }
}

pub struct Image {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Layer>,
}

pub fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn image(layers: &[Layer]) -> Image {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
    let config = json!({"architecture": arch(), "os": "linux", "config": {"Env": ["A=b"], "Cmd": ["/bin/x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes();
    let list: Vec<_> = layers
        .iter()
        .map(|l| json!({"mediaType": l.media_type, "digest": sha256(&l.blob), "size": l.blob.len()}))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": list, "config":
        {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len()}})
    .to_string()
    .into_bytes();
    Image { config, manifest, layers: layers.to_vec() }
}

impl Image {
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Writes an OCI layout with the tag `t`; answers the reference.
    pub fn write_layout(&self, dir: &Path) -> String {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| std::fs::write(blobs.join(&sha256(bytes)[7..]), bytes).unwrap();
        put(&self.config);
        put(&self.manifest);
        self.layers.iter().for_each(|layer| put(&layer.blob));
        let entry = json!({"mediaType": MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "t"}});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        std::fs::write(dir.join("index.json"), index).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        format!("oci:{}:t", dir.display())
    }

    /// Writes an archive as `docker save` does; answers the reference.
    pub fn write_archive(&self, file: &Path) -> String {
        let mut tar = Tar::default().file("config.json", &self.config);
        let mut names = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let name = format!("{index}/layer.tar");
            tar = tar.file(&format!("shared/{index}.tar"), &layer.blob);
            tar = tar.symlink(&name, &format!("../shared/{index}.tar"));
            names.push(name);
        }
        let manifest = json!([{"Config": "config.json", "RepoTags": ["x:y"], "Layers": names}]).to_string();
        std::fs::write(file, tar.file("manifest.json", manifest.as_bytes()).finish()).unwrap();
        format!("docker-archive:{}", file.display())
    }
}

/// A small ordinary image of two layers.
pub fn ordinary() -> Image {
    let base = Tar::default()
        .dir("etc/")
        .file("etc/os-release", b"ID=test\n")
        .dir("usr/")
        .dir("usr/bin/")
        .add(Item { path: "usr/bin/x", data: &vec![b'x'; 700_000], mode: 0o755, ..Item::default() });
    let top = Tar::default().file("etc/.wh.os-release", b"").file("etc/hello", b"hello");
    image(&[gzip(&base.finish()), zstd(&top.finish())])
}
