//! The images that demo and tests run: made from Debian packages and from scratch, cached by what they are made of.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    oci::{self, Compression, Config, Layout},
    paths,
    process::{last_lines, run, sh},
};

/// Change it when the way images are made changes.
const RECIPE: &str = "5";
/// An image's name in the registry.
pub const BASE: &str = "cordium/base:bookworm";
/// The Debian release of the base image and of the virtual machine.
pub const SUITE: &str = "bookworm";
/// For the tests of containers within containers.
pub const NESTED: &str = "cordium/nested:bookworm";
/// For the test of a browser that keeps a sandbox of its own.
pub const BROWSER: &str = "cordium/browser:bookworm";
pub const TINI: &str = "cordium/tini:latest";
pub const MUSL: &str = "cordium/musl:latest";
pub const SCRATCH: &str = "cordium/scratch:latest";
pub const LAYERS: &str = "cordium/layers:latest";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    /// As in the registry.
    pub name: &'static str,
    pub layout: Layout,
    /// What it is made of, hashed.
    pub key: String,
}

/// Makes what is missing, and returns all images.
pub fn all() -> Result<Vec<Image>> {
    let base = base()?;
    Ok(vec![tini(&base)?, musl()?, scratch()?, layers()?, base])
}

/// Debian with what a developer expects, in three layers (two gzip, one zstd).
pub fn base() -> Result<Image> {
    debian(BASE, &[])
}

/// The base image and what else a user of a machine of their own may run in it: Docker's engine, systemd, debuggers.
/// The nested tests push it themselves.
pub fn nested() -> Result<Image> {
    debian(NESTED, &["nested"])
}

/// The base image and Chromium. The nested tests push it themselves.
pub fn browser() -> Result<Image> {
    debian(BROWSER, &["browser"])
}

/// The definition in `images/base`, and the packages of other directories beside it.
fn debian(name: &'static str, also: &[&str]) -> Result<Image> {
    let images = paths::repository().join("images");
    let definition = images.join("base");
    let read =
        |path: PathBuf| fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
    let mut packages = read(definition.join("packages"))?;
    for dir in also {
        packages.push_str(&read(images.join(dir).join("packages"))?);
    }
    let excludes = read(definition.join("excludes"))?;
    let hook = read(definition.join("customize.sh"))?;
    // What the hook copies.
    let copied = ["containers.conf", "containers.user.conf", "storage.conf"]
        .into_iter()
        .map(|file| read(definition.join(file)))
        .collect::<Result<Vec<_>>>()?
        .concat();
    cached(name, &[&packages, &excludes, &hook, &copied], |layout| {
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--quiet", "--variant=minbase", "--format=tar"])
            .arg(format!("--include={}", lines(&packages).collect::<Vec<_>>().join(",")))
            .args(lines(&excludes).map(|path| format!("--dpkgopt=path-exclude={path}")))
            .arg(format!("--customize-hook={}", definition.join("customize.sh").display()))
            .args([SUITE, "-"]);
        if let Some(mirror) = mirror() {
            command.arg(format!("deb {mirror} {SUITE} main"));
        }
        let log = tempfile::NamedTempFile::new()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen()?);
        let mut child = command.spawn().context("starting mmdebstrap: run `cargo xtask setup`")?;
        let stream = child.stdout.take().context("mmdebstrap has no output")?;
        let split = split(layout, stream);
        let status = child.wait().context("waiting for mmdebstrap")?;
        if !status.success() {
            bail!("mmdebstrap: {status}: {}", last_lines(&fs::read_to_string(log.path())?, 15));
        }
        let config = Config { env: vec![PATH.into()], cmd: vec!["/bin/bash".into()], ..Config::default() };
        layout.image("image", &split?, &config)
    })
}

/// `CORDIUM_DEBIAN_MIRROR`, else where this machine's own apt gets the suite from; else mmdebstrap knows one.
pub fn mirror() -> Option<String> {
    let targets = || {
        let format = "$(CODENAME) $(COMPONENT) $(REPO_URI)";
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(SUITE)?.strip_prefix(" main ")?.to_owned()))
    };
    std::env::var("CORDIUM_DEBIAN_MIRROR").ok().or_else(targets)
}

/// Spreads the entries of a root file system over three layers by directory, so that they unpack in parallel.
fn split(layout: &Layout, stream: impl Read) -> Result<Vec<oci::Layer>> {
    let coding = [Compression::Gzip, Compression::Gzip, Compression::Zstd];
    let mut layers = Vec::new();
    for compression in coding {
        let mut archive = tar::Builder::new(layout.layer(compression)?);
        archive.mode(tar::HeaderMode::Complete);
        layers.push(archive);
    }
    let mut source = tar::Archive::new(stream);
    for entry in source.entries().context("reading mmdebstrap's archive")? {
        let mut entry = entry.context("reading an entry of mmdebstrap's archive")?;
        let path = entry.path()?.into_owned();
        let layer = &mut layers[usize::from(part(&path))];
        let xattrs: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()?
            .into_iter()
            .flatten()
            .flatten()
            .filter(|extension| extension.key_bytes().starts_with(b"SCHILY.xattr."))
            .map(|extension| {
                (
                    String::from_utf8_lossy(extension.key_bytes()).into_owned(),
                    extension.value_bytes().to_vec(),
                )
            })
            .collect();
        if !xattrs.is_empty() {
            layer
                .append_pax_extensions(xattrs.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        }
        let mut header = entry.header().clone();
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        match link {
            Some(link) => layer.append_link(&mut header, &path, link),
            None => layer.append_data(&mut header, &path, &mut entry),
        }
        .with_context(|| format!("adding {}", path.display()))?;
    }
    layers.into_iter().map(|archive| archive.into_inner().context("ending a layer")?.finish()).collect()
}

/// The layer an entry goes to. Debian packages have no hard links across these directories.
fn part(path: &Path) -> u8 {
    let path = path.strip_prefix("./").unwrap_or(path).to_string_lossy();
    let below = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    if below(&["usr/share/", "usr/bin/"]) {
        1
    } else if below(&["usr/lib/python3", "usr/lib/git-core/"]) {
        2
    } else {
        0
    }
}

/// The base image with Debian's `tini` as its entrypoint.
fn tini(base: &Image) -> Result<Image> {
    cached(TINI, &[&base.key], |layout| {
        copy_blobs(&base.layout, layout)?;
        let mut layers = layers_of(&base.layout)?;
        layers.push(package_layer(layout, "tini")?);
        let config = Config {
            env: vec![PATH.into(), "FROM_IMAGE=tini".into()],
            entrypoint: vec!["/usr/bin/tini".into(), "--".into()],
            cmd: vec!["sleep".into(), "infinity".into()],
            working_dir: "/srv".into(),
            ..Config::default()
        };
        layout.image("image", &layers, &config)
    })
}

/// No glibc: Debian's static busybox and the musl loader, with a `/etc/passwd`; stands in for Alpine.
fn musl() -> Result<Image> {
    let applets = sh("busybox", &["--list"]).context("listing busybox's applets")?;
    cached(MUSL, &[&applets], |layout| {
        let layers = vec![
            package_layer(layout, "busybox-static")?,
            package_layer(layout, "musl")?,
            layout.tar_layer(Compression::Gzip, |tar| {
                for dir in ["etc", "root", "sbin", "usr/bin", "usr/sbin", "var"] {
                    oci::dir(tar, dir, 0o755)?;
                }
                oci::dir(tar, "tmp", 0o1777)?;
                oci::file(tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
                oci::file(tar, "etc/group", 0o644, b"root:x:0:\n")?;
                oci::file(tar, "etc/shadow", 0o640, b"root:*::0:::::\n")?;
                oci::file(tar, "etc/os-release", 0o644, b"ID=busybox-musl\nNAME=\"busybox and musl\"\n")?;
                for applet in lines(&applets).filter(|name| *name != "busybox") {
                    oci::symlink(tar, &format!("bin/{applet}"), "busybox")?;
                }
                Ok(())
            })?,
        ];
        let config = Config { env: vec![PATH.into()], cmd: vec!["/bin/sh".into()], ..Config::default() };
        layout.image("image", &layers, &config)
    })
}

/// One static program and nothing else: no shell under its usual name, no `/etc/passwd`, not even `/tmp`.
fn scratch() -> Result<Image> {
    cached(SCRATCH, &[], |layout| {
        let program = fs::read("/bin/busybox").context("reading /bin/busybox")?;
        let layer = layout.tar_layer(Compression::Gzip, |tar| oci::file(tar, "busybox", 0o755, &program))?;
        layout.image("image", &[layer], &Config::default())
    })
}

/// Layers that replace, delete and hide what lies below them.
fn layers() -> Result<Image> {
    let program = fs::read("/bin/busybox").context("reading /bin/busybox")?;
    cached(LAYERS, &[], |layout| {
        let bottom = layout.tar_layer(Compression::Gzip, |tar| {
            oci::file(tar, "busybox", 0o755, &program)?;
            oci::dir(tar, "dir", 0o755)?;
            oci::file(tar, "dir/deleted", 0o644, b"bottom")?;
            oci::file(tar, "dir/kept", 0o600, b"bottom")?;
            oci::dir(tar, "hidden", 0o755)?;
            oci::file(tar, "hidden/below", 0o644, b"bottom")?;
            oci::file(tar, "replaced", 0o644, b"bottom")
        })?;
        let middle = layout.tar_layer(Compression::Zstd, |tar| {
            oci::file(tar, "dir/.wh.deleted", 0o644, b"")?;
            oci::dir(tar, "hidden", 0o700)?;
            oci::file(tar, "hidden/.wh..wh..opq", 0o644, b"")?;
            oci::file(tar, "hidden/above", 0o644, b"middle")
        })?;
        let top = layout.tar_layer(Compression::None, |tar| {
            oci::file(tar, "replaced", 0o4755, b"top")?;
            let mut header = oci::header(tar::EntryType::Regular, 0o640, 3);
            header.set_uid(1234);
            header.set_gid(5678);
            tar.append_data(&mut header, "owned", b"own".as_slice()).context("adding owned")
        })?;
        layout.image("image", &[bottom, middle, top], &Config::default())
    })
}

/// The files of a Debian package as a layer.
fn package_layer(layout: &Layout, package: &str) -> Result<oci::Layer> {
    let dir = tempfile::tempdir()?;
    let download = || {
        run(Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(dir.path()))
    };
    // A machine that lacked nothing may never have fetched apt's lists.
    download().or_else(|_| run(Command::new("apt-get").args(["-q", "update"])).and_then(|_| download()))?;
    let archive = fs::read_dir(dir.path())?.next().context("apt-get downloaded nothing")??.path();
    let output =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&archive).output().context("running dpkg-deb")?;
    if !output.status.success() {
        bail!("dpkg-deb --fsys-tarfile {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr));
    }
    let mut writer = layout.layer(Compression::Gzip)?;
    writer.write_all(&output.stdout)?;
    writer.finish()
}

fn copy_blobs(from: &Layout, to: &Layout) -> Result<()> {
    for entry in fs::read_dir(from.dir().join("blobs/sha256"))? {
        let entry = entry?;
        let target = to.dir().join("blobs/sha256").join(entry.file_name());
        if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target).with_context(|| format!("copying {}", target.display()))?;
        }
    }
    Ok(())
}

/// Reads the layers of a layout's image back from its manifest and config.
pub fn layers_of(layout: &Layout) -> Result<Vec<oci::Layer>> {
    let read = |path: PathBuf| -> Result<serde_json::Value> {
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(serde_json::from_reader(file)?)
    };
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        read(layout.dir().join("blobs/sha256").join(digest))
    };
    let index = read(layout.dir().join("index.json"))?;
    let manifest = blob(&index["manifests"][0]["digest"])?;
    let config = blob(&manifest["config"]["digest"])?;
    let (layers, ids) = (manifest["layers"].as_array(), config["rootfs"]["diff_ids"].as_array());
    let (layers, ids) = layers.zip(ids).context("layout has no layers")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(layers
        .iter()
        .zip(ids)
        .map(|(layer, id)| oci::Layer {
            digest: text(&layer["digest"]),
            diff_id: text(id),
            size: layer["size"].as_u64().unwrap_or_default(),
            media_type: match layer["mediaType"].as_str() {
                Some("application/vnd.oci.image.layer.v1.tar+zstd") => {
                    "application/vnd.oci.image.layer.v1.tar+zstd"
                }
                Some("application/vnd.oci.image.layer.v1.tar+gzip") => {
                    "application/vnd.oci.image.layer.v1.tar+gzip"
                }
                _ => "application/vnd.oci.image.layer.v1.tar",
            },
        })
        .collect())
}

/// Looks an image up in the cache by its name and what it is made of, and makes it if it is not there.
pub fn cached(
    name: &'static str,
    parts: &[&str],
    make: impl FnOnce(&Layout) -> Result<String>,
) -> Result<Image> {
    let mut hash = Sha256::new();
    for part in [RECIPE, name].iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let key = hex::encode(&hash.finalize()[..8]);
    let cache = paths::target().join("images");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let dir = cache.join(format!("{}-{key}", name.replace(['/', ':'], "_")));
    if !dir.exists() {
        let partial = tempfile::tempdir_in(&cache)?;
        make(&Layout::create(partial.path())?).with_context(|| format!("making the image {name}"))?;
        fs::rename(partial.keep(), &dir).with_context(|| format!("publishing {}", dir.display()))?;
    }
    Ok(Image { name, layout: Layout::open(&dir), key })
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_spread_by_directory() {
        assert_eq!(part(Path::new("./usr/bin/perl")), 1);
        assert_eq!(part(Path::new("./usr/lib/python3.11/os.py")), 2);
        assert_eq!(part(Path::new("./etc/passwd")), 0);
        assert_eq!(part(Path::new("./")), 0);
    }
}
