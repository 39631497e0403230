//! A small world of real network namespaces: node, gateway, sandbox and a server outside.
//!
//! Each test runs again as a process of its own in fresh user (if need be), pid, mount and network namespaces, so that
//! nothing of the machine is touched and nothing is left behind.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cordium_broker::{
    BrokerOpts, Credentials, DNS_PORT, GATEWAY_V4, GATEWAY_V6, PREFIX, PREFIX_V6, Registered, Registration,
    SANDBOX_V4, SANDBOX_V6, Services, Sockets, TCP_PORT, Terms, UDP_PORT, broker_main, nft_ruleset, register,
};
use cordium_egress::Policy;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

pub const NODE: &str = "10.77.0.1";
pub const OUTSIDE: &str = "10.77.0.2";
/// Further addresses of the server outside: publicly routable, so that they are what a host rule opens.
pub const PUBLIC: [&str; 2] = ["93.184.216.34", "93.184.216.35"];
pub const NODE_V6: &str = "fd77::1";
pub const OUTSIDE_V6: &str = "fd77::2";
/// A further address of the server outside, publicly routable.
pub const PUBLIC_V6: &str = "2a00:1450::22";
/// Where the test's name server listens, on the node.
pub const UPSTREAM: &str = "127.0.0.1:5300";
const INNER: &str = "CORDIUM_BROKER_TEST";

/// Runs `body` alone in fresh namespaces.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INNER).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        body();
        return;
    }
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "120",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let exe = std::env::current_exe().unwrap();
    let status = command.arg(exe).args([name, "--exact", "--nocapture"]).env(INNER, "1").status().unwrap();
    assert!(status.success(), "{name}: {status}");
}

pub fn run(program: &str, args: &[&str]) {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own. Processes and threads that it starts are there too.
pub struct Netns {
    jobs: mpsc::Sender<Job>,
    pub tid: String,
}

impl Netns {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, tid) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            ready.send(nix::unistd::gettid().to_string()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self { jobs, tid: tid.recv_timeout(Duration::from_secs(20)).unwrap() }
    }

    /// Runs `work` in a new thread of the namespace; its panic is ours.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Work<T> {
        let (done, result) = mpsc::channel();
        let job = move || {
            std::thread::spawn(move || {
                drop(done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))))
            });
        };
        self.jobs.send(Box::new(job)).unwrap();
        Work(result)
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join()
    }
}

pub struct Work<T>(mpsc::Receiver<std::thread::Result<T>>);

impl<T> Work<T> {
    pub fn join(self) -> T {
        match self.0.recv_timeout(Duration::from_secs(60)).expect("work in a namespace hangs") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Links two namespaces; `near` is made by the calling thread's side.
fn link(near: &str, far: &str, far_tid: &str) {
    run("ip", &["link", "add", near, "type", "veth", "peer", "name", far, "netns", far_tid]);
}

fn address(device: &str, address: &str, prefix: u8) {
    run("ip", &["addr", "add", &format!("{address}/{prefix}"), "dev", device]);
    run("ip", &["link", "set", device, "up"]);
}

fn address_v6(device: &str, address: &str, prefix: u8) {
    run("ip", &["addr", "add", &format!("{address}/{prefix}"), "dev", device, "nodad"]);
}

pub struct World {
    pub sandbox: Netns,
    pub gateway: Netns,
    pub outside: Netns,
    pub broker: Broker,
    folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let (sandbox, gateway, outside) = (Netns::new(), Netns::new(), Netns::new());
        link("out0", "eth0", &outside.tid);
        address("out0", NODE, 24);
        outside.run(|| {
            address("eth0", OUTSIDE, 24);
            PUBLIC.iter().for_each(|public| address("eth0", public, 32));
            address_v6("eth0", OUTSIDE_V6, 64);
            address_v6("eth0", PUBLIC_V6, 128);
        });
        address_v6("out0", NODE_V6, 64);
        run("ip", &["route", "add", PUBLIC_V6, "dev", "out0"]);
        PUBLIC.iter().for_each(|public| run("ip", &["route", "add", public, "dev", "out0"]));
        let tid = sandbox.tid.clone();
        gateway.run(move || {
            link("gw0", "eth0", &tid);
            run("ip", &["link", "set", "gw0", "addrgenmode", "none"]);
            address("gw0", &GATEWAY_V4.to_string(), PREFIX);
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            nft.stdin.take().unwrap().write_all(nft_ruleset("gw0").as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success(), "nft takes the rules");
            run("ip", &["route", "add", "local", "default", "dev", "lo", "table", "main"]);
        });
        sandbox.run(|| {
            run("ip", &["link", "set", "eth0", "addrgenmode", "none"]);
            address("eth0", &SANDBOX_V4.to_string(), PREFIX);
            run("ip", &["route", "add", "default", "via", &GATEWAY_V4.to_string()]);
        });
        gateway.run(|| {
            address_v6("gw0", &GATEWAY_V6.to_string(), PREFIX_V6);
            run("ip", &["-6", "route", "add", "local", "default", "dev", "lo", "table", "main"]);
        });
        sandbox.run(|| {
            address_v6("eth0", &SANDBOX_V6.to_string(), PREFIX_V6);
            run("ip", &["route", "add", "default", "via", &GATEWAY_V6.to_string()]);
        });
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(&folder.path().join("broker.sock"));
        Self { sandbox, gateway, outside, broker, folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("broker.sock")
    }

    /// All that brokers have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log(&self.socket())).unwrap()
    }

    /// What the keeper does.
    pub fn register(&self, policy: Policy, host_ports: Vec<u16>) -> Registered {
        self.register_with(policy, None, host_ports)
    }

    pub fn register_with(
        &self,
        policy: Policy,
        credentials: Option<Credentials>,
        host_ports: Vec<u16>,
    ) -> Registered {
        self.register_all(policy, credentials, None, host_ports)
    }

    pub fn register_all(
        &self,
        policy: Policy,
        credentials: Option<Credentials>,
        services: Option<Services>,
        host_ports: Vec<u16>,
    ) -> Registered {
        let path = self.socket();
        self.gateway.run(move || {
            let udp = transparent();
            let [raw_v4, raw_v6] = [AddressFamily::INET, AddressFamily::INET6]
                .map(|family| socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap());
            let tcp: OwnedFd = bound(|| TcpListener::bind(("::", TCP_PORT))).into();
            nix::sys::socket::listen(&tcp, nix::sys::socket::Backlog::new(4095).unwrap()).unwrap();
            let udp_dns = bound(|| UdpSocket::bind(("::", DNS_PORT)));
            let tcp_dns = bound(|| TcpListener::bind(("::", DNS_PORT)));
            let workspace = "ws-test".to_owned();
            let run = "run-test".to_owned();
            let registration = Registration { workspace, run, gateway_v4: GATEWAY_V4, host_ports };
            let terms =
                Terms { policy: &policy, credentials: credentials.as_ref(), services: services.as_ref() };
            let sockets = Sockets {
                tcp: tcp.as_fd(),
                udp_dns: udp_dns.as_fd(),
                tcp_dns: tcp_dns.as_fd(),
                udp: udp.as_fd(),
                raw_v4: raw_v4.as_fd(),
                raw_v6: Some(raw_v6.as_fd()),
            };
            register(&path, &registration, terms, sockets).unwrap()
        })
    }
}

/// What `tproxy` gives datagrams to.
fn transparent() -> UdpSocket {
    let socket = bound(|| UdpSocket::bind(("::", UDP_PORT)));
    setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
    setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true).unwrap();
    setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true).unwrap();
    socket
}

/// Waits for the broker to let go of the sockets of an earlier registration.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let start = Instant::now();
    loop {
        match bind() {
            Ok(socket) => return socket,
            Err(error) => {
                assert!(start.elapsed() < Duration::from_secs(5), "binding in the gateway: {error}")
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The real broker, as a process of its own.
pub struct Broker(Child, PathBuf);

fn log(socket: &Path) -> PathBuf {
    socket.with_file_name("broker.log")
}

impl Broker {
    pub fn start(socket: &Path) -> Self {
        let exe = std::env::current_exe().unwrap();
        let child = Command::new(exe)
            // One test thread is the main thread: the broker confines the thread that it starts on.
            .args(["broker_process", "--exact", "--nocapture", "--test-threads=1"])
            .env("CORDIUM_BROKER_SOCKET", socket)
            .stderr(OpenOptions::new().create(true).append(true).open(log(socket)).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "the broker does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, log(socket))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it with SIGTERM; whether it went with success.
    pub fn terminate(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().success()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.1).unwrap_or_default());
        }
    }
}

/// The body of the test that is no test: the broker's process.
pub fn broker_role() {
    if let Some(socket) = std::env::var_os("CORDIUM_BROKER_SOCKET") {
        let opts = BrokerOpts { socket: socket.into(), upstream: vec![UPSTREAM.parse().unwrap()] };
        std::process::exit(i32::from(broker_main(opts) != std::process::ExitCode::SUCCESS));
    }
}
