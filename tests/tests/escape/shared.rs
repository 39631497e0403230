//! The stage: a node with two workspaces, one of which attacks, and the look at all of it after each attack.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cordium_tests::{
    Context, Fixture, Result, Workspace, bail, ensure, ensure_eq, json, paths, process, suite::TearDown,
};

use crate::{
    canary::Canary,
    node::{self, Pids},
};

/// Where the attacking program lies in both workspaces.
pub const PROGRAM: &str = "/workspace/cordium-escape";
/// What the attacking workspace may have of processes.
const PIDS: u64 = 512;

pub struct Shared {
    pub f: Arc<Fixture>,
    pub canary: Canary,
    pub attacker: Workspace,
    pub neighbour: Workspace,
    pub attacker_pids: Pids,
    pub neighbour_pids: Pids,
    /// A directory of the node that everybody may write to, were it in reach.
    pub open_dir: PathBuf,
    before: Mutex<(BTreeMap<String, String>, usize)>,
}

impl TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

impl Shared {
    pub async fn start() -> Result<Self> {
        let canary = Canary::start(&format!("{}-{}", std::process::id(), std::env::consts::ARCH))?;
        let open_port = canary.open_port;
        let f = Fixture::start_with("escape", |options| options.host_ports.push(open_port)).await?;
        let f = Arc::new(f);
        let spec = f.small(json!({"limit": {"pids": PIDS}}));
        let (attacker, neighbour) = tokio::join!(f.run("attacker", &spec), f.run("neighbour", &spec));
        let (attacker, neighbour) = (attacker?, neighbour?);
        for workspace in [&attacker, &neighbour] {
            equip(&f, workspace)?;
        }
        // The neighbour listens on the name that the node listens on, in its own network namespace.
        let name = format!("{}-neighbour", canary.abstract_name);
        let listen = format!("sleep 3600 | setsid {PROGRAM} listen {name} >/dev/null 2>&1 & exit 0");
        neighbour.root_ok(&listen).await?;
        let run = f.node.run();
        let open_dir = f.dir.join("open");
        fs::create_dir(&open_dir)?;
        fs::set_permissions(&open_dir, fs::Permissions::from_mode(0o777))?;
        let marker = open_dir.join("marker");
        fs::write(&marker, "untouched\n").context("writing a marker")?;
        fs::set_permissions(&marker, fs::Permissions::from_mode(0o666))?;
        let shared = Self {
            attacker_pids: Pids::of(&run, &attacker)?,
            neighbour_pids: Pids::of(&run, &neighbour)?,
            f,
            canary,
            attacker,
            neighbour,
            open_dir,
            before: Mutex::default(),
        };
        for keeper in [shared.attacker_pids.keeper, shared.neighbour_pids.keeper] {
            let settled = || Ok(node::is_settled(keeper)?.then_some(()));
            process::until("settled gateways", Duration::from_secs(10), settled)?;
        }
        let snapshot = (shared.snapshot()?, shared.canary.heard());
        *shared.before.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        Ok(shared)
    }

    pub fn marker(&self) -> PathBuf {
        self.open_dir.join("marker")
    }

    fn snapshot(&self) -> Result<BTreeMap<String, String>> {
        let programs = ["cordium-supervisor", "cordium-agent"]
            .map(|name| paths::staged_programs().map(|dir| dir.join(name)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let directories = [self.open_dir.clone()];
        node::snapshot(&directories, &programs, &[self.attacker_pids, self.neighbour_pids])
    }

    /// What the attacker is told about the node.
    pub fn facts(&self) -> Result<Vec<String>> {
        let (run, ws) = (self.f.node.run(), |w: &Workspace| self.f.node.run().join("ws").join(&w.uid));
        let root = fs::metadata("/").context("looking at the root")?;
        let mut facts = vec![
            format!("markers={},{}", self.marker().display(), self.f.node.log().display()),
            format!(
                "root={}:{}",
                std::os::unix::fs::MetadataExt::dev(&root),
                std::os::unix::fs::MetadataExt::ino(&root)
            ),
            format!("pid.keeper={}", self.attacker_pids.keeper),
            format!("pid.neighbour-keeper={}", self.neighbour_pids.keeper),
            format!("pid.neighbour-init={}", self.neighbour_pids.init),
            format!("pid.driver={}", std::process::id()),
            format!("abstract.node={}", self.canary.abstract_name),
            format!("abstract.neighbour={}-neighbour", self.canary.abstract_name),
            format!("secret={}", self.canary.secret),
            format!("secret_port={}", self.canary.secret_port),
            format!("open_word={}", self.canary.open_word),
            format!("open_port={}", self.canary.open_port),
            format!("addresses={}", addresses()?.join(",")),
            format!("socket.supervisor={}", self.f.node.socket().display()),
            format!("socket.broker={}", run.join("broker.sock").display()),
        ];
        facts.extend(self.f.node.pid().map(|pid| format!("pid.supervisor={pid}")));
        for (name, workspace) in [("own", &self.attacker), ("neighbour", &self.neighbour)] {
            for socket in ["keeper.sock", "agent.sock"] {
                facts.push(format!("socket.{name}-{socket}={}", ws(workspace).join(socket).display()));
            }
        }
        Ok(facts)
    }

    /// Node, neighbour and sandbox must be as they were when the stage was set.
    pub async fn unharmed(&self) -> Result<()> {
        ensure_eq!(self.neighbour.ok("echo alive").await.context("the neighbour")?, "alive");
        ensure_eq!(self.attacker.ok("echo alive").await.context("the attacker's own agent")?, "alive");
        self.neighbour.status().await.context("the supervisor")?;
        let (before, heard) = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed = node::differences(&before, &self.snapshot()?);
        ensure!(changed.is_empty(), "the node is not as it was:\n{}", changed.join("\n"));
        let now = self.canary.heard();
        ensure!(now == heard, "{} connections came to what no sandbox may reach", now - heard);
        if let Some(event) = self.canary.forged_event() {
            bail!("a forged device event came to the node: {event:?}");
        }
        Ok(())
    }

    /// What the node did to itself in between, as the harness running the attacks outside, does not count.
    pub fn forgive(&self) -> Result<()> {
        let snapshot = (self.snapshot()?, self.canary.heard());
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        Ok(())
    }
}

/// Puts the program onto a workspace's volume.
pub fn equip(f: &Fixture, workspace: &Workspace) -> Result<()> {
    let from = paths::built_programs()?.join("cordium-escape");
    let to = f.storage_of(workspace).join("volume/workspace/cordium-escape");
    fs::copy(&from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}

/// Every address of the node, loopback included.
fn addresses() -> Result<Vec<String>> {
    let interfaces = nix::ifaddrs::getifaddrs().context("listing the node's addresses")?;
    let mut found: Vec<String> = interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().to_string());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().to_string()))
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}
