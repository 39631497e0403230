//! Registries that misbehave: each failure is told for what it is, in bounded time, leaves nothing behind,
//! and the same pull works once the registry does.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use common::image::{self, Image};
use common::server::{Hostile, Trick};
use common::user::as_user;
use cordium_image::{ErrorKind, ImageError, LayerError, no_progress};

/// Incompressible, so that half of it is a lot of bytes.
fn noisy() -> Image {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..600_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let tar = image::Tar::default().dir("d/").file("d/noise", &noise).file("d/small", b"x");
    image::image(&[image::gzip(&tar.finish())])
}

async fn fails(trick: Trick) -> (ImageError, Duration) {
    let fixture = Fixture::new();
    let store = fixture.store();
    let image = noisy();
    let server = Hostile::start(&image, trick).await;
    let start = Instant::now();
    let error = store.pull(&server.reference(), None, no_progress()).await.unwrap_err();
    let took = start.elapsed();
    fixture.assert_staging_empty().await;
    assert_eq!(fixture.published_layers(), 0);
    assert!(store.list().unwrap().is_empty());
    assert!(took < Duration::from_secs(30), "{trick:?} took {took:?}");
    server.behave(Trick::None);
    let good = store.pull(&server.reference(), None, no_progress()).await.unwrap();
    assert_eq!(good.digest, image.digest());
    assert_eq!(std::fs::read(good.layers[0].join("d/small")).unwrap(), b"x");
    println!("{trick:?}: {error}");
    (error, took)
}

async fn layer_fails(trick: Trick) -> LayerError {
    match fails(trick).await.0 {
        ImageError::Layer { source, image, .. } => {
            assert!(image.contains("test/image:t"));
            source
        }
        other => panic!("{trick:?}: {other:?}"),
    }
}

async fn succeeds(trick: Trick) -> usize {
    let fixture = Fixture::new();
    let server = Hostile::start(&noisy(), trick).await;
    let image = fixture.store().pull(&server.reference(), None, no_progress()).await.unwrap();
    assert_eq!(std::fs::metadata(image.layers[0].join("d/noise")).unwrap().len(), 600_000);
    fixture.assert_staging_empty().await;
    server.layer_requests()
}

#[test]
fn a_broken_connection_is_resumed() {
    as_user("a_broken_connection_is_resumed", || async {
        assert_eq!(succeeds(Trick::CloseHalfWay).await, 2);
        assert_eq!(succeeds(Trick::CloseAndIgnoreRange).await, 2);
        assert_eq!(succeeds(Trick::Recover).await, 3);
    });
}

#[test]
fn a_registry_that_always_closes() {
    as_user("a_registry_that_always_closes", || async {
        assert!(matches!(layer_fails(Trick::AlwaysClose).await, LayerError::Download { .. }));
    });
}

#[test]
fn a_truncated_layer() {
    as_user("a_truncated_layer", || async {
        let error = layer_fails(Trick::Truncate).await;
        assert!(
            matches!(&error, LayerError::Download { reason, .. } if reason.contains("ended after")),
            "{error}"
        );
    });
}

#[test]
fn a_registry_that_answers_500() {
    as_user("a_registry_that_answers_500", || async {
        let error = layer_fails(Trick::Answer500).await;
        assert!(matches!(&error, LayerError::Download { reason, .. } if reason.contains("500")), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_registry_that_falls_silent() {
    as_user("a_registry_that_falls_silent", || async {
        for trick in [Trick::NeverAnswer, Trick::Stall] {
            let error = layer_fails(trick).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        let (error, _) = fails(Trick::ManifestNeverAnswers).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    });
}

#[test]
fn content_that_is_not_what_the_manifest_promised() {
    as_user("content_that_is_not_what_the_manifest_promised", || async {
        assert!(matches!(layer_fails(Trick::WrongContent).await, LayerError::Digest { .. }));
        assert!(matches!(layer_fails(Trick::TooLong).await, LayerError::TooLong { .. }));
    });
}

#[test]
fn an_endless_manifest() {
    as_user("an_endless_manifest", || async {
        let (error, _) = fails(Trick::ManifestEndless).await;
        assert!(error.to_string().contains("longer than"), "{error}");
    });
}

#[test]
fn words_and_tokens_without_end() {
    as_user("words_and_tokens_without_end", || async {
        let error = layer_fails(Trick::EndlessRefusal).await;
        assert!(error.to_string().contains("500"), "{error}");
        let (error, _) = fails(Trick::EndlessToken).await;
        assert!(error.to_string().contains("longer than"), "{error}");
    });
}

#[test]
fn a_token_is_fetched_and_replaced_when_it_has_run_out() {
    as_user("a_token_is_fetched_and_replaced_when_it_has_run_out", || async {
        let fixture = Fixture::new();
        let server = Hostile::start(&noisy(), Trick::Tokens).await;
        let store = fixture.store();
        let image = store.pull(&server.reference(), None, no_progress()).await.unwrap();
        assert_eq!(std::fs::read(image.layers[0].join("d/small")).unwrap(), b"x");
        // Manifest and configuration with the first, the layer with the second.
        assert_eq!(server.tokens(), 2);
    });
}

#[test]
fn a_missing_image_and_missing_credentials() {
    as_user("a_missing_image_and_missing_credentials", || async {
        assert!(matches!(fails(Trick::Manifest404).await.0, ImageError::NotFound { .. }));
        let (error, _) = fails(Trick::Manifest401).await;
        assert!(error.to_string().contains("set credentials"), "{error}");
    });
}

#[test]
fn a_manifest_that_does_not_have_the_digest_asked_for() {
    as_user("a_manifest_that_does_not_have_the_digest_asked_for", || async {
        let fixture = Fixture::new();
        let image = noisy();
        let server = Hostile::start(&image, Trick::ManifestOther).await;
        let reference = format!("127.0.0.1:{}/test/image@{}", server.port, image.digest());
        let store = fixture.store();
        let error = store.pull(&reference, None, no_progress()).await.unwrap_err();
        assert!(matches!(error, ImageError::Digest { .. }), "{error}");
        server.behave(Trick::None);
        store.pull(&reference, None, no_progress()).await.unwrap();
    });
}

#[test]
fn a_layer_with_another_diff_id() {
    as_user("a_layer_with_another_diff_id", || async {
        let fixture = Fixture::new();
        let mut layer = image::gzip(&image::Tar::default().file("a", b"b").finish());
        let good = image::image(std::slice::from_ref(&layer));
        layer.diff_id = image::sha256(b"other");
        let bad = image::image(&[layer]);
        let store = fixture.store();
        let server = Hostile::start(&bad, Trick::None).await;
        let error = store.pull(&server.reference(), None, no_progress()).await.unwrap_err();
        assert!(matches!(&error, ImageError::Layer { source: LayerError::DiffId { .. }, .. }), "{error}");
        fixture.assert_staging_empty().await;
        assert_eq!(fixture.published_layers(), 0);
        let server = Hostile::start(&good, Trick::None).await;
        store.pull(&server.reference(), None, no_progress()).await.unwrap();
    });
}

#[test]
fn a_host_that_is_not_there() {
    as_user("a_host_that_is_not_there", || async {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = Fixture::new().store().pull(&format!("127.0.0.1:{port}/a:b"), None, no_progress()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    });
}
