use std::sync::Arc;

use cordium_proto::v1::{GetNodeRequest, WatchPhasesRequest, WorkspaceState as S, node_client::NodeClient};
use cordium_scheduler::ControlService;
use cordium_serve::unix;
use cordium_supervisor::grpc::server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig, server::TcpIncoming,
};

use super::{lifecycle::SPEC, node::Node};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity(issuer: &Issuer) -> Identity {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    Identity::from_pem(cert.pem(), key.serialize_pem())
}

fn trusting(issuer: &Issuer) -> ClientTlsConfig {
    ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(issuer.pem()))
}

async fn asked(port: u16, tls: ClientTlsConfig) -> bool {
    let endpoint =
        Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
    let Ok(channel) = endpoint.connect().await else { return false };
    NodeClient::new(channel).get_node(GetNodeRequest {}).await.is_ok()
}

#[tokio::test]
async fn a_remote_scheduler_needs_a_certificate_of_the_right_authority() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let (ours, other) = (authority(), authority());
    let tls =
        ServerTlsConfig::new().identity(identity(&ours)).client_ca_root(Certificate::from_pem(ours.pem()));
    let router = server::for_remote_schedulers(node.node.clone(), node.session.clone(), tls).unwrap();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = incoming.local_addr().unwrap().port();
    tokio::spawn(router.serve_with_incoming(incoming));
    assert!(asked(port, trusting(&ours).identity(identity(&ours))).await);
    assert!(!asked(port, trusting(&ours)).await);
    assert!(!asked(port, trusting(&ours).identity(identity(&other))).await);
}

async fn local(node: &Node) -> (Channel, tokio::task::JoinHandle<Result<(), tonic::transport::Error>>) {
    let path = node.context.dirs.run.join("cordium.sock");
    let peers = unix::own_peers(unix::bind(&path).await.unwrap());
    let router = server::for_clients(node.node.clone(), None::<ControlService>, node.session.clone(), None)
        .await
        .unwrap();
    let shutdown = node.context.shutdown.clone();
    let served = tokio::spawn(router.serve_with_incoming_shutdown(peers, shutdown.cancelled_owned()));
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    (Endpoint::from_static("http://node").connect_with_connector(connect).await.unwrap(), served)
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::{
        v1::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        },
        v1alpha,
    };
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let (channel, _served) = local(&node).await;
    let check = HealthCheckRequest { service: "cordium.v1.Node".into() };
    let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    assert!(
        names.contains(&"cordium.v1.Node".to_owned()) && names.contains(&"cordium.v1.Session".to_owned())
    );

    let symbol = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "cordium.v1.PhaseEvent".into(),
        )),
        ..Default::default()
    };
    let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(symbol))
        .await
        .unwrap()
        .into_inner();
    assert!(old.message().await.unwrap().is_some());
}

#[tokio::test]
async fn a_watch_over_the_socket_tells_everything_and_ends_with_ok_at_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let (channel, served) = local(&node).await;
    let mut events =
        NodeClient::new(channel).watch_phases(WatchPhasesRequest::default()).await.unwrap().into_inner();
    node.start("r1", SPEC).await.unwrap();
    let mut revision = 0;
    loop {
        let event = events.message().await.unwrap().unwrap();
        assert!(event.revision == revision + 1 || event.snapshot);
        revision = event.revision;
        if event.state() == S::Running {
            break;
        }
    }
    node.context.shutdown.cancel();
    assert_eq!(events.message().await.unwrap(), None);
    drop(events);
    tokio::time::timeout(std::time::Duration::from_secs(5), served).await.unwrap().unwrap().unwrap();
}
