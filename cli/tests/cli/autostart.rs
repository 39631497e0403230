//! `run` without a supervisor. A copy of the program stands beside a supervisor of ours.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::fake::{Fake, Output, finish};

/// Copies the program and puts a script beside it as the supervisor.
fn install(dir: &Path, supervisor: &str) -> PathBuf {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("cordium");
    fs::hard_link(env!("CARGO_BIN_EXE_cordium"), &program)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_cordium"), &program).map(drop))
        .unwrap();
    let script = bin.join("cordium-supervisor");
    fs::write(&script, format!("#!/bin/sh\n{supervisor}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

async fn cordium(program: &Path, dir: &Path, args: &[&str]) -> Output {
    let child = tokio::process::Command::new(program)
        .args(args)
        .env_remove("CORDIUM_SOCKET")
        .env("CORDIUM_STATE_DIR", dir.join("state"))
        .env("CORDIUM_RUN_DIR", dir.join("run"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    finish(child).await
}

#[tokio::test]
async fn a_supervisor_that_dies_is_told_with_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let program = install(dir.path(), "echo starting with \"$@\"; echo 'no subordinate ids' >&2; exit 3");
    let o = cordium(&program, dir.path(), &["run", "dev", "--", "true"]).await;
    assert_eq!(o.code, 1);
    assert!(o.err.contains("error: the supervisor ended while starting (exit status: 3)\n"), "{}", o.err);
    assert!(
        o.err.contains("  | starting with serve --state-dir ") && o.err.contains("  | no subordinate ids\n")
    );
    assert!(o.err.contains("hint: `cordium doctor`"));
    let mode = |d: &str| fs::metadata(dir.path().join(d)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("run")), (0o700, 0o700));
}

/// The script runs this very test program again, which then serves in place of the supervisor.
#[tokio::test]
async fn a_supervisor_is_started_once_for_several_callers() {
    if let Some(run_dir) = std::env::var_os("CORDIUM_TEST_SERVE_IN") {
        let listener = tokio::net::UnixListener::bind(Path::new(&run_dir).join("cordium.sock")).unwrap();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(20), Fake::idle().serve(listener)).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let again = std::env::current_exe().unwrap();
    let script = format!(
        "echo $$ >> {0}/pids; CORDIUM_TEST_SERVE_IN={0}/run exec {1} --exact \
         autostart::a_supervisor_is_started_once_for_several_callers",
        dir.path().display(),
        again.display()
    );
    let program = install(dir.path(), &script);
    let o = cordium(&program, dir.path(), &["get", "ws"]).await;
    assert_eq!(o.code, 1, "only commands that make something start a supervisor");
    assert!(o.err.contains("hint: `cordium run` starts one"), "{}", o.err);
    let commands = [["run", "one", "--", "exit", "4"], ["run", "two", "--", "exit", "5"]].map(|args| {
        let (program, dir) = (program.clone(), dir.path().to_owned());
        tokio::spawn(async move { cordium(&program, &dir, &args).await })
    });
    let mut codes = Vec::new();
    for command in commands {
        let o = command.await.unwrap();
        codes.push((o.code, o.err));
    }
    let pids = fs::read_to_string(dir.path().join("pids")).unwrap();
    for pid in pids.lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        // It leads a session of its own, so that our terminal's end is not its own.
        assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    assert_eq!(pids.lines().count(), 1);
    assert_eq!((codes[0].0, codes[1].0), (4, 5), "{codes:?}");
}
