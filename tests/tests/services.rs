//! Services: a workspace uses a server without its password.
//!
//! What the broker does with clients and servers of all kinds has its tests behind a gateway of its own
//! (supervisor/broker/tests/services); here the whole way is walked, from the spec to a real server on the node's loopback.

use std::{process::ExitCode, sync::Arc, time::Duration};

use cordium_proto::v1::{DeleteResourceRequest, Kind, UpdateRequest};
use cordium_tests::{
    Fixture, Result, Suite, Workspace, ensure, ensure_eq, json,
    postgres::{DATABASE, PASSWORD, Postgres, ROLE},
    process,
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
/// As much of a client as a session needs: no TLS, no password, one query.
const CLIENT: &str = r#"
import socket, struct, sys
host, port, query = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = socket.create_connection((host, port), 20)
s.settimeout(60)
s.sendall(struct.pack('!II', 8, 80877103))
assert s.recv(1) == b'N', 'no TLS on this link'
pairs = b'user\0nobody\0database\0template1\0\0'
s.sendall(struct.pack('!II', len(pairs) + 8, 196608) + pairs)
f = s.makefile('rb')
def message():
    tag, length = struct.unpack('!cI', f.read(5))
    return tag, f.read(length - 4)
def until_ready():
    while True:
        tag, body = message()
        if tag == b'E':
            sys.exit([x[1:] for x in body.decode().split('\0') if x[:1] == 'M'][0])
        if tag == b'R' and body != b'\0\0\0\0':
            sys.exit('a password is asked for')
        if tag == b'D':
            print(body[6:].decode(), flush=True)
        if tag == b'Z':
            return
until_ready()
print('ready', flush=True)
text = query.encode() + b'\0'
s.sendall(b'Q' + struct.pack('!I', len(text) + 4) + text)
until_ready()
"#;

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
    server: Postgres,
    authority: String,
    _scratch: tempfile::TempDir,
}

impl TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("services")
        .case("a_session_needs_no_password_and_has_none_inside", a_session_needs_no_password)
        .case("services_outlive_the_broker_and_a_new_policy", services_outlive_the_broker)
        .case("rotation_is_on_the_next_session_and_revocation_ends_them", rotation_and_revocation)
        .case("a_bad_value_and_a_missing_one_are_refused_by_name", a_bad_value_is_refused)
        .one_at_a_time()
        .run(set_up)
}

async fn set_up() -> Result<Shared> {
    let user = User::for_tests()?;
    let scratch = tempfile::tempdir()?;
    std::os::unix::fs::chown(scratch.path(), Some(user.uid), Some(user.gid))?;
    let party = Authority::create(&scratch.path().join("tls"), &user)?.issue(HOST, &user)?;
    let server = Postgres::start(&scratch.path().join("postgres"), &user, &party)?;
    let port = server.port();
    let f = Arc::new(Fixture::start_with("services", |options| options.host_ports.push(port)).await?);
    put_secret(&f.clients, "db-password", &format!("{PASSWORD}\n")).await?;
    let authority = std::fs::read_to_string(&party.ca)?;
    let spec = f.base(spec(&server, &authority, "db-password"));
    let w = f.run("served", &spec).await?;
    install(&w).await?;
    Ok(Shared { f, w, server, authority, _scratch: scratch })
}

fn spec(server: &Postgres, authority: &str, secret: &str) -> serde_json::Value {
    json!({"runtime": {"network": {
        "egress": {"defaultAction": "DENY"},
        "extraRoots": [authority],
        "services": [{
            "name": "db", "fromSecret": secret,
            "upstream": {"host": HOST, "port": server.port()},
            "protocol": {"postgresql": {"user": ROLE, "database": DATABASE}},
        }],
    }}})
}

async fn install(w: &Workspace) -> Result<()> {
    w.ok(&format!("cat > /tmp/client.py <<'END'\n{CLIENT}\nEND")).await.map(drop)
}

fn query(text: &str) -> String {
    format!("python3 /tmp/client.py db.cordium.internal 5432 \"{text}\"")
}

const WHO: &str = "select current_user || ' ' || current_database() || ' ' || ssl from pg_stat_ssl where pid = pg_backend_pid()";

async fn a_session_needs_no_password(s: Arc<Shared>) -> Result<()> {
    ensure_eq!(s.w.ok(&query(WHO)).await?, format!("ready\n{ROLE} {DATABASE} true"));
    let refused = s.w.sh("python3 /tmp/client.py db.cordium.internal 5433 'select 1'").await?;
    ensure!(refused.code() != 0, "{}", refused.out());
    // The pattern is put together inside, and no program has it among its arguments.
    let script = format!(
        "printf %s%s '{}' '{}' > /dev/shm/pattern; \
         for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\\0' '\\n' < \"$file\" 2>/dev/null; done \
         | grep -c -F -f /dev/shm/pattern; \
         grep -r -l -s -F -f /dev/shm/pattern /etc /run /tmp /var/lib /var/log /home /root /workspace; \
         rm /dev/shm/pattern",
        &PASSWORD[..12],
        &PASSWORD[12..]
    );
    ensure_eq!(s.w.root_ok(&script).await?.trim(), "0");
    let logs = process::sh(
        "find",
        &[s.f.dir.to_string_lossy().as_ref(), "-xdev", "-name", "*.log", "-not", "-path", "*/volume/*"],
    )?;
    ensure!(logs.contains("broker.log"), "{logs}");
    for path in logs.lines() {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        ensure!(!text.contains(PASSWORD), "the password stands in {path}");
    }
    Ok(())
}

async fn services_outlive_the_broker(s: Arc<Shared>) -> Result<()> {
    let brokers = process::mentioning(&s.f.dir).into_iter().filter(|(_, line)| line.contains(" broker "));
    for (pid, _) in brokers {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    let again = format!(
        "for n in $(seq 60); do {} 2>/dev/null && exit 0; sleep 0.5; done; exit 1",
        query("select 7")
    );
    ensure_eq!(s.w.ok(&again).await?, "ready\n7");
    // A changed policy leaves the services as they are.
    let cli = s.f.cli();
    let policy = json!({"defaultAction": "ALLOW_PUBLIC"}).to_string();
    let answer =
        cli.run_with(cli.command(&["policy", "set", "served", "-f", "-"]), policy.as_bytes()).await?;
    ensure!(answer.code == 0, "{answer:?}");
    ensure_eq!(s.w.ok(&query("select 8")).await?, "ready\n8");
    Ok(())
}

async fn rotation_and_revocation(s: Arc<Shared>) -> Result<()> {
    put_secret(&s.f.clients, "turning", PASSWORD).await?;
    let w = s.f.run("turning", &s.f.base(spec(&s.server, &s.authority, "turning"))).await?;
    install(&w).await?;
    w.ok(&query("alter role app password 'another-horse'")).await?;
    let old = w.sh(&query("select 1")).await?;
    ensure!(old.err().contains("password authentication failed"), "{}", old.err());
    let update = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "turning".into(),
        secret_data: Some(b"another-horse\n".to_vec().into()),
        ..Default::default()
    };
    s.f.clients.control.clone().update(update).await?;
    ensure_eq!(w.ok(&query("select 9")).await?, "ready\n9");

    let open = format!("cat > /tmp/open <<'END'\n{}\necho ended\nEND", query("select pg_sleep(300)"));
    w.ok(&open).await?;
    let wait =
        "setsid sh /tmp/open < /dev/null > /tmp/out 2>&1 & until grep -s ready /tmp/out; do sleep 0.1; done";
    w.ok(wait).await?;
    let delete = DeleteResourceRequest {
        kind: Kind::Secret.into(),
        r#ref: "turning".into(),
        force: true,
        ..Default::default()
    };
    let warnings = s.f.clients.control.clone().delete(delete).await?.into_inner().warnings;
    ensure!(warnings.is_empty(), "{warnings:?}");
    let ended = w.ok("until grep -s ended /tmp/out; do sleep 0.1; done; cat /tmp/out");
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await??;
    ensure!(ended.contains("reset") || ended.contains("unpack"), "{ended}");
    let revoked = w.sh(&query("select 1")).await?;
    ensure!(
        revoked.err().contains("service db: the credential of the service has been taken away"),
        "{}",
        revoked.err()
    );
    let denials = s.f.cli().ok(&["egress", "log", "turning", "-o", "json"]).await?;
    ensure!(denials.contains("service db"), "{denials}");
    w.stop().await?;
    let refused = w.request_start(&[]).await;
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("turning")), "it started without");
    w.delete().await?;
    // As it was, for whoever comes after.
    put_secret(&s.f.clients, "turned", "another-horse").await?;
    let w = s.f.run("turned", &s.f.base(spec(&s.server, &s.authority, "turned"))).await?;
    install(&w).await?;
    w.ok(&query(&format!("alter role app password '{PASSWORD}'"))).await?;
    w.delete().await
}

async fn a_bad_value_is_refused(s: Arc<Shared>) -> Result<()> {
    put_secret(&s.f.clients, "too-long", &"x".repeat(2000)).await?;
    let w = s.f.create("bad-value", &s.f.small(spec(&s.server, &s.authority, "too-long"))).await?;
    let error = w.request_start(&[]).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("services[0].fromSecret") && !error.contains("xxx"), "{error}");
    w.delete().await?;
    let missing = s.f.create("no-value", &s.f.small(spec(&s.server, &s.authority, "nobody"))).await;
    ensure!(missing.is_err_and(|error| format!("{error:#}").contains("nobody")), "it was created without");
    Ok(())
}
