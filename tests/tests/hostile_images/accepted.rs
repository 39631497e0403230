//! Images that are odd and are used all the same: what tries to get out is made harmless, and looked at from inside.

use std::{fs, os::unix::fs::FileTypeExt, path::Path, sync::Arc};

use cordium_tests::{
    Context, Result, ensure, ensure_eq,
    oci::{self, Compression},
};
use tar::EntryType::{Block, Char, Directory, Fifo, Regular};

use crate::ground::Ground;

fn device(
    tar: &mut tar::Builder<oci::LayerWriter>,
    kind: tar::EntryType,
    path: &str,
    major: u32,
) -> Result<()> {
    let mut header = oci::header(kind, 0o666, 0);
    header.set_device_major(major)?;
    header.set_device_minor(0)?;
    tar.append_data(&mut header, path, std::io::empty()).with_context(|| format!("adding {path}"))
}

pub async fn made_harmless(g: Arc<Ground>) -> Result<()> {
    let out = g.target();
    let layout = g.with_layer("harmless", |tar| {
        oci::raw(tar, Regular, "/rooted", "", b"absolute")?;
        oci::raw(tar, Regular, &format!("{out}/absolute"), "", b"absolute")?;
        // A link to the host's directory, and a file through it: within the layer that is a directory of its own.
        oci::symlink(tar, "way", &out)?;
        oci::raw(tar, Regular, "way/evil", "", b"through the link")?;
        oci::symlink(tar, "up", "../../../../../../..")?;
        oci::raw(tar, Regular, "up/over", "", b"over the top")?;
        // A link gives way to a file of its name.
        oci::symlink(tar, "victim", &format!("{out}/victim"))?;
        oci::raw(tar, Regular, "victim", "", b"replaced")?;
        oci::file(tar, "opt/setuid", 0o4755, &fs::read("/bin/busybox")?)?;
        oci::file(tar, "opt/setgid", 0o2755, b"x")?;
        device(tar, Char, "opt/mem", 1)?;
        device(tar, Block, "opt/disk", 8)?;
        oci::raw(tar, Fifo, "opt/pipe", "", b"")?;
        oci::pax(
            tar,
            &[
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ],
        )?;
        oci::raw(tar, Directory, "opt/redirected/", "", b"")
    })?;
    let run = g.accepted("harmless", &layout).await?;
    let w = &run.workspace;
    ensure_eq!(w.ok("cat /rooted").await?, "absolute");
    ensure_eq!(
        w.ok(&format!("cd {out}; cat absolute evil; ls -A")).await?,
        "absolutethrough the linkabsolute\nevil"
    );
    ensure_eq!(w.ok("readlink /way; cat /way/evil").await?, format!("{out}\nthrough the link"));
    ensure_eq!(
        w.ok("cat /over; cat /victim; readlink /victim || echo no link").await?,
        "over the topreplacedno link"
    );
    ensure_eq!(w.ok("stat -c '%a %u:%g' /opt/setuid /opt/setgid").await?, "4755 0:0\n2755 0:0");
    // A set-user-id file of an image makes root of the sandbox, which is what sudo does too; on the host it is nobody.
    ensure_eq!(w.ok("ls -A /opt/redirected; ls /opt").await?, "pipe\nredirected\nsetgid\nsetuid");
    ensure!(
        w.root("for d in /opt/mem /opt/disk; do [ ! -e $d ] || exit 1; done; [ -p /opt/pipe ]").await?.code()
            == 0,
        "devices"
    );
    for file in ["opt/setuid", "rooted"] {
        let owner = on_host(&g, file)?;
        ensure!(owner >= 65_536, "{file} belongs to id {owner} on the host");
    }
    ensure!(no_devices(&g.f.node.state().join("images/layers"))?, "there is a device node in the store");
    run.end().await
}

/// Who owns a file of the newest layer that has it, in the store.
fn on_host(g: &Ground, file: &str) -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    for layer in fs::read_dir(g.f.node.state().join("images/layers"))? {
        if let Ok(meta) = fs::symlink_metadata(layer?.path().join("fs").join(file)) {
            return Ok(meta.uid());
        }
    }
    cordium_tests::bail!("no layer has {file}")
}

/// Whiteouts are character devices of number 0; nothing else may be a device.
fn no_devices(dir: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let device = kind.is_block_device() || (kind.is_char_device() && entry.metadata()?.rdev() != 0);
        if device || (kind.is_dir() && !no_devices(&entry.path())?) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub async fn links_of_lower_layers(g: Arc<Ground>) -> Result<()> {
    let out = g.target();
    let layout = g.layout("lower")?;
    let link = layout.tar_layer(Compression::Gzip, |tar| oci::symlink(tar, "way", &out))?;
    let through = layout.tar_layer(Compression::Zstd, |tar| oci::raw(tar, Regular, "way/evil", "", b"x"))?;
    g.write(&layout, &[link, through])?;
    let run = g.accepted("lower", &layout).await?;
    // The upper layer has a directory of that name, which replaces the link of the lower.
    ensure_eq!(run.workspace.ok("readlink /way || ls -A /way").await?, "evil");
    run.end().await
}

pub async fn a_pax_size_rules(g: Arc<Ground>) -> Result<()> {
    // The header says that the file is empty, the extended header that it is as long as the header which hides behind it.
    let layout = g.with_layer("pax", |tar| {
        let mut hidden = oci::header(Regular, 0o4755, 0);
        hidden.set_path("hidden")?;
        hidden.set_cksum();
        oci::pax(tar, &[("size", b"512")])?;
        oci::raw(tar, Regular, "outer", "", b"")?;
        std::io::Write::write_all(tar.get_mut(), hidden.as_bytes())?;
        oci::file(tar, "after", 0o644, b"x")
    })?;
    let run = g.accepted("pax", &layout).await?;
    ensure_eq!(
        run.workspace.ok("stat -c %s /outer /after; ls /hidden 2>&1 | wc -l; ls -d /hidden || true").await?,
        "512\n1\n1"
    );
    run.end().await
}

pub async fn an_opaque_root(g: Arc<Ground>) -> Result<()> {
    let layout = g.layout("opaque")?;
    let layer = layout.tar_layer(Compression::Gzip, |tar| {
        oci::file(tar, "busybox", 0o755, &fs::read("/bin/busybox")?)?;
        oci::file(tar, ".wh..wh..opq", 0o644, b"")
    })?;
    g.write(&layout, &[layer])?;
    let run = g.accepted("opaque", &layout).await?;
    let w = &run.workspace;
    let exists = |path: &'static str| async move {
        Ok::<_, anyhow::Error>(w.exec(&["/busybox", "test", "-e", path]).await?.code() == 0)
    };
    ensure!(exists("/busybox").await?, "the layer's own file is not there");
    for path in ["/bin/busybox", "/etc/os-release", "/lib/ld-musl-x86_64.so.1"] {
        ensure!(!exists(path).await?, "{path} of the hidden layers shows through");
    }
    run.end().await
}

pub async fn an_image_of_120_layers(g: Arc<Ground>) -> Result<()> {
    let layout = g.layout("layers-120")?;
    let mut layers = Vec::new();
    for n in g.base_layers()..120 {
        layers.push(layout.tar_layer(Compression::Gzip, |tar| {
            oci::file(tar, &format!("layers/{n}"), 0o644, b"")?;
            oci::file(tar, "top", 0o644, n.to_string().as_bytes())
        })?);
    }
    g.write(&layout, &layers)?;
    let run = g.accepted("layers-120", &layout).await?;
    let own = 120 - g.base_layers();
    ensure_eq!(run.workspace.ok("ls /layers | wc -l; cat /top").await?, format!("{own}\n119"));
    run.end().await
}

pub async fn file_capabilities(g: Arc<Ground>) -> Result<()> {
    // Version 2, permitted and effective: bind to low ports. In the sandbox it holds for the sandbox's own namespace.
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    capability.extend([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let layout = g.with_layer("filecaps", |tar| {
        let program = fs::read("/bin/busybox")?;
        oci::file(tar, "opt/plain/grep", 0o755, &program)?;
        oci::pax(tar, &[("SCHILY.xattr.security.capability", &capability)])?;
        oci::file(tar, "opt/capable/grep", 0o755, &program)
    })?;
    let run = g.accepted("filecaps", &layout).await?;
    let w = &run.workspace;
    ensure_eq!(w.ok("/opt/plain/grep CapEff /proc/self/status | cut -f2").await?, "0000000000000000");
    ensure_eq!(w.ok("/opt/capable/grep CapEff /proc/self/status | cut -f2").await?, "0000000000000400");
    run.end().await
}

pub async fn the_longest_path(g: Arc<Ground>) -> Result<()> {
    let mut path = format!("{}/", "p".repeat(254)).repeat(17);
    path.truncate(4095);
    let layout = g.with_layer("longest", |tar| {
        oci::pax(tar, &[("path", path.as_bytes())])?;
        oci::raw(tar, Regular, "short", "", b"far away")
    })?;
    let run = g.accepted("longest", &layout).await?;
    // From the root: with a leading slash it would be more than a system call takes.
    ensure_eq!(run.workspace.ok(&format!("cd / && cat {path}")).await?, "far away");
    run.end().await
}
