//! Isolation: two workspaces of one node know nothing of each other.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Fixture, Result, Suite, Workspace, ensure, ensure_eq, json,
    v1::{CreateTerminalRequest, ListTerminalsRequest},
};

struct Pair {
    f: Arc<Fixture>,
    a: Workspace,
    b: Workspace,
}

impl cordium_tests::suite::TearDown for Pair {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("isolation")
        .case("exec_reaches_the_right_one", exec_reaches_the_right_one)
        .case("file_systems_are_apart", file_systems_are_apart)
        .case("processes_are_apart", processes_are_apart)
        .case("networks_are_apart", networks_are_apart)
        .case("terminals_are_scoped", terminals_are_scoped)
        .case("another_user_is_refused", another_user_is_refused)
        .case("state_is_closed_to_others", state_is_closed_to_others)
        .case("one_death_leaves_the_other", one_death_leaves_the_other)
        .run(|| async {
            let f = Arc::new(Fixture::start("isolation").await?);
            let spec = f.base(json!({}));
            let (a, b) = tokio::join!(f.run("a", &spec), f.run("b", &spec));
            Ok(Pair { f, a: a?, b: b? })
        })
}

async fn exec_reaches_the_right_one(p: Arc<Pair>) -> Result<()> {
    ensure_eq!(p.a.ok("echo $CORDIUM_NAME").await?, "a");
    ensure_eq!(p.b.ok("echo $CORDIUM_NAME").await?, "b");
    Ok(())
}

async fn file_systems_are_apart(p: Arc<Pair>) -> Result<()> {
    p.a.root_ok("touch /workspace/of-a /tmp/of-a /etc/of-a /dev/shm/of-a; rm /etc/debian_version").await?;
    ensure_eq!(
        p.b.root_ok("ls -d /workspace/of-a /tmp/of-a /etc/of-a /dev/shm/of-a 2>/dev/null | wc -l").await?,
        "0"
    );
    p.b.ok("[ -e /etc/debian_version ]").await?;
    Ok(())
}

async fn processes_are_apart(p: Arc<Pair>) -> Result<()> {
    p.a.ok("setsid sleep 4321 >/dev/null 2>&1 & exit 0").await?;
    ensure!(
        p.b.root("pgrep -f 'sleep 432[1]'").await?.code() != 0,
        "a process of the other workspace is visible"
    );
    p.a.ok("pgrep -f 'sleep 432[1]'").await?;
    ensure!(
        p.a.ok("readlink /proc/self/ns/pid").await? != p.b.ok("readlink /proc/self/ns/pid").await?,
        "one pid namespace"
    );
    ensure!(
        p.a.ok("readlink /proc/self/ns/user").await? != p.b.ok("readlink /proc/self/ns/user").await?,
        "one user namespace"
    );
    Ok(())
}

async fn networks_are_apart(p: Arc<Pair>) -> Result<()> {
    p.a.root_ok("python3 -m http.server 8765 --bind 0.0.0.0 >/dev/null 2>&1 & for i in $(seq 50); do curl -s 127.0.0.1:8765 >/dev/null && exit 0; sleep 0.1; done; exit 1").await?;
    for target in ["127.0.0.1:8765", "100.127.255.254:8765", "host.cordium.internal:8765"] {
        let output = p.b.sh(&format!("curl --silent --max-time 3 http://{target}")).await?;
        ensure!(output.code() != 0, "{target} answers in the other workspace");
    }
    // The host's loopback is closed, except for the ports that the node opens.
    let registry = p.f.registry.port();
    let closed =
        p.b.sh(&format!("curl --silent --max-time 3 http://host.cordium.internal:{registry}/v2/")).await?;
    ensure!(closed.code() != 0, "the registry on the host's loopback answers");
    let open =
        p.b.sh(&format!(
            "curl --silent --fail --max-time 10 '{}/info/refs?service=git-upload-pack' | head -c 4",
            p.f.git.url("demo")
        ))
        .await?;
    ensure_eq!(open.out(), "001e");
    Ok(())
}

async fn terminals_are_scoped(p: Arc<Pair>) -> Result<()> {
    let mut session = p.f.clients.session.clone();
    let request = CreateTerminalRequest { workspace: p.a.uid.clone(), ..Default::default() };
    let id = session.create_terminal(request).await?.into_inner().id;
    let listed = |w: &Workspace| ListTerminalsRequest { workspace: w.uid.clone() };
    ensure!(
        session.list_terminals(listed(&p.a)).await?.into_inner().items.iter().any(|item| item.id == id),
        "not listed"
    );
    ensure!(
        session.list_terminals(listed(&p.b)).await?.into_inner().items.is_empty(),
        "listed in the other workspace"
    );
    Ok(())
}

async fn another_user_is_refused(p: Arc<Pair>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return cordium_tests::skip("only root can become another user");
    }
    let nobody =
        cordium_tests::user::User { name: "nobody".into(), uid: 65534, gid: 65534, home: "/".into() };
    let mut cli = p.f.cli();
    cli.user = nobody;
    let answer = cli.run(&["get", "ws"]).await?;
    ensure!(answer.code != 0, "another user may list workspaces: {}", answer.out);
    Ok(())
}

async fn state_is_closed_to_others(p: Arc<Pair>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for dir in [p.f.node.state(), p.f.node.run()] {
        let mode = std::fs::metadata(&dir)?.permissions().mode() & 0o777;
        ensure!(
            mode & 0o077 == 0 || dir == p.f.node.run() && mode & 0o066 == 0,
            "{} has mode {mode:o}",
            dir.display()
        );
    }
    Ok(())
}

async fn one_death_leaves_the_other(p: Arc<Pair>) -> Result<()> {
    let w = p.f.run("c", &p.f.base(json!({}))).await?;
    w.delete().await?;
    ensure_eq!(p.a.ok("echo alive").await?, "alive");
    ensure_eq!(p.b.ok("echo alive").await?, "alive");
    Ok(())
}
