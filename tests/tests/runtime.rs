//! Runtime: commands, environment, limits, logs and terminals.

use std::{process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, json, skip,
    spec::task,
    v1::{
        AttachTerminal, AttachTerminalRequest, CreateTerminalRequest, ExecRequest, ExecStart,
        ListTerminalsRequest, LogSource, LogStream, LogsRequest, RemoveTerminalRequest, TerminalSize,
        attach_terminal_request::Message as Say, attach_terminal_response::Message as Hear,
        exec_request::Message as Ask, exec_response::Message as Told,
    },
    workspace::{EXEC, env, owned, put_secret},
};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// One workspace for all cases, for none of them changes it.
struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("runtime")
        .case("exec_keeps_streams_apart", exec_keeps_streams_apart)
        .case("exec_reports_exit_codes", exec_reports_exit_codes)
        .case("exec_of_a_missing_program", exec_of_a_missing_program)
        .case("exec_takes_directory_and_environment", exec_takes_directory_and_environment)
        .case("exec_delivers_standard_input_and_its_end", exec_delivers_standard_input_and_its_end)
        .case("exec_is_binary_safe", exec_is_binary_safe)
        .case("exec_passes_signals_on", exec_passes_signals_on)
        .case("exec_ends_with_its_client", exec_ends_with_its_client)
        .case("many_execs_at_once", many_execs_at_once)
        .case("user_and_root", user_and_root)
        .case("environment_has_values_secrets_and_names", environment_has_values_secrets_and_names)
        .case("effective_limits_are_reported", effective_limits_are_reported)
        .case("memory_limit_is_enforced", memory_limit_is_enforced)
        .case("pids_limit_is_enforced", pids_limit_is_enforced)
        .case("logs_name_their_task", logs_name_their_task)
        .case("terminal_runs_resizes_and_ends", terminal_runs_resizes_and_ends)
        .case("terminals_do_not_mix_and_replay", terminals_do_not_mix_and_replay)
        .run(set_up)
}

async fn set_up() -> Result<Shared> {
    let f = Arc::new(Fixture::start("runtime").await?);
    put_secret(&f.clients, "api-key", "s3cret value").await?;
    let spec = f.base(json!({
        "limit": {"cpu": {"millicores": 1500}, "memory": {"megabytes": 256}, "storage": {"megabytes": 2000}},
        "runtime": {
            "envVars": [{"key": "PLAIN", "value": "plain value"}, {"key": "API_KEY", "fromSecret": "api-key"}],
            "tasks": [
                task("marker", "POST_START", "echo started > /workspace/marker"),
                {"name": "speaker", "type": "POST_START", "isBackground": true,
                 "run": "echo to-out; echo to-err >&2; exec sleep infinity"},
            ],
        },
    }));
    let w = f.run("rt", &spec).await?;
    Ok(Shared { f, w })
}

async fn exec_keeps_streams_apart(s: Arc<Shared>) -> Result<()> {
    let output = s.w.sh("printf out; printf err >&2").await?;
    ensure_eq!(output.stdout, b"out");
    ensure_eq!(output.stderr, b"err");
    ensure_eq!(s.w.sh("printf exact").await?.stdout, b"exact");
    ensure_eq!(s.w.ok("cat /workspace/marker").await?, "started");
    Ok(())
}

async fn exec_reports_exit_codes(s: Arc<Shared>) -> Result<()> {
    ensure_eq!(s.w.sh("exit 7").await?.code(), 7);
    let killed = s.w.sh("kill -9 $$").await?;
    ensure_eq!((killed.code(), killed.exit.signal), (137, 9));
    let failed = s.w.exec(&["ls", "/missing"]).await?;
    ensure!(failed.code() != 0 && failed.err().contains("missing"), "{failed:?}");
    Ok(())
}

async fn exec_of_a_missing_program(s: Arc<Shared>) -> Result<()> {
    let output = s.w.exec(&["/no/such/program"]).await?;
    ensure_eq!(output.code(), 127);
    ensure!(output.exit.error.contains("/no/such/program"), "{output:?}");
    let output = s.w.exec(&["/etc/passwd"]).await?;
    ensure_eq!(output.code(), 126);
    Ok(())
}

async fn exec_takes_directory_and_environment(s: Arc<Shared>) -> Result<()> {
    let start = ExecStart {
        command: owned(&["sh", "-c", "pwd; echo $ONE"]),
        working_dir: "/usr/lib".into(),
        env: env(&[("ONE", "1 and a half")]),
        ..Default::default()
    };
    ensure_eq!(s.w.exec_with(start, None).await?.out(), "/usr/lib\n1 and a half");
    Ok(())
}

async fn exec_delivers_standard_input_and_its_end(s: Arc<Shared>) -> Result<()> {
    let head = ExecStart { command: owned(&["head", "-n", "1"]), ..Default::default() };
    ensure_eq!(s.w.exec_with(head, Some(b"first\nsecond\n")).await?.out(), "first");
    let count = ExecStart { command: owned(&["wc", "-c"]), ..Default::default() };
    let megabyte = vec![b'x'; 1 << 20];
    ensure_eq!(s.w.exec_with(count, Some(&megabyte)).await?.out(), "1048576");
    ensure_eq!(s.w.sh("wc -c").await?.out(), "0");
    Ok(())
}

async fn exec_is_binary_safe(s: Arc<Shared>) -> Result<()> {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let cat = ExecStart { command: owned(&["cat"]), ..Default::default() };
    let output = s.w.exec_with(cat, Some(&bytes)).await?;
    ensure!(output.stdout == bytes, "{} bytes came back of {}", output.stdout.len(), bytes.len());
    let zeros = s.w.exec(&["head", "-c", "20000000", "/dev/zero"]).await?;
    ensure_eq!(zeros.stdout.len(), 20_000_000);
    Ok(())
}

async fn exec_passes_signals_on(s: Arc<Shared>) -> Result<()> {
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let (asks, mut told) =
        open(&s.w, ExecStart { command: owned(&["sh", "-c", script]), ..Default::default() }).await?;
    let (mut out, mut code) = (Vec::new(), None);
    while let Some(message) = tokio::time::timeout(EXEC, told.message()).await?? {
        match message.message {
            Some(Told::Stdout(bytes)) => {
                out.extend_from_slice(&bytes);
                if out == b"ready\n" {
                    asks.send(ExecRequest { message: Some(Ask::Signal(15)) }).await?;
                }
            }
            Some(Told::Exit(exit)) => code = Some(exit.code),
            _ => {}
        }
    }
    ensure_eq!(String::from_utf8_lossy(&out), "ready\ngot\n");
    ensure_eq!(code, Some(3));
    Ok(())
}

async fn exec_ends_with_its_client(s: Arc<Shared>) -> Result<()> {
    let command = owned(&["sh", "-c", "echo ready; exec sleep 4242"]);
    let (asks, mut told) = open(&s.w, ExecStart { command, ..Default::default() }).await?;
    told.message().await?.context("the stream ended")?;
    drop((asks, told));
    s.w.ok("for i in $(seq 100); do pgrep -f 'sleep 424[2]' || exit 0; sleep 0.1; done; exit 1").await?;
    Ok(())
}

type Talk = (mpsc::Sender<ExecRequest>, tonic::Streaming<cordium_tests::v1::ExecResponse>);

async fn open(w: &Workspace, mut start: ExecStart) -> Result<Talk> {
    start.workspace.clone_from(&w.uid);
    let (asks, receiver) = mpsc::channel(8);
    asks.send(ExecRequest { message: Some(Ask::Start(start)) }).await?;
    let told = w.clients.session.clone().exec(ReceiverStream::new(receiver)).await?.into_inner();
    Ok((asks, told))
}

async fn many_execs_at_once(s: Arc<Shared>) -> Result<()> {
    let runs = (0..40).map(|n| {
        let w = s.w.clone();
        async move { w.ok(&format!("echo {n}")).await.map(|out| out == n.to_string()) }
    });
    let done: Vec<Result<bool>> = stream::iter(runs).buffer_unordered(40).collect().await;
    for one in done {
        ensure!(one?, "an exec answered with another's output");
    }
    Ok(())
}

async fn user_and_root(s: Arc<Shared>) -> Result<()> {
    ensure!(s.w.ok("id -u").await? != "0", "commands run as root");
    ensure!(s.w.ok("id -g").await? != "0" && s.w.ok("id -un").await? != "root", "commands run as root");
    ensure_eq!(s.w.root_ok("id -u").await?, "0");
    ensure_eq!(s.w.ok("sudo -n id -u").await?, "0");
    s.w.ok("echo x > \"$HOME/f\" && [ \"$(stat -c %U \"$HOME\")\" = \"$(id -un)\" ]").await?;
    Ok(())
}

async fn environment_has_values_secrets_and_names(s: Arc<Shared>) -> Result<()> {
    let output = s.w.ok("echo $PLAIN; echo $API_KEY; echo $CORDIUM_NAME; echo $CORDIUM_HOSTNAME").await?;
    let lines: Vec<&str> = output.lines().collect();
    ensure_eq!(lines[..3], ["plain value", "s3cret value", "rt"]);
    ensure!(lines.get(3).is_some_and(|name| !name.is_empty()), "CORDIUM_HOSTNAME is empty");
    // Only a process of the user or root may read it, not somebody else's environment of the agent.
    ensure!(
        s.w.ok("tr '\\0' '\\n' < /proc/1/environ | grep -c s3cret || true").await? == "0",
        "PID 1 holds the secret"
    );
    Ok(())
}

async fn effective_limits_are_reported(s: Arc<Shared>) -> Result<()> {
    let limit = s.w.status().await?.limit.context("there is no limit")?;
    ensure_eq!((limit.cpu_millicores, limit.memory_mib, limit.storage_mib), (1500, 256, 2000));
    ensure!(limit.pids > 0, "there is no limit on processes");
    Ok(())
}

/// Whether the status says that this node cannot enforce a limit.
async fn unenforced(w: &Workspace, what: &str) -> Result<bool> {
    let warnings = w.status().await?.warnings;
    Ok(warnings.iter().any(|warning| warning.to_lowercase().contains(what)))
}

async fn memory_limit_is_enforced(s: Arc<Shared>) -> Result<()> {
    if unenforced(&s.w, "memory").await? {
        return skip("this node does not delegate the memory controller, and the status says so");
    }
    let hungry =
        s.w.sh("python3 -c 'x = bytearray(600 << 20); x[::4096] = b\"1\" * len(x[::4096]); print(len(x))'")
            .await?;
    ensure!(hungry.code() != 0, "600 MiB were used under a limit of 256: {}", hungry.out());
    ensure_eq!(s.w.ok("echo alive").await?, "alive");
    Ok(())
}

async fn pids_limit_is_enforced(s: Arc<Shared>) -> Result<()> {
    let spec = s.f.small(json!({"limit": {"pids": 40}}));
    let w = s.f.run("pids", &spec).await?;
    if unenforced(&w, "pids").await? {
        w.delete().await?;
        return skip("this node does not delegate the pids controller, and the status says so");
    }
    let bomb = w.sh("for i in $(seq 100); do sleep 5 & done; echo started").await?;
    ensure!(
        bomb.err().contains("fork") || bomb.code() != 0,
        "100 processes ran under a limit of 40: {bomb:?}"
    );
    w.delete().await
}

async fn logs_name_their_task(s: Arc<Shared>) -> Result<()> {
    let request = LogsRequest {
        workspace: s.w.uid.clone(),
        follow: true,
        task: "speaker".into(),
        ..Default::default()
    };
    let mut log = s.w.clients.session.clone().logs(request).await?.into_inner();
    let (mut out, mut err) = (String::new(), String::new());
    while out.is_empty() || err.is_empty() {
        let entry =
            tokio::time::timeout(Duration::from_secs(20), log.message()).await??.context("the log ended")?;
        ensure_eq!((entry.source(), entry.name.as_str()), (LogSource::Task, "speaker"));
        ensure!(entry.at.is_some() && entry.seq > 0, "{entry:?}");
        let text = String::from_utf8_lossy(&entry.data);
        if entry.stream() == LogStream::Stdout { out.push_str(&text) } else { err.push_str(&text) }
    }
    ensure_eq!((out.trim(), err.trim()), ("to-out", "to-err"));
    Ok(())
}

struct Terminal {
    id: String,
    say: mpsc::Sender<AttachTerminalRequest>,
    hear: tonic::Streaming<cordium_tests::v1::AttachTerminalResponse>,
    heard: String,
}

impl Terminal {
    async fn attach(w: &Workspace, id: &str) -> Result<Self> {
        let (say, receiver) = mpsc::channel(8);
        let attach = AttachTerminal { workspace: w.uid.clone(), id: id.to_owned() };
        say.send(AttachTerminalRequest { message: Some(Say::Attach(attach)) }).await?;
        let hear =
            w.clients.session.clone().attach_terminal(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { id: id.to_owned(), say, hear, heard: String::new() })
    }

    async fn open(w: &Workspace) -> Result<Self> {
        let size = Some(TerminalSize { cols: 80, rows: 24 });
        let request = CreateTerminalRequest { workspace: w.uid.clone(), size, run_as_root: false };
        let id = w.clients.session.clone().create_terminal(request).await?.into_inner().id;
        Self::attach(w, &id).await
    }

    async fn say(&self, text: &str) -> Result<()> {
        let data = text.as_bytes().to_vec().into();
        Ok(self.say.send(AttachTerminalRequest { message: Some(Say::Data(data)) }).await?)
    }

    /// Listens until a text has come; `None` ends with the shell.
    async fn until(&mut self, wanted: Option<&str>) -> Result<Option<i32>> {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if wanted.is_some_and(|wanted| self.heard.contains(wanted)) {
                return Ok(None);
            }
            let message = tokio::time::timeout_at(end, self.hear.message()).await;
            let message =
                message.with_context(|| format!("waiting for {wanted:?}; heard {:?}", self.heard))??;
            match message.context("the terminal's stream ended")?.message {
                Some(Hear::Data(bytes)) => self.heard.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Hear::Closed(closed)) => return Ok(Some(closed.exit_code)),
                _ => {}
            }
        }
    }
}

async fn terminal_runs_resizes_and_ends(s: Arc<Shared>) -> Result<()> {
    let mut terminal = Terminal::open(&s.w).await?;
    terminal.say("echo $((6*7))-answer; echo $TERM\n").await?;
    terminal.until(Some("42-answer")).await?;
    terminal.until(Some("xterm-256color")).await?;
    let size = TerminalSize { cols: 123, rows: 45 };
    terminal.say.send(AttachTerminalRequest { message: Some(Say::Resize(size)) }).await?;
    terminal.say("stty size\n").await?;
    terminal.until(Some("45 123")).await?;
    let list =
        s.w.clients
            .session
            .clone()
            .list_terminals(ListTerminalsRequest { workspace: s.w.uid.clone() })
            .await?;
    ensure!(list.into_inner().items.iter().any(|item| item.id == terminal.id), "the terminal is not listed");
    terminal.say("exit 5\n").await?;
    ensure_eq!(terminal.until(None).await?, Some(5));
    Ok(())
}

async fn terminals_do_not_mix_and_replay(s: Arc<Shared>) -> Result<()> {
    let (mut one, mut two) = (Terminal::open(&s.w).await?, Terminal::open(&s.w).await?);
    one.say("echo only-$((1))-one\n").await?;
    two.say("echo only-$((2))-two\n").await?;
    one.until(Some("only-1-one")).await?;
    two.until(Some("only-2-two")).await?;
    ensure!(!one.heard.contains("two") && !two.heard.contains("one"), "terminals mix");
    // The client goes, the terminal stays, and a new client sees what was before.
    let id = one.id.clone();
    drop(one);
    let mut again = Terminal::attach(&s.w, &id).await?;
    again.until(Some("only-1-one")).await?;
    for id in [id, two.id] {
        let request = RemoveTerminalRequest { workspace: s.w.uid.clone(), id };
        s.w.clients.session.clone().remove_terminal(request).await?;
    }
    let list =
        s.w.clients
            .session
            .clone()
            .list_terminals(ListTerminalsRequest { workspace: s.w.uid.clone() })
            .await?;
    ensure!(!list.into_inner().items.iter().any(|item| item.id == again.id), "a removed terminal is listed");
    Ok(())
}
