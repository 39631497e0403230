//! Terminals that outlive their clients.

use cordium_proto::v1::{
    AttachTerminal, AttachTerminalRequest, AttachTerminalResponse, CreateTerminalRequest,
    ListTerminalsRequest, RemoveTerminalRequest, TerminalSize, attach_terminal_request as ask,
    attach_terminal_response as tell,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::harness::{LIMIT, Sandbox, is_root};

struct Attached {
    requests: mpsc::Sender<AttachTerminalRequest>,
    responses: Streaming<AttachTerminalResponse>,
}

impl Attached {
    async fn new(sandbox: &Sandbox, id: &str) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let attach = AttachTerminal { id: id.into(), ..AttachTerminal::default() };
        requests.send(AttachTerminalRequest { message: Some(ask::Message::Attach(attach)) }).await.unwrap();
        let responses =
            sandbox.session().attach_terminal(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn type_in(&self, text: &str) {
        let message = Some(ask::Message::Data(text.as_bytes().to_vec().into()));
        self.requests.send(AttachTerminalRequest { message }).await.unwrap();
    }

    async fn next(&mut self) -> tell::Message {
        let message = tokio::time::timeout(LIMIT, self.responses.message()).await.unwrap();
        message.unwrap().unwrap().message.unwrap()
    }

    async fn read_until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let mut searched = 0;
        while !seen[searched..].contains(text) {
            searched = seen.len().saturating_sub(text.len());
            match self.next().await {
                tell::Message::Data(data) => seen.push_str(std::str::from_utf8(&data).unwrap()),
                tell::Message::Size(_) => {}
                tell::Message::Closed(closed) => panic!("closed ({closed:?}) after {seen:?}"),
            }
        }
        seen
    }
}

async fn create(sandbox: &Sandbox) -> String {
    let size = Some(TerminalSize { cols: 90, rows: 25 });
    let request = CreateTerminalRequest { size, ..CreateTerminalRequest::default() };
    sandbox.session().create_terminal(request).await.unwrap().into_inner().id
}

async fn ids(sandbox: &Sandbox) -> Vec<String> {
    let items =
        sandbox.session().list_terminals(ListTerminalsRequest::default()).await.unwrap().into_inner().items;
    items.into_iter().map(|terminal| terminal.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_several_listeners_size_and_exit() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let id = create(&sandbox).await;
    let mut first = Attached::new(&sandbox, &id).await;
    assert!(matches!(first.next().await, tell::Message::Size(TerminalSize { cols: 90, rows: 25 })));
    first.type_in("echo $((40+2)) $TERM $COLORTERM $(id -u); pwd\n").await;
    first.read_until("42 xterm-256color truecolor 1000").await;
    drop(first);

    let mut second = Attached::new(&sandbox, &id).await;
    second.read_until("42 xterm-256color").await;
    let mut third = Attached::new(&sandbox, &id).await;
    third.read_until("42 xterm-256color").await;
    let resize = ask::Message::Resize(TerminalSize { cols: 111, rows: 33 });
    second.requests.send(AttachTerminalRequest { message: Some(resize) }).await.unwrap();
    loop {
        if let tell::Message::Size(size) = third.next().await {
            assert_eq!((size.cols, size.rows), (111, 33));
            break;
        }
    }
    second.type_in("stty size\n").await;
    third.read_until("33 111").await;

    // Job control works: Ctrl-C ends the foreground job, not the shell.
    second.type_in("sleep 1000\n").await;
    second.read_until("sleep 1000").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    second.type_in("\u{3}").await;
    second.type_in("echo al''ive\n").await;
    third.read_until("alive").await;

    second.type_in("exit 5\n").await;
    loop {
        if let tell::Message::Closed(closed) = third.next().await {
            assert_eq!(closed.exit_code, 5);
            break;
        }
    }
    assert!(third.responses.message().await.unwrap().is_none(), "closed is the last message");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(ids(&sandbox).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_does_not_read_holds_up_nobody() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let id = create(&sandbox).await;
    let mut stuck = Attached::new(&sandbox, &id).await;
    let mut reader = Attached::new(&sandbox, &id).await;
    let before = sandbox.agent_peak_kib();
    reader.type_in("stty -echo; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo E''ND\n").await;
    reader.read_until("END").await;
    let grown = sandbox.agent_peak_kib() - before;
    assert!(grown < 16 << 10, "grew by {grown} KiB");
    // It is moved on to what the scrollback still holds.
    let rest = stuck.read_until("END").await;
    assert!(rest.len() < 8_000_000, "{}", rest.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_the_limit_and_unknown_ones() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let mut made = Vec::new();
    for _ in 0..150 {
        made.push(create(&sandbox).await);
    }
    assert_eq!(ids(&sandbox).await, made, "in the order of creation");
    let full = sandbox.session().create_terminal(CreateTerminalRequest::default()).await.unwrap_err();
    assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    let remove = |id: &str| RemoveTerminalRequest { id: id.into(), ..RemoveTerminalRequest::default() };
    sandbox.session().remove_terminal(remove(&made[0])).await.unwrap();
    sandbox.session().remove_terminal(remove("unknown")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(ids(&sandbox).await, made[1..]);
    create(&sandbox).await;
    let (requests, receiver) = mpsc::channel(1);
    let attach = AttachTerminal { id: made[0].clone(), ..AttachTerminal::default() };
    requests.send(AttachTerminalRequest { message: Some(ask::Message::Attach(attach)) }).await.unwrap();
    let gone = sandbox.session().attach_terminal(ReceiverStream::new(receiver)).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
}
