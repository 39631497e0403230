//! A container inside a workspace beside the same one on the host: same engine, runtime, network stack and image.

use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use cordium_tests::{
    Workspace, containers, images,
    process::{run, sh},
    spec,
    v1::ExecStart,
    workspace::owned,
};
use serde_json::json;

use super::{
    Bench,
    peers::one_line,
    samples::{Samples, repeat},
    table::{Row, Value},
};

/// What both sides may be slower by.
const TARGET: f64 = 1.3;
const NETWORKS: [(&str, &str); 2] = [("bridge", "a bridge of netavark's"), ("host", "no network of its own")];

fn arguments(network: &str) -> [&str; 7] {
    ["run", "--rm", "--pull=never", "--network", network, "localhost/tiny", "true"]
}

/// (h) `podman run --rm busybox true`, the image being there.
pub async fn podman(bench: &Bench) -> Result<Vec<Row>> {
    let archive = bench.dir.join("tiny.tar");
    // Made on the host as it would be made inside.
    sh("sh", &["-c", &containers::BUSYBOX.replace("/tmp/tiny.tar", &archive.to_string_lossy())])?;
    let host = Host::prepare(bench, &archive).map_err(|error| one_line(&format!("{error:#}")));
    let memory = json!({"limit": {"memory": {"megabytes": 1024}}});
    let spec = spec::with_image(&bench.registry.reference(images::BASE), memory);
    let w = Workspace::run(&bench.clients, "nested", &spec).await?;
    let import = ExecStart {
        command: owned(&["podman", "import", "--quiet", "-", "localhost/tiny"]),
        run_as_root: true,
        ..ExecStart::default()
    };
    let imported = w.exec_with(import, Some(&fs::read(&archive)?)).await?;
    if imported.code() != 0 {
        return Err(anyhow!("importing the image inside: {}", imported.err()));
    }
    let mut rows = Vec::new();
    for (network, words) in NETWORKS {
        let ours = inside(&w, network, bench.rounds).await?;
        let theirs = host.as_ref().map_err(Clone::clone).and_then(|host| {
            let samples = repeat(bench.rounds, |_| host.podman(&arguments(network)));
            samples.map(|samples| Value::from(&samples)).map_err(|error| one_line(&format!("{error:#}")))
        });
        rows.push(Row {
            what: format!("(h) nested `podman run --rm busybox true`, {words}"),
            ours: Value::from(&ours),
            peers: vec![("the same on the host".to_owned(), theirs, Some(TARGET))],
            target: None,
        });
    }
    w.delete().await?;
    if let Ok(host) = host {
        host.remove();
    }
    Ok(rows)
}

/// Over an open connection, as root of the workspace.
async fn inside(w: &Workspace, network: &str, rounds: usize) -> Result<Samples> {
    let mut command = vec!["podman"];
    command.extend(arguments(network));
    let mut samples = Samples::default();
    for round in 0..=rounds {
        let start = ExecStart { command: owned(&command), run_as_root: true, ..ExecStart::default() };
        let started = Instant::now();
        let output = w.exec_with(start, None).await?;
        if output.code() != 0 {
            return Err(anyhow!("podman inside: {}", output.err()));
        }
        // The first one warms up.
        if round > 0 {
            samples.push(started.elapsed());
        }
    }
    Ok(samples)
}

/// podman on the host, configured as the base image is where the host lets it.
struct Host<'a> {
    bench: &'a Bench,
    config: std::path::PathBuf,
}

impl<'a> Host<'a> {
    fn prepare(bench: &'a Bench, archive: &std::path::Path) -> Result<Self> {
        bench.peers.has_podman().map_err(|reason| anyhow!(reason))?;
        let config = bench.dir.join("peers/netavark.conf");
        // Limits as in the other peers': the defaults need CAP_SYS_RESOURCE.
        let text = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\ncgroups = \"no-conmon\"\n\
                    [network]\nnetwork_backend = \"netavark\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n";
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let host = Self { bench, config };
        run(host.podman(&["import", "--quiet"]).arg(archive).arg("localhost/tiny"))?;
        Ok(host)
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.peers.podman();
        command.env("CONTAINERS_CONF", &self.config).args(arguments).stdin(Stdio::null());
        command
    }

    fn remove(self) {
        let _ = run(&mut self.podman(&["rmi", "--force", "localhost/tiny"]));
        // Its bridge stays in the host's network otherwise.
        let _ = sh("ip", &["link", "delete", "podman0"]);
    }
}
