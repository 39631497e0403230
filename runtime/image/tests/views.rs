//! Layers in ranges of ids that do not own them.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::image::{self, Item, Layer, Tar};
use common::user::{all_ranges, as_user};
use common::{Fixture, names};
use cordium_image::{IdMap, ImageStore, StoreConfig, StoredImage, View, ViewMethod, no_progress};
use tar::EntryType;

fn config(fixture: &Fixture) -> (StoreConfig, Vec<IdMap>) {
    let (home, ranges) = all_ranges();
    let mut config = fixture.config();
    (config.ids, config.ranges) = (home, ranges.clone());
    (config, ranges)
}

async fn pulled(fixture: &Fixture, store: &ImageStore, layers: &[Layer]) -> Arc<StoredImage> {
    let reference = image::image(layers).write_layout(&fixture.path("oci"));
    store.ensure(&reference, None, no_progress()).await.unwrap()
}

/// What an overlay of these layers shows to a range, as told from within.
fn mounted(fixture: &Fixture, name: &str, range: &IdMap, view: &View) -> String {
    assert_eq!(range.uid_start, range.gid_start, "the tool takes one number");
    let dir = fixture.path(name);
    std::fs::create_dir(&dir).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordium-image-tool"));
    command.args(["mounted", &range.uid_start.to_string()]).arg(dir).args(&view.layers);
    command.args(view.data.iter().map(|data| format!("::{}", data.display())));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn meta(layer: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(layer.with_file_name("meta.json")).unwrap()).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// 512 bytes in the midst of 9 MiB of nothing, as GNU tar writes it.
fn sparse() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    for (index, (offset, length)) in [(1 << 20, 512), (9 << 20, 0)].into_iter().enumerate() {
        gnu.sparse[index].set_offset(offset);
        gnu.sparse[index].set_length(length);
    }
    gnu.set_real_size(9 << 20);
    header.set_cksum();
    header
}

/// One of everything that a layer can hold.
fn everything() -> [Layer; 3] {
    let big = noise(1 << 20);
    let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
    capability.extend([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let long = "n".repeat(255);
    let deep = "d/".repeat(120);
    let item = |path, mode, data| Item { path, mode, data, ..Item::default() };
    let owned = |path, mode, uid, gid, data| Item { path, mode, uid, gid, data, ..Item::default() };
    let directory = |path, mode, uid| Item { path, mode, uid, kind: EntryType::Directory, ..Item::default() };
    let base = Tar::default()
        .dir("etc/")
        .file("etc/small", b"small")
        .file("empty", b"")
        .add(item("big", 0o644, &big))
        .add(owned("big-of-user", 0o644, 1000, 65_535, &big))
        .add(owned("setuid", 0o4755, 0, 0, &big))
        .add(owned("setgid", 0o2755, 1000, 42, b"s"))
        .add(owned("setuid-of-user", 0o6711, 1000, 1000, &big))
        .add(item("sticky", 0o1644, &big))
        .add(item("secret", 0o600, &big))
        .add(item("run-only", 0o711, &big))
        .add(item("unwritable", 0o444, &big))
        .add(directory("closed/", 0o700, 1000))
        .add(item("closed/open", 0o644, &big))
        .add(directory("closed/below/", 0o755, 0))
        .add(item("closed/below/open", 0o644, &big))
        .add(directory("tmp/", 0o1777, 0))
        .add(directory("shared/", 0o2775, 0))
        .add(owned("shared/file", 0o644, 5, 6, &big))
        .add(directory("shared/sub/", 0o755, 0))
        .symlink("link", "../../../../../etc/passwd")
        .add(Item {
            path: "owned-link",
            kind: EntryType::Symlink,
            link: "big",
            uid: 7,
            gid: 8,
            ..Item::default()
        })
        .hardlink("etc/big-again", "big")
        .hardlink("etc/secret-again", "secret")
        .hardlink("etc/link-again", "link")
        .add(Item { path: "fifo", kind: EntryType::Fifo, mode: 0o622, uid: 3, ..Item::default() })
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("SCHILY.xattr.user.note", b"\x01\0two")])
        .add(owned("capable", 0o755, 1000, 0, &big))
        .pax(&[("SCHILY.xattr.user.note", b"on a directory"), ("mtime", b"1600000000.123456789")])
        .add(directory("noted/", 0o755, 0))
        .pax(&[("mtime", b"1500000000.987654321")])
        .add(item("noted/old", 0o644, &big))
        .pax(&[("path", long.as_bytes())])
        .add(item("long", 0o644, &big))
        .pax(&[("path", format!("{deep}leaf").as_bytes())])
        .add(item("leaf", 0o644, &big))
        .raw(sparse().as_bytes(), &noise(512))
        .dir("hidden/")
        .file("hidden/below", &big)
        .dir("opaque/")
        .file("opaque/below", &big)
        .file("replaced", &big)
        .add(directory("merged/", 0o700, 1000))
        .file("merged/one", &big)
        .dir("merged/deep/")
        .file("merged/deep/one", &big)
        .dir("merged/gone/")
        .file("merged/gone/one", &big)
        .dir("to-file/")
        .file("to-file/one", &big)
        .file("to-directory", &big)
        .symlink("to-real", "merged")
        .dir("comes-back/")
        .file("comes-back/one", &big);
    let middle = Tar::default()
        .add(directory("merged/", 0o755, 0))
        .file("merged/two", &big)
        .file("merged/deep/two", &big)
        .file("merged/deep/.wh.one", b"")
        .file("merged/.wh.gone", b"")
        .file("to-file", &big)
        .dir("to-directory/")
        .file("to-directory/two", &big)
        .dir("to-real/")
        .file("to-real/two", &big)
        .file(".wh.comes-back", b"");
    let top = Tar::default()
        .dir("comes-back/")
        .file("comes-back/three", &big)
        .file("merged/one", b"now of the top")
        .dir("merged/gone/")
        .file("merged/gone/three", &big)
        .hardlink("merged/gone/again", "comes-back/three")
        .file(".wh.hidden", b"")
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/above", &big)
        .file("replaced", b"short");
    [image::gzip(&base.finish()), image::plain(middle.finish()), image::zstd(&top.finish())]
}

#[test]
fn every_method_shows_the_same_tree() {
    as_user("every_method_shows_the_same_tree", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        let store = fixture.store_with(config.clone());
        let image = pulled(&fixture, &store, &everything()).await;
        let home = store.view(&image, &config.ids).await.unwrap();
        assert_eq!((&home.layers, &home.data), (&image.layers, &None));
        let expected = mounted(&fixture, "home", &config.ids, &home);
        for words in
            ["\"etc/secret-again\"", "security.capability=", "user.note=", "written true", "\"opaque/above\""]
        {
            assert!(expected.contains(words), "no {words} in\n{expected}");
        }
        assert!(!expected.contains("below\"") || expected.contains("closed/below"), "{expected}");
        assert!(!expected.contains("hidden") && !expected.contains("opaque/below"), "{expected}");
        drop((store, image));
        let mut methods = Vec::new();
        for (index, method) in
            [None, Some(ViewMethod::Copy), Some(ViewMethod::Reflink)].into_iter().enumerate()
        {
            config.view_method = method;
            let range = ranges[index];
            let store = fixture.store_with(config.clone());
            let image = pulled(&fixture, &store, &everything()).await;
            let view = store.view(&image, &range).await.unwrap();
            assert!(view.layers.iter().all(|layer| layer.to_string_lossy().contains("/views/")));
            let shown = mounted(&fixture, &format!("range-{index}"), &range, &view);
            // The first line is the root, which is the upper layer's.
            for (left, right) in shown.lines().zip(expected.lines()).skip(1) {
                assert_eq!(left, right, "{method:?}");
            }
            assert_eq!(shown.lines().count(), expected.lines().count(), "{method:?}");
            let meta = meta(&view.layers[0]);
            println!("{method:?}: {meta}");
            assert_eq!(view.data.is_some(), meta["redirects"] != 0, "{method:?}");
            if view.data.is_some() {
                // Everything large that is open to all; neither what is closed nor what is small.
                assert_eq!(meta["redirects"], 18, "{meta}");
                let blocks = |name| view.layers[0].join(name).metadata().unwrap().blocks();
                assert!(blocks("big") <= 8 && blocks("secret") >= 2048);
            }
            let owner = view.layers[0].join("big-of-user").metadata().unwrap();
            assert_eq!((owner.uid(), owner.gid()), (range.uid_start + 1000, range.gid_start + 65_535));
            assert!(view.layers[0].join("sparse").metadata().unwrap().blocks() < 64, "a hole is filled");
            methods.push(meta["method"].clone());
            let inode = view.layers[0].metadata().unwrap().ino();
            assert_eq!(store.view(&image, &range).await.unwrap(), view);
            assert_eq!(view.layers[0].metadata().unwrap().ino(), inode, "made again");
            fixture.assert_staging_empty().await;
        }
        assert_eq!(methods[1], "copy");
    });
}

#[test]
fn a_tree_given_to_another_range_is_the_same_tree() {
    as_user("a_tree_given_to_another_range_is_the_same_tree", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        config.view_method = Some(ViewMethod::Copy);
        let home = config.ids;
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        let expected = mounted(&fixture, "home", &home, &store.view(&image, &home).await.unwrap());
        let view = store.view(&image, &ranges[0]).await.unwrap();
        // There, on to the next, and where it is already.
        for (index, range) in [ranges[1], home, ranges[2], ranges[2]].iter().enumerate() {
            for layer in &view.layers {
                store.give_tree(layer, range).await.unwrap();
                assert!(!layer.join(cordium_image::GIVING).exists());
            }
            let shown = mounted(&fixture, &format!("given-{index}"), range, &view);
            // The first line is the root, which is the upper layer's.
            assert!(shown.lines().skip(1).eq(expected.lines().skip(1)), "{range}:\n{shown}\nnot\n{expected}");
            let capable = view.layers[0].join("capable").metadata().unwrap();
            assert_eq!((capable.uid(), capable.mode() & 0o7777), (range.uid_start + 1000, 0o755));
        }
        let foreign = IdMap { uid_start: 5, ..home };
        assert!(store.give_tree(&view.layers[0], &foreign).await.is_err(), "not one of ours");
    });
}

#[test]
fn a_range_that_was_not_given_is_refused() {
    as_user("a_range_that_was_not_given_is_refused", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        config.ranges.truncate(1);
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        let error = store.view(&image, &ranges[1]).await.unwrap_err();
        assert!(error.to_string().contains(&ranges[1].uid_start.to_string()), "{error}");
        assert!(names(&fixture.path("store/views")).is_empty());
    });
}

/// A helper that notes each start, then takes its time.
fn counting(fixture: &Fixture, seconds: u32) -> (PathBuf, PathBuf) {
    let (script, log) = (fixture.path("helper.sh"), fixture.path("starts"));
    let tool = env!("CARGO_BIN_EXE_cordium-image-tool");
    let text = format!("#!/bin/sh\necho x >> {}\nsleep {seconds}\nexec {tool} \"$@\"\n", log.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (script, log)
}

#[test]
fn many_callers_make_one_view() {
    as_user("many_callers_make_one_view", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        pulled(&fixture, &fixture.store_with(config.clone()), &everything()).await;
        let (script, log) = counting(&fixture, 0);
        (config.unpacker, config.view_method) = (script, Some(ViewMethod::Copy));
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        let calls: Vec<_> = (0..12)
            .map(|n| {
                let (store, image, range) = (store.clone(), Arc::clone(&image), ranges[n % 2]);
                tokio::spawn(async move { store.view(&image, &range).await })
            })
            .collect();
        // Going away in the middle must not take it from the others.
        calls[0].abort();
        let mut views = Vec::new();
        for call in calls {
            if let Ok(view) = call.await {
                views.push(view.unwrap());
            }
        }
        views.sort_by(|a, b| a.layers.cmp(&b.layers));
        views.dedup();
        assert_eq!(views.len(), 2, "one for each range");
        assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 6, "three layers, two ranges");
        fixture.assert_staging_empty().await;
    });
}

#[test]
fn a_view_that_is_not_waited_for_leaves_nothing() {
    as_user("a_view_that_is_not_waited_for_leaves_nothing", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        pulled(&fixture, &fixture.store_with(config.clone()), &everything()).await;
        let good = config.clone();
        (config.unpacker, _) = counting(&fixture, 3);
        let store = fixture.store_with(config.clone());
        let image = pulled(&fixture, &store, &everything()).await;
        let view = store.view(&image, &ranges[0]);
        assert!(tokio::time::timeout(Duration::from_millis(300), view).await.is_err());
        fixture.assert_staging_empty().await;
        drop((store, image));
        config.unpacker = "/bin/false".into();
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        let error = store.view(&image, &ranges[0]).await.unwrap_err();
        assert!(error.to_string().contains("ended without an answer"), "{error}");
        assert!(error.to_string().contains(&ranges[0].uid_start.to_string()), "{error}");
        fixture.assert_staging_empty().await;
        drop((store, image));
        let store = fixture.store_with(good);
        let image = pulled(&fixture, &store, &everything()).await;
        store.view(&image, &ranges[0]).await.unwrap();
    });
}

#[test]
fn who_makes_a_view_is_confined() {
    as_user("who_makes_a_view_is_confined", || async {
        let fixture = Fixture::new();
        let (mut config, ranges) = config(&fixture);
        config.view_method = Some(ViewMethod::Copy);
        let store = fixture.store_with(config);
        // Enough to be seen at work, and more than once.
        let files = (0..20_000).fold(Tar::default(), |tar, n| tar.file(&format!("{n}"), b"x"));
        let image = pulled(&fixture, &store, &[image::gzip(&files.finish())]).await;
        let ids: Vec<u32> = ranges.iter().map(|range| range.uid_start).collect();
        let views = tokio::spawn(async move {
            for range in &ranges {
                store.view(&image, range).await.unwrap();
            }
        });
        common::process::assert_confined(&ids).await;
        views.abort();
        fixture.assert_staging_empty().await;
        assert!(common::process::helpers().is_empty(), "the helper goes with whom it works for");
    });
}

#[test]
fn a_restart_keeps_good_views_only() {
    as_user("a_restart_keeps_good_views_only", || async {
        let fixture = Fixture::new();
        let (config, ranges) = config(&fixture);
        let store = fixture.store_with(config.clone());
        let image = pulled(&fixture, &store, &everything()).await;
        let mut views = Vec::new();
        for range in &ranges[..4] {
            views.push(store.view(&image, range).await.unwrap());
        }
        let dir = |n: usize| views[n].layers[0].parent().unwrap().to_owned();
        // The flush marks what was published in the background.
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !views.iter().flat_map(|v| &v.layers).all(|layer| layer.with_file_name("synced").exists()) {
            assert!(std::time::Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let upper = image.layers[1].parent().unwrap().file_name().unwrap().to_owned();
        drop((store, image));
        let change = |n: usize, key: &str, value: serde_json::Value| {
            let mut meta = meta(&views[n].layers[0]);
            meta[key] = value;
            std::fs::write(dir(n).join("meta.json"), meta.to_string()).unwrap();
        };
        // As after a power cut; made with another home; and half made when the process was killed.
        std::fs::remove_file(dir(0).join("synced")).unwrap();
        change(0, "boot_id", "another".into());
        let other =
            serde_json::json!({"uid_start": 1, "uid_count": 65536, "gid_start": 1, "gid_count": 65536});
        change(1, "home", other);
        std::fs::rename(dir(2), fixture.path("store/staging/view-left")).unwrap();
        // The upper layer has gone, as by a crash between the two renames of a removal.
        let store = {
            let layer = fixture.path("store/layers").join(&upper);
            std::fs::rename(layer, fixture.path("store/staging/removed-layer")).unwrap();
            fixture.store_with(config)
        };
        fixture.assert_staging_empty().await;
        for n in 0..3 {
            assert!(!dir(n).exists(), "{n}");
        }
        assert!(!views.iter().any(|view| view.layers.last().unwrap().exists()));
        let image = pulled(&fixture, &store, &everything()).await;
        for (range, view) in ranges.iter().zip(&views) {
            assert_eq!(store.view(&image, range).await.unwrap(), *view);
            assert!(view.layers.last().unwrap().join("replaced").is_file());
        }
    });
}

#[test]
fn views_go_with_their_layer() {
    as_user("views_go_with_their_layer", || async {
        let fixture = Fixture::new();
        let (config, ranges) = config(&fixture);
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        let reference = image.reference.clone();
        let views =
            [store.view(&image, &ranges[0]).await.unwrap(), store.view(&image, &ranges[1]).await.unwrap()];
        assert!(store.remove(&reference).await.is_err(), "in use");
        assert!(store.prune(true).await.unwrap().images.is_empty());
        assert!(views.iter().flat_map(|view| &view.layers).all(|layer| layer.is_dir()));
        drop(image);
        let pruned = store.prune(true).await.unwrap();
        assert_eq!(pruned.layers, 3, "views are not counted");
        assert!(!views.iter().flat_map(|view| &view.layers).any(|layer| layer.exists()));
        fixture.assert_staging_empty().await;
    });
}

#[test]
fn trees_of_any_range_are_removed() {
    as_user("trees_of_any_range_are_removed", || async {
        let fixture = Fixture::new();
        let (config, ranges) = config(&fixture);
        let store = fixture.store_with(config);
        let image = pulled(&fixture, &store, &everything()).await;
        for range in [&ranges[0], &ranges[7]] {
            let view = store.view(&image, range).await.unwrap();
            let tree = view.layers[0].parent().unwrap();
            assert!(std::fs::remove_dir_all(tree).is_err(), "not ours to remove");
            store.remove_tree(tree).await.unwrap();
            assert!(!tree.exists());
        }
    });
}
