//! One supervisor as a real process of the unprivileged user, in its own state and run directories.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cordium_proto::v1::{DeleteRequest, ListNodeWorkspacesRequest};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{cli::Cli, client::Clients, leak, process, process::Daemon, tls::Party, user::User};

/// How a node is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub name: String,
    /// Ports of the node's loopback that sandboxes may reach.
    pub host_ports: Vec<u16>,
    /// Serves its Node service on this port over mutual TLS, without a scheduler of its own.
    pub tls: Option<(u16, Party)>,
    /// More of the node's configuration: an object, or nothing.
    pub config: serde_json::Value,
}

pub struct Node {
    pub name: String,
    pub user: User,
    /// Everything of this node lies below it.
    pub dir: PathBuf,
    programs: PathBuf,
    tls: Option<(u16, Party)>,
    daemon: Mutex<Option<Daemon>>,
}

impl Node {
    /// Starts a supervisor below `dir`, and returns when it answers.
    pub fn start(user: &User, programs: &Path, dir: &Path, options: Options) -> Result<Self> {
        user.make_dir(dir)?;
        let node = Self {
            name: options.name.clone(),
            user: user.clone(),
            dir: dir.to_owned(),
            programs: programs.to_owned(),
            tls: options.tls.clone(),
            daemon: Mutex::new(None),
        };
        for dir in [node.state(), node.run()] {
            user.make_dir(&dir)?;
        }
        node.configure(&options)?;
        node.launch()?;
        Ok(node)
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }
    pub fn socket(&self) -> PathBuf {
        self.run().join("cordium.sock")
    }
    pub fn log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }
    fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Writes the node's configuration; a restart reads it again.
    pub fn configure(&self, options: &Options) -> Result<()> {
        // Registries on loopback speak plain HTTP without being told.
        let mut config = json!({"hostPorts": options.host_ports});
        for (key, value) in options.config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        fs::write(self.config(), config.to_string()).context("writing the node's configuration")?;
        self.user.own(&self.config())
    }

    /// Starts the supervisor, which must not run, and waits until it answers.
    pub fn launch(&self) -> Result<()> {
        let mut command = self.user.session_command(&self.programs.join("cordium-supervisor"));
        command.arg("serve").arg("--state-dir").arg(self.state()).arg("--run-dir").arg(self.run());
        command.args(["--name", &self.name]).arg("--config").arg(self.config());
        if let Some((port, party)) = &self.tls {
            command.args(["--no-scheduler", "--listen-tls", &format!("127.0.0.1:{port}")]);
            command.arg("--tls-cert").arg(&party.cert).arg("--tls-key").arg(&party.key);
            command.arg("--tls-client-ca").arg(&party.ca);
        }
        let mut daemon = Daemon::spawn(&format!("supervisor {}", self.name), &mut command, &self.log())?;
        daemon.wait_ready(Duration::from_secs(30), || UnixStream::connect(self.socket()).is_ok())?;
        *self.daemon() = Some(daemon);
        Ok(())
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon().as_ref().map(Daemon::pid)
    }

    /// Ends the supervisor alone with a signal; sandboxes and the broker go on.
    pub fn end(&self, signal: Signal) -> Result<()> {
        let Some(mut daemon) = self.daemon().take() else { bail!("supervisor {} does not run", self.name) };
        daemon.signal(signal)?;
        let ended = || daemon.ended();
        process::until(&format!("end of supervisor {}", self.name), Duration::from_secs(20), ended).map(drop)
    }

    pub async fn clients(&self) -> Result<Clients> {
        Clients::unix(&self.socket()).await
    }

    pub fn cli(&self) -> Cli {
        Cli { program: self.programs.join("cordium"), socket: self.socket(), user: self.user.clone() }
    }

    pub fn log_tail(&self) -> String {
        process::last_lines(&fs::read_to_string(self.log()).unwrap_or_default(), 40)
    }

    /// Removes every workspace, ends the supervisor and the broker, and reports what was left behind.
    pub async fn tear_down(&self) -> Result<()> {
        let mut problems = Vec::new();
        if self.pid().is_none()
            && let Err(error) = self.launch()
        {
            problems.push(format!("starting again to clean up: {error:#}"));
        }
        if let Err(error) = self.remove_workspaces().await {
            problems.push(format!("removing workspaces: {error:#}"));
        }
        if self.pid().is_some()
            && let Err(error) = self.end(Signal::SIGTERM)
        {
            problems.push(format!("{error:#}"));
        }
        // The broker outlives its supervisor by design; anything else should be gone, but for a helper that was just being
        // started: it finds nobody there and ends.
        let is_no_broker = |line: &String| !line.contains(" broker ");
        let gone = || {
            let mut left = process::mentioning(&self.dir).into_iter().map(|(_, line)| line);
            Ok((!left.any(|line| is_no_broker(&line))).then_some(()))
        };
        let all_gone =
            process::until("end of the supervisor's helpers", Duration::from_secs(5), gone).is_ok();
        let left = process::end_by_marker(&self.dir);
        if !all_gone {
            let left = left.into_iter().filter(is_no_broker);
            problems.extend(left.map(|line| format!("left running: {line}")));
        }
        // A killed process's command line is gone a moment before its sockets are.
        let clean = || Ok(leak::below(&self.dir).is_empty().then_some(()));
        if process::until("end of mounts and sockets", Duration::from_secs(5), clean).is_err() {
            problems.extend(leak::below(&self.dir));
        }
        if !problems.is_empty() {
            bail!("node {}:\n{}\nits log ends with:\n{}", self.name, problems.join("\n"), self.log_tail());
        }
        Ok(())
    }

    async fn remove_workspaces(&self) -> Result<()> {
        let mut clients = self.clients().await?;
        let workspaces =
            clients.node.list(ListNodeWorkspacesRequest {}).await.context("listing workspaces")?;
        for event in workspaces.into_inner().items {
            let request = DeleteRequest { workspace_uid: event.workspace_uid.clone() };
            let deleted = tokio::time::timeout(Duration::from_secs(60), clients.node.delete(request)).await;
            deleted
                .context("took too long")?
                .with_context(|| format!("deleting {}", event.workspace_name))?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.daemon().take());
        process::end_by_marker(&self.dir);
    }
}
