//! Egress: what a policy refuses is refused at once, with the reason, to the client and to whoever asks the node.
//!
//! The semantics have their tests behind a gateway of their own (supervisor/broker/tests/egress); here the whole way is walked.

use std::{process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{Fixture, Result, Suite, Workspace, bail, ensure, ensure_eq, json, otlp, process};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Of a documentation network: nobody is there.
const NOBODY: &str = "192.0.2.1";
const NOBODY_V6: &str = "[2001:db8::1]";

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
    otlp: otlp::Receiver,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("egress")
        .case("a_refused_request_is_told_why", a_refused_request_is_told_why)
        .case("other_connections_are_reset_at_once", other_connections_are_reset_at_once)
        .case("ipv6_is_decided_by_the_same_policy", ipv6_is_decided_by_the_same_policy)
        .case("datagrams_leave_only_where_a_rule_names_udp", datagrams_leave_only_where_a_rule_names_udp)
        .case("names_of_no_rule_do_not_resolve", names_of_no_rule_do_not_resolve)
        .case(
            "the_nodes_open_ports_are_no_part_of_the_policy",
            the_nodes_open_ports_are_no_part_of_the_policy,
        )
        .case("denials_are_listed_and_followed_to_the_end", denials_are_listed_and_followed_to_the_end)
        .case("denials_name_the_program_that_asked_and_its_task", denials_name_the_program_that_asked)
        .case("a_flood_of_denials_is_a_few_records_of_the_audit_log", a_flood_is_a_few_audit_records)
        .case("denials_are_log_records_of_opentelemetry", denials_are_log_records_of_opentelemetry)
        .case(
            "conditions_know_the_workspace_and_who_started_it",
            conditions_know_the_workspace_and_who_started_it,
        )
        .case("a_new_policy_holds_over_the_end_of_the_broker", a_new_policy_holds_over_the_end_of_the_broker)
        .one_at_a_time()
        .run(|| async {
            let (otlp, port) = otlp::Receiver::start().await?;
            let endpoint = json!({"telemetry": {"otlpEndpoint": format!("http://127.0.0.1:{port}")}});
            let f = Arc::new(Fixture::start_with("egress", |options| options.config = endpoint).await?);
            let spec = f.base(closed());
            let w = f.run("closed", &spec).await?;
            Ok(Shared { f, w, otlp })
        })
}

fn closed() -> serde_json::Value {
    json!({"runtime": {"network": {"egress": {"defaultAction": "DENY"}}}})
}

async fn a_refused_request_is_told_why(s: Arc<Shared>) -> Result<()> {
    let answer =
        s.w.ok(&format!("curl --silent --max-time 5 --write-out '%{{http_code}}' http://{NOBODY}/x")).await?;
    let (body, code) = answer.split_at(answer.len().saturating_sub(3));
    ensure_eq!(code, "403");
    let body: serde_json::Value = serde_json::from_str(body)?;
    ensure_eq!((&body["error"], &body["rule"]), (&json!("egress denied"), &json!("default")));
    ensure_eq!((&body["address"], &body["port"]), (&json!(NOBODY), &json!(80)));
    ensure!(body["next"].as_str().is_some_and(|next| next.contains("cordium policy")), "{body}");
    Ok(())
}

/// Whether this machine's kernel has IPv6.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind(("::", 0)).is_ok()
}

async fn ipv6_is_decided_by_the_same_policy(s: Arc<Shared>) -> Result<()> {
    if !has_ipv6() {
        ensure!(s.w.sh(&format!("curl --silent --max-time 5 http://{NOBODY_V6}/")).await?.code() == 7);
        return Ok(());
    }
    let body = s.w.ok(&format!("curl --silent --max-time 20 http://{NOBODY_V6}/x")).await?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    ensure_eq!((&body["rule"], &body["address"]), (&json!("default"), &json!("2001:db8::1")));
    let output = s.w.sh(&format!("curl --silent --max-time 5 https://{NOBODY_V6}/")).await?;
    ensure!([7, 35, 56].contains(&output.code()), "curl ended with {}", output.code());
    // The node's own service, by an address of the node that its IPv6 could lead to.
    let url = s.f.git.url("demo").replace("host.cordium.internal", "[fd48:3aca:68d9::2]");
    let denied = s.w.ok(&format!("curl --silent --max-time 20 '{url}'; true")).await?;
    ensure!(!denied.contains("git"), "{denied}");
    Ok(())
}

/// Sends a datagram, as a real program does, and says what came of it.
async fn datagram(w: &Workspace, to: &str, port: u16) -> Result<String> {
    let script = "import socket, sys
to, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if \":\" in to else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((to, port))
s.send(b\"x\")
try:
    s.recv(1)
    print(\"answered\")
except ConnectionRefusedError:
    print(\"refused\")
except TimeoutError:
    print(\"silent\")";
    Ok(w.ok(&format!("python3 -c '{script}' {to} {port}")).await?.trim().to_owned())
}

/// What was refused over UDP: address, port, rule.
async fn datagrams_refused(f: &Fixture, workspace: &str) -> Result<Vec<(String, u64, String)>> {
    let listed = f.cli().ok(&["egress", "log", workspace, "-o", "json"]).await?;
    let mut refused = Vec::new();
    for line in listed.lines() {
        let denial: serde_json::Value = serde_json::from_str(line)?;
        if denial["protocol"] == "udp" {
            let text = |key: &str| denial[key].as_str().unwrap_or_default().to_owned();
            refused.push((text("address"), denial["port"].as_u64().unwrap_or_default(), text("rule")));
        }
    }
    Ok(refused)
}

async fn datagrams_leave_only_where_a_rule_names_udp(s: Arc<Shared>) -> Result<()> {
    let rules = json!([
        {"name": "time", "action": "ALLOW", "cidrs": ["192.0.2.0/24"], "ports": [123], "protocols": ["UDP"]},
        {"name": "web", "action": "ALLOW", "cidrs": ["192.0.2.0/24"], "ports": [443]},
    ]);
    let spec = s
        .f
        .base(json!({"runtime": {"network": {"egress": {"defaultAction": "ALLOW_PUBLIC", "rules": rules}}}}));
    let w = s.f.run("datagrams", &spec).await?;
    for (to, port) in [(NOBODY, 124), (NOBODY, 443), ("224.0.0.251", 5353), ("9.9.9.9", 443)] {
        ensure!(datagram(&w, to, port).await? != "answered", "{to}:{port}");
    }
    ensure_eq!(datagram(&w, NOBODY, 124).await?, "refused");
    ensure_eq!(datagram(&w, "100.127.255.253", 123).await?, "refused");
    if has_ipv6() {
        ensure_eq!(datagram(&w, "2001:db8::1", 123).await?, "refused");
    }
    // Nobody is there, but it left.
    ensure!(datagram(&w, NOBODY, 123).await? != "answered");
    let refused = datagrams_refused(&s.f, "datagrams").await?;
    let has = |to: &str, port, rule: &str| refused.contains(&(to.to_owned(), port, rule.to_owned()));
    ensure!(has(NOBODY, 124, "default") && has(NOBODY, 443, "default"), "{refused:?}");
    ensure!(has("9.9.9.9", 443, "default") && has("100.127.255.253", 123, "host-ports"), "{refused:?}");
    ensure!(!refused.iter().any(|(to, port, _)| to == NOBODY && *port == 123), "{refused:?}");

    let shut = json!({"rules": [{"name": "shut", "action": "DENY", "cidrs": ["192.0.2.0/24"]}]});
    let cli = s.f.cli();
    let command = cli.command(&["policy", "set", "datagrams", "-f", "-"]);
    let answer = cli.run_with(command, shut.to_string().as_bytes()).await?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure_eq!(datagram(&w, NOBODY, 123).await?, "refused");
    let refused = datagrams_refused(&s.f, "datagrams").await?;
    ensure!(refused.contains(&(NOBODY.to_owned(), 123, "shut".to_owned())), "{refused:?}");
    w.delete().await
}

async fn other_connections_are_reset_at_once(s: Arc<Shared>) -> Result<()> {
    // 7, 35 and 56: reset while connecting, in the TLS handshake, or while receiving; 28 would be the time limit.
    let output = s.w.sh(&format!("curl --silent --max-time 5 https://{NOBODY}/")).await?;
    ensure!([7, 35, 56].contains(&output.code()), "curl ended with {}", output.code());
    Ok(())
}

async fn names_of_no_rule_do_not_resolve(s: Arc<Shared>) -> Result<()> {
    // 6: could not resolve.
    ensure_eq!(s.w.sh("curl --silent --max-time 5 http://data.of.mine.example/").await?.code(), 6);
    Ok(())
}

async fn the_nodes_open_ports_are_no_part_of_the_policy(s: Arc<Shared>) -> Result<()> {
    let url = s.f.git.url("demo");
    let script =
        format!("curl --silent --fail --max-time 10 '{url}/info/refs?service=git-upload-pack' | head -c 4");
    ensure_eq!(s.w.sh(&script).await?.out(), "001e");
    Ok(())
}

async fn denials_are_listed_and_followed_to_the_end(s: Arc<Shared>) -> Result<()> {
    let w = s.f.run("listed", &s.f.base(closed())).await?;
    w.sh(&format!("curl --silent --max-time 5 https://{NOBODY}/; curl --silent http://a.example/")).await?;
    let tcp = |d: &Json| d["protocol"] == "tcp" && d["address"] == NOBODY && d["port"] == 443;
    let dns = |d: &Json| d["protocol"] == "dns" && d["names"] == json!(["a.example"]);
    let list = ["egress", "log", "listed", "-o", "json"];
    let denials = until(&s, &list, |all| all.iter().any(tcp) && all.iter().any(dns)).await?;
    let last = denials.iter().filter_map(|d| d["number"].as_u64()).max().unwrap_or_default().to_string();
    let cli = s.f.cli();
    let follow = tokio::spawn(async move {
        let args = ["egress", "log", "listed", "-f", "--after", &last];
        tokio::time::timeout(Duration::from_secs(60), cli.run(&args)).await
    });
    w.sh(&format!("sleep 1; curl --silent --max-time 5 http://{NOBODY}/")).await?;
    w.stop().await?;
    let answer = follow.await???;
    ensure!(
        answer.out.contains(&format!("tcp {NOBODY}:80 ")) && answer.out.contains(" denied by default: "),
        "{}{}",
        answer.out,
        answer.err
    );
    Ok(())
}

type Json = serde_json::Value;

/// The objects that a command prints, when they are what is waited for: a denial is told a moment after the refusal.
async fn until(s: &Shared, command: &[&str], test: impl Fn(&[Json]) -> bool) -> Result<Vec<Json>> {
    let mut printed = String::new();
    for _ in 0..100 {
        printed = s.f.cli().ok(command).await?;
        let found: Vec<Json> =
            printed.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
        if test(&found) {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("{command:?} prints {printed}")
}

async fn denials_name_the_program_that_asked(s: Arc<Shared>) -> Result<()> {
    // Again and again: on a busy machine an answer may be too late for one of them.
    let run = format!(
        "while sleep 0.2; do curl --silent --max-time 5 https://{NOBODY}/; curl --silent http://who.example/; done"
    );
    let task = json!({"name": "caller", "type": "POST_START", "isBackground": true, "run": run});
    let mut spec = closed();
    spec["runtime"]["tasks"] = json!([task]);
    let w = s.f.run("asking", &s.f.base(spec)).await?;
    let known = |protocol: &'static str| {
        move |d: &Json| {
            d["protocol"] == protocol
                && d["program"].as_str().is_some_and(|program| program.ends_with("/curl"))
                && d["pid"].as_u64().is_some_and(|pid| pid > 1)
                && d["task"] == "caller"
        }
    };
    let list = ["egress", "log", "asking", "-o", "json"];
    until(&s, &list, |all| all.iter().any(known("tcp")) && all.iter().any(known("dns"))).await?;
    let text = s.f.cli().ok(&["egress", "log", "asking"]).await?;
    ensure!(text.contains("/curl (pid ") && text.contains(") in task caller denied by "), "{text}");
    // A command that is no task has a program only.
    let command = format!("curl --silent --max-time 5 https://{NOBODY}:8443/");
    let of_command = |d: &Json| d["port"] == 8443 && d["program"].is_string() && d["task"].is_null();
    for attempt in 0.. {
        w.sh(&command).await?;
        let printed = s.f.cli().ok(&list).await?;
        let found = printed.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        if found.into_iter().any(|denial| of_command(&denial)) {
            break;
        }
        ensure!(attempt < 50, "{printed}");
    }
    w.delete().await
}

async fn a_flood_is_a_few_audit_records(s: Arc<Shared>) -> Result<()> {
    let w = s.f.run("flood", &s.f.base(closed())).await?;
    let script = format!(
        "python3 - <<'END'\nimport socket\n\
         def go(port):\n  try:\n    c = socket.create_connection(('{NOBODY}', port), 20); c.recv(1)\n  except OSError: pass\n\
         for n in range(2000): go(443)\nfor n in range(200): go(3000 + n)\nEND"
    );
    w.ok(&script).await?;
    let at_once = ["audit", "log", "flood", "-n", "0", "-o", "json"];
    let denied = |all: &[Json]| -> Vec<Json> {
        let about =
            |r: &&Json| r["action"].as_str().is_some_and(|action| action.starts_with("egress.denied"));
        all.iter().filter(about).cloned().collect()
    };
    // Each kind at once.
    until(&s, &at_once, |all| denied(all).len() >= 64).await?;
    w.stop().await?;
    let count = |r: &Json| r["detail"]["count"].as_str().and_then(|count| count.parse().ok()).unwrap_or(0);
    let sum = |all: &[Json]| denied(all).iter().map(count).sum::<u64>();
    let records = denied(&until(&s, &at_once, |all| sum(all) >= 2200).await?);
    ensure_eq!(sum(&records), 2200);
    ensure!(records.len() <= 70, "{} records", records.len());
    let one = &records[0];
    ensure_eq!((&one["object"], &one["actor"]), (&json!("workspace flood"), &json!("node node-1")));
    ensure_eq!((&one["detail"]["rule"], &one["detail"]["address"]), (&json!("default"), &json!(NOBODY)));
    ensure!(one["detail"]["run"].as_str().is_some_and(|run| !run.is_empty()), "{one}");
    ensure!(records.iter().any(|r| r["action"] == "egress.denied.leftOut"), "{records:?}");
    let report = s.f.cli().run(&["audit", "verify"]).await?;
    ensure!(report.code == 0, "{}{}", report.out, report.err);
    w.delete().await
}

async fn denials_are_log_records_of_opentelemetry(s: Arc<Shared>) -> Result<()> {
    s.w.sh(&format!("curl --silent --max-time 5 https://{NOBODY}:9443/")).await?;
    let found = || {
        let values = |key: &str| s.otlp.values("cordium.egress.denied", key);
        values("server.port").contains(&"9443".to_owned())
            && values("server.address").contains(&NOBODY.to_owned())
    };
    for _ in 0..100 {
        if found() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("no such record: {:?}", s.otlp.values("cordium.egress.denied", "server.port"))
}

/// The rule that the refusal of a request names.
async fn rule(w: &Workspace) -> Result<String> {
    let body = w.ok(&format!("curl --silent --max-time 20 http://{NOBODY}/")).await?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    Ok(body["rule"].as_str().unwrap_or_default().to_owned())
}

async fn conditions_know_the_workspace_and_who_started_it(s: Arc<Shared>) -> Result<()> {
    let deny = |name: &str, condition: &str| json!({"name": name, "action": "DENY", "cidrs": ["192.0.2.0/24"], "condition": condition});
    let user = format!("uid {}", nix::unistd::geteuid());
    let mine = format!(
        "ctx.workspace.name == 'conditional' && ctx.workspace.space == 'default' && ctx.user.name == '{user}' \
         && ctx.request.address == '{NOBODY}' && ctx.request.port == 80 && ctx.request.protocol == 'tcp'"
    );
    let rules = json!([deny("others", "ctx.workspace.name != 'conditional'"), deny("mine", &mine)]);
    let spec =
        s.f.base(json!({"runtime": {"network": {"egress": {"defaultAction": "DENY", "rules": rules}}}}));
    let w = s.f.run("conditional", &spec).await?;
    ensure_eq!(rule(&w).await?, "mine");

    // What it knows of the workspace stays; the time is that of the connection.
    let set = async |condition: String| -> Result<cordium_tests::cli::Answer> {
        let policy = json!({"defaultAction": "DENY", "rules": [deny("later", &condition)]}).to_string();
        let cli = s.f.cli();
        let command = cli.command(&["policy", "set", "conditional", "-f", "-"]);
        cli.run_with(command, policy.as_bytes()).await
    };
    let answer = set(format!("{mine} && ctx.time.date > '2025-12-31'")).await?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure_eq!(rule(&w).await?, "later");
    let answer = set(format!("{mine} && ctx.time.date < '2025-12-31'")).await?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure_eq!(rule(&w).await?, "default");

    let answer = set("ctx.time.hour ==\n 'eight'".to_owned()).await?;
    let expected = "rules[0].condition: was a string at line 2, column 2; allowed: a number";
    ensure!(answer.code != 0 && answer.err.contains(expected), "{answer:?}");
    ensure_eq!(rule(&w).await?, "default");
    w.delete().await
}

async fn a_new_policy_holds_over_the_end_of_the_broker(s: Arc<Shared>) -> Result<()> {
    let w = s.f.run("changed", &s.f.base(closed())).await?;
    ensure_eq!(rule(&w).await?, "default");
    let shut = json!({"rules": [{"name": "shut", "action": "DENY", "cidrs": ["192.0.2.0/24"]}]});
    let cli = s.f.cli();
    let answer = cli
        .run_with(cli.command(&["policy", "set", "changed", "-f", "-"]), shut.to_string().as_bytes())
        .await?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure_eq!(rule(&w).await?, "shut");

    let brokers = process::mentioning(&s.f.dir).into_iter().filter(|(_, line)| line.contains(" broker "));
    for (pid, _) in brokers {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    // The connection waits in the gateway until another broker takes the listeners over.
    ensure_eq!(rule(&w).await?, "shut");
    w.delete().await
}
