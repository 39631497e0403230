//! Rules by method and path: the whole way from the spec to real programs, with servers on the node's loopback.
//!
//! What such rules mean, and the ways around them, has its tests behind a gateway of its own (supervisor/broker/tests/http_rules).

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use cordium_tests::{
    Fixture, Result, Suite, Workspace, ensure, ensure_eq, fixture,
    http::{Reply, Request, Server},
    json, process,
    suite::TearDown,
    tls::Authority,
    user::User,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const HOST: &str = "host.cordium.internal";

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
    plain: Server,
    tls: Server,
    git: Server,
    authority: String,
    /// Method and path of what has come to `plain` and `tls`.
    seen: Arc<Mutex<Vec<String>>>,
    _scratch: tempfile::TempDir,
}

impl TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("http_rules")
        .case("each_request_is_decided_and_the_refused_one_told_why", each_request_is_decided)
        .case("a_path_with_two_readings_does_not_leave", a_path_with_two_readings_does_not_leave)
        .case("git_clones_what_is_not_denied", git_clones_what_is_not_denied)
        .case("python_trusts_the_authority_and_reads_the_refusal", python_reads_the_refusal)
        .case("denials_have_method_and_path", denials_have_method_and_path)
        .case("a_new_policy_holds_for_the_next_request_and_over_the_end_of_the_broker", a_new_policy_holds)
        .case("a_run_without_an_authority_is_told_so_and_has_one_after_a_restart", a_run_without_an_authority)
        .case("a_request_is_tested_without_a_node", a_request_is_tested)
        .one_at_a_time()
        .run(set_up)
}

fn egress(paths: &[&str], methods: &[&str]) -> serde_json::Value {
    json!({"defaultAction": "DENY", "rules": [
        {"name": "keep-out", "action": "DENY", "hosts": [HOST], "paths": paths},
        {"name": "read-only", "action": "DENY", "hosts": [HOST], "methods": methods},
    ]})
}

async fn set_up() -> Result<Shared> {
    let user = User::for_tests()?;
    let scratch = tempfile::tempdir()?;
    let authority = Authority::create(&scratch.path().join("tls"), &user)?;
    let party = authority.issue(HOST, &user)?;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = || {
        let seen = Arc::clone(&seen);
        Arc::new(move |request: &Request| {
            let line = format!("{} {}", request.method, request.path);
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            Ok(Reply::status(200, "welcome"))
        })
    };
    let plain = Server::start(note())?;
    let tls = Server::start_tls(note(), party.server()?)?;
    let git = fixture::repositories(&scratch.path().join("git"))?.over_tls(party.server()?)?;
    let ports = [plain.port(), tls.port(), git.port()];
    let f = Arc::new(Fixture::start_with("http_rules", |options| options.host_ports.extend(ports)).await?);
    let authority = std::fs::read_to_string(&party.ca)?;
    let spec = json!({"runtime": {"network": {
        "egress": egress(&["/admin", "/library.git"], &["DELETE"]),
        "extraRoots": [authority],
    }}});
    let w = f.run("ruled", &f.base(spec)).await?;
    Ok(Shared { f, w, plain, tls, git, authority, seen, _scratch: scratch })
}

impl Shared {
    /// One over plain HTTP, one over TLS.
    fn urls(&self, path: &str) -> [String; 2] {
        [
            format!("http://{HOST}:{}{path}", self.plain.port()),
            format!("https://{HOST}:{}{path}", self.tls.port()),
        ]
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn set(&self, workspace: &str, egress: &serde_json::Value) -> Result<()> {
        let cli = self.f.cli();
        let command = cli.command(&["policy", "set", workspace, "-f", "-"]);
        let answer = cli.run_with(command, egress.to_string().as_bytes()).await?;
        ensure!(answer.code == 0, "{answer:?}");
        Ok(())
    }
}

/// What curl prints of the status of each answer, over one connection where that is possible.
async fn codes(w: &Workspace, args: &str) -> Result<String> {
    w.ok(&format!("curl -sS --max-time 20 --path-as-is -w '%{{http_code}} ' {args}")).await
}

async fn each_request_is_decided(s: Arc<Shared>) -> Result<()> {
    for url in s.urls("") {
        let args =
            format!("-o /dev/null {url}/a -o /dev/null {url}/admin/x -o /dev/null {url}/administrator");
        ensure_eq!(codes(&s.w, &args).await?, "200 403 200");
        ensure_eq!(codes(&s.w, &format!("-o /dev/null -X DELETE {url}/a")).await?, "403");
        ensure_eq!(s.seen(), ["GET /a", "GET /administrator"]);
        let body = s.w.ok(&format!("curl -sS --max-time 20 -X PUT '{url}/admin?secret=1'")).await?;
        let body: serde_json::Value = serde_json::from_str(&body)?;
        ensure_eq!((&body["error"], &body["rule"]), (&json!("egress denied"), &json!("keep-out")));
        ensure_eq!((&body["method"], &body["path"]), (&json!("PUT"), &json!("/admin")));
        ensure!(body["next"].as_str().is_some_and(|next| next.contains("rule")), "{body}");
    }
    Ok(())
}

async fn a_path_with_two_readings_does_not_leave(s: Arc<Shared>) -> Result<()> {
    for path in [
        "/x/../admin",
        "/%2e%2e/admin",
        "//admin",
        "/x;/admin",
        "/x%2Fadmin",
        "/%c0%ae",
        "/admin%00",
        "/x%5Cadmin",
    ] {
        for url in s.urls(path) {
            ensure_eq!(codes(&s.w, &format!("-o /dev/null '{url}'")).await?, "403");
        }
    }
    for url in s.urls("/a") {
        let header = "-H 'X-HTTP-Method-Override: DELETE'";
        ensure_eq!(codes(&s.w, &format!("-o /dev/null -X POST {header} '{url}'")).await?, "403");
        let header = "-H 'Host: other.example'";
        ensure_eq!(codes(&s.w, &format!("-o /dev/null {header} '{url}'")).await?, "403");
    }
    ensure_eq!(s.seen(), Vec::<String>::new());
    Ok(())
}

async fn git_clones_what_is_not_denied(s: Arc<Shared>) -> Result<()> {
    let base = format!("https://{HOST}:{}", s.git.port());
    let clone = |name: &str| {
        format!("rm -rf /tmp/{name} && git clone -q {base}/{name}.git /tmp/{name} 2>&1 && ls /tmp/{name}")
    };
    ensure!(s.w.ok(&clone("demo")).await?.contains("README.md"), "demo is not denied");
    let output = s.w.sh(&clone("library")).await?;
    ensure!(output.code() != 0 && output.out().contains("403"), "{}", output.out());
    Ok(())
}

async fn python_reads_the_refusal(s: Arc<Shared>) -> Result<()> {
    let [plain, tls] = s.urls("");
    let script = format!(
        "import json, urllib.error, urllib.request\n\
         for url in ['{plain}', '{tls}']:\n \
            print(urllib.request.urlopen(url + '/a', timeout=20).status)\n \
            try: urllib.request.urlopen(url + '/admin', timeout=20)\n \
            except urllib.error.HTTPError as error: print(error.code, json.load(error)['rule'])\n"
    );
    ensure_eq!(s.w.ok(&format!("python3 -c \"{script}\"")).await?, "200\n403 keep-out\n200\n403 keep-out");
    s.seen();
    Ok(())
}

async fn denials_have_method_and_path(s: Arc<Shared>) -> Result<()> {
    for url in s.urls("/admin/listed?x") {
        codes(&s.w, &format!("-o /dev/null -X PATCH '{url}'")).await?;
    }
    let listed = s.f.cli().ok(&["egress", "log", "ruled", "-o", "json"]).await?;
    let denials: Vec<serde_json::Value> =
        listed.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let of = |port: u16| {
        denials.iter().any(|d| d["method"] == "PATCH" && d["path"] == "/admin/listed" && d["port"] == port)
    };
    ensure!(of(s.plain.port()) && of(s.tls.port()), "{listed}");
    let lines = s.f.cli().ok(&["egress", "log", "ruled"]).await?;
    ensure!(lines.contains(" PATCH /admin/listed denied by keep-out: "), "{lines}");
    Ok(())
}

async fn a_new_policy_holds(s: Arc<Shared>) -> Result<()> {
    let w =
        s.f.run(
            "changing",
            &s.f.base(json!({"runtime": {"network": {
                "egress": egress(&["/one"], &["DELETE"]), "extraRoots": [s.authority],
            }}})),
        )
        .await?;
    let ask = async || -> Result<String> {
        let mut all = String::new();
        for path in ["/one", "/two"] {
            for url in s.urls(path) {
                all += &codes(&w, &format!("-o /dev/null --retry 5 --retry-all-errors {url}")).await?;
                all.push(' ');
            }
        }
        Ok(all.trim_end().to_owned())
    };
    ensure_eq!(ask().await?, "403 403 200 200");
    s.set("changing", &egress(&["/two"], &["DELETE"])).await?;
    ensure_eq!(ask().await?, "200 200 403 403");
    let brokers = process::mentioning(&s.f.dir).into_iter().filter(|(_, line)| line.contains(" broker "));
    for (pid, _) in brokers {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    ensure_eq!(ask().await?, "200 200 403 403");
    s.seen();
    w.delete().await
}

async fn a_run_without_an_authority(s: Arc<Shared>) -> Result<()> {
    let spec =
        json!({"runtime": {"network": {"egress": {"defaultAction": "DENY"}, "extraRoots": [s.authority]}}});
    let w = s.f.run("without", &s.f.base(spec)).await?;
    let [plain, tls] = s.urls("/a");
    s.set("without", &egress(&["/admin"], &["DELETE"])).await?;
    ensure_eq!(codes(&w, &format!("-o /dev/null {plain} -o /dev/null {plain}dmin")).await?, "200 403");
    let output = w.sh(&format!("curl -sS -k --max-time 20 {tls}")).await?;
    ensure!([35, 56].contains(&output.code()), "curl ended with {}", output.code());
    let denials = s.f.cli().ok(&["egress", "log", "without"]).await?;
    ensure!(denials.contains("denied by no-authority: "), "{denials}");
    w.stop().await?;
    w.start().await?;
    ensure_eq!(codes(&w, &format!("-o /dev/null {tls} -o /dev/null {tls}dmin")).await?, "200 403");
    s.seen();
    w.delete().await
}

async fn a_request_is_tested(s: Arc<Shared>) -> Result<()> {
    let rules = json!({"defaultAction": "DENY", "rules": [
        {"name": "read", "action": "ALLOW", "hosts": ["git.example"], "methods": ["GET"], "paths": ["/acme"]},
    ]});
    let cli = s.f.cli();
    for (args, code, verdict) in [
        (&["https://git.example/acme/x"][..], 0, "allow"),
        (&["git.example:443"], 0, "by request"),
        (&["https://git.example/acme/../x"], 1, "deny"),
        (&["--method", "PUT", "https://git.example/acme"], 1, "deny"),
    ] {
        let command = cli.command(&[&["policy", "test", "-f", "-"], args].concat());
        let answer = cli.run_with(command, rules.to_string().as_bytes()).await?;
        ensure!(answer.code == code && answer.out.contains(verdict), "{args:?}: {answer:?}");
    }
    Ok(())
}
