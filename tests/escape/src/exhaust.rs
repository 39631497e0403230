//! Kernel objects of which there is a number for each user, or for all: `hold` takes as many as it gets and keeps them,
//! `need` is what a neighbour does with a few of them meanwhile.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::CloneFlags,
    sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg},
};
use rustix::fs::{FlockOperation, flock, inotify};

use crate::{places, probe::in_child, sys};

/// No kind is taken for longer than this; what is not exhausted by then is bounded by something else.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Held {
    pub count: usize,
    /// The error that ended it.
    pub end: String,
    _kept: Vec<Box<dyn std::any::Any>>,
}

pub struct Kind {
    pub name: &'static str,
    pub hold: fn() -> Held,
    pub need: fn() -> Result<()>,
}

pub const KINDS: [Kind; 12] = [
    Kind { name: "user-namespaces", hold: || namespaces(CloneFlags::CLONE_NEWUSER), need: need_namespaces },
    Kind { name: "network-namespaces", hold: || namespaces(CloneFlags::CLONE_NEWNET), need: need_namespaces },
    Kind { name: "mounts", hold: hold_mounts, need: need_mounts },
    Kind { name: "inotify", hold: || until_refused(inotify_instance), need: need_inotify },
    Kind { name: "signals", hold: hold_signals, need: need_signals },
    Kind { name: "message-queues", hold: hold_queues, need: need_queues },
    Kind { name: "processes", hold: hold_processes, need: need_processes },
    Kind { name: "file-locks", hold: hold_locks, need: need_locks },
    Kind { name: "pipes", hold: || until_refused(pipe), need: need_pipes },
    Kind { name: "sockets", hold: || until_refused(socket), need: need_sockets },
    Kind { name: "descriptors-in-flight", hold: hold_in_flight, need: need_in_flight },
    Kind { name: "terminals", hold: || until_refused(terminal), need: need_terminals },
];

pub fn find(name: &str) -> Result<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name).with_context(|| format!("there is no kind {name:?}"))
}

/// Takes one after the other and keeps them all.
fn until_refused<T: 'static>(mut one: impl FnMut() -> io::Result<T>) -> Held {
    const MOST: usize = 200_000;
    let end = Instant::now() + PATIENCE;
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    while kept.len() < MOST && Instant::now() < end {
        match one() {
            Ok(object) => kept.push(Box::new(object)),
            Err(error) => return Held { count: kept.len(), end: name(&error), _kept: kept },
        }
    }
    Held { count: kept.len(), end: "patience".to_owned(), _kept: kept }
}

fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| format!("{:?}", Errno::from_raw(code)))
}

/// A namespace that its descriptor keeps.
fn namespaces(kind: CloneFlags) -> Held {
    let file = if kind == CloneFlags::CLONE_NEWUSER { "user" } else { "net" };
    until_refused(move || {
        let (mut told, mut tell) = io::pipe()?;
        let (mut wait, release) = io::pipe()?;
        let held = release.as_raw_fd();
        let child = sys::fork_child(|| {
            // Its copy of the end by which it is released.
            let _ = nix::unistd::close(held);
            let code = nix::sched::unshare(kind).err().map_or(0, |errno| errno as i32);
            let _ = tell.write_all(&code.to_ne_bytes());
            let _ = wait.read(&mut [0]);
            0
        })?;
        let mut code = [0; 4];
        let read = told.read_exact(&mut code);
        let opened = File::open(format!("/proc/{child}/ns/{file}"));
        drop(release);
        let _ = nix::sys::wait::waitpid(child, None);
        read?;
        match i32::from_ne_bytes(code) {
            0 => opened,
            code => Err(io::Error::from_raw_os_error(code)),
        }
    })
}

fn need_namespaces() -> Result<()> {
    let all = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let (told, end) = in_child(|| match places::nested(all) {
        Ok(()) => b"ok".to_vec(),
        Err(error) => error.to_string().into_bytes(),
    })?;
    anyhow::ensure!(told == b"ok", "{} ({end})", String::from_utf8_lossy(&told));
    Ok(())
}

/// Doubles a tree of mounts until the kernel has had enough.
fn hold_mounts() -> Held {
    let base = match places::own_mounts().and_then(|()| places::scratch("mounts")) {
        Ok(base) => base,
        Err(error) => return Held { count: 0, end: name(&error), _kept: Vec::new() },
    };
    let first = mount(Some("tree"), &base, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    let mut number = 0;
    let mut held = until_refused(|| {
        first?;
        let place = base.join(number.to_string());
        number += 1;
        fs::create_dir(&place)?;
        Ok(mount(Some(&base), &place, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
    });
    held.count = fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count());
    held
}

fn need_mounts() -> Result<()> {
    let (told, end) = in_child(|| {
        let mounted = places::own_mounts()
            .and_then(|()| places::scratch("need"))
            .and_then(|dir| Ok(mount(Some("need"), &dir, Some("tmpfs"), MsFlags::empty(), None::<&str>)?));
        mounted.map_or_else(|error| error.to_string().into_bytes(), |()| b"ok".to_vec())
    })?;
    anyhow::ensure!(told == b"ok", "{} ({end})", String::from_utf8_lossy(&told));
    Ok(())
}

fn inotify_instance() -> io::Result<OwnedFd> {
    Ok(inotify::init(inotify::CreateFlags::CLOEXEC)?)
}

fn need_inotify() -> Result<()> {
    let instance = inotify_instance()?;
    inotify::add_watch(&instance, "/tmp", inotify::WatchFlags::CREATE)?;
    Ok(())
}

fn hold_signals() -> Held {
    let signal = sys::real_time_signal();
    if let Err(error) = sys::block_signal(signal) {
        return Held { count: 0, end: name(&error), _kept: Vec::new() };
    }
    until_refused(move || sys::queue_signal(signal))
}

fn need_signals() -> Result<()> {
    let signal = sys::real_time_signal();
    sys::block_signal(signal)?;
    for _ in 0..16 {
        sys::queue_signal(signal)?;
    }
    Ok(())
}

/// Queues are bounded for each ipc namespace as well: another is made when one is full.
fn hold_queues() -> Held {
    let mut number = 0;
    let mut fresh = true;
    until_refused(move || {
        number += 1;
        let queue = std::ffi::CString::new(format!("cordium-escape-{number}"))?;
        match sys::message_queue(&queue, 4096) {
            Err(error) if fresh && error.raw_os_error() == Some(libc::ENOSPC) => {
                fresh = nix::sched::unshare(CloneFlags::CLONE_NEWIPC).is_ok();
                sys::message_queue(&queue, 4096)
            }
            other => other,
        }
    })
}

fn need_queues() -> Result<()> {
    let _ = sys::unlink_message_queue(c"cordium-escape-need");
    let queue = sys::message_queue(c"cordium-escape-need", 64 << 10)?;
    sys::unlink_message_queue(c"cordium-escape-need")?;
    drop(queue);
    Ok(())
}

/// Children that live as long as this process: their end of a pipe tells them.
fn hold_processes() -> Held {
    let (wait, held) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return Held { count: 0, end: name(&error), _kept: Vec::new() },
    };
    let number = held.as_raw_fd();
    let mut all = until_refused(|| {
        Ok(sys::fork_child(|| {
            let _ = nix::unistd::close(number);
            let _ = (&wait).read(&mut [0]);
            0
        })?)
    });
    all._kept.push(Box::new(held));
    all
}

fn need_processes() -> Result<()> {
    for _ in 0..8 {
        let program = std::env::current_exe()?;
        let status = Command::new(program).arg("list").stdout(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "a child ended with {status}");
    }
    Ok(())
}

fn hold_locks() -> Held {
    let file = File::create("/workspace/.cordium-escape-locks");
    let mut at = 0;
    until_refused(move || {
        at += 2;
        let file = file.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        sys::lock_byte(file, at)?;
        // The list is walked for each: enough is enough.
        if at > 20_000 { Err(Errno::ENOLCK.into()) } else { Ok(()) }
    })
}

fn need_locks() -> Result<()> {
    let file = File::create("/workspace/.cordium-escape-need")?;
    sys::lock_byte(&file, 0)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

fn pipe() -> io::Result<(io::PipeReader, io::PipeWriter)> {
    io::pipe()
}

fn need_pipes() -> Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    writer.write_all(&[7; 4096])?;
    let mut page = [0; 4096];
    reader.read_exact(&mut page)?;
    Ok(())
}

fn socket() -> io::Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind("127.0.0.1:0")
}

fn need_sockets() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut here = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.write_all(b"x")?;
    there.read_exact(&mut [0])?;
    Ok(())
}

fn send_descriptor(through: &UnixStream, what: &OwnedFd, copies: usize) -> io::Result<()> {
    let fds = vec![what.as_raw_fd(); copies];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(through.as_raw_fd(), &[IoSlice::new(b"x")], &rights, flags, None)?;
    Ok(())
}

/// Descriptors that were sent and not taken.
fn hold_in_flight() -> Held {
    let what = match File::open("/dev/null") {
        Ok(file) => OwnedFd::from(file),
        Err(error) => return Held { count: 0, end: name(&error), _kept: Vec::new() },
    };
    let mut pairs: Vec<(UnixStream, UnixStream)> = Vec::new();
    let mut held = until_refused(|| {
        if let Some((here, _)) = pairs.last()
            && send_descriptor(here, &what, 100).is_ok()
        {
            return Ok(());
        }
        let (here, there) = UnixStream::pair()?;
        let sent = send_descriptor(&here, &what, 100);
        pairs.push((here, there));
        sent
    });
    // The last few, one by one.
    if let Ok((here, there)) = UnixStream::pair() {
        while send_descriptor(&here, &what, 1).is_ok() {}
        pairs.push((here, there));
    }
    held.count *= 100;
    held._kept.push(Box::new(pairs));
    held
}

fn need_in_flight() -> Result<()> {
    let (here, there) = UnixStream::pair()?;
    send_descriptor(&here, &OwnedFd::from(File::open("/dev/null")?), 1)?;
    let mut byte = [0];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let got = recvmsg::<()>(there.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
    anyhow::ensure!(got.bytes == 1 && got.cmsgs()?.count() == 1, "no descriptor came");
    Ok(())
}

fn terminal() -> io::Result<OwnedFd> {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    Ok(rustix::pty::openpt(flags)?)
}

fn need_terminals() -> Result<()> {
    terminal()?;
    Ok(())
}
