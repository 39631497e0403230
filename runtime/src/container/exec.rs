//! `exec`: another process in a running container. libcontainer's own would neither join the user namespace nor keep seccomp.
//!
//! ```text
//! caller (subreaper) ── fork ─▶ joiner: cgroups, then all namespaces at once by pidfd ── fork ─▶ the process
//!        ◀── its pid ──────────────┘                                                              │
//!        ◀── nothing more (it runs), or the step that failed ────────────────────────────────────┘
//! ```

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{IntoRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use libcontainer::{container::ContainerStatus, syscall::syscall::create_syscall, tty};
use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::{prctl, wait::waitpid},
    unistd::{self, Pid},
};
use oci_spec::runtime::Process;
use seccompiler::BpfProgram;

use super::{
    cgroups::Cgroups,
    create::{PRESERVED, read_bounded, read_config},
    error::ContainerError,
    process::{self, Failed},
    seccomp,
    store::OpenContainer,
};
use crate::sys;

/// The process of an exec that runs.
#[derive(Debug)]
pub struct Executed {
    pub pid: Pid,
}

/// What `exec` is asked for.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The process; what the caller leaves out it takes from [`OpenContainer::process`].
    pub process: &'a Process,
    pub console_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
    /// Descriptors after standard error that the process is given.
    pub preserve_fds: i32,
}

const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// The longest message about a failure that is read from the child.
const MAX_REASON: u64 = 4096;

impl OpenContainer {
    /// The process that the container was created with: the defaults of an exec.
    pub fn process(&self) -> Result<Process, ContainerError> {
        let config = self.inner.bundle().join("config.json");
        let spec = read_config(&config)?;
        let missing = || ContainerError::Config { path: config, reason: "process: is missing".into() };
        spec.process().clone().ok_or_else(missing)
    }

    /// A process as a file describes it.
    pub fn read_process(path: &Path) -> Result<Process, ContainerError> {
        let fail = |reason: String| ContainerError::Config { path: path.to_owned(), reason };
        let text = read_bounded(path).map_err(|e| fail(e.to_string()))?;
        serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
    }
}

/// Runs a process in the container, which is then a child of the caller. Its seccomp filters are the container's.
pub fn exec(container: &OpenContainer, request: &Exec<'_>) -> Result<Executed, ContainerError> {
    let init = container.need("exec", "running", &[ContainerStatus::Running])?;
    check(container, request)?;
    let error = |failed: Failed| ContainerError::Exec {
        id: container.id(),
        step: failed.step,
        reason: failed.reason,
    };
    let config = read_config(&container.inner.bundle().join("config.json"))?;
    let filters = match config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => seccomp::compile(profile)?,
        None => vec![],
    };
    let entry = Entry::open(container, init).map_err(error)?;
    let console = request.console_socket.map(|path| connect(container, path)).transpose().map_err(error)?;
    if request.process.terminal() == Some(true) && console.is_none() {
        return Err(error(Failed::new("making a terminal", "a console socket is needed to hand it over")));
    }
    let inside = Inside { process: request.process, filters, console, preserve_fds: request.preserve_fds };
    let pid = enter(entry, inside).map_err(error)?;
    if let Some(path) = request.pid_file {
        fs::write(path, pid.to_string())
            .map_err(|source| ContainerError::PidFile { path: path.to_owned(), source })?;
    }
    Ok(Executed { pid })
}

/// What is asked for and cannot be done is refused, as `create` does.
fn check(container: &OpenContainer, request: &Exec<'_>) -> Result<(), ContainerError> {
    let process = request.process;
    let refuse = |reason: &str| {
        let step = "looking at what is asked for".to_owned();
        Err(ContainerError::Exec { id: container.id(), step, reason: reason.to_owned() })
    };
    if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return refuse("process.selinuxLabel: is not supported");
    }
    if process.scheduler().is_some() || process.io_priority().is_some() {
        return refuse("process.scheduler and process.ioPriority: are for init only");
    }
    if process.exec_cpu_affinity().is_some() {
        return refuse("process.execCPUAffinity: is not supported");
    }
    if !PRESERVED.contains(&request.preserve_fds) {
        return refuse("the number of descriptors to preserve is not in 0 to 1024");
    }
    Ok(())
}

/// What is needed to go where init is, opened before anything changes.
struct Entry {
    pidfd: OwnedFd,
    flags: CloneFlags,
    cgroups: Cgroups,
}

impl Entry {
    fn open(container: &OpenContainer, init: Pid) -> Result<Self, Failed> {
        let step = "finding the container's namespaces";
        let pidfd = container.open_init(init).map_err(|e| Failed::new(step, e))?;
        let cgroups_path = container.cgroups_path().map_err(|e| Failed::new(step, e))?;
        let mut flags = CloneFlags::empty();
        for (name, flag) in NAMESPACES {
            let inode = |who: &str| fs::metadata(format!("/proc/{who}/ns/{name}")).map(|m| m.ino());
            let theirs = inode(&init.to_string()).map_err(|e| Failed::new(step, e))?;
            // Joining the user namespace that one is in already is an error.
            if inode("self").map_err(|e| Failed::new(step, e))? != theirs {
                flags |= flag;
            }
        }
        Ok(Self { pidfd, flags, cgroups: Cgroups::open(init, &cgroups_path)? })
    }
}

fn connect(container: &OpenContainer, socket: &Path) -> Result<OwnedFd, Failed> {
    let step = "connecting to the console socket";
    let socket = fs::canonicalize(socket).map_err(|e| Failed::new(step, e))?;
    let dir = container.inner.root.join(format!("exec,{}", std::process::id()));
    fs::create_dir(&dir).map_err(|e| Failed::new(step, e))?;
    let connected = tty::setup_console_socket(&dir, &socket, "console-socket");
    let _ = fs::remove_dir_all(&dir);
    connected.map_err(|e| Failed::new(step, e))
}

/// What the process takes along into the container.
struct Inside<'a> {
    process: &'a Process,
    filters: Vec<BpfProgram>,
    console: Option<OwnedFd>,
    preserve_fds: i32,
}

fn enter(entry: Entry, inside: Inside<'_>) -> Result<Pid, Failed> {
    let fail = |e: nix::Error| Failed::new("starting the process", e);
    // The process outlives the joiner; it is to be this process's child then.
    prctl::set_child_subreaper(true).map_err(fail)?;
    let (pid_reader, pid_writer) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(fail)?;
    let (reason_reader, reason_writer) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(fail)?;
    let joiner = sys::fork_child(|| {
        let mut reason = fs::File::from(reason_writer);
        match join(entry, inside, fs::File::from(pid_writer), &reason) {
            Ok(()) => 0,
            Err(failed) => {
                let _ = write!(reason, "{}\n{}", failed.step, failed.reason);
                1
            }
        }
    })
    .map_err(fail)?;
    let text = |fd: OwnedFd| {
        let mut text = String::new();
        let _ = fs::File::from(fd).take(MAX_REASON).read_to_string(&mut text);
        text
    };
    let pid = text(pid_reader);
    let reason = text(reason_reader);
    waitpid(joiner, None).map_err(fail)?;
    let pid = pid.parse().ok().map(Pid::from_raw);
    if reason.is_empty() {
        return pid.ok_or_else(|| Failed::new("starting the process", "it ended before it could say why"));
    }
    if let Some(pid) = pid {
        let _ = waitpid(pid, None);
    }
    let (step, reason) = reason.split_once('\n').unwrap_or(("starting the process", &reason));
    Err(Failed::new(step, reason))
}

/// Everything that goes by a path of the machine's comes first: from `setns` on every path is the container's.
fn join(
    mut entry: Entry,
    inside: Inside<'_>,
    mut pid_writer: fs::File,
    reason: &fs::File,
) -> Result<(), Failed> {
    let step = "joining the container";
    entry.cgroups.enter()?;
    if let Some(score) = inside.process.oom_score_adj() {
        process::set_oom_score(score)?;
    }
    // Until `execve` nobody inside may look at what is still the caller's program. Not before: an ordinary user could not
    // write the score then.
    prctl::set_dumpable(false).map_err(|e| Failed::new(step, e))?;
    setns(&entry.pidfd, entry.flags).map_err(|e| Failed::new(step, e))?;
    let mut reason = reason.try_clone().map_err(|e| Failed::new(step, e))?;
    let child = sys::fork_child(move || {
        let failed = run(inside);
        let _ = write!(reason, "{}\n{}", failed.step, failed.reason);
        127
    })
    .map_err(|e| Failed::new(step, e))?;
    write!(pid_writer, "{child}").map_err(|e| Failed::new(step, e))
}

/// In the container; comes back only if it fails.
fn run(inside: Inside<'_>) -> Failed {
    let started = || -> Result<(), Failed> {
        unistd::setsid().map_err(|e| Failed::new("starting a session", e))?;
        if let Some(console) = inside.console {
            tty::setup_console(create_syscall().as_ref(), console.into_raw_fd(), false)
                .map_err(|e| Failed::new("making a terminal", e))?;
        }
        sys::close_on_exec_from(3 + inside.preserve_fds).map_err(|e| Failed::new("closing descriptors", e))
    };
    match started() {
        Ok(()) => process::become_process(inside.process, &inside.filters),
        Err(failed) => failed,
    }
}
