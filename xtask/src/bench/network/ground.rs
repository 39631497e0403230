//! Network namespaces, the links between them, and threads that enter them.

use std::{fs::File, net::Ipv4Addr, path::Path, sync::Arc, thread};

use anyhow::{Context, Result, anyhow};
use cordium_tests::process::sh;
use nix::sched::{CloneFlags, setns};

/// The server as the node sees it. Of the network for benchmarks, which no route of a real network leads to.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The server as its neighbour over the plain veth pair sees it.
pub const SERVER_OF_PLAIN: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const NODE: &str = "198.18.0.1/30";
const PLAIN: &str = "198.18.1.1/30";
/// The node's end of the link to the server.
const LINK: &str = "cordium-bench";

/// An open network namespace.
#[derive(Clone)]
pub struct Entry(Arc<File>);

impl Entry {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self(Arc::new(file)))
    }

    /// Does `work` in a thread that has entered; sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            setns(&*self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| anyhow!("work in a network namespace panicked"))?
    }
}

/// A namespace with a name, for pasta enters no other. Dropping it takes the name away.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn add(purpose: &str) -> Result<Self> {
        let name = format!("cordium-bench-{purpose}");
        // Of a run that was killed.
        if Path::new(&path_of(&name)).exists() {
            sh("ip", &["netns", "delete", &name])?;
        }
        sh("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn path(&self) -> String {
        path_of(&self.name)
    }

    pub fn enter(&self) -> Result<Entry> {
        Entry::open(Path::new(&self.path()))
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        sh("ip", &[&["-netns", &self.name], args].concat()).map(drop)
    }

    fn address(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&["address", "add", address, "dev", device])?;
        self.ip(&["link", "set", device, "up"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = sh("ip", &["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn path_of(name: &str) -> String {
    format!("/run/netns/{name}")
}

/// The server's namespace, a neighbour of it, and its link to the node.
pub struct Ground {
    pub outside: Namespace,
    pub plain: Namespace,
}

impl Ground {
    pub fn lay() -> Result<Self> {
        let _ = sh("ip", &["link", "delete", LINK]);
        let ground = Self { outside: Namespace::add("outside")?, plain: Namespace::add("plain")? };
        let far = &ground.outside.name;
        sh("ip", &["link", "add", LINK, "type", "veth", "peer", "name", "node", "netns", far])?;
        sh("ip", &["address", "add", NODE, "dev", LINK])?;
        sh("ip", &["link", "set", LINK, "up"])?;
        ground.outside.address("node", &format!("{SERVER}/30"))?;
        ground.plain.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "plain", "netns", far])?;
        ground.plain.address("eth0", PLAIN)?;
        ground.outside.address("plain", &format!("{SERVER_OF_PLAIN}/30"))?;
        Ok(ground)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // A connection that still ends would keep it for a while. It is not there if it could not be made.
        let _ = sh("ip", &["link", "delete", LINK]);
    }
}
