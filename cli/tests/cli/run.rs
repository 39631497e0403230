use std::{sync::atomic::Ordering, time::Duration};

use cordium_proto::v1::{
    Failure, LogEntry, LogSource, LogStream, WorkspaceState,
    failure::{TaskFailure, Type},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::fake::{Act, act, finish, good, stage, until};

fn pid(child: &tokio::process::Child) -> Pid {
    Pid::from_raw(child.id().unwrap() as i32)
}

#[tokio::test]
async fn creates_starts_shows_phases_and_runs_the_command() {
    let (_dir, fake, cordium) = stage().await;
    let o = cordium.run(&["run", "dev", "--image", "alpine:3.21", "--var", "X=y", "--", "exit", "7"]).await;
    assert_eq!(o.code, 7, "{}", o.err);
    assert_eq!(o.out, "");
    let phases: Vec<&str> = o.err.lines().filter(|l| l.starts_with("phase ")).collect();
    assert_eq!(
        phases[..5],
        [
            "phase INIT_REQUEST 1.00s",
            "phase INITIALIZING 1.00s",
            "phase PULLING_IMAGE 1.00s pulling alpine:3.21",
            "phase STARTING_RUNTIME 1.00s",
            "phase PREPARING 1.00s"
        ]
    );
    assert!(phases[5].starts_with("phase RUNNING "), "{phases:?}");
    assert!(o.err.starts_with("workspace dev created\n"));
    fake.seen(|s| {
        let spec: Value = serde_json::from_str(&s.created[0].spec_json).unwrap();
        assert_eq!(spec["image"]["registry"]["url"], "alpine:3.21");
        assert_eq!(s.started[0].vars["X"], "y");
        assert_eq!(s.execs[0].workspace, "uid-dev");
        assert!(s.deleted.is_empty() && s.stopped.is_empty());
    });
}

#[tokio::test]
async fn the_command_s_output_is_all_there_is_on_stdout() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["run", "dev", "--", "both"]).await;
    assert_eq!((o.code, o.out.as_str()), (0, "to out\n"));
    assert!(o.err.contains("to err\n"));
}

#[tokio::test]
async fn a_running_workspace_is_used_as_it_is() {
    let (_dir, fake, cordium) = stage().await;
    cordium.run(&["run", "dev", "--", "exit", "0"]).await;
    let o = cordium.run(&["run", "dev", "--", "exit", "4"]).await;
    assert_eq!(o.code, 4);
    assert!(!o.err.contains("phase"), "{}", o.err);
    fake.seen(|s| assert_eq!((s.created.len(), s.started.len()), (1, 1)));
}

#[tokio::test]
async fn a_stopped_workspace_is_started_again_and_flags_are_laid_over_its_spec() {
    let (_dir, fake, cordium) = stage().await;
    let args = ["create", "ws", "dev", "--image", "alpine:3", "-e", "A=1"];
    assert_eq!(cordium.run(&args).await.code, 0);
    let o = cordium.run(&["run", "dev", "-e", "B=2", "--", "exit", "0"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("workspace dev updated"));
    fake.seen(|s| {
        let spec: Value = serde_json::from_str(s.updated[0].spec_json.as_ref().unwrap()).unwrap();
        assert_eq!(spec["image"]["registry"]["url"], "alpine:3");
        assert_eq!(spec["runtime"]["envVars"].as_array().unwrap().len(), 2);
        assert_eq!(s.created.len(), 1);
    });
}

#[tokio::test]
async fn task_output_is_shown_while_it_starts() {
    let (_dir, fake, cordium) = stage().await;
    let entry = |seq, run: &str, stream: LogStream, data: &'static str| LogEntry {
        seq,
        source: LogSource::Task.into(),
        name: "setup".into(),
        stream: stream.into(),
        data: data.as_bytes().into(),
        run_id: run.into(),
        at: None,
    };
    *fake.0.logs.lock().unwrap() = vec![
        entry(1, "run-1", LogStream::Stdout, "inst"),
        entry(2, "run-1", LogStream::Stdout, "alling\nhostile \u{1b}]0;title\u{7}end\n"),
        entry(3, "run-0", LogStream::Stderr, "of an older run\n"),
    ];
    let mut script = good();
    script[4].after = Duration::from_millis(300);
    fake.script(script);
    let o = cordium.run(&["run", "dev", "--", "exit", "0"]).await;
    assert!(o.err.contains("[setup] installing\n[setup] hostile end\n"), "{}", o.err);
    assert!(!o.err.contains("older run"));
}

#[tokio::test]
async fn what_was_printed_before_running_is_shown_however_late_it_comes() {
    let (_dir, fake, cordium) = stage().await;
    let entry = |seq, data: &'static str| LogEntry {
        seq,
        source: LogSource::Task.into(),
        name: "setup".into(),
        stream: LogStream::Stdout.into(),
        data: data.as_bytes().into(),
        run_id: "run-1".into(),
        at: None,
    };
    *fake.0.logs.lock().unwrap() = vec![entry(1, "one\ntw"), entry(2, "o\nno end")];
    fake.0.logs_are_late.store(true, Ordering::Relaxed);
    fake.script(good());
    let o = cordium.run(&["run", "dev", "--", "exit", "0"]).await;
    assert!(o.err.contains("[setup] one\n[setup] two\n[setup] no end\n"), "{}", o.err);
}

#[tokio::test]
async fn a_failure_tells_type_message_output_and_next_step() {
    let (_dir, fake, cordium) = stage().await;
    let failure = Failure {
        message: "task setup ended with exit code 13\nline one\nline two".into(),
        r#type: Some(Type::Task(TaskFailure { name: "setup".into(), exit_code: 13, ..Default::default() })),
    };
    let failed = |state| Act { failure: Some(failure.clone()), ..act(state) };
    fake.script(vec![
        act(WorkspaceState::InitRequest),
        act(WorkspaceState::Preparing),
        failed(WorkspaceState::StoppingRequest),
        failed(WorkspaceState::Stopped),
    ]);
    let o = cordium.run(&["run", "dev", "--", "exit", "0"]).await;
    assert_eq!(o.code, 1);
    let told = "error: workspace dev failed in PREPARING: task \"setup\", exit code 13\n  | task setup ended with exit \
                code 13\n  | line one\n  | line two\nhint: `cordium logs dev --task \"setup\"`";
    assert!(o.err.contains(told), "{}", o.err);
    fake.seen(|s| assert!(s.execs.is_empty()));
}

#[tokio::test]
async fn the_second_start_after_a_failure_is_not_taken_for_the_first() {
    let (_dir, fake, cordium) = stage().await;
    let failed =
        Act { failure: Some(Failure { message: "no".into(), r#type: None }), ..act(WorkspaceState::Stopped) };
    fake.script(vec![act(WorkspaceState::PullingImage), failed]);
    assert_eq!(cordium.run(&["run", "dev", "--", "exit", "0"]).await.code, 1);
    fake.script(good());
    let o = cordium.run(&["run", "dev", "--", "exit", "5"]).await;
    assert_eq!(o.code, 5, "{}", o.err);
}

#[tokio::test]
async fn without_a_terminal_and_a_command_a_summary_is_printed() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["run", "dev", "--image", "alpine:3"]).await;
    assert_eq!(o.code, 0);
    assert!(o.out.starts_with("workspace dev is RUNNING\n  image      alpine:3\n"), "{}", o.out);
}

#[tokio::test]
async fn a_name_is_made_up_and_rm_deletes_at_the_end() {
    let (_dir, fake, cordium) = stage().await;
    let o = cordium.run(&["run", "--rm", "--", "exit", "9"]).await;
    assert_eq!(o.code, 9, "{}", o.err);
    fake.seen(|s| {
        let name = &s.created[0].name;
        assert_eq!(name.split('-').count(), 3);
        assert_eq!((&s.stopped, &s.deleted), (&vec![name.clone()], &vec![name.clone()]));
    });
}

#[tokio::test]
async fn auto_stop_without_a_command_waits_for_the_end() {
    let (_dir, fake, cordium) = stage().await;
    let mut script = good();
    script.extend([act(WorkspaceState::Stopping), act(WorkspaceState::Stopped)]);
    fake.script(script);
    let o = cordium.run(&["run", "job", "--auto-stop"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("phase STOPPED"), "{}", o.err);
}

#[tokio::test]
async fn ctrl_c_while_starting_stops_what_we_started() {
    let (_dir, fake, cordium) = stage().await;
    let mut script = good();
    script[2].after = Duration::from_secs(60);
    fake.script(script);
    let child = cordium.command(&["run", "dev"]).spawn().unwrap();
    until("started", || fake.seen(|s| s.started.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill(pid(&child), Signal::SIGINT).unwrap();
    let o = finish(child).await;
    assert_eq!(o.code, 130, "{}", o.err);
    assert!(o.err.contains("error: interrupted; workspace dev is stopped\nhint: "), "{}", o.err);
    fake.seen(|s| assert_eq!((s.stopped.as_slice(), s.deleted.len()), (&["dev".to_owned()][..], 0)));
}

#[tokio::test]
async fn ctrl_c_with_rm_also_deletes() {
    let (_dir, fake, cordium) = stage().await;
    let mut script = good();
    script[2].after = Duration::from_secs(60);
    fake.script(script);
    let child = cordium.command(&["run", "dev", "--rm"]).spawn().unwrap();
    until("started", || fake.seen(|s| s.started.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill(pid(&child), Signal::SIGINT).unwrap();
    let o = finish(child).await;
    assert_eq!(o.code, 130, "{}", o.err);
    fake.seen(|s| assert_eq!(s.deleted, ["dev"]));
}

#[tokio::test]
async fn the_second_ctrl_c_leaves_at_once() {
    let (_dir, fake, cordium) = stage().await;
    let mut script = good();
    script[2].after = Duration::from_secs(60);
    fake.script(script);
    // It accepts to stop, and never does.
    fake.0.stop_hangs.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut child = cordium.command(&["run", "dev", "--rm"]).spawn().unwrap();
    until("started", || fake.seen(|s| s.started.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill(pid(&child), Signal::SIGINT).unwrap();
    until("asked to stop", || fake.seen(|s| s.stopped.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(child.try_wait().unwrap().is_none(), "it waits for the stop");
    kill(pid(&child), Signal::SIGINT).unwrap();
    let o = tokio::time::timeout(Duration::from_secs(2), finish(child)).await.unwrap();
    assert_eq!(o.code, 130);
    fake.seen(|s| assert!(s.deleted.is_empty()));
}

#[tokio::test]
async fn ctrl_c_while_waiting_for_a_start_leaves_it_alone() {
    let (_dir, fake, cordium) = stage().await;
    let mut script = good();
    script[1].after = Duration::from_secs(60);
    fake.script(script);
    assert_eq!(cordium.run(&["create", "ws", "dev"]).await.code, 0);
    let child = cordium.command(&["start", "--wait", "dev"]).spawn().unwrap();
    until("started", || fake.seen(|s| s.started.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill(pid(&child), Signal::SIGINT).unwrap();
    let o = finish(child).await;
    assert_eq!(o.code, 130);
    assert!(o.err.contains("goes on starting"), "{}", o.err);
    fake.seen(|s| assert!(s.stopped.is_empty()));
    let o = cordium.run(&["stop", "--wait", "dev"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("phase STOPPED"), "{}", o.err);
}

#[tokio::test]
async fn a_broken_phase_stream_is_resumed_without_a_gap() {
    let (_dir, fake, cordium) = stage().await;
    // The snapshot and two phases.
    *fake.0.break_watch_after.lock().unwrap() = Some(3);
    let o = cordium.run(&["run", "dev", "--", "exit", "0"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("phase PREPARING"));
    fake.seen(|s| assert_eq!(s.watched_after, [0, 2]));
}
