//! Attacks on PID 1 and on what belongs to it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::CloneFlags,
    sys::{
        signal::kill,
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    },
    unistd::Pid,
};

use crate::{
    Layer, Probe, places,
    sys::{self, NsRequest},
};

const AGENT: &str = "/run/cordium/bin/cordium-agent";
/// It belongs to an id that is not mapped, lies on a read-only bind, and is being executed.
const READ_ONLY: [Errno; 4] = [Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ETXTBSY];

fn idle_agent() -> io::Result<Child> {
    Command::new(AGENT).arg("idle").stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()
}

pub fn binary_through_proc_exe(probe: &mut Probe) {
    let mut child = match idle_agent() {
        Ok(child) => child,
        Err(error) => return probe.broken("executing the agent", error),
    };
    let exe = format!("/proc/{}/exe", child.id());
    let stopped = READ_ONLY;
    for (how, options) in [
        ("for writing", OpenOptions::new().write(true).clone()),
        ("for appending", OpenOptions::new().append(true).clone()),
    ] {
        probe.refused(
            format!("open {exe} {how} while it runs"),
            Layer::ReadOnlyBind,
            &stopped,
            options.open(&exe),
        );
    }
    // The classic: keep a handle, wait until nobody executes it any more, open the handle for writing.
    let held = File::open(&exe);
    let ended = child.kill().and_then(|()| child.wait());
    if let Err(error) = ended {
        probe.broken("ending the agent's copy", error);
    }
    match held {
        Ok(held) => {
            let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
            probe.refused(
                "open the handle of it when it has ended",
                Layer::ReadOnlyBind,
                &READ_ONLY,
                OpenOptions::new().write(true).open(again),
            );
            probe.refused(
                "change its mode by the handle",
                Layer::ReadOnlyBind,
                &READ_ONLY,
                rustix::fs::fchmod(&held, rustix::fs::Mode::from_raw_mode(0o777)),
            );
        }
        Err(error) => probe.broken("holding the agent's copy", error),
    }
    let by_pid_1 = OpenOptions::new().write(true).open("/proc/1/exe");
    probe.refused(
        "open /proc/1/exe for writing",
        Layer::UndumpableInit,
        &[Errno::EACCES, Errno::EPERM],
        by_pid_1,
    );
}

pub fn binary(probe: &mut Probe) {
    let read_only = READ_ONLY;
    let write = OpenOptions::new().write(true).open(AGENT);
    probe.refused("open the binary for writing", Layer::ReadOnlyBind, &read_only, write);
    probe.refused("change its mode", Layer::ReadOnlyBind, &read_only, rustix::fs::chmod(AGENT, 0o777.into()));
    probe.refused("remove it", Layer::ReadOnlyBind, &[Errno::EBUSY, Errno::EROFS], fs::remove_file(AGENT));
    probe.refused(
        "rename another file over it",
        Layer::ReadOnlyBind,
        &[Errno::EBUSY, Errno::EXDEV, Errno::EROFS],
        File::create("/run/cordium/bin/other").and_then(|_| fs::rename("/run/cordium/bin/other", AGENT)),
    );
    let _ = fs::remove_file("/run/cordium/bin/other");
    // In a mount namespace of one's own everything may be hidden; PID 1 does not see it.
    probe.child("own mounts", places::own_mounts, |probe| {
        let none = None::<&str>;
        let hidden = mount(Some("/proc/self/exe"), AGENT, none, MsFlags::MS_BIND, none);
        let seen = hidden.map(|()| "only here".to_owned()).map_err(|error| error.to_string());
        probe.confined("bind another program over it", Layer::NamespaceScope, seen.or_else(Ok));
        // The file below is the sandbox's own; removing it would take the binary from PID 1's view, too.
        let _ = umount2(AGENT, MntFlags::MNT_DETACH);
        let below = umount2(AGENT, MntFlags::MNT_DETACH).map(|()| fs::write(AGENT, "other").is_ok());
        let seen =
            format!("unmounted: {:?}; a file of the sandbox's own tmpfs is written in its place", below);
        probe.confined("unmount it", Layer::NamespaceScope, Ok(seen));
    });
}

pub fn memory(probe: &mut Probe) {
    look_into_pid_1(probe);
    // Every capability, but below the sandbox's user namespace: none of them counts for PID 1.
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), look_into_pid_1);
}

fn look_into_pid_1(probe: &mut Probe) {
    let denied = [Errno::EACCES, Errno::EPERM];
    let init = Layer::UndumpableInit;
    for file in ["mem", "maps", "environ", "auxv", "stack", "syscall", "fd/3", "map_files", "pagemap"] {
        let path = format!("/proc/1/{file}");
        let opened = if file == "map_files" { first_entry(&path) } else { read_some(&path) };
        probe.refused(format!("read {path}"), init, &denied, opened);
    }
    probe.refused("write /proc/1/mem", init, &denied, OpenOptions::new().write(true).open("/proc/1/mem"));
    for link in ["exe", "cwd", "root", "fd/0", "fd/3", "ns/user", "ns/mnt"] {
        let path = format!("/proc/1/{link}");
        probe.refused(
            format!("follow {path}"),
            init,
            &denied,
            File::open(&path).map(drop).or_else(|error| {
                // Also what it points to must not be told.
                fs::read_link(&path).map(drop).map_err(|_| error)
            }),
        );
    }
    let (mut local, remote) = ([0_u8; 8], [RemoteIoVec { base: 0x1000, len: 8 }]);
    let one = Pid::from_raw(1);
    let read = process_vm_readv(one, &mut [io::IoSliceMut::new(&mut local)], &remote);
    probe.refused("process_vm_readv of PID 1", init, &denied, read);
    let written = process_vm_writev(one, &[io::IoSlice::new(&[0; 8])], &remote);
    probe.refused("process_vm_writev to PID 1", init, &denied, written);
    let pidfd = rustix::process::Pid::from_raw(1)
        .ok_or(rustix::io::Errno::INVAL)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
    match pidfd {
        Ok(pidfd) => {
            for number in [0, 1, 3, 4, 5] {
                let flags = rustix::process::PidfdGetfdFlags::empty();
                let taken = rustix::process::pidfd_getfd(&pidfd, number, flags);
                probe.refused(format!("take descriptor {number} of PID 1"), init, &denied, taken);
            }
            for kind in 1..=10 {
                let taken = sys::namespace_of(pidfd.as_fd(), NsRequest::OfProcess(kind));
                // A kernel that does not have the request yet answers as to any unknown one.
                let expected = [Errno::EACCES, Errno::EPERM, Errno::ENOTTY, Errno::EINVAL];
                probe.refused(format!("take namespace {kind} of PID 1 by its pidfd"), init, &expected, taken);
            }
            let entered = nix::sched::setns(&pidfd, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET);
            probe.refused("enter PID 1's namespaces by its pidfd", init, &denied, entered);
        }
        Err(error) => probe.broken("opening a pidfd of PID 1", io::Error::from(error)),
    }
    let compared = File::open("/dev/null").and_then(|null| sys::compare_descriptor(1, 3, null.as_fd()));
    probe.refused(
        "compare a descriptor with PID 1's",
        init,
        &[Errno::EACCES, Errno::EPERM, Errno::ENOSYS],
        compared,
    );
    probe.refused("ptrace attach to PID 1", init, &denied, sys::attach(1).inspect(|()| release(1)));
    // Let go when this process ends.
    probe.refused("ptrace seize PID 1", init, &denied, sys::seize(1));
}

fn release(pid: i32) {
    let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
    let _ = sys::detach(pid);
}

/// Opening the directory is free; what is in it is not.
fn first_entry(path: &str) -> io::Result<()> {
    fs::read_dir(path)?.next().transpose().map(drop)
}

fn read_some(path: &str) -> io::Result<()> {
    if path.contains("/fd/") {
        return fs::read_link(path).map(drop);
    }
    let mut byte = [0];
    io::Read::read(&mut File::open(path)?, &mut byte).map(drop)
}

pub fn signals(probe: &mut Probe) {
    // SIGTERM is how a sandbox is ended from inside; SIGCHLD says nothing.
    for number in (1..=64).filter(|number| ![libc::SIGTERM, libc::SIGCHLD].contains(number)) {
        // Numbers that the C library keeps for itself are no `Signal`.
        // SIGKILL and SIGSTOP among them: the kernel drops what a namespace's init has no handler for.
        let _ = nix::sys::signal::Signal::try_from(number).map(|signal| kill(Pid::from_raw(1), signal));
    }
    let alive = fs::read_to_string("/proc/1/comm");
    probe.confined(
        "send every signal to PID 1",
        Layer::InitSignals,
        alive
            .map(|comm| format!("{} goes on", comm.trim()))
            .map_err(|error| format!("PID 1 is gone: {error}")),
    );
}

pub fn sockets(probe: &mut Probe) {
    let sockets: Vec<(String, String)> =
        probe.facts.with_prefix("socket.").map(|(key, path)| (key.to_owned(), path.to_owned())).collect();
    if sockets.is_empty() {
        return probe.broken("sockets of the node", "the driver named none");
    }
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for (name, path) in sockets {
        let connected = UnixStream::connect(&path);
        probe.refused(
            format!("connect to {name}"),
            Layer::MountNamespace,
            &[Errno::ENOENT, Errno::EACCES],
            connected,
        );
        let seen =
            if table.contains(&path) { Err(format!("{path} is listed")) } else { Ok("not listed".into()) };
        probe.confined(format!("find {name} in /proc/net/unix"), Layer::NetworkNamespace, seen);
    }
}
