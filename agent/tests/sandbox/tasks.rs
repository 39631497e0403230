//! Tasks, budgets, and what a run leaves for the next.

use std::time::{Duration, Instant};

use cordium_proto::v1::agent_event::Event;
use cordium_proto::v1::failure::Type;
use cordium_proto::v1::{
    EnvVar, LogSource, LogsRequest, MainProcess, OnFailure, PrepareRequest, Task, TaskType,
};

use crate::harness::{Image, Sandbox, is_root, request, task};

fn with(tasks: Vec<Task>) -> PrepareRequest {
    PrepareRequest { tasks, ..request() }
}

fn post(name: &str, run: &str) -> Task {
    task(name, TaskType::PostStart, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn order_identity_environment_and_failures_that_do_not_matter() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let begun = Instant::now();
    let tasks = vec![
        post("second", "echo second >> /workspace/order; id -u > /workspace/user; pwd > /workspace/cwd"),
        task("first", TaskType::OnCreate, "echo first >> /workspace/order"),
        Task { on_failure: OnFailure::Continue.into(), ..post("fails", "echo why >&2; exit 3") },
        Task { background: true, ..post("slow", "echo started; sleep 30") },
        Task { background: true, on_failure: OnFailure::Abort.into(), ..post("broken", "exit 9") },
        Task {
            run_as_root: true,
            working_dir: "/tmp".into(),
            env: vec![EnvVar { key: "X".into(), value: "1".into() }],
            ..post("root", "echo $(id -u) $X $(pwd) $CORDIUM_NAME > /workspace/root")
        },
        task("later", TaskType::PreStop, "echo later >> /workspace/order"),
    ];
    sandbox.prepare(with(tasks)).await;
    let warnings = sandbox.warnings().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "the background task is not waited for");
    assert!(
        warnings.iter().any(|w| w == "task `fails` failed with exit code 3; its last output:\nwhy"),
        "{warnings:?}"
    );
    assert_eq!(
        sandbox.sh("cat /workspace/order /workspace/user /workspace/cwd /workspace/root").await.out(),
        "first\nsecond\n1000\n/home/cordium\n0 1 /tmp demo"
    );
    let log = sandbox.logs(LogsRequest { task: "slow".into(), ..LogsRequest::default() }).await;
    assert_eq!(log[0].data.as_ref(), b"started\n");
    assert_eq!(
        (log[0].source(), log[0].name.as_str(), log[0].run_id.as_str()),
        (LogSource::Task, "slow", "run-1")
    );
    assert!(log[0].at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_the_run_with_code_and_last_words() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let abort = Task { on_failure: OnFailure::Abort.into(), ..post("bad", "echo the reason; exit 13") };
    sandbox.prepare(with(vec![abort, post("never", "touch /workspace/never")])).await;
    let failure = sandbox.wait_failure().await;
    assert_eq!(failure.message, "task `bad` failed with exit code 13; its last output:\nthe reason");
    let Some(Type::Task(task)) = failure.r#type else { panic!("{failure:?}") };
    assert_eq!((task.name.as_str(), task.exit_code), ("bad", 13));
    assert_eq!(sandbox.sh("ls /workspace").await.out(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ignores_sigterm_is_killed_with_its_children() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let stubborn = Task {
        on_failure: OnFailure::Abort.into(),
        timeout_ms: 300,
        ..post("stubborn", "trap '' TERM; sleep 777 & echo going; while :; do sleep 778; done")
    };
    let begun = Instant::now();
    sandbox.prepare(with(vec![stubborn])).await;
    let failure = sandbox.wait_failure().await;
    assert!(
        failure.message.starts_with("task `stubborn` timed out after 300ms; its last output:\ngoing"),
        "{failure:?}"
    );
    let Some(Type::Task(task)) = failure.r#type else { panic!() };
    assert_eq!(task.exit_code, -1);
    assert!((5..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(sandbox.root_sh("pidof sleep").await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_task_has_code_minus_one() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let killed = Task { on_failure: OnFailure::Abort.into(), ..post("killed", "kill -9 $$") };
    sandbox.prepare(with(vec![killed])).await;
    let failure = sandbox.wait_failure().await;
    assert!(failure.message.contains("signal 9 (SIGKILL)"), "{failure:?}");
    assert!(matches!(failure.r#type, Some(Type::Task(task)) if task.exit_code == -1));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_up_has_a_budget() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let mut request = with(vec![post("slow", "sleep 100")]);
    request.startup_timeout_ms = 500;
    sandbox.prepare(request).await;
    let failure = sandbox.wait_failure().await;
    assert!(matches!(failure.r#type, Some(Type::StartupTimeoutExceeded(_))), "{failure:?}");
    assert!(failure.message.contains("task `slow` was not done within the 500ms"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_of_output_does_not_grow_memory() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    sandbox.prepare(with(vec![post("loud", "head -c 1073741824 /dev/zero; echo; echo END")])).await;
    sandbox.wait_running().await;
    let peak = sandbox.agent_peak_kib();
    assert!(peak < 48 << 10, "peak {peak} KiB");
    let log = sandbox.logs(LogsRequest { task: "loud".into(), ..LogsRequest::default() }).await;
    assert!(log[0].seq > 1000, "older entries are dropped, and seq says so");
    assert!(log.iter().map(|entry| entry.data.len()).sum::<usize>() <= 4 << 20);
    assert!(log.last().unwrap().data.ends_with(b"END\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_create_runs_once_unless_it_was_cut_short() {
    if !is_root() {
        return;
    }
    let tasks = |code: i32| {
        vec![
            task("create", TaskType::OnCreate, "echo create >> /workspace/runs"),
            Task {
                on_failure: OnFailure::Abort.into(),
                ..task("gate", TaskType::OnCreate, &format!("exit {code}"))
            },
            post("start", "echo start >> /workspace/runs"),
        ]
    };
    let sandbox = Sandbox::new(Image::Busybox).await;
    sandbox.prepare(with(tasks(1))).await;
    sandbox.wait_failure().await;

    let sandbox = sandbox.again().await;
    sandbox.prepare(PrepareRequest { fresh: false, ..with(tasks(0)) }).await;
    sandbox.wait_running().await;
    assert_eq!(sandbox.sh("cat /workspace/runs").await.out(), "create\ncreate\nstart");

    let sandbox = sandbox.again().await;
    sandbox.prepare(PrepareRequest { fresh: false, ..with(tasks(0)) }).await;
    sandbox.wait_running().await;
    assert_eq!(sandbox.sh("cat /workspace/runs").await.out(), "create\ncreate\nstart\nstart");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shell_tasks_fail_plainly() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Scratch).await;
    sandbox.prepare(with(vec![post("any", "true")])).await;
    let failure = sandbox.wait_failure().await;
    assert!(failure.message.contains("the image has no shell"), "{failure:?}");
    assert!(matches!(failure.r#type, Some(Type::Task(task)) if task.exit_code == 127));
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_stop_follows_running_and_a_second_prepare_is_refused() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    sandbox.prepare(PrepareRequest { auto_stop: true, ..with(vec![post("work", "echo done")]) }).await;
    let events = sandbox.events_until(|event| matches!(event, Event::Finished(_))).await;
    assert!(matches!(events[0], Event::Preparing(_)));
    assert!(
        matches!(&events[events.len() - 2], Event::Running(r) if r.user == "cordium" && r.uid == 1000 && r.home == "/home/cordium")
    );
    sandbox.prepare(request()).await;
    let other = PrepareRequest { run_id: "run-2".into(), ..request() };
    assert_eq!(sandbox.agent().prepare(other).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_process_runs_as_its_user_and_may_end() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let argv = ["sh", "-c", "echo main $(id -u):$(id -g) $M $HOME; exit 4"].map(str::to_owned).to_vec();
    let main = MainProcess {
        argv,
        env: vec![EnvVar { key: "M".into(), value: "m".into() }],
        user: "1234:77".into(),
        ..MainProcess::default()
    };
    sandbox.prepare(PrepareRequest { main: Some(main), ..with(vec![post("wait", "sleep 0.5")]) }).await;
    sandbox.wait_running().await;
    let log = sandbox.logs(LogsRequest::default()).await;
    let main = log.iter().find(|entry| entry.source() == LogSource::Main).unwrap();
    assert_eq!(main.data.as_ref(), b"main 1234:77 m /\n");
    assert!(sandbox.log_text().await.contains("main process ended with exit code 4"));
}
