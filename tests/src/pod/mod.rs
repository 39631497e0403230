//! A supervisor in a container with the restrictions of an ordinary Kubernetes pod, made with `crun` from
//! `images/pod/config.json`. What it is given, and why, is in `docs/pod.md`.

pub mod bundle;
pub mod processes;
mod rootfs;
pub mod servers;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cli::Cli,
    client::Clients,
    leak,
    process::{self, Daemon, run},
    user::User,
};
use bundle::Change;
use servers::Servers;

/// The pod's user. No user of the node has this id.
pub const UID: u32 = 10_001;
pub const GID: u32 = 10_001;
/// First and number of the subordinate ids of that user: 64 ranges, away from those of the node's users.
pub const SUBORDINATE: (u32, u32) = (200_000_000, 4_194_304);

/// How long the supervisor in the pod may take to answer.
const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(20);

/// Why pods cannot be made by whoever we are.
pub fn unsupported() -> Option<&'static str> {
    (!nix::unistd::geteuid().is_root()).then_some("making a container as a node's runtime does needs root")
}

pub struct Pod {
    pub dir: PathBuf,
    programs: PathBuf,
    daemon: Mutex<Option<Daemon>>,
}

impl Pod {
    /// Makes the bundle below `dir`, which is not there yet, and starts the supervisor in it.
    pub fn start(dir: &Path, servers: &Servers, change: Change) -> Result<Self> {
        let pod = Self::make(dir, servers, change)?;
        pod.launch()?;
        Ok(pod)
    }

    /// Makes the bundle without starting it.
    pub fn make(dir: &Path, servers: &Servers, change: Change) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        let programs = rootfs::programs()?;
        let root = dir.join("rootfs");
        rootfs::make(&root, &programs, &[servers.git_port()])?;
        for volume in ["state", "run"] {
            rootfs::volume(&dir.join(volume))?;
        }
        let mut config = bundle::reviewed()?;
        match change {
            Change::Nothing => {}
            Change::Config(change) => change(&mut config),
            Change::Files(change) => change(&root)?,
        }
        bundle::complete(&mut config, dir, &servers.namespace());
        fs::write(dir.join("config.json"), config.to_string()).context("writing the pod's config.json")?;
        Ok(Self { dir: dir.to_owned(), programs, daemon: Mutex::new(None) })
    }

    /// Starts the container and waits until the supervisor in it answers. The volumes are as they were left.
    pub fn launch(&self) -> Result<()> {
        let mut command = self.crun();
        // No cgroup of its own: it stays in ours, and has none that it may write to.
        command
            .args(["run", "--bundle"])
            .arg(&self.dir)
            .arg("--pid-file")
            .arg(self.pid_file())
            .arg(self.id());
        let mut daemon = Daemon::spawn("the pod", &mut command, &self.log())?;
        let socket = self.socket();
        let ready = daemon.wait_ready(READY, || UnixStream::connect(&socket).is_ok());
        *self.daemon() = Some(daemon);
        ready
    }

    fn crun(&self) -> Command {
        let mut command = Command::new("crun");
        command.arg("--cgroup-manager=disabled").arg("--root").arg(self.dir.join("crun"));
        command
    }

    fn id(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        format!("cordium-{name}-{}", std::process::id())
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("pod.log")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("run/cordium.sock")
    }

    pub async fn clients(&self) -> Result<Clients> {
        Clients::unix(&self.socket()).await
    }

    /// The command line, as the pod's user, over the socket on the volume.
    pub fn cli(&self) -> Cli {
        let user = User { name: "cordium".to_owned(), uid: UID, gid: GID, home: "/".into() };
        Cli { program: self.programs.join("cordium"), socket: self.socket(), user }
    }

    /// The container's first process, as the node sees it.
    pub fn pid(&self) -> Result<i32> {
        let text = fs::read_to_string(self.pid_file()).context("reading the pod's pid file")?;
        text.trim().parse().context("parsing the pod's pid file")
    }

    /// Runs a program of the pod in it, as `kubectl exec` does.
    pub fn exec(&self, args: &[&str]) -> Result<String> {
        run(self.crun().args(["exec", "--user", &format!("{UID}:{GID}")]).arg(self.id()).args(args))
    }

    /// Ends the container with a signal to its first process, and waits until nothing of it is left.
    pub fn end(&self, signal: &str) -> Result<()> {
        let Some(mut daemon) = self.daemon().take() else { bail!("the pod does not run") };
        if daemon.ended()?.is_none() {
            run(self.crun().args(["kill", &self.id(), signal]))?;
        }
        process::until("end of the pod", END, || daemon.ended())?;
        Ok(())
    }

    /// Ends the container, and says what it left behind.
    pub fn tear_down(&self) -> Result<()> {
        let running = self.daemon().is_some();
        let ended = if running { self.end("TERM") } else { Ok(()) };
        drop(self.daemon().take());
        // A container that ended is gone for crun; one that could not be ended is removed by force.
        let _ = self.crun().args(["delete", "--force", &self.id()]).output();
        let clean = || Ok(leak::below(&self.dir).is_empty().then_some(()));
        let left = process::until("end of the pod's mounts and sockets", Duration::from_secs(5), clean);
        ended.and(left).with_context(|| {
            format!(
                "{}\nthe pod's log ends with:\n{}",
                leak::below(&self.dir).join("\n"),
                process::last_lines(&self.log_text(), 30)
            )
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.daemon().is_some() {
            let _ = self.crun().args(["delete", "--force", &self.id()]).output();
        }
    }
}
