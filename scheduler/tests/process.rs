//! The program itself: mutual TLS to nodes and clients, unix socket, signals, `kill -9`.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use common::{FakeNode, PATIENCE, memory, unix_channel, workspace};
use cordium_proto::v1::{
    GetRequest, GetStatusRequest, Kind, StartWorkspaceRequest, WatchWorkspacesRequest, WorkspaceState as S,
    control_client::ControlClient,
};
use tokio::process::{Child, Command};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// An authority, and what it has signed for `name`.
struct Authority {
    dir: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(dir.join("ca.pem"), &pem).unwrap();
        Self { dir, issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn path(&self, file: &str) -> String {
        self.dir.join(file).to_str().unwrap().to_owned()
    }

    /// Writes `name.pem` and `name.key` for localhost.
    fn sign(&self, name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        Identity::from_pem(cert.pem(), key.serialize_pem())
    }

    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.sign("node")).client_ca_root(Certificate::from_pem(&self.pem))
    }

    fn client(&self, port: u16, identity: Option<Identity>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }
}

fn spawn(dir: &Path, more: &[String]) -> Child {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Command::new(env!("CARGO_BIN_EXE_cordium-scheduler"))
        .args(["--db", &path("control.db"), "--key", &path("secret.key")])
        .args(more)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn free_port() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn eventually<T>(what: &str, mut test: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = test().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn reachable(channel: &Channel) {
    eventually("every node reachable", async || {
        let status =
            ControlClient::new(channel.clone()).get_status(GetStatusRequest {}).await.ok()?.into_inner();
        status.nodes.iter().all(|n| n.reachable).then_some(())
    })
    .await;
}

async fn running(channel: &Channel, name: &str) {
    eventually("running", async || {
        let request = GetRequest { kind: Kind::Workspace.into(), r#ref: name.into(), ..Default::default() };
        let got = ControlClient::new(channel.clone()).get(request).await.ok()?.into_inner();
        (got.status?.state() == S::Running).then_some(())
    })
    .await;
}

fn start(name: &str) -> StartWorkspaceRequest {
    StartWorkspaceRequest { r#ref: name.into(), ..Default::default() }
}

#[tokio::test]
async fn mutual_tls_on_both_sides_and_a_sudden_end() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (nodes_ca, clients_ca) = (Authority::new(dir.path(), "nodes"), Authority::new(dir.path(), "clients"));
    nodes_ca.sign("scheduler");
    clients_ca.sign("server");
    let (mut args, mut up, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let node = FakeNode::new(dir.path(), name, 4000);
        let (listener, port) = free_port();
        up.push(node.up_tls(listener, nodes_ca.server()));
        args.extend(["--node".to_owned(), format!("{name}=https://localhost:{port}")]);
        nodes.push(node);
    }
    let (listener, port) = free_port();
    drop(listener);
    let flags = [
        ("--listen", format!("localhost:{port}")),
        ("--ca", nodes_ca.path("ca.pem")),
        ("--cert", nodes_ca.path("scheduler.pem")),
        ("--key-file", nodes_ca.path("scheduler.key")),
        ("--tls-cert", clients_ca.path("server.pem")),
        ("--tls-key", clients_ca.path("server.key")),
        ("--tls-client-ca", clients_ca.path("ca.pem")),
    ];
    args.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    let mut process = spawn(dir.path(), &args);
    let channel = clients_ca.client(port, Some(clients_ca.sign("client")));
    reachable(&channel).await;

    for stranger in [None, Some(nodes_ca.sign("stranger"))] {
        let channel = clients_ca.client(port, stranger);
        ControlClient::new(channel).get_status(GetStatusRequest {}).await.unwrap_err();
    }

    let mut control = ControlClient::new(channel.clone());
    for (name, mib) in [("one", 3000), ("two", 3000)] {
        control.create(workspace(name, &memory(mib))).await.unwrap();
        control.start_workspace(start(name)).await.unwrap();
        running(&channel, name).await;
    }
    assert_eq!(nodes.iter().map(|n| n.with(|s| s.starts.len())).collect::<Vec<_>>(), [1, 1], "one on each");
    let before = control.get_status(GetStatusRequest {}).await.unwrap().into_inner().revision;

    process.kill().await.unwrap();
    let uid = nodes[0].with(|s| s.starts[0].workspace_uid.clone());
    nodes[0].tell(&uid, S::StoppingRequest, |_| ());
    let mut process = spawn(dir.path(), &args);
    reachable(&channel).await;
    let request = WatchWorkspacesRequest { after_revision: before, ..Default::default() };
    let mut watch = control.watch_workspaces(request).await.unwrap().into_inner();
    let event = watch.message().await.unwrap().unwrap();
    assert_eq!((event.revision, event.phase.unwrap().state()), (before + 1, S::StoppingRequest));
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_node_of_another_authority_is_not_trusted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    ours.sign("scheduler");
    let node = FakeNode::new(dir.path(), "a", 4000);
    let (listener, port) = free_port();
    let _up = node.up_tls(listener, theirs.server());
    let socket = dir.path().join("s.sock");
    let args = [
        ("--node", format!("a=https://localhost:{port}")),
        ("--listen", format!("unix:{}", socket.display())),
        ("--ca", ours.path("ca.pem")),
        ("--cert", ours.path("scheduler.pem")),
        ("--key-file", ours.path("scheduler.key")),
    ];
    let args: Vec<_> = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let _process = spawn(dir.path(), &args);
    let channel = unix_channel(&socket);
    let error = eventually("an attempt to reach the node", async || {
        let status =
            ControlClient::new(channel.clone()).get_status(GetStatusRequest {}).await.ok()?.into_inner();
        assert!(!status.nodes[0].reachable);
        (status.nodes[0].error != "not reached yet").then(|| status.nodes[0].error.clone())
    })
    .await;
    assert!(error.to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn unix_socket_health_and_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "a", 4000);
    let _up = node.up();
    let socket = dir.path().join("s.sock");
    // Left over from a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let args = [
        "--node",
        &format!("a=unix:{}", node.socket.display()),
        "--listen",
        &format!("unix:{}", socket.display()),
    ]
    .map(str::to_owned);
    let mut process = spawn(dir.path(), &args);
    let channel = unix_channel(&socket);
    reachable(&channel).await;
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let request = HealthCheckRequest { service: "cordium.v1.Control".into() };
    let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(health.status, 1, "serving");

    let second = spawn(dir.path(), &args).wait().await.unwrap();
    assert!(!second.success(), "one scheduler for one store and socket");

    let mut control = ControlClient::new(channel);
    let mut watch = control.watch_workspaces(WatchWorkspacesRequest::default()).await.unwrap().into_inner();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let ended = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap();
    assert!(ended.unwrap().is_none(), "ends, without an error");
    let status = tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
