//! Sessions pass through to the right node.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, Scheduler, memory};
use cordium_proto::{
    HINT_KEY,
    v1::{
        AttachTerminal, AttachTerminalRequest, CreateTerminalRequest, ExecRequest, ExecStart, ForwardEof,
        ForwardRequest, ForwardStart, ListTerminalsRequest, LogsRequest, StartWorkspaceRequest, StdinEof,
        WatchDenialsRequest, WatchPortsRequest, WorkspaceState as S, attach_terminal_request,
        attach_terminal_response, exec_request, exec_response, forward_request, forward_response,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn start(workspace: &str) -> ExecRequest {
    let start = ExecStart { workspace: workspace.into(), command: vec!["cat".into()], ..Default::default() };
    ExecRequest { message: Some(exec_request::Message::Start(start)) }
}

struct World {
    s: Scheduler,
    uids: Vec<String>,
    _up: Vec<common::Up>,
    _dir: tempfile::TempDir,
}

/// `one` runs on `a`, `two` on `b`; `off` does not run.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let nodes = ["a", "b"].map(|name| FakeNode::new(dir.path(), name, 8000));
    let up = nodes.iter().map(FakeNode::up).collect();
    let s = Scheduler::up(dir.path(), &[&nodes[0], &nodes[1]]).await;
    let mut uids = Vec::new();
    for (name, node) in [("one", "a"), ("two", "b")] {
        s.reachable(node, true).await;
        uids.push(s.create(name, &memory(100)).await.metadata.unwrap().uid);
        let request = StartWorkspaceRequest { r#ref: name.into(), node: node.into(), ..Default::default() };
        s.control().start_workspace(request).await.unwrap();
        s.until_state(name, S::Running).await;
    }
    s.create("off", "{}").await;
    World { s, uids, _up: up, _dir: dir }
}

#[tokio::test]
async fn exec_reaches_its_workspace_and_streams_both_ways() {
    let w = world().await;
    let references = [("one", "a", 0), ("two.default", "b", 1), (w.uids[0].as_str(), "a", 0)];
    for (reference, node, index) in references {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(start(reference)).await.unwrap();
        let mut replies = w.s.session().exec(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut next = async || replies.message().await.unwrap().unwrap().message.unwrap();
        let hello = format!("{node}:{}", w.uids[index]);
        assert_eq!(next().await, exec_response::Message::Stdout(hello.into()));
        // Each answer is there before the next question is sent.
        for i in 0..50u32 {
            let data = bytes::Bytes::from(vec![i as u8; 60_000]);
            sender
                .send(ExecRequest { message: Some(exec_request::Message::Stdin(data.clone())) })
                .await
                .unwrap();
            assert_eq!(next().await, exec_response::Message::Stdout(data));
        }
        sender
            .send(ExecRequest { message: Some(exec_request::Message::StdinEof(StdinEof {})) })
            .await
            .unwrap();
        let exec_response::Message::Exit(exit) = next().await else { panic!("no exit") };
        assert_eq!(exit.code, 7);
        assert!(replies.message().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_connection_reaches_its_workspace_and_ends_on_both_sides() {
    let w = world().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let say = async |message| sender.send(ForwardRequest { message: Some(message) }).await.unwrap();
    let start = ForwardStart { workspace: "two".into(), port: 8080 };
    say(forward_request::Message::Start(start)).await;
    let mut replies = w.s.session().forward(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut next = async || replies.message().await.unwrap().and_then(|reply| reply.message);
    let hello = format!("{}:8080", w.uids[1]);
    assert_eq!(next().await, Some(forward_response::Message::Data(hello.into())));
    say(forward_request::Message::Data("x".into())).await;
    assert_eq!(next().await, Some(forward_response::Message::Data("x".into())));
    say(forward_request::Message::Eof(ForwardEof {})).await;
    assert_eq!(next().await, Some(forward_response::Message::Eof(ForwardEof {})));
    drop(sender);
    assert_eq!(next().await, None);
    for message in [forward_request::Message::Eof(ForwardEof {}), {
        let start = ForwardStart { workspace: "off".into(), port: 80 };
        forward_request::Message::Start(start)
    }] {
        let opening = tokio_stream::once(ForwardRequest { message: Some(message) });
        assert!(w.s.session().forward(opening).await.is_err());
    }
}

#[tokio::test]
async fn a_reader_that_waits_holds_the_writer_back() {
    let w = world().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(start("one")).await.unwrap();
    let mut replies = w.s.session().exec(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let data = bytes::Bytes::from(vec![0; 1 << 16]);
    let mut written = 0;
    let stdin = || ExecRequest { message: Some(exec_request::Message::Stdin(data.clone())) };
    let wait = std::time::Duration::from_millis(500);
    while written < 4096 && tokio::time::timeout(wait, sender.send(stdin())).await.is_ok() {
        written += 1;
    }
    assert!(written < 4096, "256 MiB went nowhere");
    let mut read = 0;
    while read < written * data.len() - (1 << 20) {
        if let Some(exec_response::Message::Stdout(data)) = replies.message().await.unwrap().unwrap().message
        {
            read += data.len();
        }
    }
}

#[tokio::test]
async fn a_command_counts_as_activity() {
    let w = world().await;
    let before = w.s.status("one").await.last_activity_at;
    let mut replies = w.s.session().exec(tokio_stream::iter([start("one")])).await.unwrap().into_inner();
    while replies.message().await.unwrap().is_some() {}
    let later = w.s.until("one", "used", |status| status.last_activity_at != before).await.last_activity_at;
    let seconds = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos));
    assert!(seconds(later) > seconds(before));
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let w = world().await;
    let exec = |first: Vec<ExecRequest>| {
        let mut client = w.s.session();
        async move { client.exec(tokio_stream::iter(first)).await.map(|_| ()).unwrap_err() }
    };
    let error = exec(vec![start("off")]).await;
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.metadata().get(HINT_KEY).unwrap(), "cordium start off");
    assert_eq!(exec(vec![start("none")]).await.code(), Code::NotFound);
    assert_eq!(exec(vec![]).await.code(), Code::InvalidArgument);
    let no_start = ExecRequest { message: Some(exec_request::Message::Signal(9)) };
    assert_eq!(exec(vec![no_start]).await.code(), Code::InvalidArgument);
    let error =
        w.s.session().list_terminals(ListTerminalsRequest { workspace: "one".into() }).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "the agent is not there yet"));
    assert_eq!(error.metadata().get(HINT_KEY).unwrap(), "cordium start one");
}

#[tokio::test]
async fn terminals_denials_and_logs() {
    let w = world().await;
    let request = CreateTerminalRequest { workspace: "two".into(), ..Default::default() };
    let made = w.s.session().create_terminal(request).await.unwrap().into_inner();
    assert_eq!(made.id, format!("b:{}", w.uids[1]));

    let attach = AttachTerminal { workspace: "two".into(), id: made.id };
    let first = AttachTerminalRequest { message: Some(attach_terminal_request::Message::Attach(attach)) };
    let typed = AttachTerminalRequest { message: Some(attach_terminal_request::Message::Data("ls".into())) };
    let mut replies =
        w.s.session().attach_terminal(tokio_stream::iter([first, typed])).await.unwrap().into_inner();
    for expected in [w.uids[1].as_str(), "ls"] {
        let message = replies.message().await.unwrap().unwrap().message.unwrap();
        assert_eq!(message, attach_terminal_response::Message::Data(expected.to_owned().into()));
    }

    let request = WatchDenialsRequest { workspace: "two".into(), after: 6, ..Default::default() };
    let mut denials = w.s.session().watch_denials(request).await.unwrap().into_inner();
    let denial = denials.message().await.unwrap().unwrap();
    assert_eq!((denial.number, denial.rule.as_str()), (7, w.uids[1].as_str()));

    let request = |name: &str| WatchPortsRequest { workspace: name.into(), follow: false };
    let mut lists = w.s.session().watch_ports(request("two")).await.unwrap().into_inner();
    let port = &lists.message().await.unwrap().unwrap().items[0];
    assert_eq!((port.port, port.program.as_str(), port.application.as_str()), (80, w.uids[1].as_str(), ""));

    w.s.stop("one").await.unwrap();
    w.s.until_state("one", S::Stopped).await;
    let refused = w.s.session().watch_ports(request("one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "its run is over");
    let request = WatchDenialsRequest { workspace: "one".into(), ..Default::default() };
    let refused = w.s.session().watch_denials(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "its run is over");
    let request = LogsRequest { workspace: "one".into(), ..Default::default() };
    let mut logs = w.s.session().logs(request).await.unwrap().into_inner();
    let mut entries = 0;
    while let Some(entry) = logs.message().await.unwrap() {
        entries += 1;
        assert_eq!(entry.data, format!("{} {entries}", w.uids[0]));
    }
    assert_eq!(entries, 3, "also when it is stopped");
    let request = LogsRequest { workspace: "off".into(), ..Default::default() };
    assert_eq!(w.s.session().logs(request).await.unwrap_err().code(), Code::FailedPrecondition);
}
