//! Credentials: a workspace's requests carry the value of a secret, and the workspace has a placeholder.
//!
//! Injection and refusals have their tests behind a gateway of their own (supervisor/broker/tests/inspect); here the whole way is
//! walked, from the spec to real programs, with a server on the node's loopback.

use std::{
    process::{Command, ExitCode},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cordium_proto::v1::{DeleteResourceRequest, Kind, UpdateRequest};
use cordium_tests::{
    Fixture, Result, Suite, Workspace, ensure, ensure_eq, fixture,
    git::{PASSWORD, USERNAME},
    http::{Reply, Request, Server},
    json, process, sigv4,
    suite::TearDown,
    tls::Authority,
    user::User,
    workspace::put_secret,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const HOST: &str = "host.cordium.internal";
const VALUE: &str = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
/// Those of the examples that AWS publishes.
const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const ROTATED: &str = "ghp_26C7e42F292c6912E7710c838347Ae178B4b";

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
    api: Server,
    git: Server,
    authority: String,
    /// The last request to `api`: its Authorization, and its query.
    seen: Arc<Mutex<(String, String)>>,
    _scratch: tempfile::TempDir,
}

impl TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("credentials")
        .case("requests_carry_the_value_and_the_workspace_has_a_placeholder", requests_carry_the_value)
        .case("the_value_is_nowhere_inside", the_value_is_nowhere_inside)
        .case("uses_of_a_secret_are_in_the_audit_log", uses_are_in_the_audit_log)
        .case("programs_trust_the_authority_of_the_workspace", programs_trust_the_authority)
        .case("requests_are_signed_with_a_key_that_is_not_inside", requests_are_signed)
        .case("git_clones_over_https_with_a_password_that_it_does_not_have", git_clones_over_https)
        .case("a_request_that_no_binding_is_for_is_refused", a_request_that_no_binding_is_for_is_refused)
        .case("what_is_not_bound_is_passed_through_untouched", what_is_not_bound_is_passed_through)
        .case("rotation_is_on_the_next_request_and_revocation_is_immediate", rotation_and_revocation)
        .case("credentials_outlive_the_broker_and_a_new_policy", credentials_outlive_the_broker)
        .case("a_value_that_no_header_can_have_is_refused_by_name", a_bad_value_is_refused_by_name)
        .one_at_a_time()
        .run(set_up)
}

async fn set_up() -> Result<Shared> {
    let user = User::for_tests()?;
    let scratch = tempfile::tempdir()?;
    let authority = Authority::create(&scratch.path().join("tls"), &user)?;
    let party = authority.issue(HOST, &user)?;
    let seen: Arc<Mutex<(String, String)>> = Arc::default();
    let note = Arc::clone(&seen);
    let api = Server::start_tls(
        Arc::new(move |request: &Request| {
            if request.path.starts_with("/aws") {
                return Ok(sigv4::answer(request, SECRET_KEY.as_bytes()));
            }
            let authorization = request.header("authorization").unwrap_or_default().to_owned();
            *note.lock().unwrap_or_else(PoisonError::into_inner) = (authorization, request.query.clone());
            Ok(Reply::status(200, "welcome"))
        }),
        party.server()?,
    )?;
    let git = fixture::repositories(&scratch.path().join("git"))?.over_tls(party.server()?)?;
    let ports = [api.port(), git.port()];
    let f = Arc::new(Fixture::start_with("credentials", |options| options.host_ports.extend(ports)).await?);
    put_secret(&f.clients, "api-token", VALUE).await?;
    put_secret(&f.clients, "git-password", PASSWORD).await?;
    put_secret(&f.clients, "aws-key", SECRET_KEY).await?;
    let authority = std::fs::read_to_string(&party.ca)?;
    let spec = json!({"runtime": {"network": {
        "egress": {"defaultAction": "DENY"},
        "extraRoots": [authority],
        "credentials": [
            {"name": "api", "fromSecret": "api-token", "hosts": [HOST], "paths": ["/v1"], "env": "API_TOKEN"},
            {"name": "git", "fromSecret": "git-password", "hosts": [HOST], "paths": ["/private.git"],
             "inject": {"basic": {"username": USERNAME}}, "env": "GIT_PASSWORD"},
            {"name": "aws", "fromSecret": "aws-key", "hosts": [HOST], "paths": ["/aws"],
             "inject": {"sigV4": {"accessKeyId": KEY_ID}}, "env": "AWS_SECRET_ACCESS_KEY"},
        ],
    }}});
    let w = f.run("bound", &f.base(spec)).await?;
    Ok(Shared { f, w, api, git, authority, seen, _scratch: scratch })
}

impl Shared {
    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.api.port())
    }

    fn seen(&self) -> (String, String) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn requests_carry_the_value(s: Arc<Shared>) -> Result<()> {
    let placeholder = s.w.ok("printf %s \"$API_TOKEN\"").await?;
    ensure!(placeholder.starts_with("ghp_") && placeholder.len() == VALUE.len(), "{placeholder}");
    ensure!(placeholder != VALUE, "the value itself is inside");
    // With the placeholder, as a client that knows it sends it, and without a word.
    for header in ["--header \"Authorization: Bearer $API_TOKEN\"", ""] {
        let answer = s.w.ok(&format!("curl -sS --fail --max-time 20 {header} {}", s.url("/v1/user"))).await?;
        ensure_eq!(answer, "welcome");
        ensure_eq!(s.seen().0, format!("Bearer {VALUE}"));
    }
    let script = format!("curl -sS --fail --max-time 20 \"{}?key=$API_TOKEN\"", s.url("/v1/user"));
    s.w.ok(&script).await?;
    ensure_eq!(s.seen().1, format!("key={VALUE}"));
    Ok(())
}

async fn the_value_is_nowhere_inside(s: Arc<Shared>) -> Result<()> {
    s.w.ok(&format!("curl -sS --fail --max-time 20 {}", s.url("/v1/user"))).await?;
    // The pattern is put together inside, and no program has it among its arguments: else it would be found there.
    let search = |pattern: &str| {
        format!(
            "printf %s%s {pattern} > /dev/shm/pattern; \
             for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\\0' '\\n' < \"$file\" 2>/dev/null; done \
             | grep -c -F -f /dev/shm/pattern; \
             grep -r -l -s -F -f /dev/shm/pattern /etc /run /tmp /var/lib /var/log /home /root /workspace; \
             rm /dev/shm/pattern"
        )
    };
    let found = s.w.root_ok(&search("\"$API_TOKEN\" ''")).await?;
    ensure!(found.trim() != "0", "the search does not even find the placeholder: {found}");
    let script = search(&format!("'{}' '{}'", &VALUE[..20], &VALUE[20..]));
    ensure_eq!(s.w.root_ok(&script).await?.trim(), "0");
    let logs = process::run(Command::new("find").arg(&s.f.dir).args([
        "-xdev",
        "-name",
        "*.log",
        "-not",
        "-path",
        "*/volume/*",
    ]))?;
    ensure!(logs.contains("broker.log"), "{logs}");
    for path in logs.lines() {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        ensure!(!text.contains(VALUE) && !text.contains(PASSWORD), "a value stands in {path}");
    }
    Ok(())
}

async fn uses_are_in_the_audit_log(s: Arc<Shared>) -> Result<()> {
    for _ in 0..20 {
        let url = s.url("/v1/audited?hidden=1");
        s.w.ok(&format!("curl -sS --fail --max-time 20 {url}")).await?;
    }
    let mut log = String::new();
    for _ in 0..100 {
        log = s.f.cli().ok(&["audit", "log", "bound", "-n", "0", "-o", "json"]).await?;
        if log.contains("credential.use") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let records = log.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    let uses: Vec<_> = records.iter().filter(|record| record["action"] == "credential.use").collect();
    let first = uses.first().ok_or_else(|| cordium_tests::anyhow!("no use is told: {log}"))?;
    let detail = &first["detail"];
    ensure_eq!((&detail["secret"], &detail["credential"]), (&json!("api-token"), &json!("api")));
    ensure_eq!((&detail["host"], &detail["port"]), (&json!(HOST), &json!(s.api.port().to_string())));
    ensure!(detail["requests"].as_str().is_some_and(|r| r.starts_with("GET /v1/")), "{first}");
    // Twenty in one minute are not twenty records.
    ensure!(uses.len() < 10, "{} records", uses.len());
    ensure!(!log.contains(VALUE) && !log.contains(PASSWORD), "{log}");
    ensure!(!format!("{uses:?}").contains("hidden"), "{uses:?}");
    let report = s.f.cli().run(&["audit", "verify"]).await?;
    ensure!(report.code == 0, "{}{}", report.out, report.err);
    Ok(())
}

async fn programs_trust_the_authority(s: Arc<Shared>) -> Result<()> {
    let port = s.api.port();
    let openssl = format!(
        "printf 'GET /v1/x HTTP/1.0\\r\\nHost: {HOST}:{port}\\r\\n\\r\\n' \
         | timeout 20 openssl s_client -quiet -verify_return_error -connect {HOST}:{port} -servername {HOST} 2>/dev/null"
    );
    ensure!(s.w.ok(&openssl).await?.ends_with("welcome"), "openssl");
    let python = format!(
        "python3 -c \"import urllib.request; print(urllib.request.urlopen('{}', timeout=20).read().decode(), end='')\"",
        s.url("/v1/x")
    );
    ensure_eq!(s.w.ok(&python).await?, "welcome");
    // Root's environment is another one.
    ensure_eq!(s.w.root_ok(&format!("curl -sS --fail --max-time 20 {}", s.url("/v1/x"))).await?, "welcome");
    ensure_eq!(s.seen().0, format!("Bearer {VALUE}"));
    Ok(())
}

async fn requests_are_signed(s: Arc<Shared>) -> Result<()> {
    let url = s.url("/aws/object");
    let curl = |key: &str, service: &str, rest: &str| {
        let sign = format!("--aws-sigv4 aws:amz:eu-central-1:{service} --user \"{KEY_ID}:{key}\"");
        format!("curl -sS --max-time 20 {sign} {rest}")
    };
    for (service, rest) in [
        ("s3", s.url("/aws/object")),
        ("s3", format!("--data-binary words {}", s.url("/aws/object"))),
        ("dynamodb", format!("--data-binary '{{\"TableName\": \"a\"}}' {}", s.url("/aws/"))),
        ("dynamodb", format!("-H 'X-Amz-Target: List' {}?Action=List", s.url("/aws/"))),
    ] {
        let answer = s.w.ok(&curl("$AWS_SECRET_ACCESS_KEY", service, &rest)).await?;
        ensure!(answer == "signed", "{service} {rest}: {answer}");
    }
    let own = s.w.ok(&curl("a-key-of-the-tenant-s-own", "s3", &s.url("/aws/object"))).await?;
    ensure!(own.contains("not signed with the placeholder"), "{own}");
    let unsigned = s.w.ok(&format!("curl -sS --max-time 20 {url}")).await?;
    ensure!(unsigned.contains("not signed"), "{unsigned}");
    Ok(())
}

async fn git_clones_over_https(s: Arc<Shared>) -> Result<()> {
    let script = format!(
        "rm -rf /tmp/private && git clone -q https://{USERNAME}:$GIT_PASSWORD@{HOST}:{}/private.git /tmp/private \
         && cat /tmp/private/SECRET && cat /tmp/private/.git/config",
        s.git.port()
    );
    let output = s.w.ok(&script).await?;
    ensure!(output.contains("only with a password") && !output.contains(PASSWORD), "{output}");
    Ok(())
}

async fn a_request_that_no_binding_is_for_is_refused(s: Arc<Shared>) -> Result<()> {
    let script = |path: &str, header: &str| {
        format!("curl -sS --max-time 20 --path-as-is {header} --write-out '%{{http_code}}' '{}'", s.url(path))
    };
    for path in ["/v2/user", "/v1x", "/v1/../v2", "/v1/%2e%2e/v2", "//v1"] {
        let answer = s.w.ok(&script(path, "")).await?;
        let (body, code) = answer.split_at(answer.len().saturating_sub(3));
        ensure!(code == "403", "{path}: {answer}");
        let body: serde_json::Value = serde_json::from_str(body)?;
        ensure!(body["rule"].as_str().is_some_and(|rule| rule.starts_with("credential ")), "{path}: {body}");
    }
    // The placeholder of one credential on a request for another.
    let carried = script("/private.git/info/refs", "--header \"X-Token: $API_TOKEN\"").replace('\'', "\"");
    ensure!(s.w.ok(&carried).await?.ends_with("403"), "a placeholder went elsewhere");
    let denials = s.f.cli().ok(&["egress", "log", "bound", "-o", "json"]).await?;
    ensure!(denials.contains("credential api"), "{denials}");
    Ok(())
}

async fn what_is_not_bound_is_passed_through(s: Arc<Shared>) -> Result<()> {
    let spec = json!({"runtime": {"network": {"egress": {"defaultAction": "DENY"}}}});
    let w = s.f.run("unbound", &s.f.base(spec)).await?;
    // The server's own certificate arrives, which nobody inside trusts (60) unless told to.
    ensure_eq!(w.sh(&format!("curl -sS --max-time 20 {}", s.url("/"))).await?.code(), 60);
    let script = format!(
        "cat > /tmp/ca.pem <<'END'\n{}\nEND\ncurl -sS --cacert /tmp/ca.pem {}",
        s.authority,
        s.url("/")
    );
    ensure_eq!(w.ok(&script).await?, "welcome");
    ensure_eq!(s.seen().0, "");
    w.delete().await
}

async fn rotation_and_revocation(s: Arc<Shared>) -> Result<()> {
    put_secret(&s.f.clients, "turning", VALUE).await?;
    let spec = json!({"runtime": {"network": {
        "extraRoots": [s.authority],
        "credentials": [{"name": "turning", "fromSecret": "turning", "hosts": [HOST], "env": "TOKEN"}],
    }}});
    let w = s.f.run("turning", &s.f.base(spec)).await?;
    let ask = format!("curl -sS --fail --max-time 20 {}", s.url("/"));
    w.ok(&ask).await?;
    ensure_eq!(s.seen().0, format!("Bearer {VALUE}"));
    let placeholder = w.ok("printf %s \"$TOKEN\"").await?;

    let update = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "turning".into(),
        secret_data: Some(format!("{ROTATED}\n").into_bytes().into()),
        ..Default::default()
    };
    s.f.clients.control.clone().update(update).await?;
    w.ok(&ask).await?;
    ensure_eq!(s.seen().0, format!("Bearer {ROTATED}"));
    ensure_eq!(w.ok("printf %s \"$TOKEN\"").await?, placeholder);

    let mut delete =
        DeleteResourceRequest { kind: Kind::Secret.into(), r#ref: "turning".into(), ..Default::default() };
    let used = s.f.clients.control.clone().delete(delete.clone()).await;
    ensure!(used.is_err_and(|status| status.message().contains("is used by")), "a secret in use was deleted");
    delete.force = true;
    let warnings = s.f.clients.control.clone().delete(delete).await?.into_inner().warnings;
    ensure!(warnings.is_empty(), "{warnings:?}");
    // Nothing is bound any more: the server's own certificate arrives.
    ensure_eq!(w.sh(&ask).await?.code(), 60);
    w.stop().await?;
    let refused = w.request_start(&[]).await;
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("turning")), "it started without");
    w.delete().await
}

async fn credentials_outlive_the_broker(s: Arc<Shared>) -> Result<()> {
    let ask = format!("curl -sS --fail --retry 5 --retry-all-errors --max-time 20 {}", s.url("/v1/user"));
    let brokers = process::mentioning(&s.f.dir).into_iter().filter(|(_, line)| line.contains(" broker "));
    for (pid, _) in brokers {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    ensure_eq!(s.w.ok(&ask).await?, "welcome");
    ensure_eq!(s.seen().0, format!("Bearer {VALUE}"));
    // A changed policy leaves the credentials as they are.
    let cli = s.f.cli();
    let policy = json!({"defaultAction": "ALLOW_PUBLIC"}).to_string();
    let answer = cli.run_with(cli.command(&["policy", "set", "bound", "-f", "-"]), policy.as_bytes()).await?;
    ensure!(answer.code == 0, "{answer:?}");
    tokio::time::timeout(Duration::from_secs(60), s.w.ok(&ask)).await??;
    ensure_eq!(s.seen().0, format!("Bearer {VALUE}"));
    Ok(())
}

async fn a_bad_value_is_refused_by_name(s: Arc<Shared>) -> Result<()> {
    put_secret(&s.f.clients, "two-lines", "one\ntwo").await?;
    let credential = json!({"name": "bad", "fromSecret": "two-lines", "hosts": [HOST]});
    let spec = json!({"runtime": {"network": {"credentials": [credential]}}});
    let w = s.f.create("bad-value", &s.f.small(spec)).await?;
    let error = w.request_start(&[]).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        error.contains("credentials[0].fromSecret")
            && error.contains("two-lines")
            && !error.contains("one\\n"),
        "{error}"
    );
    w.delete().await
}
