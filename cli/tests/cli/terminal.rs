//! `cordium terminal` on a pseudo-terminal of ours.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::fake::{Cordium, stage, until};

struct Pty {
    ours: File,
    theirs: OwnedFd,
    seen: String,
}

impl Pty {
    fn open() -> Self {
        let pair = nix::pty::openpty(None, None).unwrap();
        let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&pair.slave, size).unwrap();
        Self { ours: pair.master.into(), theirs: pair.slave, seen: String::new() }
    }

    fn spawn(&self, cordium: &Cordium, args: &[&str]) -> tokio::process::Child {
        let end = || Stdio::from(self.theirs.try_clone().unwrap());
        let mut command = cordium.command(args);
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    async fn expect(mut self, text: &'static str) -> Self {
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut buffer = [0; 4096];
            while !self.seen.contains(text) {
                assert!(began.elapsed() < Duration::from_secs(10), "{text:?} not in {:?}", self.seen);
                let n = self.ours.read(&mut buffer).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            self
        })
        .await
        .unwrap()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_while_attached_and_as_before_afterwards() {
    let (_dir, fake, cordium) = stage().await;
    let pty = Pty::open();
    assert!(!pty.is_raw());
    let mut child = pty.spawn(&cordium, &["terminal", "dev"]);
    let mut pty = pty.expect("attached t1").await;
    assert!(pty.is_raw());
    pty.ours.write_all(b"hello").unwrap();
    let mut pty = pty.expect("hello").await;
    until("size", || fake.seen(|s| s.sizes.contains(&(101, 33)))).await;
    pty.ours.write_all(b"q").unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
    assert!(!pty.is_raw());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_detach_keys_leave_and_the_window_s_size_is_passed_on() {
    let (_dir, fake, cordium) = stage().await;
    let pty = Pty::open();
    let mut child = pty.spawn(&cordium, &["terminal", "dev", "--id", "t7"]);
    let mut pty = pty.expect("attached t7").await;
    let size = Winsize { ws_row: 10, ws_col: 20, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&pty.theirs, size).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap() as i32);
    // The pty is not its controlling terminal, so the kernel does not tell it.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH).unwrap();
    until("resized", || fake.seen(|s| s.sizes.last() == Some(&(20, 10)))).await;
    pty.ours.write_all(b"\x1dd").unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(!pty.is_raw());
    pty.expect("left terminal t7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_opens_a_terminal_and_a_signal_leaves_it_sane() {
    let (_dir, _fake, cordium) = stage().await;
    let pty = Pty::open();
    let mut child = pty.spawn(&cordium, &["run", "dev"]);
    let pty = pty.expect("attached t1").await;
    assert!(pty.is_raw());
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(143));
    assert!(!pty.is_raw());
}

#[tokio::test]
async fn without_a_terminal_it_says_what_to_use() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["terminal", "dev"]).await;
    assert_eq!(o.code, 2);
    assert!(o.err.contains("hint: without one, use `cordium exec dev -- COMMAND`"), "{}", o.err);
    let o = cordium.run(&["terminal", "dev", "--list"]).await;
    assert!(o.out.contains("t1  80x24"), "{}", o.out);
}
