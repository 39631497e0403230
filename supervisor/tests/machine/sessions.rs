use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{
    CreateTerminalRequest, ExecRequest, ExecStart, LogSource, LogsRequest, StdinEof, WatchDenialsRequest,
    WatchPortsRequest, WorkspaceState as S, exec_request, exec_response, session_client::SessionClient,
    session_server::Session as _, session_server::SessionServer,
};
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use hyper_util::rt::TokioIo;
use tonic::{Code, Request, transport::Endpoint};

use super::{
    fakes::World,
    lifecycle::SPEC,
    node::{Node, UID},
};

#[tokio::test]
async fn sessions_need_a_workspace_that_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let terminal = || Request::new(CreateTerminalRequest { workspace: UID.into(), ..Default::default() });
    assert_eq!(node.session.create_terminal(terminal()).await.unwrap_err().code(), Code::NotFound);
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    assert_eq!(node.session.create_terminal(terminal()).await.unwrap().into_inner().id, "t1");
    node.stop(true).await.unwrap();
    node.until(2, S::Stopped).await;
    let refused = node.session.create_terminal(terminal()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("STOPPED") && refused.metadata().contains_key(cordium_proto::HINT_KEY)
    );
}

#[tokio::test]
async fn exec_is_passed_through_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let server = tonic::transport::Server::builder()
        .add_service(SessionServer::new(node.session.clone()))
        .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(theirs)));
    tokio::spawn(server);
    let mut ours = Some(TokioIo::new(ours));
    let connect = tower::service_fn(move |_| {
        let ours = ours.take();
        async move { ours.ok_or_else(|| std::io::Error::other("connected twice")) }
    });
    let channel = Endpoint::from_static("http://node").connect_with_connector(connect).await.unwrap();
    use exec_request::Message;
    let start =
        ExecStart { workspace: UID.into(), command: vec!["cat".into()], stdin: true, ..Default::default() };
    let data = bytes::Bytes::from(vec![7; 300_000]);
    let messages = [Message::Start(start), Message::Stdin(data.clone()), Message::StdinEof(StdinEof {})];
    let requests = futures::stream::iter(messages.map(|message| ExecRequest { message: Some(message) }));
    let mut client = SessionClient::new(channel);
    let answers: Vec<_> = client.exec(requests).await.unwrap().into_inner().try_collect().await.unwrap();
    assert!(matches!(&answers[0].message, Some(exec_response::Message::Stdout(out)) if *out == data));
    assert!(matches!(&answers[1].message, Some(exec_response::Message::Exit(exit)) if exit.code == 7));

    let nameless = futures::stream::iter([ExecRequest { message: Some(Message::Signal(1)) }]);
    assert_eq!(client.exec(nameless).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn logs_are_there_after_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    let following = LogsRequest { workspace: UID.into(), follow: true, ..Default::default() };
    let follow = node.session.logs(Request::new(following)).await.unwrap().into_inner();
    let followed = tokio::spawn(follow.try_collect::<Vec<_>>());
    node.stop(false).await.unwrap();
    node.until(2, S::Stopped).await;
    let followed = followed.await.unwrap().unwrap();
    let request = LogsRequest { workspace: UID.into(), ..Default::default() };
    let all: Vec<_> =
        node.session.logs(Request::new(request)).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(followed, all);
    let text: String = all.iter().map(|e| String::from_utf8_lossy(&e.data).into_owned()).collect();
    assert!(text.contains("pulling 127.0.0.1:5000/base:1") && text.contains("compiling\ndone\n"), "{text}");
    assert!(all.iter().all(|e| e.run_id == "r1") && all.iter().any(|e| e.source() == LogSource::Image));
    let task = LogsRequest { workspace: UID.into(), task: "build".into(), tail: 1, ..Default::default() };
    let last: Vec<_> =
        node.session.logs(Request::new(task)).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].data.as_ref(), b"done\n");
}

#[tokio::test]
async fn who_sees_running_finds_what_was_printed_before_it() {
    for log_seq in [2, u64::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::<World>::default();
        world.set(|script| {
            script.log_takes = Duration::from_millis(500);
            script.log_seq = log_seq;
        });
        let node = Node::open(dir.path(), &world);
        node.start("r1", SPEC).await.unwrap();
        node.until(0, S::Running).await;
        let task = LogsRequest { workspace: UID.into(), task: "build".into(), ..Default::default() };
        let all: Vec<_> =
            node.session.logs(Request::new(task)).await.unwrap().into_inner().try_collect().await.unwrap();
        assert_eq!(all.len(), 2, "an agent with {log_seq} entries");
    }
}

#[tokio::test]
async fn ports_are_passed_on_and_a_follower_is_told_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let request = |follow| Request::new(WatchPortsRequest { workspace: UID.into(), follow });
    assert_eq!(node.session.watch_ports(request(false)).await.err().unwrap().code(), Code::NotFound);
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    let once: Vec<_> = node.session.watch_ports(request(false)).await.unwrap().into_inner().collect().await;
    assert_eq!(once.len(), 1);
    assert_eq!(once[0].as_ref().unwrap().items[0].port, 80);
    let mut followed = node.session.watch_ports(request(true)).await.unwrap().into_inner();
    assert_eq!(followed.next().await.unwrap().unwrap().items.len(), 1);
    node.stop(false).await.unwrap();
    node.until(2, S::Stopped).await;
    let code = node.session.watch_ports(request(false)).await.err().unwrap().code();
    assert_eq!(code, Code::FailedPrecondition);
}

#[tokio::test]
async fn denials_are_watched_while_a_run_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let request = || Request::new(WatchDenialsRequest { workspace: UID.into(), ..Default::default() });
    let code = |answer: Result<_, tonic::Status>| answer.map(drop).unwrap_err().code();
    assert_eq!(code(node.session.watch_denials(request()).await), Code::NotFound);
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    // There is no broker here: it may be about to come back.
    assert_eq!(code(node.session.watch_denials(request()).await), Code::Unavailable);
    node.stop(false).await.unwrap();
    node.until(2, S::Stopped).await;
    assert_eq!(code(node.session.watch_denials(request()).await), Code::FailedPrecondition);
}
