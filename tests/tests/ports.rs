//! Ports in: connections from outside to what is served inside, by the real command line.

#[path = "ports/entry.rs"]
mod entry;
#[path = "ports/listening.rs"]
mod listening;

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, bail, ensure, ensure_eq,
    forward::{Forward, LIMIT},
    json,
    spec::task,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

fn main() -> ExitCode {
    Suite::new("ports")
        .case("a_page_is_fetched", a_page_is_fetched)
        .case("much_data_and_an_end_go_both_ways", much_data_and_an_end)
        .case("many_connections_at_once", many_connections)
        .case("a_port_that_nobody_serves_is_a_reset_and_a_warning", nobody_serves)
        .case("a_stop_cuts_connections_off", a_stop_cuts_off)
        .case("bad_ports_are_refused", bad_ports)
        .case(
            "a_port_is_told_when_it_opens_and_when_it_closes",
            listening::a_port_is_told_when_it_opens_and_when_it_closes,
        )
        .case("many_ports_and_a_hostile_name", listening::many_ports_and_a_hostile_name)
        .case("watchers_are_bounded", listening::watchers_are_bounded)
        .case("a_published_port_is_seen_and_reached", listening::a_published_port_is_seen_and_reached)
        .case(
            "a_page_is_reached_with_the_token_and_the_workspace_never_sees_it",
            entry::a_page_is_reached_with_the_token_and_the_workspace_never_sees_it,
        )
        .case("a_web_socket_passes", entry::a_web_socket_passes)
        .case(
            "without_the_token_or_by_another_name_nothing_is_reached",
            entry::without_the_token_or_by_another_name_nothing_is_reached,
        )
        .case(
            "a_fixed_port_outlives_the_supervisor_and_0_is_no_entry",
            entry::a_fixed_port_outlives_the_supervisor_and_0_is_no_entry,
        )
        .run(|| Fixture::start("ports"))
}

/// A workspace in which something is served before it counts as running.
async fn serving(f: &Fixture, name: &str, server: &str, port: u16) -> Result<Workspace> {
    f.run(name, &f.small(served(server, port))).await
}

fn served(server: &str, port: u16) -> Value {
    let mut serve = task("serve", "POST_START", server);
    serve["isBackground"] = json!(true);
    let listens = format!("grep -qi ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6");
    let wait = task(
        "wait",
        "POST_START",
        &format!("for i in $(seq 200); do {listens} && exit 0; sleep 0.1; done; exit 1"),
    );
    json!({"runtime": {"tasks": [serve, wait]}})
}

const ECHO: &str = "nc -ll -p 9000 -e cat";

async fn a_page_is_fetched(f: Arc<Fixture>) -> Result<()> {
    let server =
        "mkdir -p /tmp/w; echo hello from inside > /tmp/w/index.html; httpd -f -p 127.0.0.1:8080 -h /tmp/w";
    let w = serving(&f, "page", server, 8080).await?;
    let forward = Forward::begin(&f.cli(), "page", &["0:8080"]).await?;
    ensure!(forward.locals[0].ip().is_loopback(), "{:?}", forward.locals);
    let answer = forward.ask(b"GET / HTTP/1.0\r\n\r\n").await?;
    ensure!(String::from_utf8_lossy(&answer).ends_with("\r\nhello from inside\n"), "{answer:?}");
    drop(forward);
    w.delete().await
}

async fn much_data_and_an_end(f: Arc<Fixture>) -> Result<()> {
    let w = serving(&f, "echoes", ECHO, 9000).await?;
    let forward = Forward::begin(&f.cli(), "echoes", &["0:9000"]).await?;
    let data: Vec<u8> = (0..24u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut read, mut write) = forward.connect().await?.into_split();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    let mut back = Vec::new();
    timeout(LIMIT, read.read_to_end(&mut back)).await.context("no end came")??;
    writing.await??;
    ensure!(back == data, "{} bytes of {} came back", back.len(), data.len());
    drop(forward);
    w.delete().await
}

async fn many_connections(f: Arc<Fixture>) -> Result<()> {
    let server = r#"exec perl -MIO::Socket::INET -e '$SIG{CHLD} = "IGNORE";
        $s = IO::Socket::INET->new(LocalPort => 9000, Listen => 128) or die;
        while ($c = $s->accept) { if (!fork) { open STDIN, "<&", $c; open STDOUT, ">&", $c; exec "cat" } close $c }'"#;
    let w = f.run("many", &f.base(served(server, 9000))).await?;
    let forward = Forward::begin(&f.cli(), "many", &["0:9000", "0:9000"]).await?;
    // All are open before the first one is answered.
    let mut open = Vec::new();
    for n in 0..60 {
        let mut stream = timeout(LIMIT, TcpStream::connect(forward.locals[n % 2])).await??;
        stream.write_all(format!("word {n:02}").as_bytes()).await?;
        open.push(stream);
    }
    for (n, mut stream) in open.into_iter().enumerate() {
        let mut word = [0; 7];
        timeout(LIMIT, stream.read_exact(&mut word)).await.context("no answer came")??;
        ensure_eq!(word.as_slice(), format!("word {n:02}").as_bytes());
    }
    let log = f.cli().ok(&["audit", "log", "many", "-n", "0"]).await?;
    ensure!(log.matches("workspace.forward").count() >= 60 && log.contains("port=9000"), "{log}");
    drop(forward);
    w.delete().await
}

async fn nobody_serves(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("silent", &f.small(json!({}))).await?;
    let mut forward = Forward::begin(&f.cli(), "silent", &["0:9"]).await?;
    let mut stream = forward.connect().await?;
    let mut answer = Vec::new();
    match timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("no end came")? {
        Err(error) => ensure_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        Ok(_) => bail!("an ordinary end came: {answer:?}"),
    }
    let warning = forward.warning().await?;
    ensure!(warning.contains("nothing serves port 9 inside"), "{warning}");
    drop(forward);
    w.delete().await
}

async fn a_stop_cuts_off(f: Arc<Fixture>) -> Result<()> {
    let w = serving(&f, "stops", ECHO, 9000).await?;
    let mut forward = Forward::begin(&f.cli(), "stops", &["0:9000"]).await?;
    let mut stream = forward.connect().await?;
    stream.write_all(b"x").await?;
    let mut byte = [0; 1];
    timeout(LIMIT, stream.read_exact(&mut byte)).await??;
    w.stop().await?;
    // An end or a reset: what is inside is ended in order, or not.
    let ended = timeout(LIMIT, stream.read(&mut byte)).await.context("the connection is still open")?;
    ensure!(!matches!(ended, Ok(1..)), "{ended:?}");
    drop(stream);
    drop(forward.connect().await?);
    let warning = forward.warning().await?;
    ensure!(warning.contains("stops") && warning.contains("warning"), "{warning}");
    // The same command serves the next run.
    w.start().await?;
    ensure_eq!(forward.ask(b"again").await?, b"again");
    drop(forward);
    w.delete().await
}

async fn bad_ports(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("bad", &f.small(json!({}))).await?;
    for (port, words) in [("0", "allowed: 1 to 65535"), ("1:2:3", "is no port"), ("70000", "is no port")] {
        let answer = f.cli().run(&["port-forward", "bad", port]).await?;
        ensure_eq!(answer.code, 2);
        ensure!(answer.err.contains(words), "{port}: {}", answer.err);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let answer = f.cli().run(&["port-forward", "bad", &format!("{port}:80")]).await?;
    ensure!(answer.code == 1 && answer.err.contains("cannot listen on"), "{answer:?}");
    let answer = f.cli().run(&["port-forward", "nobody-here", "80"]).await?;
    ensure!(answer.code == 1 && answer.err.contains("nobody-here"), "{answer:?}");
    w.delete().await
}
