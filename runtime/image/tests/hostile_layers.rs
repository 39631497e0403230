//! Layers that try to get out, to exhaust, or to confuse.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use common::image::{self, Item, Layer, Tar};
use common::user::{as_user, ids};
use common::{Fixture, names};
use cordium_image::{ErrorKind, ImageError, LayerError, StoreConfig, StoredImage, no_progress};
use tar::EntryType;

async fn pull(fixture: &Fixture, layer: Layer, config: StoreConfig) -> Result<Arc<StoredImage>, ImageError> {
    let reference = image::image(&[layer]).write_layout(&fixture.path("oci"));
    let result = fixture.store_with(config).pull(&reference, None, no_progress()).await;
    fixture.assert_staging_empty().await;
    result
}

async fn refused(what: &str, layer: Layer, config: impl FnOnce(&mut StoreConfig)) -> LayerError {
    let fixture = Fixture::new();
    let mut settings = fixture.config();
    config(&mut settings);
    let error = pull(&fixture, layer, settings).await.expect_err(what);
    assert_eq!(fixture.published_layers(), 0, "{what}");
    println!("{what}: {error}");
    match error {
        ImageError::Layer { source, .. } => source,
        other => panic!("{what}: {other:?}"),
    }
}

async fn unpacked(fixture: &Fixture, tar: Tar) -> PathBuf {
    let image = pull(fixture, image::gzip(&tar.finish()), fixture.config()).await.unwrap();
    image.layers[0].clone()
}

#[test]
fn names_that_lead_out_are_refused() {
    as_user("names_that_lead_out_are_refused", || async {
        let table = [
            ("parent", Tar::default().file("../evil", b"x")),
            ("parent within", Tar::default().file("a/../../evil", b"x")),
            ("hard link out", Tar::default().hardlink("evil", "../../../../etc/passwd")),
            ("hard link to the host's file", Tar::default().hardlink("evil", "/etc/passwd")),
            (
                "hard link through a link",
                Tar::default().symlink("up", "../../..").hardlink("evil", "up/etc/passwd"),
            ),
            ("hard link to a directory", Tar::default().dir("d/").hardlink("evil", "d")),
            ("hard link to itself", Tar::default().file("a", b"").hardlink("a", "a")),
            ("whiteout of the root", Tar::default().file(".wh.", b"")),
            ("whiteout of .", Tar::default().file("a/.wh..", b"")),
            ("whiteout of ..", Tar::default().file("a/.wh...", b"")),
            ("the root as a file", Tar::default().file("/", b"x").file(".", b"x")),
            ("the root as a link", Tar::default().symlink("./", "/etc")),
            ("a file as a directory", Tar::default().file("a", b"").file("a/b", b"")),
            ("a loop of links", Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"")),
            (
                "an unknown type",
                Tar::default().add(Item { path: "x", kind: EntryType::new(b'Z'), ..Item::default() }),
            ),
            (
                "a user id that nobody has",
                Tar::default().add(Item { path: "x", uid: 70_000, ..Item::default() }),
            ),
            (
                "a group id that nobody has",
                Tar::default().add(Item { path: "x", gid: 65_536, ..Item::default() }),
            ),
            ("a NUL in a name", Tar::default().pax(&[("path", b"a\0b")]).file("x", b"")),
        ];
        for (what, tar) in table {
            let error = refused(what, image::gzip(&tar.finish()), |_| {}).await;
            assert!(
                matches!(&error, LayerError::Entry { entry, .. } if !entry.is_empty()),
                "{what}: {error:?}"
            );
        }
    });
}

#[test]
fn links_are_followed_within_the_layer_only() {
    as_user("links_are_followed_within_the_layer_only", || async {
        let outside = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let target = outside.path().to_str().unwrap();
        let fixture = Fixture::new();
        let root = unpacked(
            &fixture,
            Tar::default()
                .symlink("absolute", target)
                .file("absolute/evil", b"1")
                .symlink("relative", "../../../../../../../../..")
                .file("relative/evil", b"2")
                .symlink("lib", "usr/lib")
                .file("lib/one", b"3")
                .dir("usr/")
                .dir("usr/lib/")
                .file("lib/two", b"4")
                .symlink("victim", "/etc/passwd")
                .file("victim", b"5")
                .file("/rooted", b"6"),
        )
        .await;
        assert!(names(outside.path()).is_empty());
        assert_eq!(std::fs::read(root.join(&target[1..]).join("evil")).unwrap(), b"1");
        assert_eq!(std::fs::read(root.join("evil")).unwrap(), b"2");
        assert_eq!(names(&root.join("usr/lib")), ["one", "two"]);
        assert_eq!(std::fs::read_link(root.join("lib")).unwrap(), PathBuf::from("usr/lib"));
        assert_eq!(std::fs::read(root.join("victim")).unwrap(), b"5");
        assert_eq!(std::fs::read(root.join("rooted")).unwrap(), b"6");
    });
}

#[test]
fn whiteouts_become_those_of_the_overlay() {
    as_user("whiteouts_become_those_of_the_overlay", || async {
        let fixture = Fixture::new();
        let root = unpacked(
            &fixture,
            Tar::default()
                .file("a/.wh.gone", b"")
                .file("a/.wh.both", b"")
                .file("a/both", b"stays")
                .file("b/.wh..wh..opq", b"")
                .file("c/.wh.dir", b"")
                .dir("c/dir/")
                .file("c/dir/new", b"")
                .dir("d/dir/")
                .file("d/.wh.dir", b"")
                .file(".wh..wh.plnk/1", b""),
        )
        .await;
        let gone = std::fs::symlink_metadata(root.join("a/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(std::fs::read(root.join("a/both")).unwrap(), b"stays");
        let opaque = |path: &str| {
            let mut value = [0; 8];
            rustix::fs::getxattr(root.join(path), "user.overlay.opaque", &mut value)
                .map(|n| value[..n].to_vec())
        };
        for path in ["b", "c/dir", "d/dir"] {
            assert_eq!(opaque(path).as_deref(), Ok(b"y".as_slice()), "{path}");
        }
        assert!(opaque("a").is_err());
        assert!(!root.join(".wh..wh.plnk").exists());
    });
}

#[test]
fn owners_modes_and_attributes() {
    as_user("owners_modes_and_attributes", || async {
        let fixture = Fixture::new();
        let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
        capability.extend([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let root = unpacked(
            &fixture,
            Tar::default()
                .add(Item { path: "sudo", mode: 0o4755, data: b"x", ..Item::default() })
                .add(Item {
                    path: "owned",
                    mode: 0o6711,
                    uid: 1000,
                    gid: 65_535,
                    data: b"x",
                    ..Item::default()
                })
                .add(Item { path: "tmp/", kind: EntryType::Directory, mode: 0o1777, ..Item::default() })
                .add(Item {
                    path: "shared/",
                    kind: EntryType::Directory,
                    mode: 0o2775,
                    gid: 7,
                    ..Item::default()
                })
                .add(Item { path: "shared/sub/", kind: EntryType::Directory, mode: 0o755, ..Item::default() })
                .file("shared/sub/file", b"")
                .add(Item { path: "shut/", kind: EntryType::Directory, mode: 0o000, ..Item::default() })
                .file("shut/inside", b"")
                .add(Item { path: "null", kind: EntryType::Char, device: Some((1, 3)), ..Item::default() })
                .add(Item { path: "disk", kind: EntryType::Block, device: Some((8, 0)), ..Item::default() })
                .add(Item { path: "pipe", kind: EntryType::Fifo, mode: 0o600, ..Item::default() })
                .add(Item {
                    path: "link",
                    kind: EntryType::Symlink,
                    link: "owned",
                    uid: 5,
                    ..Item::default()
                })
                .hardlink("again", "owned")
                .pax(&[
                    ("SCHILY.xattr.security.capability", &capability),
                    ("SCHILY.xattr.user.note", b"kept"),
                    ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.security.selinux", b"system_u"),
                ])
                .file("ping", b"x"),
        )
        .await;
        let ids = ids();
        let stat = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!((stat("").uid(), stat("").mode() & 0o7777), (ids.uid_start, 0o755));
        assert_eq!((stat("sudo").uid(), stat("sudo").mode() & 0o7777), (ids.uid_start, 0o4755));
        assert_eq!(
            (stat("owned").uid(), stat("owned").gid()),
            (ids.uid_start + 1000, ids.gid_start + 65_535)
        );
        assert_eq!(stat("owned").mode() & 0o7777, 0o6711);
        assert_eq!(stat("owned").ino(), stat("again").ino());
        assert_eq!((stat("tmp").mode() & 0o7777, stat("tmp").mtime()), (0o1777, 1_700_000_000));
        assert_eq!((stat("shared").gid(), stat("shared").mode() & 0o7777), (ids.gid_start + 7, 0o2775));
        assert_eq!((stat("shared/sub").gid(), stat("shared/sub").mode() & 0o7777), (ids.gid_start, 0o755));
        assert_eq!(stat("shared/sub/file").gid(), ids.gid_start);
        assert_eq!(stat("shut").mode() & 0o7777, 0);
        assert!(!root.join("null").exists() && !root.join("disk").exists());
        assert!(stat("pipe").file_type().is_fifo());
        assert_eq!((stat("link").uid(), stat("link").mtime()), (ids.uid_start + 5, 1_700_000_000));
        let attribute = |name: &str| {
            let mut value = [0; 64];
            rustix::fs::getxattr(root.join("ping"), name, &mut value).map(|n| value[..n].to_vec())
        };
        assert_eq!(attribute("user.note").as_deref(), Ok(b"kept".as_slice()));
        // Valid for the namespace whose root is container root, and for no other.
        let stored = attribute("security.capability").unwrap();
        assert_eq!(stored.len(), 24);
        assert_eq!(stored[20..], ids.uid_start.to_le_bytes());
        for name in ["user.overlay.redirect", "trusted.overlay.opaque", "security.selinux"] {
            assert!(attribute(name).is_err(), "{name}");
        }
    });
}

#[test]
fn later_entries_win() {
    as_user("later_entries_win", || async {
        let fixture = Fixture::new();
        let mut tar = Tar::default();
        for i in 0..200 {
            tar = tar.file("same", format!("{i}").as_bytes());
        }
        let root = unpacked(
            &fixture,
            tar.dir("d/")
                .dir("d/sub/")
                .file("d/sub/x", b"")
                .file("d", b"now a file")
                .file("f", b"")
                .dir("f/")
                .file("f/x", b"")
                .symlink("s", "f")
                .file("s", b"not through the link"),
        )
        .await;
        assert_eq!(std::fs::read(root.join("same")).unwrap(), b"199");
        assert_eq!(std::fs::read(root.join("d")).unwrap(), b"now a file");
        assert_eq!(names(&root.join("f")), ["x"]);
        assert_eq!(std::fs::read(root.join("s")).unwrap(), b"not through the link");
    });
}

#[test]
fn size_tricks() {
    as_user("size_tricks", || async {
        // The PAX size hides a second entry within the first one's content.
        let hidden = Tar::default().file("hidden", b"").0;
        let mut lying = tar::Header::new_gnu();
        lying.set_path("outer").unwrap();
        lying.set_size(0);
        lying.set_mode(0o644);
        lying.set_uid(0);
        lying.set_gid(0);
        lying.set_mtime(0);
        lying.set_cksum();
        let fixture = Fixture::new();
        let tar = Tar::default().pax(&[("size", b"512")]).raw(lying.as_bytes(), &hidden).file("after", b"");
        let root = unpacked(&fixture, tar).await;
        assert_eq!(names(&root), ["after", "outer"]);
        assert_eq!(std::fs::metadata(root.join("outer")).unwrap().len(), 512);

        let huge = Tar::default().pax(&[("size", b"9000000000000000000")]).file("x", b"");
        let error = refused("a huge PAX size", image::gzip(&huge.finish()), |_| {}).await;
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        let ends = Tar::default().pax(&[("size", b"100000")]).file("x", b"");
        assert!(matches!(
            refused("a PAX size beyond the end", image::gzip(&ends.finish()), |_| {}).await,
            LayerError::Stream { .. }
        ));
        let long = "n".repeat(300);
        let name = Tar::default().pax(&[("path", long.as_bytes())]).file("x", b"");
        assert_eq!(
            refused("a long name", image::gzip(&name.finish()), |_| {}).await.kind(),
            ErrorKind::Exhausted
        );
        let deep = "d/".repeat(1000);
        let path = Tar::default().pax(&[("path", deep.as_bytes())]).file("x", b"");
        assert_eq!(
            refused("a deep path", image::gzip(&path.finish()), |_| {}).await.kind(),
            ErrorKind::Exhausted
        );
    });
}

#[test]
fn bombs() {
    as_user("bombs", || async {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(1 << 30);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).unwrap();
        for _ in 0..1 << 10 {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        encoder.write_all(&[0; 1024]).unwrap();
        let blob = encoder.finish().unwrap();
        assert!((1 << 30) / blob.len() > 1000, "it is a 1000:1 bomb");
        let layer = Layer {
            blob,
            diff_id: image::sha256(b""),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        };
        let error = refused("1000:1", layer.clone(), |_| {}).await;
        assert!(matches!(&error, LayerError::Limit { what, .. } if what == "compression ratio"), "{error}");
        let error = refused("too large", layer, |config| {
            config.limits.ratio = u64::MAX;
            config.limits.layer_bytes = 100 << 20;
        })
        .await;
        assert!(matches!(&error, LayerError::Limit { what, .. } if what.contains("size")), "{error}");
    });
}

#[test]
fn ten_million_empty_entries() {
    as_user("ten_million_empty_entries", || async {
        use std::io::Write;
        // The archive as a whole would be five gigabytes. Two limits stop it: the number of entries where the layer is
        // large enough to be honest, and long before that the bytes that each entry is worth.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        for i in 0..10_000_000u32 {
            // Past what the limit lets through, the names no longer matter.
            if i < 60_000 {
                header.set_path(format!("e{i}")).unwrap();
                header.set_cksum();
            }
            encoder.write_all(header.as_bytes()).unwrap();
        }
        let blob = encoder.finish().unwrap();
        let layer = Layer {
            blob,
            diff_id: image::sha256(b""),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        };
        let error = refused("ten million entries", layer.clone(), |config| {
            config.limits.layer_entries = 50_000;
        })
        .await;
        assert!(
            matches!(&error, LayerError::Limit { what, limit: 50_000, .. } if what == "number of entries"),
            "{error}"
        );
        let begun = std::time::Instant::now();
        let error = refused("ten million entries, by default", layer, |_| {}).await;
        println!("took {:?}", begun.elapsed());
        assert!(
            matches!(&error, LayerError::Limit { what, limit: 50_000, .. } if what.starts_with("number of entries with")),
            "{error}"
        );
    });
}

#[test]
fn directories_are_remembered_to_a_bound() {
    as_user("directories_are_remembered_to_a_bound", || async {
        let mut tar = Tar::default();
        for i in 0..100 {
            let path = format!("{i}-{}/", "d".repeat(200));
            tar = tar.add(Item { path: &path, kind: EntryType::Directory, mode: 0o755, ..Item::default() });
        }
        let layer = image::gzip(&tar.finish());
        let error = refused("long directories", layer, |config| config.limits.directory_bytes = 5_000).await;
        assert!(matches!(&error, LayerError::Limit { limit: 5_000, .. }), "{error}");
    });
}

#[test]
fn attributes_that_no_file_system_keeps() {
    as_user("attributes_that_no_file_system_keeps", || async {
        let large = vec![b'x'; 200_000];
        let tar = Tar::default().pax(&[("SCHILY.xattr.user.large", &large)]).file("x", b"");
        let error = refused("large attributes", image::gzip(&tar.finish()), |_| {}).await;
        assert!(matches!(&error, LayerError::Entry { entry, .. } if entry == "x"), "{error}");
    });
}

#[test]
fn an_opaque_root_hides_the_layers_below() {
    as_user("an_opaque_root_hides_the_layers_below", || async {
        let fixture = Fixture::new();
        let layers = [
            image::gzip(&Tar::default().file("below", b"1").finish()),
            image::gzip(&Tar::default().file(".wh..wh..opq", b"").file("only", b"2").finish()),
            image::gzip(&Tar::default().file("above", b"3").finish()),
        ];
        let reference = image::image(&layers).write_layout(&fixture.path("oci"));
        let image = fixture.store().pull(&reference, None, no_progress()).await.unwrap();
        let seen: Vec<_> = image.layers.iter().map(|layer| names(layer)).collect();
        assert_eq!(seen, [["only"], ["above"]]);
    });
}

#[test]
fn broken_streams() {
    as_user("broken_streams", || async {
        let good = Tar::default().file("a", &[7; 5000]).finish();
        let mut cut = image::gzip(&good);
        cut.blob.truncate(cut.blob.len() / 2);
        assert!(matches!(refused("a cut gzip", cut, |_| {}).await, LayerError::Stream { .. }));
        let garbage = image::plain(vec![0x55; 10_000]);
        assert!(matches!(refused("no tar", garbage, |_| {}).await, LayerError::Stream { .. }));
        let mut cut = image::plain(good[..2000].to_vec());
        cut.diff_id = image::sha256(&good);
        assert!(matches!(refused("a cut tar", cut, |_| {}).await, LayerError::Stream { .. }));
    });
}
