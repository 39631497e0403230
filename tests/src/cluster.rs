//! Two supervisors and a scheduler of its own, with mutual TLS between them.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    client::Clients,
    fixture,
    git::GitServer,
    images,
    node::{Node, Options},
    paths,
    process::Daemon,
    registry::{Registry, free_port},
    spec,
    suite::TearDown,
    tls::{Authority, Party},
    user::User,
};

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub addresses: Vec<String>,
    pub registry: Registry,
    pub git: GitServer,
    /// A party that the nodes trust, and one that they do not.
    pub trusted: Party,
    pub stranger: Party,
    pub dir: PathBuf,
    user: User,
    programs: PathBuf,
    scheduler: Mutex<Option<Daemon>>,
}

impl Cluster {
    pub async fn start() -> Result<Self> {
        let user = User::for_tests()?;
        let programs = paths::staged_programs()?;
        let dir = fixture::fresh_dir("cluster")?;
        let git = fixture::repositories(&dir.join("git"))?;
        let registry = fixture::registry(&dir.join("registry"))?;
        let authority = Authority::create(&dir.join("ca"), &user)?;
        let trusted = authority.issue("scheduler", &user)?;
        let stranger = Authority::create(&dir.join("other-ca"), &user)?.issue("stranger", &user)?;
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for name in ["node-1", "node-2"] {
            let port = free_port()?;
            let options = Options {
                name: name.to_owned(),
                host_ports: vec![git.port()],
                tls: Some((port, authority.issue(name, &user)?)),
                ..Options::default()
            };
            addresses.push(format!("https://localhost:{port}"));
            let short = format!("n{}", nodes.len() + 1);
            nodes.push(Node::start(&user, &programs, &dir.join(short), options)?);
        }
        user.make_dir(&dir.join("s"))?;
        let scheduler = Mutex::new(None);
        let cluster =
            Self { nodes, addresses, registry, git, trusted, stranger, dir, user, programs, scheduler };
        cluster.launch_scheduler()?;
        Ok(cluster)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("s/scheduler.sock")
    }

    /// Starts the scheduler, and waits until it answers.
    pub fn launch_scheduler(&self) -> Result<()> {
        let mut command = self.user.command(self.programs.join("cordium-scheduler"));
        command
            .arg("--db")
            .arg(self.dir.join("s/control.db"))
            .arg("--key")
            .arg(self.dir.join("s/secret.key"));
        command.args(["--listen", &format!("unix:{}", self.socket().display())]);
        for (node, address) in self.nodes.iter().zip(&self.addresses) {
            command.args(["--node", &format!("{}={address}", node.name)]);
        }
        command.arg("--ca").arg(&self.trusted.ca).arg("--cert").arg(&self.trusted.cert);
        command.arg("--key-file").arg(&self.trusted.key);
        let mut daemon = Daemon::spawn("scheduler", &mut command, &self.dir.join("scheduler.log"))?;
        daemon.wait_ready(Duration::from_secs(20), || UnixStream::connect(self.socket()).is_ok())?;
        *self.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill_scheduler(&self) -> Result<()> {
        let daemon = self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut daemon) = daemon else { bail!("the scheduler does not run") };
        daemon.kill().map(drop)
    }

    pub async fn clients(&self) -> Result<Clients> {
        Clients::unix(&self.socket()).await
    }

    /// A small spec whose image is in the registry.
    pub fn small(&self, rest: serde_json::Value) -> serde_json::Value {
        spec::with_image(&self.registry.reference(images::MUSL), rest)
    }
}

impl TearDown for Cluster {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        // First the scheduler: it would start again what the nodes are to forget.
        if self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.kill_scheduler()?;
        }
        for node in &self.nodes {
            node.tear_down().await?;
        }
        fixture::remove_dir(&self.dir).context("removing the cluster's directory")
    }
}
