//! The keeper gives up what building a sandbox needed and serving does not, once the sandbox runs.
//!
//! What is left: its open sockets, the cgroup files of its own workspace, SIGKILL for PID 1, a connection to the broker.
//! It starts no program, makes no namespace, no mount and no network socket, and opens no other file.
//! The sandbox itself is not bound by any of this: its first process was made before.

use std::{io, path::PathBuf};

use cordium_broker::system_calls::{Allowed, argument, compile, plain};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, CapabilitySets},
};
use seccompiler::{BackendError, BpfProgram, SeccompCmpOp as Op};

use crate::cgroup::CgroupPlan;

/// The newest Landlock interface that is used where the kernel has it.
const LANDLOCK: ABI = ABI::V6;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error("setting no_new_privs: {0}")]
    NoNewPrivs(io::Error),
    #[error("making the keeper undumpable: {0}")]
    Undumpable(io::Error),
    #[error("forbidding core dumps: {0}")]
    CoreLimit(io::Error),
    #[error("dropping capabilities: {0}")]
    Capabilities(io::Error),
    #[error("building the Landlock ruleset: {0}")]
    Landlock(#[from] RulesetError),
    #[error("opening {path} for the Landlock ruleset: {source}", path = path.display())]
    LandlockPath { path: PathBuf, source: landlock::PathFdError },
    #[error("compiling the system call filter: {0}")]
    Compile(#[from] BackendError),
    #[error("loading the system call filter: {0}")]
    Load(seccompiler::Error),
}

/// For the rest of this process's life, which has one thread.
pub(super) fn confine(cgroup: Option<&CgroupPlan>) -> Result<(), ConfineError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| ConfineError::Undumpable(e.into()))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if getrlimit(Resource::Core) != none {
        setrlimit(Resource::Core, none).map_err(|e| ConfineError::CoreLimit(e.into()))?;
    }
    let dirs = cgroup.map(workspace_cgroups).unwrap_or_default();
    confine_thread(&dirs)
}

fn workspace_cgroups(plan: &CgroupPlan) -> Vec<PathBuf> {
    plan.hierarchies.iter().map(|hierarchy| hierarchy.base.join(&plan.id)).collect()
}

fn confine_thread(cgroups: &[PathBuf]) -> Result<(), ConfineError> {
    rustix::thread::set_no_new_privs(true).map_err(|e| ConfineError::NoNewPrivs(e.into()))?;
    restrict_files(cgroups)?;
    keep_capabilities(CapabilitySet::empty()).map_err(|e| ConfineError::Capabilities(e.into()))?;
    seccompiler::apply_filter(&filter()?).map_err(ConfineError::Load)
}

/// The warden may read whatever the sandbox's ids own and look at its processes; it can change nothing. No Landlock: it would
/// forbid looking at processes.
pub(super) fn confine_warden() -> Result<(), ConfineError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| ConfineError::Undumpable(e.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| ConfineError::NoNewPrivs(e.into()))?;
    let keep = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE;
    keep_capabilities(keep).map_err(|e| ConfineError::Capabilities(e.into()))?;
    seccompiler::apply_filter(&warden_filter()?).map_err(ConfineError::Load)
}

/// Reads and writes the cgroup files of its own workspace. Signals stay possible: PID 1 is outside of this domain.
fn restrict_files(cgroups: &[PathBuf]) -> Result<(), ConfineError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    let access: BitFlags<AccessFs> =
        AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate;
    for path in cgroups {
        let dir =
            PathFd::new(path).map_err(|source| ConfineError::LandlockPath { path: path.clone(), source })?;
        rules = rules.add_rule(PathBeneath::new(dir, access))?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        tracing::debug!(status = ?status.ruleset, "this kernel's Landlock does not cover all that the keeper gives up");
    }
    Ok(())
}

/// The owner of user namespace I, which the keeper stays, may end its processes without any.
fn keep_capabilities(keep: CapabilitySet) -> Result<(), rustix::io::Errno> {
    for capability in CapabilitySet::all() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than the running kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable })
}

/// Allowed whatever their arguments.
const PLAIN: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_geteuid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    // A new policy goes to the broker in a memory file.
    libc::SYS_memfd_create,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls that newer architectures lack.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[libc::SYS_poll, libc::SYS_stat, libc::SYS_open];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

fn filter() -> Result<BpfProgram, BackendError> {
    let mut rules = plain(PLAIN.iter().chain(OLD));
    no_new_code(&mut rules)?;
    rules.insert(libc::SYS_socket, vec![argument(0, Op::Eq, libc::AF_UNIX.unsigned_abs().into())?]);
    rules.insert(libc::SYS_ioctl, vec![argument(1, Op::Eq, libc::FIONBIO)?]);
    let kill = argument(1, Op::Eq, libc::SIGKILL.unsigned_abs().into())?;
    rules.insert(libc::SYS_pidfd_send_signal, vec![kill]);
    compile(rules)
}

/// What the keeper may, but no file to be written, no connection and no signal; and children like itself.
fn warden_filter() -> Result<BpfProgram, BackendError> {
    const NOT: &[i64] = &[libc::SYS_openat, libc::SYS_connect, libc::SYS_accept4, libc::SYS_memfd_create];
    const MORE: &[i64] = &[
        libc::SYS_fstatfs,
        libc::SYS_getppid,
        libc::SYS_getpriority,
        libc::SYS_pipe2,
        libc::SYS_set_robust_list,
        libc::SYS_setpriority,
        libc::SYS_statfs,
    ];
    let mut rules = plain(PLAIN.iter().filter(|call| !NOT.contains(call)).chain(MORE));
    #[cfg(target_arch = "x86_64")]
    rules.extend(plain(&[libc::SYS_poll, libc::SYS_stat]));
    no_new_code(&mut rules)?;
    let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).unsigned_abs().into();
    rules.insert(libc::SYS_openat, vec![argument(2, Op::MaskedEq(writing), 0)?]);
    let spaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    rules.insert(libc::SYS_clone, vec![argument(0, Op::MaskedEq(spaces.unsigned_abs().into()), 0)?]);
    // Its own limits, and to end with its parent.
    rules.insert(libc::SYS_prlimit64, vec![argument(0, Op::Eq, 0)?]);
    rules.insert(libc::SYS_prctl, vec![argument(0, Op::Eq, libc::PR_SET_PDEATHSIG.unsigned_abs().into())?]);
    compile(rules)
}

/// Memory, but none that can be executed.
fn no_new_code(rules: &mut Allowed) -> Result<(), BackendError> {
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, Op::MaskedEq(executable), 0)?]);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, io::Write, os::unix::net::UnixStream, process::Command};

    use nix::{errno::Errno, mount::MsFlags, sched::CloneFlags};
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::*;

    #[test]
    fn a_confined_warden_reads_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        let confined = std::thread::spawn(move || {
            confine_warden().unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "text");
            assert!(fs::read_to_string("/proc/thread-self/status").is_ok());
            assert!(rustix::fs::statfs(&file).is_ok());
            assert!(fs::write(&file, "").is_err() && fs::File::options().append(true).open(&file).is_err());
            assert!(fs::remove_file(&file).is_err() && fs::create_dir(file.with_extension("d")).is_err());
            assert!(fs::set_permissions(&file, fs::metadata(&file).unwrap().permissions()).is_err());
            assert_eq!(nix::sched::unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert!(UnixStream::pair().is_err() && std::net::UdpSocket::bind("127.0.0.1:0").is_err());
            assert_eq!(nix::sys::signal::kill(nix::unistd::Pid::this(), None), Err(Errno::EPERM));
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        });
        confined.join().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "text");
    }

    /// What a new policy takes.
    fn seal_memory() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = fs::File::from(memfd_create("x", flags).unwrap());
        file.write_all(b"policy").unwrap();
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SEAL).unwrap();
        assert!(file.write_all(b"x").is_err());
    }

    /// In a thread of its own, which is all that it binds.
    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_confined_keeper_serves_and_does_nothing_else() {
        let own = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        for dir in [&own, &other] {
            fs::write(dir.path().join("cgroup.kill"), "0").unwrap();
        }
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(id, PidfdFlags::empty()).unwrap();
        let dirs = vec![own.path().to_owned()];
        let confined = std::thread::spawn(move || {
            confine_thread(&dirs).unwrap();
            let status = fs::read_to_string("/proc/thread-self/status");
            assert!(status.is_err(), "no file but those of the cgroup");
            fs::write(dirs[0].join("cgroup.kill"), "1").unwrap();
            assert!(fs::write(dirs[0].join("new"), "1").is_err(), "no new files");
            assert!(fs::read(other.path().join("cgroup.kill")).is_err(), "no other workspace");
            assert!(fs::read("/etc/passwd").is_err());
            seal_memory();

            assert!(Command::new("/bin/true").status().is_err(), "no programs");
            for flag in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET] {
                assert_eq!(nix::sched::unshare(flag), Err(Errno::EPERM));
            }
            let none = None::<&str>;
            assert_eq!(
                nix::mount::mount(Some("t"), "/", Some("tmpfs"), MsFlags::empty(), none),
                Err(Errno::EPERM)
            );
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err(), "no network");
            assert!(UnixStream::pair().is_err() && UnixStream::connect("/nowhere").is_err());
            assert_eq!(nix::sys::signal::kill(nix::unistd::Pid::this(), None), Err(Errno::EPERM));
            assert_eq!(pidfd_send_signal(&pidfd, Signal::TERM), Err(rustix::io::Errno::PERM));
            pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
        });
        confined.join().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
