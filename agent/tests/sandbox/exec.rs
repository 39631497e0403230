//! `Session.Exec`.

use std::time::{Duration, Instant};

use cordium_proto::v1::{ExecStart, TerminalSize};

use crate::harness::{Image, Sandbox, is_root, request, sh};

#[tokio::test(flavor = "multi_thread")]
async fn streams_codes_users_directories_and_environment() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let done = sandbox.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!((done.out(), done.stderr.as_slice(), done.code), ("out", b"err\n".as_slice(), 7));
    assert_eq!(
        sandbox.sh("id -u; id -un; id -G; pwd; umask").await.out(),
        "1000\ncordium\n1000 77\n/home/cordium\n0022"
    );
    assert_eq!(sandbox.root_sh("id -u; echo $HOME $USER").await.out(), "0\n/root root");
    let start = ExecStart {
        working_dir: "/tmp".into(),
        env: [("GREETING".to_owned(), "hi".to_owned())].into(),
        ..sh(
            "pwd; echo $GREETING $CORDIUM_NAME $CORDIUM_HOSTNAME $CORDIUM_UID $CORDIUM_SPACE $CORDIUM $SHELL; hostname",
        )
    };
    assert_eq!(sandbox.exec(start).await.out(), "/tmp\nhi demo demo.test uid-1 default 1 /bin/sh\ndemo.test");
    let fds = sandbox.sh("ls /proc/self/fd").await;
    assert_eq!(fds.out(), "0\n1\n2\n3", "only stdio, and the directory being listed");
    let grep = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"].map(str::to_owned).to_vec();
    let signals = sandbox.exec(ExecStart { command: grep, ..ExecStart::default() }).await;
    assert_eq!(signals.out(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
    let session = sandbox.sh("cut -d' ' -f1,5,6 /proc/$$/stat").await;
    let ids: Vec<&str> = session.out().split(' ').collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let exec = |command: &str| ExecStart { command: vec![command.into()], ..ExecStart::default() };
    let missing = sandbox.exec(exec("no-such-program")).await;
    assert_eq!(missing.code, 127);
    assert!(missing.error.contains("`no-such-program` was not found"), "{}", missing.error);
    let denied = sandbox.exec(exec("/etc/passwd")).await;
    assert_eq!(denied.code, 126);
    assert!(denied.error.contains("cannot be executed"), "{}", denied.error);
    let lost = sandbox.exec(ExecStart { working_dir: "/nowhere".into(), ..sh("true") }).await;
    assert_eq!(lost.code, 126);
    assert!(lost.error.contains("working directory `/nowhere`"), "{}", lost.error);
    let closed = sandbox.exec(ExecStart { working_dir: "/root".into(), ..sh("true") }).await;
    assert!(closed.code == 0 || closed.error.contains("working directory `/root`"), "{}", closed.error);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    drop(requests);
    let status =
        sandbox.session().exec(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_is_binary_and_ends() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let input: Vec<u8> = (0..5_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let exec = sandbox
        .start_exec(ExecStart { command: vec!["cat".into()], stdin: true, ..ExecStart::default() })
        .await;
    let requests = exec.requests.clone();
    let data = input.clone();
    tokio::spawn(async move {
        use cordium_proto::v1::{ExecRequest, StdinEof, exec_request::Message};
        for part in data.chunks(100_000) {
            let message = Some(Message::Stdin(part.to_vec().into()));
            requests.send(ExecRequest { message }).await.unwrap();
        }
        requests.send(ExecRequest { message: Some(Message::StdinEof(StdinEof {})) }).await.unwrap();
    });
    let done = exec.done().await;
    assert_eq!(done.code, 0);
    assert!(done.stdout == input, "{} of {} bytes", done.stdout.len(), input.len());
    let without = sandbox.exec(ExecStart { command: vec!["cat".into()], ..ExecStart::default() }).await;
    assert_eq!((without.code, without.stdout.len()), (0, 0), "without stdin it is /dev/null");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_group_even_while_input_is_stuck() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let mut exec = sandbox.start_exec(ExecStart { stdin: true, ..sh("echo ready; sleep 1000") }).await;
    exec.read_until("ready").await;
    exec.stdin(&[0; 500_000]).await;
    exec.signal(15).await;
    let done = exec.done().await;
    assert_eq!((done.code, done.signal), (143, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_does_not_wait_for_a_background_child() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let begun = Instant::now();
    let done = sandbox.sh("sleep 1000 & echo hi").await;
    assert_eq!((done.out(), done.code), ("hi", 0));
    assert!(begun.elapsed() < Duration::from_secs(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_can_be_had_and_resized() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let tty = Some(TerminalSize { cols: 100, rows: 30 });
    let start =
        ExecStart { tty, ..sh("tty; stty size; read x; stty size; test -t 1 && echo TTY; sleep 100") };
    let mut exec = sandbox.start_exec(start).await;
    let seen = exec.read_until("30 100").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    exec.resize(120, 40).await;
    exec.stdin(b"\n").await;
    exec.read_until("TTY").await;
    exec.stdin(&[3]).await;
    assert_eq!(exec.done().await.code, 130, "Ctrl-C through the line discipline");
    let whole = ExecStart { tty, ..sh("seq 1 2000") };
    let done = sandbox.exec(whole).await;
    assert!(done.out().ends_with("2000"), "nothing is lost at the end");
    assert_eq!(done.stdout.iter().filter(|byte| **byte == b'\n').count(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_client() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let mut exec =
        sandbox.start_exec(sh("trap '' HUP TERM; sleep 4321 & echo ready; wait; sleep 4321")).await;
    exec.read_until("ready").await;
    while sandbox.root_sh("pidof sleep").await.code != 0 {}
    drop(exec);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if sandbox.root_sh("pidof sleep").await.code == 1 {
            return;
        }
    }
    panic!("still there: {}", sandbox.root_sh("ps").await.out());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_the_command_not_memory() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let before = sandbox.agent_peak_kib();
    let mut exec = sandbox.start_exec(sh("head -c 500000000 /dev/zero; echo END")).await;
    exec.responses.message().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = sandbox.agent_peak_kib() - before;
    assert!(grown < 16 << 10, "grew by {grown} KiB");
    let done = exec.done().await;
    assert!(done.stdout.ends_with(b"END\n"));
    let grown = sandbox.agent_peak_kib() - before;
    assert!(grown < 24 << 10, "grew by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_no_zombies() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let all = (0..200).map(|n| {
        let sandbox = &sandbox;
        async move { assert_eq!(sandbox.sh(&format!("echo {n}; exit {}", n % 50)).await.code, n % 50) }
    });
    futures::future::join_all(all).await;
    // An orphan whose parent ended before it.
    sandbox.sh("(sleep 0.2 & ) ; (sh -c 'sleep 0.1 & exit 3' &) ; exit 0").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let zombies = sandbox.root_sh("cat /proc/[0-9]*/stat | grep -c ') Z '").await;
    assert_eq!(zombies.out(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_quick() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let mut times = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        assert_eq!(
            sandbox.exec(ExecStart { command: vec!["true".into()], ..ExecStart::default() }).await.code,
            0
        );
        times.push(begun.elapsed());
    }
    times.sort();
    println!("exec of true: median {:?}, p95 {:?}", times[50], times[95]);
    assert!(times[50] < Duration::from_millis(50), "median {:?}", times[50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_prepare_and_without_any_file_system() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Scratch).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let start =
        ExecStart { command: vec!["/busybox".into(), "id".into(), "-u".into()], ..ExecStart::default() };
    let message = cordium_proto::v1::exec_request::Message::Start(start.clone());
    requests.send(cordium_proto::v1::ExecRequest { message: Some(message) }).await.unwrap();
    let early = sandbox.session().exec(tokio_stream::wrappers::ReceiverStream::new(receiver)).await;
    assert_eq!(early.unwrap_err().code(), tonic::Code::FailedPrecondition);
    sandbox.prepare(request()).await;
    sandbox.wait_running().await;
    assert_eq!(sandbox.exec(start).await.out(), "1000");
    let passwd = ExecStart {
        command: ["/busybox", "cat", "/etc/passwd"].map(str::to_owned).to_vec(),
        ..ExecStart::default()
    };
    assert!(
        sandbox.exec(passwd).await.out().contains("cordium:x:1000:1000:cordium:/home/cordium:/sbin/nologin")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_is_small() {
    if !is_root() {
        return;
    }
    let begun = Instant::now();
    let sandbox = Sandbox::running().await;
    println!("namespaces, start and Prepare: {:?}", begun.elapsed());
    sandbox.sh("true").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.agent_pid())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (pss, private) = (kib("Pss:"), kib("Private_Dirty:"));
    println!("idle agent: PSS {pss} KiB, of it private and dirty {private} KiB");
    assert!(pss < 12 << 10, "PSS {pss} KiB");
    assert!(private < 4 << 10, "private and dirty: {private} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_although_its_children_write_without_end() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let command = sandbox.sh("yes & echo started >&2; sleep 0.2; exit 4");
    let done = tokio::time::timeout(Duration::from_secs(20), command).await.unwrap();
    assert_eq!((done.code, done.stderr.as_slice()), (4, b"started\n".as_slice()));
}
