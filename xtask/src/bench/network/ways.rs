//! The ways to the server: our gateway, and what it is compared with.

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use cordium_tests::{
    Workspace, images,
    process::{Daemon, processes},
    spec,
};
use serde_json::json;

use super::{
    ground::{Entry, Ground, Namespace, SERVER, SERVER_OF_PLAIN},
    servers::{GREETING, PATIENCE},
};
use crate::bench::{Bench, peers::one_line};

/// A workspace's own address, in every workspace.
const SANDBOX: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 254);

/// Its name.
pub const WORKSPACE: &str = "network";

/// One way to the server.
pub struct Way {
    pub entry: Entry,
    pub server: Ipv4Addr,
}

impl Way {
    /// To be called by a thread that has entered.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let address = SocketAddr::from((self.server, port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Connects and waits for the server's first byte: on some ways a connection is there before the server has it.
    pub fn greet(&self) -> Result<TcpStream> {
        let mut stream = self.connect(GREETING)?;
        stream.read_exact(&mut [0]).context("waiting for the server's first byte")?;
        Ok(stream)
    }
}

/// A way, or why it cannot be measured.
pub struct Named {
    pub name: &'static str,
    pub way: Result<Way, String>,
    /// What makes it, ended before its namespace is.
    _program: Option<(Daemon, Namespace)>,
}

impl Named {
    /// A way that is there.
    pub fn new(name: &'static str, way: Way) -> Self {
        Self { name, way: Ok(way), _program: None }
    }
}

/// All ways: ours, the veth pair, then those that need no privilege.
pub async fn open(bench: &Bench, ground: &Ground) -> Result<(Workspace, Vec<Named>)> {
    let (workspace, ours) = ours(bench).await?;
    let mut ways = vec![Named::new("cordium", ours)];
    ways.extend(others(&bench.dir, ground)?);
    Ok((workspace, ways))
}

fn others(logs: &Path, ground: &Ground) -> Result<[Named; 3]> {
    let veth = Way { entry: ground.plain.enter()?, server: SERVER_OF_PLAIN };
    let slirp = |path: &str| {
        let mut command = Command::new("slirp4netns");
        command.args(["--configure", "--mtu=65520", "--netns-type=path", path, "tap0"]);
        command
    };
    let pasta = |path: &str| {
        let mut command = Command::new("pasta");
        command.args(["--foreground", "--stderr", "--config-net", "--runas", "0:0", "--netns-only"]);
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--netns", path]);
        command
    };
    Ok([
        Named::new("a veth pair", veth),
        of_program(logs, "slirp4netns", "slirp4netns", slirp),
        of_program(logs, "pasta", "passt", pasta),
    ])
}

/// A workspace that may reach the server and nothing else.
async fn ours(bench: &Bench) -> Result<(Workspace, Way)> {
    let rules = json!([{"name": "server", "action": "ALLOW", "cidrs": [format!("{SERVER}/32")]}]);
    let egress = json!({"defaultAction": "DENY", "rules": rules});
    let rest = json!({"limit": {"memory": {"megabytes": 64}}, "runtime": {"network": {"egress": egress}}});
    let spec = spec::with_image(&bench.registry.reference(images::BASE), rest);
    let workspace = Workspace::run(&bench.clients, WORKSPACE, &spec).await?;
    let entry = entry_of(&workspace).await?;
    let way = Way { entry, server: SERVER };
    let own = way.entry.run(|| Ok(way.greet()?.local_addr()?.ip()))?;
    ensure!(own == IpAddr::from(SANDBOX), "the workspace's address is {own}: this is not its gateway");
    Ok((workspace, way))
}

/// The network namespace of a workspace.
pub async fn entry_of(workspace: &Workspace) -> Result<Entry> {
    let namespace = PathBuf::from(workspace.ok("readlink /proc/self/ns/net").await?);
    let path_of = |pid| format!("/proc/{pid}/ns/net");
    let pid = processes()
        .into_iter()
        .find(|pid| fs::read_link(path_of(*pid)).is_ok_and(|link| link == namespace))
        .context("the workspace has no process")?;
    Entry::open(path_of(pid).as_ref())
}

/// The way of a program, or why it has none.
fn of_program(logs: &Path, name: &'static str, package: &str, command: impl Fn(&str) -> Command) -> Named {
    match connected(logs, name, package, command) {
        Ok((way, program)) => Named { name, way: Ok(way), _program: Some(program) },
        Err(error) => {
            let reason = one_line(&format!("{error:#}"));
            println!("   {name} is skipped: {reason}");
            Named { name, way: Err(reason), _program: None }
        }
    }
}

/// A namespace that a program connects, once it does.
fn connected(
    logs: &Path,
    name: &str,
    package: &str,
    command: impl Fn(&str) -> Command,
) -> Result<(Way, (Daemon, Namespace))> {
    let there = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        bail!("not installed: apt-get install --no-install-recommends {package}");
    }
    let namespace = Namespace::add(name)?;
    let log = logs.join(format!("{name}.log"));
    let mut daemon = Daemon::spawn(name, &mut command(&namespace.path()), &log)?;
    let way = Way { entry: namespace.enter()?, server: SERVER };
    daemon.wait_ready(PATIENCE, || way.entry.run(|| way.greet()).is_ok())?;
    Ok((way, (daemon, namespace)))
}
