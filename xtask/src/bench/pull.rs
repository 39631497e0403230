//! (c) Pull and unpack of a large image: 8 layers, 50,000 files, 500 MB.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cordium_tests::{
    images::{Image, cached},
    oci::{self, Compression, Config},
    v1::{PullImageRequest, RemoveImageRequest},
};

use super::{
    Bench,
    peers::one_line,
    samples::{Samples, time},
    table::{Row, Value},
};

const NAME: &str = "cordium/large:latest";
const LAYERS: usize = 8;
const FILES: usize = 6250;
const SIZE: usize = 10_000;

pub async fn pull(bench: &Bench) -> Result<Vec<Row>> {
    let image = large()?;
    bench.registry.push_all(&cordium_tests::registry::storage(), std::slice::from_ref(&image))?;
    let reference = bench.registry.reference(NAME);
    let rounds = (bench.rounds / 5).max(1);
    let mut ours = Samples::default();
    for _ in 0..rounds {
        ours.push(cordium(bench, &reference).await?);
    }
    let podman = bench.peers.has_podman().and_then(|()| shown(podman(bench, &reference, rounds)));
    let umoci = shown(skopeo_and_umoci(bench, &reference, rounds));
    let peers =
        vec![("podman pull".into(), podman, Some(0.7)), ("skopeo copy + umoci unpack".into(), umoci, None)];
    let what = "(c) pull and unpack: 8 layers, 50,000 files, 500 MB".to_owned();
    Ok(vec![Row { what, ours: Value::from(&ours), peers, target: None }])
}

fn shown(samples: Result<Samples>) -> Result<Value, String> {
    samples.map(|samples| Value::from(&samples)).map_err(|error| one_line(&format!("{error:#}")))
}

async fn cordium(bench: &Bench, reference: &str) -> Result<Duration> {
    let mut node = bench.clients.node.clone();
    let started = Instant::now();
    let request = PullImageRequest { reference: reference.to_owned(), ..Default::default() };
    let mut progress = node.pull_image(request).await.context("pulling")?.into_inner();
    while progress.message().await.context("pulling")?.is_some() {}
    let time = started.elapsed();
    node.remove_image(RemoveImageRequest { reference: reference.to_owned() }).await.context("removing")?;
    nix::unistd::sync();
    Ok(time)
}

fn podman(bench: &Bench, reference: &str, rounds: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        samples.push(time(bench.peers.podman().args(["pull", "--quiet", "--tls-verify=false", reference]))?);
        time(bench.peers.podman().args(["rmi", "--force", reference]))?;
        nix::unistd::sync();
    }
    Ok(samples)
}

fn skopeo_and_umoci(bench: &Bench, reference: &str, rounds: usize) -> Result<Samples> {
    let (layout, bundle) = (bench.dir.join("large-layout"), bench.dir.join("large-bundle"));
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let copy = time(
            Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
                .arg(format!("docker://{reference}"))
                .arg(format!("oci:{}:image", layout.display())),
        )?;
        let image = format!("{}:image", layout.display());
        let unpack = time(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
        samples.push(copy + unpack);
        remove(&layout)?;
        remove(&bundle)?;
        nix::unistd::sync();
    }
    Ok(samples)
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// Half of each file is noise, so that it compresses to about a half, as programs do.
fn large() -> Result<Image> {
    cached(NAME, &["1"], |layout| {
        let mut layers = Vec::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for layer in 0..LAYERS {
            layers.push(layout.tar_layer(Compression::Gzip, |tar| {
                let mut content = vec![b'x'; SIZE];
                for file in 0..FILES {
                    for chunk in content[..SIZE / 2].chunks_mut(8) {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
                    }
                    let path = format!("usr/lib/part-{layer}/dir-{}/file-{file}.bin", file / 100);
                    oci::file(tar, &path, 0o644, &content)?;
                }
                Ok(())
            })?);
        }
        layout.image("image", &layers, &Config::default())
    })
}
