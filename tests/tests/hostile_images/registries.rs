//! Registries that misbehave, and then behave: the same workspace starts.

use std::sync::Arc;

use cordium_tests::{
    Result,
    oci::{self, Layout},
    registry::{Fault, FaultyRegistry},
};

use crate::ground::Ground;

/// Incompressible, so that half of it is a lot of bytes; of its own, so that no layer is here already.
fn image(g: &Ground, name: &str) -> Result<Layout> {
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    g.with_layer(name, |tar| {
        oci::file(tar, "noise", 0o644, &noise)?;
        oci::file(tar, "name", 0o644, name.as_bytes())
    })
}

async fn table(g: &Ground, rows: &[(&str, Fault, &[&str])]) -> Result<()> {
    for (name, fault, words) in rows {
        let registry = FaultyRegistry::start(&image(g, name)?, *fault)?;
        let mend = || {
            registry.behave(Fault::None);
            Ok(())
        };
        let reference = registry.reference(&format!("tools/{name}:1"));
        g.refused_until_mended(name, &reference, words, mend).await?;
    }
    Ok(())
}

pub async fn that_lie(g: Arc<Ground>) -> Result<()> {
    let rows: [(&str, Fault, &[&str]); 3] = [
        // Where the flipped bit lies decides which check meets it first, if the digest does not.
        ("r-corrupt", Fault::Corrupt, &["layer ", "push the image again"]),
        ("r-too-long", Fault::TooLong, &["sent more than the"]),
        ("r-missing", Fault::Missing, &["does not have it", "check the name and the tag"]),
    ];
    table(&g, &rows).await
}

pub async fn that_break_off(g: Arc<Ground>) -> Result<()> {
    let rows: [(&str, Fault, &[&str]); 3] = [
        ("r-500", Fault::ServerError, &["500", "try again"]),
        ("r-half", Fault::CutOff, &["download from 127.0.0.1", "try again"]),
        ("r-short", Fault::Truncate, &["ended after", "try again"]),
    ];
    table(&g, &rows).await
}

pub async fn that_never_answer(g: Arc<Ground>) -> Result<()> {
    let rows: [(&str, Fault, &[&str]); 2] = [
        ("r-silent", Fault::Silence, &["got no complete answer within 1 s, 2 times", "try again"]),
        ("r-silent-layer", Fault::SilentLayers, &["nothing came for 1 s, 2 times", "try again"]),
    ];
    table(&g, &rows).await
}
