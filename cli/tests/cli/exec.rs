use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::fake::{finish, stage};

#[tokio::test]
async fn exit_codes_are_the_command_s() {
    let (_dir, _fake, cordium) = stage().await;
    for code in ["0", "7", "255"] {
        assert_eq!(cordium.run(&["exec", "dev", "--", "exit", code]).await.code.to_string(), code);
    }
    let o = cordium.run(&["exec", "dev", "--", "nonsense"]).await;
    assert_eq!(o.code, 127);
    assert!(o.err.starts_with("error: cannot start the command: executable not found\nhint: "), "{}", o.err);
}

#[tokio::test]
async fn what_cannot_be_run_is_125() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["exec", "absent", "--", "ls"]).await;
    assert_eq!((o.code, o.out.as_str()), (125, ""));
    assert!(
        o.err.contains("error: cannot run a command in absent: workspace \"absent\" does not exist\nhint: ")
    );
    let o = cordium.run(&["exec", "dev", "--", "cut"]).await;
    assert_eq!(o.code, 125);
    assert!(o.err.contains("the node went away"), "{}", o.err);
    assert_eq!(cordium.run(&["exec", "dev"]).await.code, 2);
}

#[tokio::test]
async fn streams_are_separate_and_flags_arrive() {
    let (_dir, fake, cordium) = stage().await;
    let o = cordium
        .run(&["exec", "dev", "-w", "/srv", "--root", "-e", "A=b=c", "--no-stdin", "--", "both"])
        .await;
    assert_eq!((o.code, o.out.as_str(), o.err.as_str()), (0, "to out\n", "to err\n"));
    fake.seen(|s| {
        let start = &s.execs[0];
        assert_eq!((start.working_dir.as_str(), start.run_as_root, start.stdin), ("/srv", true, false));
        assert_eq!(start.env["A"], "b=c");
        assert!(start.tty.is_none());
    });
}

#[tokio::test]
async fn standard_input_is_passed_on_with_its_end_byte_for_byte() {
    let (_dir, _fake, cordium) = stage().await;
    let mut child = cordium.command(&["exec", "dev", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let sent = data.clone();
    let writer = tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
    let mut back = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stdout.read_to_end(&mut back)).await.unwrap().unwrap();
    writer.await.unwrap();
    assert!(back == data, "{} bytes came back", back.len());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn signals_are_forwarded() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (_dir, fake, cordium) = stage().await;
        let mut child = cordium.command(&["exec", "dev", "--", "wait"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
        kill(Pid::from_raw(child.id().unwrap() as i32), signal).unwrap();
        assert_eq!(finish(child).await.code, code);
        fake.seen(|s| assert_eq!(s.signals, [signal as i32]));
    }
}

#[tokio::test]
async fn a_closed_reader_is_no_noise() {
    let (_dir, _fake, cordium) = stage().await;
    let mut child = cordium.command(&["exec", "dev", "--", "flood"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [0; 100];
    stdout.read_exact(&mut some).await.unwrap();
    drop(stdout);
    let o = finish(child).await;
    assert_eq!((o.code, o.err.as_str()), (141, ""));
}
