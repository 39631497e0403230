//! What the unpacking process gives up before it reads a byte of the layer. Single-threaded until the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};
use rustix::mount::OpenTreeFlags;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::protocol::Fault;

fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Fault {
    move |error| Fault::Confine { reason: format!("{step}: {error}") }
}

/// New namespaces; the id maps are then written from outside.
pub(crate) fn unshare() -> Result<(), Fault> {
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    nix::sched::unshare(flags)
        .map_err(failed("making namespaces (are unprivileged user namespaces allowed?)"))
}

/// The layers that a view is made of, each as a mount of its own: nothing leads from it to what is beside it. For a process
/// that has its namespaces and is not yet confined.
pub(crate) fn detach(layers: &[PathBuf]) -> Result<Vec<OwnedFd>, Fault> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let detach = |layer: &PathBuf| {
        let mount = rustix::mount::open_tree(rustix::fs::CWD, layer.join("fs"), flags);
        mount.map_err(failed("mounting a layer"))
    };
    layers.iter().map(detach).collect()
}

/// From here on this process is the `id` that image root is stored as, sees nothing but `dir` and, to read, `sources`, and
/// keeps only the capabilities that applying or removing files needs. Answers what could not be done and is not essential.
pub(crate) fn enter(dir: BorrowedFd<'_>, sources: &[OwnedFd], id: u32) -> Result<Vec<String>, Fault> {
    let mut warnings = Vec::new();
    become_root_id(id)?;
    nix::unistd::fchdir(dir).map_err(failed("entering the directory"))?;
    nix::unistd::chroot(".").map_err(failed("changing the root directory"))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    limit_resources();
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).map_err(failed("giving up new privileges"))?;
    warnings.extend(landlock(dir, sources)?);
    seccomp::load(!sources.is_empty())?;
    Ok(warnings)
}

/// Takes the id that image root is stored as, which is not the id that the store belongs to, and keeps the
/// capabilities of the namespace over the change.
fn become_root_id(id: u32) -> Result<(), Fault> {
    let bits = CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(failed("setting the secure bits"))?;
    // Refused where the map came without `setgroups`; the groups are then the supervisor's own, and harmless.
    let _ = nix::unistd::setgroups(&[]);
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    nix::unistd::setresgid(gid, gid, gid).map_err(failed("changing the group id"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed("changing the user id"))
}

fn limit_resources() {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, 1024),
        (Resource::RLIMIT_DATA, 2 << 30),
        (Resource::RLIMIT_STACK, 8 << 20),
    ] {
        // Lowering below what is in force already is not always allowed; then that one stands.
        let _ = setrlimit(resource, limit, limit);
    }
}

fn drop_capabilities() -> Result<(), Fault> {
    let keep = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::SETFCAP;
    for capability in CapabilitySet::all() {
        if !keep.contains(capability) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Newer than the running kernel.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(failed("shrinking the bounding set")(error)),
            }
        }
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed("dropping capabilities"))
}

/// Only the directory can be touched, in every way that files need, and the sources be read.
fn landlock(dir: BorrowedFd<'_>, sources: &[OwnedFd]) -> Result<Option<String>, Fault> {
    let abi = ABI::V5;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(dir.as_fd(), AccessFs::from_all(abi))))
        .and_then(|rules| {
            let read = AccessFs::ReadFile | AccessFs::ReadDir;
            rules
                .add_rules(sources.iter().map(|source| Ok::<_, RulesetError>(PathBeneath::new(source, read))))
        })
        .and_then(|rules| rules.restrict_self())
        .map_err(failed("loading Landlock rules"))?;
    Ok((status.ruleset == RulesetStatus::NotEnforced).then(|| {
        "this kernel has no Landlock: the unpacker is confined by its namespaces and root only".to_owned()
    }))
}

mod seccomp {
    //! The system calls of applying and removing files, of threads and memory; no others.

    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    use super::{Fault, failed};

    /// By number, because the set is the same wherever `libc` has the names.
    fn allowed() -> Vec<libc::c_long> {
        let mut calls = vec![
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_pread64,
            libc::SYS_lseek,
            libc::SYS_close,
            libc::SYS_fcntl,
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_getdents64,
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_symlinkat,
            libc::SYS_linkat,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_readlinkat,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_fchmod,
            libc::SYS_utimensat,
            libc::SYS_fsetxattr,
            libc::SYS_fgetxattr,
            libc::SYS_fdatasync,
            libc::SYS_ftruncate,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_mprotect,
            libc::SYS_madvise,
            libc::SYS_brk,
            libc::SYS_futex,
            libc::SYS_clone3,
            libc::SYS_clone,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_gettid,
            libc::SYS_getpid,
            libc::SYS_tgkill,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_yield,
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_getrandom,
            libc::SYS_prlimit64,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_prctl,
            libc::SYS_restart_syscall,
        ];
        #[cfg(target_arch = "x86_64")]
        calls.extend([libc::SYS_poll, libc::SYS_arch_prctl]);
        calls
    }

    /// Further calls of views, which read files and their attributes as well.
    const OF_VIEWS: [libc::c_long; 2] = [libc::SYS_copy_file_range, libc::SYS_flistxattr];

    /// To share extents, and for nothing else.
    fn reflink() -> Result<SeccompRule, Fault> {
        #[allow(clippy::unnecessary_cast)] // The type differs from one C library to the other.
        let request = libc::FICLONE as u64;
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(failed("building the system call filter"))
    }

    pub(super) fn load(view: bool) -> Result<(), Fault> {
        let arch =
            TargetArch::try_from(std::env::consts::ARCH).map_err(failed("choosing a system call filter"))?;
        let mut rules: BTreeMap<_, _> = allowed().into_iter().map(|call| (call, Vec::new())).collect();
        if view {
            rules.extend(OF_VIEWS.map(|call| (call, Vec::new())));
            rules.insert(libc::SYS_ioctl, vec![reflink()?]);
        }
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)
            .map_err(failed("building the system call filter"))?;
        let program = BpfProgram::try_from(filter).map_err(failed("building the system call filter"))?;
        seccompiler::apply_filter(&program).map_err(failed("loading the system call filter"))
    }
}
