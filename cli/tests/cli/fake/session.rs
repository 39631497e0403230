use std::{pin::Pin, sync::atomic::Ordering};

use bytes::Bytes;
use cordium_proto::v1::{session_server::Session, *};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Fake;

type Answer<T> = Result<Response<T>, Status>;
type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Out = mpsc::Sender<Result<ExecResponse, Status>>;

async fn say(out: &Out, message: exec_response::Message) -> bool {
    out.send(Ok(ExecResponse { message: Some(message) })).await.is_ok()
}

async fn exit(out: &Out, code: i32, error: &str) {
    say(out, exec_response::Message::Exit(ExecExit { code, error: error.into(), ..ExecExit::default() }))
        .await;
}

async fn play(fake: Fake, start: ExecStart, mut input: Streaming<ExecRequest>, out: Out) {
    use exec_request::Message as In;
    use exec_response::Message::{Stderr, Stdout};
    let words: Vec<&str> = start.command.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => exit(&out, code.parse().unwrap(), "").await,
        ["both"] => {
            say(&out, Stdout(Bytes::from("to out\n"))).await;
            say(&out, Stderr(Bytes::from("to err\n"))).await;
            exit(&out, 0, "").await;
        }
        ["cat"] => {
            while let Some(Ok(request)) = input.next().await {
                match request.message {
                    Some(In::Stdin(data)) => drop(say(&out, Stdout(data)).await),
                    Some(In::StdinEof(_)) => return exit(&out, 0, "").await,
                    _ => {}
                }
            }
        }
        ["wait"] => {
            say(&out, Stdout(Bytes::from("ready\n"))).await;
            while let Some(Ok(request)) = input.next().await {
                if let Some(In::Signal(number)) = request.message {
                    fake.0.seen.lock().unwrap().signals.push(number);
                    return exit(&out, 128 + number, "").await;
                }
            }
        }
        ["flood"] => while say(&out, Stdout(Bytes::from(vec![b'x'; 8192]))).await {},
        ["cut"] => drop(out.send(Err(Status::unavailable("the node went away"))).await),
        _ => exit(&out, 127, "executable not found").await,
    }
}

#[tonic::async_trait]
impl Session for Fake {
    type ExecStream = Boxed<ExecResponse>;

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<Self::ExecStream> {
        let mut input = request.into_inner();
        let Some(Ok(ExecRequest { message: Some(exec_request::Message::Start(start)) })) = input.next().await
        else {
            return Err(Status::invalid_argument("the first message must carry start"));
        };
        if start.workspace == "absent" {
            return Err(Status::not_found("workspace \"absent\" does not exist"));
        }
        self.0.seen.lock().unwrap().execs.push(start.clone());
        let (tx, rx) = mpsc::channel(8);
        tokio::spawn(play(self.clone(), start, input, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn create_terminal(&self, _: Request<CreateTerminalRequest>) -> Answer<CreateTerminalResponse> {
        Ok(Response::new(CreateTerminalResponse { id: "t1".into() }))
    }

    async fn list_terminals(&self, _: Request<ListTerminalsRequest>) -> Answer<ListTerminalsResponse> {
        let size = Some(TerminalSize { cols: 80, rows: 24 });
        Ok(Response::new(ListTerminalsResponse {
            items: vec![Terminal { id: "t1".into(), size, created_at: None }],
        }))
    }

    async fn remove_terminal(&self, _: Request<RemoveTerminalRequest>) -> Answer<RemoveTerminalResponse> {
        Ok(Response::new(RemoveTerminalResponse {}))
    }

    type ForwardStream = Boxed<ForwardResponse>;

    /// Port 7 echoes, an end of data included; nothing serves any other.
    async fn forward(&self, request: Request<Streaming<ForwardRequest>>) -> Answer<Self::ForwardStream> {
        use forward_request::Message as In;
        use forward_response::Message as Say;
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|request| request.message);
        if !matches!(&first, Some(In::Start(start)) if start.port == 7) {
            return Err(Status::failed_precondition("nothing serves that port inside"));
        }
        let echoed = input.filter_map(|request| async move {
            let message = match request.ok()?.message? {
                In::Data(data) => Say::Data(data),
                In::Eof(eof) => Say::Eof(eof),
                In::Start(_) => return None,
            };
            Some(Ok(ForwardResponse { message: Some(message) }))
        });
        Ok(Response::new(Box::pin(echoed)))
    }

    type AttachTerminalStream = Boxed<AttachTerminalResponse>;

    /// Echoes what is typed; `q` ends the shell with code 3.
    async fn attach_terminal(
        &self,
        request: Request<Streaming<AttachTerminalRequest>>,
    ) -> Answer<Self::AttachTerminalStream> {
        let mut input = request.into_inner();
        let (tx, rx) = mpsc::channel(8);
        let fake = self.clone();
        tokio::spawn(async move {
            use attach_terminal_request::Message as In;
            use attach_terminal_response::Message as Say;
            let say = |m| tx.send(Ok(AttachTerminalResponse { message: Some(m) }));
            while let Some(Ok(request)) = input.next().await {
                match request.message {
                    Some(In::Attach(a)) => {
                        drop(say(Say::Data(Bytes::from(format!("attached {}\r\n", a.id)))).await)
                    }
                    Some(In::Resize(s)) => fake.0.seen.lock().unwrap().sizes.push((s.cols, s.rows)),
                    Some(In::Data(data)) if data.contains(&b'q') => {
                        drop(say(Say::Closed(TerminalClosed { exit_code: 3 })).await);
                        return;
                    }
                    Some(In::Data(data)) => drop(say(Say::Data(data)).await),
                    None => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    type LogsStream = Boxed<LogEntry>;
    type WatchDenialsStream = Boxed<Denial>;

    async fn watch_denials(&self, request: Request<WatchDenialsRequest>) -> Answer<Self::WatchDenialsStream> {
        let WatchDenialsRequest { after, follow, .. } = request.into_inner();
        let denials =
            self.0.denials.lock().unwrap().clone().into_iter().filter(|denial| denial.number > after);
        let past = denials.map(Ok).collect::<Vec<_>>();
        // The connection breaks once: whoever follows asks again.
        let end = if follow && !past.is_empty() { Some(Err(Status::unavailable("restarted"))) } else { None };
        Ok(Response::new(Box::pin(futures::stream::iter(past.into_iter().chain(end)))))
    }

    type WatchPortsStream = Boxed<ListeningPorts>;

    /// Each list that is set; whoever follows is cut off once, and told the last one again.
    async fn watch_ports(&self, request: Request<WatchPortsRequest>) -> Answer<Self::WatchPortsStream> {
        let mut lists = self.0.ports.lock().unwrap();
        let all = lists.clone();
        if !request.into_inner().follow {
            return Ok(Response::new(Box::pin(futures::stream::iter(all.into_iter().take(1).map(Ok)))));
        }
        lists.drain(..all.len().saturating_sub(1));
        let end = (all.len() > 1).then(|| Err(Status::unavailable("restarted")));
        Ok(Response::new(Box::pin(futures::stream::iter(all.into_iter().map(Ok).chain(end)))))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let entries: Vec<_> = self.0.logs.lock().unwrap().clone();
        let entries = entries.into_iter().filter(move |e| {
            e.seq > request.after_seq && (request.task.is_empty() || request.task == e.name)
        });
        let past = futures::stream::iter(entries.map(Ok).collect::<Vec<_>>());
        if request.follow && self.0.logs_are_late.load(Ordering::Relaxed) {
            Ok(Response::new(Box::pin(futures::stream::pending())))
        } else if request.follow {
            Ok(Response::new(Box::pin(past.chain(futures::stream::pending()))))
        } else {
            Ok(Response::new(Box::pin(past)))
        }
    }
}
