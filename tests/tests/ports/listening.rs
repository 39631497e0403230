//! What listens inside is seen outside, as it begins and as it ends.

use std::sync::Arc;

use cordium_tests::{
    Fixture, Result, containers, ensure, ensure_eq, forward::Forward, images, json, listening::Running,
    registry::storage, spec::with_image,
};
use serde_json::Value;

use crate::entry::Page;

/// What `cordium ports` lists.
async fn listed(f: &Fixture, name: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&f.cli().ok(&["ports", name, "-o", "json"]).await?)?;
    Ok(list["ports"].as_array().cloned().unwrap_or_default())
}

fn with_port(list: &[Value], port: u16) -> Vec<&Value> {
    list.iter().filter(|item| item["port"] == port).collect()
}

pub async fn a_port_is_told_when_it_opens_and_when_it_closes(f: Arc<Fixture>) -> Result<()> {
    let spec = f.small(json!({"applications": [{"name": "web", "port": 3000}]}));
    let w = f.run("listens", &spec).await?;
    ensure_eq!(listed(&f, "listens").await?, Vec::<Value>::new());
    let mut told = Running::follow(&f.cli(), "listens")?;
    // As the workspace user, into whose processes root of the sandbox may not look.
    let server = ["exec", "listens", "--", "httpd", "-f", "-p", "127.0.0.1:3000", "-h", "/tmp"];
    let server = Running::begin(&f.cli(), &server)?;
    let open = told.change(3000).await?;
    ensure_eq!(open["event"], "open");
    let expected = json!({"scope": "LOOPBACK", "family": "IPV4", "address": "127.0.0.1", "protocol": "tcp",
        "application": "web", "program": "httpd"});
    for (key, value) in expected.as_object().into_iter().flatten() {
        ensure!(open[key] == *value, "{key}: {open}");
    }
    let pid = open["pid"].to_string();
    ensure_eq!(w.root_ok(&format!("cat /proc/{pid}/comm")).await?, "httpd");
    ensure!(open["since"].is_string(), "{open}");
    // The same in every other place.
    let list = listed(&f, "listens").await?;
    ensure_eq!(with_port(&list, 3000).len(), 1);
    ensure_eq!(list[0]["since"], open["since"]);
    let table = f.cli().ok(&["ports", "listens"]).await?;
    ensure!(table.contains("3000") && table.contains("web"), "{table}");
    let wide = f.cli().ok(&["status", "listens", "-o", "wide"]).await?;
    ensure!(wide.contains("RUNNING") && wide.contains("3000"), "{wide}");
    let status: Value = serde_json::from_str(&f.cli().ok(&["status", "listens", "-o", "json"]).await?)?;
    ensure_eq!(status["status"]["listeningPorts"][0]["port"], 3000);
    drop(server);
    ensure_eq!(told.change(3000).await?["event"], "closed");
    ensure_eq!(listed(&f, "listens").await?, Vec::<Value>::new());
    // Everything, and of root.
    let server = Running::begin(
        &f.cli(),
        &["exec", "--root", "listens", "--", "nc", "-ll", "-p", "3001", "-e", "cat"],
    )?;
    let open = told.change(3001).await?;
    ensure_eq!(open["scope"], "ALL");
    ensure_eq!(open["program"], "nc");
    ensure_eq!(open["application"], Value::Null);
    drop(server);
    w.stop().await?;
    ensure_eq!(told.ended().await?, 0);
    let refused = f.cli().run(&["ports", "listens"]).await?;
    ensure!(refused.code == 1 && refused.err.contains("cordium start listens"), "{refused:?}");
    let status = f.cli().ok(&["status", "listens", "-o", "wide"]).await?;
    ensure!(status.contains("STOPPED"), "{status}");
    w.delete().await
}

/// The list is bounded, and says so; what a program calls itself does not reach the terminal.
pub async fn many_ports_and_a_hostile_name(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("crowd", &f.base(json!({}))).await?;
    let script = r#"ulimit -n 4096; exec perl -MIO::Socket::INET -e '
        $0 = "\e[2Jx"; @s = map { IO::Socket::INET->new(LocalPort => $_, Listen => 1) or die $! } 20000 .. 21099;
        print "open\n"; close STDOUT; sleep 1000'"#;
    let mut told = Running::follow(&f.cli(), "crowd")?;
    let server = Running::begin(&f.cli(), &["exec", "crowd", "--", "sh", "-c", script])?;
    told.change(21_023).await?;
    let answer = f.cli().run(&["ports", "crowd"]).await?;
    ensure_eq!(answer.code, 0);
    ensure_eq!(answer.out.lines().count(), 1_025);
    ensure!(answer.err.contains("76 more listen"), "{}", answer.err);
    ensure!(!answer.out.contains('\u{1b}'), "a program's name has control characters");
    drop(server);
    ensure_eq!(told.change(21_023).await?["event"], "closed");
    w.delete().await
}

/// Those who watch are bounded; a place is given back.
pub async fn watchers_are_bounded(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("watched", &f.small(json!({}))).await?;
    let request = || cordium_tests::v1::WatchPortsRequest { workspace: "watched".into(), follow: true };
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = f.clients.session.clone().watch_ports(request()).await?.into_inner();
        stream.message().await?;
        streams.push(stream);
    }
    let refused = f.cli().run(&["ports", "watched"]).await?;
    ensure!(refused.code == 1 && refused.err.contains("16 callers"), "{refused:?}");
    drop(streams);
    let mut answer = f.cli().run(&["ports", "watched"]).await?;
    for _ in 0..100 {
        if answer.code == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        answer = f.cli().run(&["ports", "watched"]).await?;
    }
    ensure_eq!(answer.code, 0);
    w.delete().await
}

/// What a nested engine publishes is a port of the workspace; what its container listens to is not.
pub async fn a_published_port_is_seen_and_reached(f: Arc<Fixture>) -> Result<()> {
    f.registry.push_all(&storage(), &[images::nested()?])?;
    let spec = with_image(&f.image(images::NESTED), json!({"limit": {"memory": {"megabytes": 2048}}}));
    let w = f.run("engine", &spec).await?;
    w.root_ok(&containers::podman_import(containers::BUSYBOX)).await?;
    let mut told = Running::follow(&f.cli(), "engine")?;
    let serve = "echo hello from a container > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    w.root_ok(&format!("podman run --detach --name pub --publish 8088:80 tiny sh -c '{serve}' >/dev/null"))
        .await?;
    let open = told.change(8088).await?;
    ensure_eq!(open["event"], "open");
    // Podman opens it, and hands it to conmon.
    let program = open["program"].as_str().unwrap_or_default();
    ensure!(program.contains("conmon") || program.contains("podman"), "{open}");
    ensure_eq!(with_port(&listed(&f, "engine").await?, 80).len(), 0);
    let forward = Forward::begin(&f.cli(), "engine", &["0:8088"]).await?;
    let mut answer = String::new();
    for _ in 0..100 {
        answer = String::from_utf8(forward.ask(b"GET / HTTP/1.0\r\n\r\n").await.unwrap_or_default())?;
        if answer.contains("hello") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure!(answer.ends_with("hello from a container\n"), "{answer}");
    drop(forward);
    let page = Page::open(&f, &["engine", "8088"]).await?.visit().await?;
    ensure!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("hello from a container\n"), "{page}");
    w.root_ok("podman rm --force --time 0 pub").await?;
    ensure_eq!(told.change(8088).await?["event"], "closed");
    w.delete().await
}
