//! CLI: the real `cordium`, as the unprivileged user.

use std::{os::unix::fs::PermissionsExt, path::Path, process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Fixture, Result, Suite, cli::Answer, ensure, ensure_eq, images, json, paths, process, user::User,
};
use nix::sys::signal::Signal;
use serde_json::Value;

fn main() -> ExitCode {
    Suite::new("cli")
        .case("version_and_status", version_and_status)
        .case("create_get_and_delete", create_get_and_delete)
        .case("run_detached_then_exec_stop_delete", run_detached_then_exec_stop_delete)
        .case("run_with_a_command_and_rm", run_with_a_command_and_rm)
        .case("run_from_a_file_with_vars", run_from_a_file_with_vars)
        .case("run_shows_phases_and_task_output", run_shows_phases_and_task_output)
        .case("run_reports_a_failed_start", run_reports_a_failed_start)
        .case("exec_input_and_exit_codes", exec_input_and_exit_codes)
        .case("logs_and_watch", logs_and_watch)
        .case("who_did_what_is_recorded", who_did_what_is_recorded)
        .case("ctrl_c_stops_what_it_started", ctrl_c_stops_what_it_started)
        .case("errors_have_a_next_step", errors_have_a_next_step)
        .case("doctor_checks_this_machine", doctor_checks_this_machine)
        .case("completion_and_schema", completion_and_schema)
        .case("run_without_a_daemon_starts_one", run_without_a_daemon_starts_one)
        .run(|| Fixture::start("cli"))
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("this is no JSON: {text}"))
}

/// An error says `error: …` and a hint, on standard error, with nothing on standard output.
fn failed(answer: &Answer, words: &[&str]) -> Result<()> {
    ensure!(answer.code != 0, "it was done: {answer:?}");
    for word in words {
        ensure!(answer.err.contains(word), "\"{word}\" is not in: {}", answer.err);
    }
    Ok(())
}

async fn version_and_status(f: Arc<Fixture>) -> Result<()> {
    let version = parse(&f.cli().ok(&["version", "-o", "json"]).await?)?;
    ensure_eq!(version["client"]["version"], env!("CARGO_PKG_VERSION"));
    ensure_eq!(version["server"]["version"], env!("CARGO_PKG_VERSION"));
    ensure!(f.cli().ok(&["status"]).await?.contains("node-1"), "the node is not shown");
    Ok(())
}

async fn create_get_and_delete(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    let made =
        parse(&cli.ok(&["create", "ws", "made", "--image", &f.image(images::MUSL), "-o", "json"]).await?)?;
    ensure_eq!(made["metadata"]["name"], "made");
    let uid = made["metadata"]["uid"].as_str().context("there is no uid")?.to_owned();
    ensure!(cli.ok(&["get", "workspaces"]).await?.contains("made"), "it is not listed");
    let got = parse(&cli.ok(&["get", "ws", "made", "-o", "json"]).await?)?;
    ensure!(got.to_string().contains(&uid), "{got}");
    ensure!(
        cli.ok(&["get", "ws", "made", "-o", "yaml"]).await?.contains("kind: Workspace"),
        "it is no YAML document"
    );
    cli.ok(&["delete", "ws", "made"]).await?;
    failed(&cli.run(&["get", "ws", "made"]).await?, &["made"])?;
    for kind in ["spaces", "templates", "secrets"] {
        cli.ok(&["get", kind]).await?;
    }
    Ok(())
}

async fn run_detached_then_exec_stop_delete(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    cli.ok(&["run", "det", "--image", &f.image(images::MUSL), "--detach", "-e", "GREETING=hello"]).await?;
    ensure_eq!(
        cli.ok(&["exec", "det", "--no-stdin", "--", "sh", "-c", "echo $GREETING $CORDIUM_NAME"]).await?,
        "hello det\n"
    );
    ensure_eq!(
        cli.ok(&["exec", "det", "--no-stdin", "-e", "X=1 2", "--", "sh", "-c", "echo \"$X\""]).await?,
        "1 2\n"
    );
    ensure_eq!(cli.ok(&["exec", "det", "--no-stdin", "--root", "--", "id", "-u"]).await?, "0\n");
    ensure_eq!(cli.ok(&["exec", "det", "--no-stdin", "-w", "/usr", "--", "pwd"]).await?, "/usr\n");
    cli.ok(&["stop", "det", "--wait"]).await?;
    failed(&cli.run(&["exec", "det", "--no-stdin", "--", "true"]).await?, &["det"])?;
    cli.ok(&["delete", "ws", "det"]).await?;
    Ok(())
}

async fn run_with_a_command_and_rm(f: Arc<Fixture>) -> Result<()> {
    let image = f.image(images::MUSL);
    let answer = f
        .cli()
        .run(&["run", "once", "--image", &image, "--rm", "--", "sh", "-c", "echo done; exit 5"])
        .await?;
    ensure_eq!((answer.code, answer.out.as_str()), (5, "done\n"));
    failed(&f.cli().run(&["get", "ws", "once"]).await?, &["once"])
}

async fn who_did_what_is_recorded(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    let noted = cli.ok(&["audit", "head"]).await?;
    cli.ok(&["run", "seen", "--image", &f.image(images::MUSL), "--rm", "--", "echo", "a word"]).await?;
    let log = cli.ok(&["audit", "log", "seen"]).await?;
    for words in
        ["workspace.create workspace seen", "workspace.running", "command=echo a word", "workspace.delete"]
    {
        ensure!(log.contains(words), "no {words} in {log}");
    }
    ensure!(log.contains(&format!("uid {} ", User::for_tests()?.uid)), "who it was is not told: {log}");
    let lines = cli.ok(&["audit", "log", "-n", "2", "-o", "json"]).await?;
    ensure_eq!(lines.lines().map(parse).collect::<Result<Vec<_>>>()?.len(), 2);
    let report = parse(&cli.ok(&["audit", "verify", "--head", noted.trim(), "-o", "json"]).await?)?;
    ensure_eq!(report["sound"], true);
    // The same without the supervisor, on a copy to which somebody has done something.
    let copy = f.dir.join("audit");
    std::fs::create_dir(&copy)?;
    let dir = copy.to_string_lossy();
    for entry in std::fs::read_dir(f.node.state().join("audit"))? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path())?.replace("echo a word", "echo nothing");
        std::fs::write(copy.join(entry.file_name()), text)?;
    }
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(&copy)? {
        std::fs::set_permissions(entry?.path(), std::fs::Permissions::from_mode(0o644))?;
    }
    let touched = cli.run(&["audit", "verify", "--dir", &dir, "--head", noted.trim()]).await?;
    ensure_eq!(touched.code, 1);
    failed(&touched, &["changed:", "is not what its hash is of"])
}

async fn run_from_a_file_with_vars(f: Arc<Fixture>) -> Result<()> {
    let file = paths::repository().join("images/examples/demo.yaml");
    let text = std::fs::read_to_string(&file).context("reading demo.yaml")?;
    // The clone may be closed to the unprivileged user.
    let copy = f.dir.join("demo.yaml");
    std::fs::write(&copy, text)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644))?;
    let (registry, git) = (
        format!("registry={}", f.registry.host()),
        format!("git=http://host.cordium.internal:{}", f.git.port()),
    );
    let path = copy.to_string_lossy();
    let cli = f.cli();
    cli.ok(&["run", "--file", &path, "--var", &registry, "--var", &git, "--detach"]).await?;
    ensure!(
        cli.ok(&["exec", "demo", "--no-stdin", "--", "ls", "/workspace/repo"]).await?.contains("README.md"),
        "no clone"
    );
    ensure!(
        cli.ok(&["exec", "demo", "--no-stdin", "--", "curl", "-s", "127.0.0.1:8080/README.md"])
            .await?
            .contains("Demo"),
        "no web"
    );
    cli.ok(&["delete", "ws", "demo"]).await?;
    Ok(())
}

async fn run_shows_phases_and_task_output(f: Arc<Fixture>) -> Result<()> {
    let file = f.dir.join("shown.yaml");
    let spec = f.small(json!({"runtime": {"tasks": [{"name": "say", "type": "ON_CREATE", "run": "echo words of the task"}]}}));
    let document =
        json!({"apiVersion": "cordium/v1", "kind": "Workspace", "metadata": {"name": "shown"}, "spec": spec});
    std::fs::write(&file, document.to_string())?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let answer = f.cli().run(&["run", "--file", &file.to_string_lossy(), "--detach"]).await?;
    let all = answer.out + &answer.err;
    ensure!(all.to_lowercase().contains("running"), "no phase in {all}");
    ensure!(all.contains("words of the task"), "the task's output is missing: {all}");
    f.cli().ok(&["delete", "ws", "shown"]).await?;
    Ok(())
}

async fn run_reports_a_failed_start(f: Arc<Fixture>) -> Result<()> {
    let answer = f.cli().run(&["run", "bad", "--image", &f.image("no/such:image"), "--detach"]).await?;
    failed(&answer, &["no/such"])?;
    f.cli().ok(&["delete", "ws", "bad"]).await?;
    Ok(())
}

async fn exec_input_and_exit_codes(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    cli.ok(&["run", "io", "--image", &f.image(images::MUSL), "--detach"]).await?;
    let answer = cli.run_with(cli.command(&["exec", "io", "--", "cat"]), b"one\ntwo\n").await?;
    ensure_eq!((answer.code, answer.out.as_str()), (0, "one\ntwo\n"));
    let answer =
        cli.run(&["exec", "io", "--no-stdin", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]).await?;
    ensure_eq!((answer.code, answer.out.as_str(), answer.err.as_str()), (42, "out\n", "err\n"));
    ensure_eq!(cli.run(&["exec", "io", "--no-stdin", "--", "sh", "-c", "kill -9 $$"]).await?.code, 137);
    ensure_eq!(cli.run(&["exec", "io", "--no-stdin", "--", "/no/such"]).await?.code, 127);
    failed(&cli.run(&["exec", "nobody", "--no-stdin", "--", "true"]).await?, &["nobody"])?;
    cli.ok(&["delete", "ws", "io"]).await?;
    Ok(())
}

async fn logs_and_watch(f: Arc<Fixture>) -> Result<()> {
    let tasks = json!([{"name": "say", "type": "POST_START", "run": "echo logged words"}]);
    let w = f.run("logged", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    w.stop().await?;
    ensure!(f.cli().ok(&["logs", "logged"]).await?.contains("logged words"), "the log is empty");
    w.delete().await
}

async fn ctrl_c_stops_what_it_started(f: Arc<Fixture>) -> Result<()> {
    let w = f
        .create(
            "ctrlc",
            &f.small(
                json!({"runtime": {"tasks": [{"name": "long", "type": "POST_START", "run": "sleep 600"}]}}),
            ),
        )
        .await?;
    let mut watch = w.watch().await?;
    let mut child = tokio::process::Command::from(f.cli().command(&["run", "ctrlc", "--detach"]))
        .kill_on_drop(true)
        .spawn()?;
    let preparing = cordium_tests::v1::WorkspaceState::Preparing;
    watch.until(Duration::from_secs(60), |event| cordium_tests::watch::state_of(event) == preparing).await?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("it has ended")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT)?;
    watch.stopped(Duration::from_secs(60)).await?;
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await??;
    ensure_eq!(status.code(), Some(130));
    w.delete().await
}

async fn errors_have_a_next_step(f: Arc<Fixture>) -> Result<()> {
    let cli = f.cli();
    let unknown = cli.run(&["start", "nothing-here"]).await?;
    failed(&unknown, &["nothing-here"])?;
    ensure!(unknown.err.trim().lines().count() >= 2, "there is no next step: {}", unknown.err);
    let file = f.dir.join("bad.yaml");
    std::fs::write(
        &file,
        "apiVersion: cordium/v1\nkind: Workspace\nmetadata: {name: bad}\nspec:\n  runtime:\n    tasks:\n    - {name: a, run: x, type: FOO}\n",
    )?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let bad = cli.run(&["create", "ws", "--file", &file.to_string_lossy()]).await?;
    failed(&bad, &["spec.runtime.tasks[0].type", "FOO", "POST_START"])?;
    failed(&cli.run(&["get", "ws", "bad"]).await?, &["bad"])?;
    let mut silent = cli.command(&["status"]);
    silent.env("CORDIUM_SOCKET", "/nonexistent/cordium.sock").env("CORDIUM_NO_AUTOSTART", "1");
    failed(&cli.run_with(silent, b"").await?, &["/nonexistent/cordium.sock"])
}

async fn doctor_checks_this_machine(f: Arc<Fixture>) -> Result<()> {
    let answer = f.cli().run(&["doctor"]).await?;
    let all = (answer.out + &answer.err).to_lowercase();
    for word in ["user namespace", "cgroup", "overlay"] {
        ensure!(all.contains(word), "\"{word}\" is not checked: {all}");
    }
    Ok(())
}

async fn completion_and_schema(f: Arc<Fixture>) -> Result<()> {
    ensure!(f.cli().ok(&["completion", "bash"]).await?.contains("_cordium"), "this is no completion script");
    let schema = parse(&f.cli().ok(&["schema", "workspace"]).await?)?;
    ensure!(schema.to_string().contains("repository"), "{schema}");
    Ok(())
}

/// Lets it take away what it has made ahead: only the next one would do so after a kill.
fn end_supervisor(dir: &Path) -> Result<()> {
    let supervisors = || {
        let found = process::mentioning(dir).into_iter();
        found
            .filter(|(_, line)| line.contains("cordium-supervisor serve"))
            .map(|(pid, _)| pid)
            .collect::<Vec<_>>()
    };
    let pids = supervisors();
    ensure_eq!(pids.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pids[0]), Signal::SIGTERM)?;
    process::until("end of the supervisor", Duration::from_secs(20), || {
        Ok(supervisors().is_empty().then_some(()))
    })
}

async fn run_without_a_daemon_starts_one(f: Arc<Fixture>) -> Result<()> {
    let dir = f.dir.join("auto");
    let user = &f.node.user;
    for dir in [dir.clone(), dir.join("state"), dir.join("run")] {
        user.make_dir(&dir)?;
    }
    let cli = f.cli();
    let arguments = ["run", "auto", "--image", &f.image(images::MUSL), "--rm", "--", "echo", "by itself"];
    let mut command = user.session_command(&cli.program);
    command
        .args(arguments)
        .env("CORDIUM_STATE_DIR", dir.join("state"))
        .env("CORDIUM_RUN_DIR", dir.join("run"));
    let answer = cli.run_with(command, b"").await;
    // What it started goes on by design; here it ends, whatever came of the command.
    let ended = end_supervisor(&dir);
    process::end_by_marker(&dir);
    ended?;
    let answer = answer?;
    ensure_eq!((answer.code, answer.out.as_str()), (0, "by itself\n"));
    Ok(())
}
