//! The store with a real registry, and its own bookkeeping.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::image::{self, Tar};
use common::server::{Hostile, Registry as Server, Trick};
use common::user::as_user;
use common::{Fixture, names};
use cordium_image::{Credentials, ErrorKind, ImageError, ImageStore, Registry, Step, no_progress};

fn registry(fixture: &Fixture) -> (Server, String, String) {
    let server = Server::start(&fixture.path("registry"), "", "");
    let image = image::ordinary();
    let layout = image.write_layout(&fixture.path("oci"));
    let reference = server.push(&layout, "team/app:v1", &[]);
    (server, reference, image.digest())
}

fn check_ordinary(layers: &[PathBuf]) {
    assert_eq!(layers.len(), 2);
    assert_eq!(std::fs::read(layers[0].join("etc/os-release")).unwrap(), b"ID=test\n");
    assert_eq!(std::fs::metadata(layers[0].join("usr/bin/x")).unwrap().len(), 700_000);
    assert_eq!(names(&layers[1].join("etc")), ["hello", "os-release"]);
}

#[test]
fn a_real_registry() {
    as_user("a_real_registry", || async {
        let fixture = Fixture::new();
        let (_server, reference, digest) = registry(&fixture);
        let store = fixture.store();
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let sink = Arc::new(move |progress| seen.lock().unwrap().push(progress));
        let image = store.ensure(&reference, None, sink).await.unwrap();
        assert_eq!(image.digest, digest);
        assert_eq!(image.config.config().as_ref().unwrap().env().as_ref().unwrap(), &["A=b"]);
        check_ordinary(&image.layers);
        fixture.assert_staging_empty().await;
        let steps = steps.lock().unwrap().clone();
        assert!(steps.iter().any(|p| p.step == Step::Resolving));
        assert!(steps.iter().any(|p| p.step == Step::Ready && p.layer.is_some() && p.done == p.total));
        assert!(steps.iter().any(|p| p.layer.is_none() && p.done == 2 && p.total == 2));

        let missing = store.pull(&reference.replace(":v1", ":v2"), None, no_progress()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
        let by_digest = format!("{}@{digest}", reference.trim_end_matches(":v1"));
        assert_eq!(store.pull(&by_digest, None, no_progress()).await.unwrap().digest, digest);
    });
}

#[test]
fn a_manifest_list() {
    as_user("a_manifest_list", || async {
        let fixture = Fixture::new();
        let (server, reference, digest) = registry(&fixture);
        let repository = format!("http://{}", reference.replacen('/', "/v2/", 1).trim_end_matches(":v1"));
        let entry = |digest: &str, arch: &str| {
            serde_json::json!({"mediaType": image::MANIFEST, "digest": digest, "size": 1000,
                "platform": {"os": "linux", "architecture": arch}})
        };
        let own = image::ordinary();
        let mut entries = vec![entry(&digest, image::arch())];
        entries[0]["size"] = own.manifest.len().into();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries});
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let put = client.put(format!("{repository}/manifests/multi")).header("Content-Type", kind);
        let answer = put.body(index.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        let image =
            fixture.store().ensure(&reference.replace(":v1", ":multi"), None, no_progress()).await.unwrap();
        assert_eq!(image.digest, digest);
        drop(server);
    });
}

#[test]
fn credentials_and_a_private_authority() {
    as_user("credentials_and_a_private_authority", || async {
        let fixture = Fixture::new();
        let dir = fixture.path("registry");
        std::fs::create_dir_all(&dir).unwrap();
        let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert_file, key.cert.pem()).unwrap();
        std::fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
        // "user" with the password "pass", as `htpasswd -B` writes it.
        let htpasswd = dir.join("htpasswd");
        std::fs::write(&htpasswd, "user:$2y$05$TPN15bodVUP3rPEbG8nkx.OSELBibQNR.arm2asij20pft7lCEViy\n")
            .unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", htpasswd.display());
        let tls = format!("  tls: {{certificate: {}, key: {}}}\n", cert_file.display(), key_file.display());
        let server = Server::start(&dir, &tls, &auth);
        let layout = image::ordinary().write_layout(&fixture.path("oci"));
        let reference = server.push(&layout, "private/app:v1", &["--dest-creds", "user:pass"]);
        let host = format!("127.0.0.1:{}", server.port);

        let settings = Registry { plain_http: Some(false), ca_file: Some(cert_file), ..Registry::default() };
        let mut config = fixture.config();
        config.registries.registries.insert(host.clone(), settings.clone());
        let store = fixture.store_with(config.clone());
        let error = store.pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(matches!(&error, ImageError::Unauthorized { .. }), "{error}");
        let wrong = Credentials { username: "user".into(), password: "wrong".into() };
        let error = store.pull(&reference, Some(wrong), no_progress()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        let right = Credentials { username: "user".into(), password: "pass".into() };
        check_ordinary(&store.pull(&reference, Some(right.clone()), no_progress()).await.unwrap().layers);
        drop(store);

        config.registries.registries.insert(host.clone(), Registry { credentials: Some(right), ..settings });
        let store = fixture.store_with(config.clone());
        store.pull(&reference, None, no_progress()).await.unwrap();
        drop(store);

        config
            .registries
            .registries
            .insert(host, Registry { plain_http: Some(false), ..Registry::default() });
        let error = fixture.store_with(config).pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    });
}

#[test]
fn a_mirror_comes_first_and_may_fail() {
    as_user("a_mirror_comes_first_and_may_fail", || async {
        let fixture = Fixture::new();
        let (server, reference, digest) = registry(&fixture);
        let mut config = fixture.config();
        let mirrors = vec!["127.0.0.1:9".to_owned(), format!("127.0.0.1:{}/team", server.port)];
        config.registries.registries.insert("docker.io".into(), Registry { mirrors, ..Registry::default() });
        let store = fixture.store_with(config);
        // docker.io/library/... is asked for as team/library/...
        let layout = format!("oci:{}:t", fixture.path("oci").display());
        server.push(&layout, "team/library/app:v1", &[]);
        let image = store.ensure("app:v1", None, no_progress()).await.unwrap();
        assert_eq!(
            (image.digest.as_str(), image.reference.as_str()),
            (digest.as_str(), "docker.io/library/app:v1")
        );
        drop(reference);
    });
}

#[test]
fn layouts_and_archives() {
    as_user("layouts_and_archives", || async {
        let fixture = Fixture::new();
        let image = image::ordinary();
        let layout = image.write_layout(&fixture.path("oci"));
        let store = fixture.store();
        check_ordinary(&store.ensure(&layout, None, no_progress()).await.unwrap().layers);
        let untagged = layout.trim_end_matches(":t");
        assert_eq!(store.ensure(untagged, None, no_progress()).await.unwrap().digest, image.digest());
        let error = store.ensure(&format!("{untagged}:nope"), None, no_progress()).await.unwrap_err();
        assert!(error.to_string().contains("it has: t"), "{error}");

        let plain =
            image::image(&[image::plain(Tar::default().file("p", b"q").finish()), image.layers[0].clone()]);
        let archive = plain.write_archive(&fixture.path("saved.tar"));
        let saved = store.ensure(&archive, None, no_progress()).await.unwrap();
        assert_eq!(std::fs::read(saved.layers[0].join("p")).unwrap(), b"q");
        assert_eq!(saved.layers[1], store.ensure(&layout, None, no_progress()).await.unwrap().layers[0]);

        let docker = Tar::default().symlink("manifest.json", "../../../../etc/passwd").finish();
        std::fs::write(fixture.path("evil.tar"), docker).unwrap();
        let evil = format!("docker-archive:{}", fixture.path("evil.tar").display());
        let error = store.ensure(&evil, None, no_progress()).await.unwrap_err();
        assert!(matches!(&error, ImageError::Local { .. }), "{error}");
        let error = store.ensure("docker-archive:/dev/zero", None, no_progress()).await.unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        fixture.assert_staging_empty().await;
    });
}

#[test]
fn one_download_for_many_waiters() {
    as_user("one_download_for_many_waiters", || async {
        let fixture = Fixture::new();
        let image = image::ordinary();
        let server = Hostile::start(&image, Trick::None).await;
        let store = fixture.store();
        let pulls: Vec<_> = (0..30)
            .map(|_| {
                let (store, reference) = (store.clone(), server.reference());
                tokio::spawn(async move { store.ensure(&reference, None, no_progress()).await })
            })
            .collect();
        // Going away in the middle must not take it from the others.
        for pull in pulls.iter().step_by(3) {
            pull.abort();
        }
        let mut done = 0;
        for pull in pulls {
            if let Ok(result) = pull.await {
                assert_eq!(result.unwrap().digest, image.digest());
                done += 1;
            }
        }
        assert!(done >= 20);
        assert_eq!(server.layer_requests(), 2);
    });
}

#[test]
fn a_cancelled_pull_leaves_nothing() {
    as_user("a_cancelled_pull_leaves_nothing", || async {
        let fixture = Fixture::new();
        let server = Hostile::start(&image::ordinary(), Trick::Stall).await;
        let store = fixture.store();
        let reference = server.reference();
        let pull = store.ensure(&reference, None, no_progress());
        assert!(tokio::time::timeout(Duration::from_millis(700), pull).await.is_err());
        fixture.assert_staging_empty().await;
        server.behave(Trick::None);
        store.ensure(&reference, None, no_progress()).await.unwrap();
    });
}

#[test]
fn what_is_used_is_not_removed() {
    as_user("what_is_used_is_not_removed", || async {
        let fixture = Fixture::new();
        let base = image::gzip(&Tar::default().file("base", &[1; 1000]).finish());
        let layer = |name: &str| image::gzip(&Tar::default().file(name, &[2; 500]).finish());
        let one = image::image(&[base.clone(), layer("one")]).write_layout(&fixture.path("one"));
        let two = image::image(&[base, layer("two")]).write_layout(&fixture.path("two"));
        let store = fixture.store();
        let first = store.ensure(&one, None, no_progress()).await.unwrap();
        let second = store.ensure(&two, None, no_progress()).await.unwrap();
        assert_eq!(fixture.published_layers(), 3);
        assert_eq!(store.list().unwrap().len(), 2);
        assert_eq!(store.list().unwrap()[0].users, 1);
        let error = store.remove(&one).await.unwrap_err();
        assert!(matches!(error, ImageError::InUse { users: 1, .. }), "{error}");
        assert!(store.prune(true).await.unwrap().images.is_empty());

        let digest = first.digest.clone();
        drop(first);
        let again = store.lease(&digest).unwrap();
        assert_eq!(again.reference, one);
        assert!(store.remove(&one).await.is_err());
        drop(again);
        assert_eq!(store.remove(&one).await.unwrap(), 500);
        assert_eq!(fixture.published_layers(), 2);
        assert!(second.layers.iter().all(|layer| layer.is_dir()));
        assert!(matches!(store.remove(&one).await.unwrap_err(), ImageError::NotStored { .. }));
        assert!(matches!(store.lease(&digest).unwrap_err(), ImageError::NotStored { .. }));
        drop(second);
        assert!(store.prune(false).await.unwrap().images.is_empty());
        let pruned = store.prune(true).await.unwrap();
        assert_eq!((pruned.images, pruned.layers, pruned.bytes), (vec![two], 2, 1500));
        assert_eq!(fixture.published_layers(), 0);
        fixture.assert_staging_empty().await;
    });
}

#[test]
fn a_moved_tag_leaves_an_image_to_prune() {
    as_user("a_moved_tag_leaves_an_image_to_prune", || async {
        let fixture = Fixture::new();
        let make = |name: &str| image::image(&[image::gzip(&Tar::default().file(name, b"x").finish())]);
        let reference = make("old").write_layout(&fixture.path("oci"));
        let store = fixture.store();
        let old = store.pull(&reference, None, no_progress()).await.unwrap();
        make("new").write_layout(&fixture.path("oci"));
        let new = store.pull(&reference, None, no_progress()).await.unwrap();
        assert_ne!(old.digest, new.digest);
        assert_eq!(store.list().unwrap().iter().filter(|i| i.reference.is_none()).count(), 1);
        assert!(store.prune(false).await.unwrap().images.is_empty(), "the old one is still used");
        let digest = old.digest.clone();
        drop(old);
        assert_eq!(store.prune(false).await.unwrap().images, [digest]);
        assert!(new.layers[0].join("new").exists());
    });
}

#[test]
fn a_restart_keeps_images_and_sweeps_leftovers() {
    as_user("a_restart_keeps_images_and_sweeps_leftovers", || async {
        let fixture = Fixture::new();
        let image = image::ordinary();
        let reference = image.write_layout(&fixture.path("oci"));
        let store = fixture.store();
        let layers = store.ensure(&reference, None, no_progress()).await.unwrap().layers.clone();
        let second = ImageStore::open(&fixture.path("store"), fixture.config());
        assert!(matches!(second.err().unwrap(), ImageError::Locked { .. }));
        // The flush marks both layers in the background.
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while layers.iter().any(|layer| !layer.with_file_name("synced").exists()) {
            assert!(std::time::Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(store);
        let staging = fixture.path("store/staging");
        std::fs::create_dir_all(staging.join("layer-left/fs/deep")).unwrap();
        std::fs::write(staging.join("file-left"), "x").unwrap();
        // As after a power cut: written in another boot, and never flushed.
        let torn = layers[1].parent().unwrap();
        std::fs::remove_file(torn.join("synced")).unwrap();
        let meta = std::fs::read_to_string(torn.join("meta.json")).unwrap();
        let mut meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
        meta["boot_id"] = "another".into();
        std::fs::write(torn.join("meta.json"), meta.to_string()).unwrap();
        let store = fixture.store();
        fixture.assert_staging_empty().await;
        assert!(layers[0].is_dir() && !layers[1].exists());
        check_ordinary(&store.ensure(&reference, None, no_progress()).await.unwrap().layers);
    });
}

#[test]
fn trees_of_subordinate_ids_are_removed() {
    as_user("trees_of_subordinate_ids_are_removed", || async {
        let fixture = Fixture::new();
        let reference = image::ordinary().write_layout(&fixture.path("oci"));
        let store = fixture.store();
        let image = store.ensure(&reference, None, no_progress()).await.unwrap();
        let copy = image.layers[0].parent().unwrap().to_owned();
        assert!(std::fs::remove_dir_all(copy.join("fs/usr")).is_err(), "not ours to remove");
        store.remove_tree(&copy).await.unwrap();
        assert!(!copy.exists());
        store.remove_tree(&copy).await.unwrap();
        let keep = fixture.path("keep");
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("x"), "").unwrap();
        std::os::unix::fs::symlink(&keep, fixture.path("link")).unwrap();
        store.remove_tree(&fixture.path("link")).await.unwrap();
        assert!(keep.join("x").exists() && !fixture.path("link").exists());
    });
}

#[test]
fn a_helper_that_cannot_work_is_named() {
    as_user("a_helper_that_cannot_work_is_named", || async {
        let fixture = Fixture::new();
        let reference = image::ordinary().write_layout(&fixture.path("oci"));
        for (exe, words) in [("/nonexistent", "/nonexistent"), ("/bin/false", "ended without an answer")] {
            let mut config = fixture.config();
            config.unpacker = exe.into();
            let error = fixture.store_with(config).pull(&reference, None, no_progress()).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let mut config = fixture.config();
        config.ids.uid_start = 1;
        let error = fixture.store_with(config).pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(error.to_string().contains("newuidmap"), "{error}");
        fixture.assert_staging_empty().await;
    });
}

#[test]
fn the_unpacker_is_confined() {
    as_user("the_unpacker_is_confined", || async {
        let fixture = Fixture::new();
        let server = Hostile::start(&image::ordinary(), Trick::Stall).await;
        let store = fixture.store();
        let reference = server.reference();
        let pull = tokio::spawn(async move { store.pull(&reference, None, no_progress()).await });
        common::process::assert_confined(&[common::user::ids().uid_start]).await;
        pull.abort();
        fixture.assert_staging_empty().await;
        assert!(common::process::helpers().is_empty(), "the unpacker goes with the pull");
    });
}

#[test]
fn a_bad_layer_takes_the_good_ones_along() {
    as_user("a_bad_layer_takes_the_good_ones_along", || async {
        let fixture = Fixture::new();
        let good = image::gzip(&Tar::default().file("good", b"").finish());
        // Slow enough that the good one is published before.
        let mut tar = Tar::default();
        for i in 0..3000 {
            tar = tar.file(&format!("f{i}"), b"");
        }
        let bad = image::gzip(&tar.file("../evil", b"").finish());
        let store = fixture.store();
        let both = image::image(&[good.clone(), bad]).write_layout(&fixture.path("bad"));
        store.pull(&both, None, no_progress()).await.unwrap_err();
        fixture.assert_staging_empty().await;
        assert_eq!(fixture.published_layers(), 0);
        let mended = image::image(&[good]).write_layout(&fixture.path("good"));
        store.pull(&mended, None, no_progress()).await.unwrap();
    });
}

#[test]
fn a_full_disk() {
    let Some(_disk) = common::disk::small("a_full_disk", 90) else { return };
    common::user::as_user_with("a_full_disk", &[(common::disk::VARIABLE, _disk.path())], || async {
        let fixture = Fixture { dir: common::disk::fixture_dir() };
        let zeros = vec![0; 150 << 20];
        let layout = common::Fixture::new();
        let large = image::image(&[image::gzip(&Tar::default().file("large", &zeros).finish())]);
        let reference = large.write_layout(&layout.path("oci"));
        let mut config = fixture.config();
        config.limits.ratio = u64::MAX;
        let store = fixture.store_with(config);
        let error = store.pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(error.to_string().contains("no space left"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        fixture.assert_staging_empty().await;
        assert_eq!(fixture.published_layers(), 0);

        let mut state = 1u32;
        let noise: Vec<u8> = (0..40 << 20)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let known = image::image(&[image::plain(Tar::default().file("noise", &noise).finish())]);
        let reference = known.write_layout(&layout.path("known"));
        let error = store.pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(matches!(error, ImageError::Space { .. }), "{error}");

        let small = image::ordinary().write_layout(&layout.path("small"));
        check_ordinary(&store.pull(&small, None, no_progress()).await.unwrap().layers);
    });
}

/// A flush of a store that is gone puts its mark into place while the next one is opened.
#[test]
fn what_leaves_staging_meanwhile_is_no_error() {
    as_user("what_leaves_staging_meanwhile_is_no_error", || async {
        let fixture = Fixture::new();
        drop(fixture.store());
        let staging = fixture.path("store/staging");
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let flushes = std::thread::spawn(move || {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                for number in 0..200 {
                    let _ = std::fs::write(staging.join(format!("file-{number}")), "");
                }
                for number in 0..200 {
                    let _ = std::fs::remove_file(staging.join(format!("file-{number}")));
                }
            }
        });
        for _ in 0..2_000 {
            drop(fixture.store());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        flushes.join().unwrap();
    });
}
