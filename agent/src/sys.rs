//! The crate's only `unsafe` code: what runs between fork and exec, taking over an inherited descriptor, and waiting for one.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setsid, setuid};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::system_init::SystemInit;

/// Steps that may fail in the child, told to the parent in the upper half of the error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStep {
    Session = 1,
    Credentials = 2,
    WorkingDir = 3,
    Namespaces = 4,
}

/// Where a child is to be, other than beside its parent.
#[derive(Default)]
pub struct Place {
    /// A cgroup's `cgroup.procs`.
    pub cgroup: Option<OwnedFd>,
    pub mounts: Mounts,
}

#[derive(Default)]
pub enum Mounts {
    /// The parent's.
    #[default]
    Same,
    /// A copy, with a procfs of the child's own pid namespace.
    Own,
    /// Those of another process.
    Of(Arc<SystemInit>),
}

impl Place {
    /// As [`ChildSetup::apply`]: system calls only.
    fn enter(&self) -> io::Result<()> {
        if let Some(procs) = &self.cgroup {
            rustix::io::write(procs, b"0")?;
        }
        match &self.mounts {
            Mounts::Same => {}
            Mounts::Own => {
                unshare(CloneFlags::CLONE_NEWNS)?;
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change(c"/", private)?;
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                mount(c"proc", c"/proc", c"proc", flags, c"")?;
            }
            Mounts::Of(init) => setns(&init.mount_namespace, CloneFlags::CLONE_NEWNS)?,
        }
        Ok(())
    }
}

/// What a child does to itself before it executes its program.
pub struct ChildSetup {
    pub controlling_tty: bool,
    /// Soft and hard limit of open files to put back, since PID 1 raises its own.
    pub open_files: Option<(u64, u64)>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub working_dir: CString,
    pub place: Place,
}

impl ChildSetup {
    /// Runs in the child. Only system calls: nothing here allocates or takes a lock.
    #[allow(clippy::disallowed_methods, reason = "the child has one thread")]
    fn apply(&self, groups: &[Gid]) -> io::Result<()> {
        setsid().map_err(|e| at(ChildStep::Session, e))?;
        if self.controlling_tty {
            // SAFETY: descriptor 0 was set up by the parent and stays open until exec.
            let stdin = unsafe { BorrowedFd::borrow_raw(0) };
            rustix::process::ioctl_tiocsctty(stdin)?;
        }
        if let Some((soft, hard)) = self.open_files {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        prefer_for_oom_kill();
        self.place.enter().map_err(|e| at(ChildStep::Namespaces, errno_of(&e)))?;
        setgroups(groups).map_err(|e| at(ChildStep::Credentials, e))?;
        setgid(Gid::from_raw(self.gid)).map_err(|e| at(ChildStep::Credentials, e))?;
        setuid(Uid::from_raw(self.uid)).map_err(|e| at(ChildStep::Credentials, e))?;
        chdir(self.working_dir.as_c_str()).map_err(|e| at(ChildStep::WorkingDir, e))?;
        Ok(())
    }
}

fn errno_of(error: &io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Makes the out-of-memory killer take this process, and what it starts, before PID 1, whose end is everybody's. A sandbox that
/// hides the file from itself goes without.
fn prefer_for_oom_kill() {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty());
    let _ = file.and_then(|file| rustix::io::write(file, b"300"));
}

fn at(step: ChildStep, errno: nix::errno::Errno) -> io::Error {
    io::Error::from_raw_os_error((step as i32) << 16 | errno as i32)
}

/// Splits what [`ChildSetup`] reported into the step and the system's own error.
pub fn split_child_error(error: io::Error) -> (Option<ChildStep>, io::Error) {
    let Some(raw) = error.raw_os_error() else { return (None, error) };
    let step = match raw >> 16 {
        1 => ChildStep::Session,
        2 => ChildStep::Credentials,
        3 => ChildStep::WorkingDir,
        4 => ChildStep::Namespaces,
        _ => return (None, error),
    };
    (Some(step), io::Error::from_raw_os_error(raw & 0xffff))
}

/// Has `setup` applied in the child of `command`, just before exec.
pub fn set_up_child(command: &mut Command, setup: ChildSetup) {
    let groups: Vec<Gid> = setup.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    // SAFETY: the closure makes system calls only (see `ChildSetup::apply`), which is all that is allowed
    // in a child of a process that may have other threads.
    unsafe { command.pre_exec(move || setup.apply(&groups)) };
}

/// Takes over the listening socket that the parent left open as descriptor `fd`.
pub fn adopt_listener(fd: RawFd) -> io::Result<UnixListener> {
    // SAFETY: called once, at start, before anything else could own this number; a closed descriptor
    // is found out by the calls below.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if !rustix::net::sockopt::socket_acceptconn(&fd)? {
        return Err(io::Error::other("descriptor is not a listening socket"));
    }
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Marks every descriptor above stderr close-on-exec, so that no child inherits one by accident.
pub fn close_on_exec_above_stdio() -> io::Result<()> {
    // SAFETY: changes a flag of descriptors; no memory is involved.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts every signal back to its default disposition, save SIGPIPE, so that children inherit a clean state.
pub fn default_signals() {
    // A zeroed kernel `sigaction` is SIG_DFL; the C library would refuse its two private signals.
    let default = [0u64; 4];
    for signal in 1..=64 {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGPIPE) {
            continue;
        }
        // SAFETY: reads a large enough, aligned buffer and installs no code; no handler is there yet.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, std::mem::size_of::<u64>());
        }
    }
}

/// Makes a non-blocking descriptor wait in the runtime until it can be read.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always gives the same descriptor, and closes it only when it is dropped, which the
    // `AsyncFd` that owns it does after deregistering.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// One malloc arena, small thresholds: a sandbox's PID 1 must not keep memory that it once used.
pub fn frugal_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets tunables of the allocator; documented as callable at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// The signal that systemd takes as an order to halt; nix has no names for real-time signals.
pub fn ask_to_halt(pid: i32) -> io::Result<()> {
    // SAFETY: sends a signal; no memory is involved.
    let sent = unsafe { libc::kill(pid, libc::SIGRTMIN() + 3) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives freed memory back to the kernel.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks; no pointer is involved.
    unsafe {
        libc::malloc_trim(0);
    }
}
