//! `cargo xtask demo`: everything that a first user would do, for real, on this machine.
//!
//! set-up → programs → base image → registry and git server on loopback → supervisor as the unprivileged user →
//! `cordium run` → `cordium exec` → who runs as whom → stop, delete → summary.

mod evidence;
mod summary;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use cordium_tests::{
    cli::Cli,
    fixture,
    git::GitServer,
    leak,
    node::{Node, Options},
    paths, process,
    registry::Registry,
};

use crate::{
    cargo::{self, Profile},
    guard, setup,
};
use summary::Summary;

/// The first build takes minutes, the first image a minute; a second run takes seconds.
#[derive(clap::Args)]
pub struct Args {
    /// Build with optimizations (several minutes more, the first time)
    #[arg(long)]
    release: bool,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// What the demo runs on. Dropping it ends what is left of it.
struct Stage {
    node: Node,
    git: GitServer,
    registry: Registry,
}

pub async fn run(args: Args) -> Result<()> {
    let mut summary = Summary::default();
    let user = summary.timed("set-up", setup::ensure()).await?;
    let _guard = guard::take(&user)?;
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let built = summary.timed("build", cargo::build_programs(profile)).await?;
    let dir = fixture::fresh_dir("demo")?;
    let stage = set_the_stage(&built, &dir, &user, &mut summary)?;
    let played = tokio::select! {
        played = play(&stage, &dir, &args, &mut summary) => played,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    heading("cleaning up");
    let started = Instant::now();
    let cleaned = stage.node.tear_down().await;
    drop(stage);
    let removed = fixture::remove_dir(&dir);
    summary.took("clean up", started.elapsed());
    played.and(cleaned).and(removed)?;
    let mut left = leak::below(&dir);
    left.extend(process::mentioning(&dir).into_iter().map(|(_, line)| line));
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    summary.fact("left behind", "nothing: no mount, cgroup, network namespace, process or socket");
    summary.print();
    Ok(())
}

fn set_the_stage(
    built: &Path,
    dir: &Path,
    user: &cordium_tests::user::User,
    summary: &mut Summary,
) -> Result<Stage> {
    heading("image, registry, git server, supervisor");
    let programs = paths::staged_from(built)?;
    let started = Instant::now();
    cordium_tests::images::base()?;
    summary.took("base image", started.elapsed());
    let started = Instant::now();
    let registry = fixture::registry(&dir.join("registry"))?;
    let git = fixture::repositories(&dir.join("git"))?;
    summary.took("registry and git server", started.elapsed());
    let started = Instant::now();
    let options = Options { name: "demo".to_owned(), host_ports: vec![git.port()], ..Options::default() };
    let node = Node::start(user, &programs, &dir.join("n"), options)?;
    summary.took("supervisor", started.elapsed());
    println!("registry    http://{}", registry.host());
    println!("git server  http://127.0.0.1:{}", git.port());
    println!("supervisor  {} (as {}, uid {})", node.socket().display(), user.name, user.uid);
    Ok(Stage { node, git, registry })
}

async fn play(stage: &Stage, dir: &Path, args: &Args, summary: &mut Summary) -> Result<()> {
    let cli = stage.node.cli();
    // The clone may be closed to the unprivileged user.
    let spec = dir.join("demo.yaml");
    fs::copy(paths::repository().join("images/examples/demo.yaml"), &spec).context("copying demo.yaml")?;
    fs::set_permissions(&spec, fs::Permissions::from_mode(0o644))?;
    let file = spec.to_string_lossy().into_owned();
    let registry = format!("registry={}", stage.registry.host());
    let git = format!("git=http://host.cordium.internal:{}", stage.git.port());
    let run = ["run", "--file", &file, "--var", &registry, "--var", &git, "--detach"];

    shown(&cli, "cordium run, image not yet here", &run, summary).await?;
    shown(&cli, "cordium exec", &["exec", "demo", "--no-stdin", "--", "sh", "-c", LOOK], summary).await?;
    shown(&cli, "cordium get", &["get", "ws"], summary).await?;
    evidence::show(&stage.node, &cli, summary).await?;
    shown(&cli, "cordium stop", &["stop", "demo", "--wait"], summary).await?;
    shown(&cli, "cordium run, everything here", &run, summary).await?;
    shown(&cli, "cordium exec of true", &["exec", "demo", "--no-stdin", "--", "true"], summary).await?;
    if args.keep {
        println!(
            "\nIt goes on: CORDIUM_SOCKET={} {} terminal demo",
            cli.socket.display(),
            cli.program.display()
        );
        println!("Ctrl-C ends it.");
        std::future::pending::<()>().await;
    }
    shown(&cli, "cordium delete", &["delete", "ws", "demo"], summary).await
}

const LOOK: &str = "echo \"I am $(id -un) (uid $(id -u)) in $CORDIUM_NAME, on $(. /etc/os-release; echo $PRETTY_NAME)\"; \
                    ls /workspace/repo /workspace/additional-repos; sudo id";

/// Runs a command with its output on our terminal, as a person would see it.
async fn shown(cli: &Cli, name: &str, args: &[&str], summary: &mut Summary) -> Result<()> {
    heading(&format!("cordium {}", args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")));
    let mut command: Command = cli.command(args);
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    let started = Instant::now();
    let mut child =
        tokio::process::Command::from(command).kill_on_drop(true).spawn().context("starting cordium")?;
    let status: ExitStatus = child.wait().await.context("waiting for cordium")?;
    summary.took(name, started.elapsed());
    if !status.success() {
        bail!("cordium {} ended with {status}", args.join(" "));
    }
    Ok(())
}

fn quoted(arg: &str) -> String {
    if arg.contains([' ', '$', ';']) { format!("'{arg}'") } else { arg.to_owned() }
}

pub(crate) fn heading(text: &str) {
    println!("\n\u{2500}\u{2500} {text}");
}
