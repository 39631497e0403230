//! Images that are refused.

use std::{io::Write, sync::Arc};

use cordium_tests::{
    Context, Result,
    oci::{self, Compression, LayerWriter, Layout},
};
use flate2::write::GzEncoder;
use tar::EntryType::{self, Link, Regular, Symlink};

use crate::ground::{Ground, reference};

type Archive = tar::Builder<LayerWriter>;
type Fill<'a> = Box<dyn FnOnce(&mut Archive) -> Result<()> + Send + 'a>;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Each entry of the table is an image with one layer above the base, and the words of its refusal.
async fn table(g: &Ground, rows: Vec<(&str, &str, Fill<'_>)>) -> Result<()> {
    for (name, words, fill) in rows {
        let layout = g.with_layer(name, fill)?;
        g.refused(name, &layout, &[words, "build the image without it"]).await?;
    }
    Ok(())
}

pub async fn layers_that_lead_out(g: Arc<Ground>) -> Result<()> {
    let out = g.target();
    let up = format!("../../../../../../../..{out}");
    table(
        &g,
        vec![
            (
                "dots",
                "leads out of the layer",
                Box::new(|tar| oci::raw(tar, Regular, &format!("{up}/evil"), "", b"x")),
            ),
            (
                "dots-within",
                "leads out of the layer",
                Box::new(|tar| oci::raw(tar, Regular, "a/../../evil", "", b"x")),
            ),
            (
                "hardlink",
                "is not in the layer",
                Box::new(|tar| oci::raw(tar, Link, "evil", &format!("{up}/victim"), b"")),
            ),
            (
                "hardlink-absolute",
                "not in this layer",
                Box::new(|tar| oci::raw(tar, Link, "evil", &format!("{out}/victim"), b"")),
            ),
            (
                "hardlink-through-a-link",
                "not in this layer",
                Box::new(|tar| {
                    oci::symlink(tar, "way", &out)?;
                    oci::raw(tar, Link, "evil", "way/victim", b"")
                }),
            ),
            (
                "links-in-a-circle",
                "loop of symbolic links",
                Box::new(|tar| {
                    oci::symlink(tar, "a", "b")?;
                    oci::symlink(tar, "b", "a")?;
                    oci::file(tar, "a/x", 0o644, b"x")
                }),
            ),
        ],
    )
    .await
}

pub async fn whiteouts_of_the_root(g: Arc<Ground>) -> Result<()> {
    let whiteout =
        |name: &'static str| -> Fill<'static> { Box::new(move |tar| oci::raw(tar, Regular, name, "", b"")) };
    table(
        &g,
        vec![
            ("whiteout-nothing", "whiteout of the layer's root", whiteout(".wh.")),
            ("whiteout-dot", "whiteout of the layer's root", whiteout("a/.wh..")),
            ("whiteout-dots", "whiteout of the layer's root", whiteout(".wh...")),
            (
                "root-as-a-file",
                "can only be a directory",
                Box::new(|tar| oci::raw(tar, Regular, ".", "", b"x")),
            ),
            (
                "root-as-a-link",
                "can only be a directory",
                Box::new(|tar| oci::raw(tar, Symlink, "./", "/etc", b"")),
            ),
        ],
    )
    .await
}

fn owned(tar: &mut Archive, uid: u64, gid: u64) -> Result<()> {
    let mut header = oci::header(Regular, 0o644, 0);
    header.set_uid(uid);
    header.set_gid(gid);
    tar.append_data(&mut header, "owned", std::io::empty()).context("adding owned")
}

pub async fn entries_that_nobody_can_make(g: Arc<Ground>) -> Result<()> {
    table(
        &g,
        vec![
            ("uid-65536", "user id 65536 is beyond", Box::new(|tar| owned(tar, 65_536, 0))),
            ("uid-huge", "user id 4294967295 is beyond", Box::new(|tar| owned(tar, u64::from(u32::MAX), 0))),
            ("gid-70000", "group id 70000 is beyond", Box::new(|tar| owned(tar, 0, 70_000))),
            (
                "type-unknown",
                "are not supported",
                Box::new(|tar| oci::raw(tar, EntryType::new(b'Z'), "x", "", b"")),
            ),
            (
                "a-file-as-a-directory",
                "is not a directory",
                Box::new(|tar| {
                    oci::file(tar, "a", 0o644, b"")?;
                    oci::file(tar, "a/b", 0o644, b"")
                }),
            ),
        ],
    )
    .await
}

fn long_path(length: usize) -> Vec<u8> {
    let mut path = format!("{}/", "n".repeat(254)).repeat(17).into_bytes();
    path.truncate(length);
    path
}

pub async fn names_that_are_too_long(g: Arc<Ground>) -> Result<()> {
    let rows: [(&str, &str, Vec<u8>); 3] = [
        ("path-4096", "path length is beyond the limit of 4096", long_path(4096)),
        ("name-4096", "name length is beyond the limit of 255", vec![b'n'; 4000]),
        ("depth-1000", "path depth is beyond the limit of 256", b"d/".repeat(1000)),
    ];
    for (name, words, path) in rows {
        let layout = g.with_layer(name, |tar| {
            oci::pax(tar, &[("path", &path)])?;
            oci::raw(tar, Regular, "short", "", b"x")
        })?;
        g.refused(name, &layout, &[words, "use a smaller image"]).await?;
    }
    Ok(())
}

/// An image whose topmost layer is a blob made by hand.
fn raw(g: &Ground, name: &str, blob: &[u8], media_type: &'static str) -> Result<Layout> {
    let layout = g.layout(name)?;
    let layer = layout.raw_layer(blob, &format!("sha256:{}", "5".repeat(64)), media_type)?;
    g.write(&layout, &[layer])?;
    Ok(layout)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>) -> Result<()>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar)?;
    Ok(tar.into_inner()?)
}

pub async fn streams_that_are_no_layer(g: Arc<Ground>) -> Result<()> {
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let good = archive(|tar| oci::file(tar, "f", 0o644, &noise))?;
    let compressed = gzip(&good)?;
    let pax = |size: &'static [u8]| {
        archive(|tar| {
            oci::pax(tar, &[("size", size)])?;
            oci::raw(tar, Regular, "f", "", b"")
        })
    };
    let cut = compressed[..compressed.len() / 2].to_vec();
    let rows = [
        ("cut-tar", "ends within a file", good[..50_000].to_vec(), TAR),
        ("cut-gzip", "not a usable layer", cut, GZIP),
        ("no-tar", "wrong checksum", vec![0x55; 10_000], TAR),
        ("pax-size-past-the-end", "not a usable layer", pax(b"1000000")?, TAR),
        ("pax-size-2-63", "unpacked size in bytes is beyond", pax(b"9223372036854775807")?, TAR),
        ("pax-size-2-64", "size is not a number", pax(b"18446744073709551616")?, TAR),
        ("another-diff-id", "diff id", compressed, GZIP),
    ];
    for (name, words, blob, media_type) in rows {
        g.refused(name, &raw(&g, name, &blob, media_type)?, &[words]).await?;
    }
    Ok(())
}

pub async fn compression_bombs(g: Arc<Ground>) -> Result<()> {
    // One mebibyte of zeros compressed once, a thousand and twenty-four times.
    let mut header = oci::header(Regular, 0o644, 1 << 30);
    header.set_path("zeros")?;
    header.set_cksum();
    let zeros = vec![0; 1 << 20];
    let (mut gz, mut zst) = (gzip(header.as_bytes())?, zstd::encode_all(header.as_bytes().as_slice(), 3)?);
    let mut best = GzEncoder::new(Vec::new(), flate2::Compression::best());
    best.write_all(&zeros)?;
    let (best, best_zst) = (best.finish()?, zstd::encode_all(zeros.as_slice(), 19)?);
    for _ in 0..1024 {
        gz.extend_from_slice(&best);
        zst.extend_from_slice(&best_zst);
    }
    let zstd_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    for (name, blob, media_type) in [("bomb-gzip", gz, GZIP), ("bomb-zstd", zst, zstd_type)] {
        let layout = raw(&g, name, &blob, media_type)?;
        g.refused(name, &layout, &["compression ratio is beyond the limit of 500"]).await?;
    }
    Ok(())
}

/// Ten million headers in a hundred megabytes: two hundred thousand different names, then the last thousand again and again.
fn empty_entries() -> Result<Vec<u8>> {
    let mut header = oci::header(Regular, 0o644, 0);
    let mut blob = Vec::new();
    let mut last = Vec::new();
    for block in 0..200 {
        let mut headers = Vec::with_capacity(1000 * 512);
        for entry in 0..1000 {
            header.set_path(format!("empty/{block}/{entry}"))?;
            header.set_cksum();
            headers.extend_from_slice(header.as_bytes());
        }
        last = gzip(&headers)?;
        blob.extend_from_slice(&last);
    }
    for _ in 200..10_000 {
        blob.extend_from_slice(&last);
    }
    Ok(blob)
}

pub async fn ten_million_empty_entries(g: Arc<Ground>) -> Result<()> {
    let layout = raw(&g, "empty", &empty_entries()?, GZIP)?;
    g.refused("empty", &layout, &["number of entries", "limit of 50000"]).await
}

pub async fn layouts_that_lie(g: Arc<Ground>) -> Result<()> {
    let small = |name: &str| g.with_layer(name, |tar| oci::file(tar, "f", 0o644, b"content"));
    let top = |layout: &Layout| -> Result<std::path::PathBuf> {
        let layers = cordium_tests::images::layers_of(layout)?;
        Ok(layout.blob(&layers.last().context("no layer")?.digest))
    };

    let layout = small("blob-changed")?;
    let blob = top(&layout)?;
    let mut bytes = std::fs::read(&blob)?;
    // In the gzip header: what comes out is the same, the digest is not.
    bytes[4] ^= 1;
    std::fs::write(&blob, bytes)?;
    g.refused("blob-changed", &layout, &["content has digest", "but the manifest declares"]).await?;

    let layout = small("blob-missing")?;
    std::fs::remove_file(top(&layout)?)?;
    g.refused("blob-missing", &layout, &["No such file"]).await?;

    let layout = small("blob-short")?;
    let file = std::fs::File::options().write(true).open(top(&layout)?)?;
    file.set_len(file.metadata()?.len() - 10)?;
    g.refused("blob-short", &layout, &["download ended after"]).await?;

    let layout = small("blob-long")?;
    let mut file = std::fs::File::options().append(true).open(top(&layout)?)?;
    file.write_all(b"more")?;
    g.refused("blob-long", &layout, &["sent more than"]).await?;

    for (name, index, words) in [
        ("index-empty", "{}", "schemaVersion"),
        ("index-no-json", "not JSON", "not JSON"),
        (
            "index-escapes",
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../etc/passwd","size":7,"annotations":{"org.opencontainers.image.ref.name":"image"}}]}"#,
            "index",
        ),
    ] {
        let layout = small(name)?;
        std::fs::write(layout.dir().join("index.json"), index)?;
        g.refused(name, &layout, &[words]).await?;
    }

    let layout = small("index-pipe")?;
    let index = layout.dir().join("index.json");
    std::fs::remove_file(&index)?;
    nix::unistd::mkfifo(&index, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
    let mend = || {
        std::fs::remove_file(&index)?;
        g.write(&layout, &[])
    };
    g.refused_until_mended("index-pipe", &reference(&layout), &["not a regular file"], mend).await
}

pub async fn too_many_layers(g: Arc<Ground>) -> Result<()> {
    let layout = g.layout("layers-129")?;
    let mut layers = Vec::new();
    for n in g.base_layers()..129 {
        layers.push(
            layout.tar_layer(Compression::None, |tar| {
                oci::file(tar, "layer", 0o644, n.to_string().as_bytes())
            })?,
        );
    }
    g.write(&layout, &layers)?;
    g.refused("layers-129", &layout, &["number of layers is beyond the limit of 128"]).await
}
