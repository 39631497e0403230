//! Becoming the process that a spec describes, once inside the container's namespaces and root.

use std::{
    ffi::CString,
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use libcontainer::apparmor;
use nix::{
    sys::{
        prctl, resource, stat,
        statfs::{PROC_SUPER_MAGIC, fstatfs},
    },
    unistd::{self, Gid, Uid},
};
use oci_spec::runtime::{Capability as SpecCapability, PosixRlimit, PosixRlimitType, Process};
use seccompiler::BpfProgram;

use super::error::chain;
use crate::sys;

/// The largest `/etc/passwd` that a home directory is looked up in.
const MAX_PASSWD: u64 = 1 << 20;

/// A step that failed, and why.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) step: String,
    pub(super) reason: String,
}

impl Failed {
    pub(super) fn new(step: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { step: step.into(), reason: reason.to_string() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

/// Everything between being in the container and `execve`: limits, ids, capabilities, filters. Returns only on failure.
pub(super) fn become_process(process: &Process, filters: &[BpfProgram]) -> Failed {
    let args = process.args().as_deref().unwrap_or_default();
    // Under the filters nothing but `execve` may be counted on.
    let ready = prepare(process).and_then(|()| {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", home(process.user().uid())));
        }
        let program = Program::find(args, &env)?;
        // Through a procfs of its own, not the container's.
        if let Some(profile) = process.apparmor_profile() {
            apparmor::apply_profile(profile)
                .map_err(|e| Failed::new("setting apparmorProfile", chain(&e)))?;
        }
        set_capabilities(process, filters)?;
        Ok(program)
    });
    match ready {
        Ok(program) => program.execute(),
        Err(failed) => failed,
    }
}

/// This process has one thread and is about to become another program: what changes every thread is meant here.
#[allow(clippy::disallowed_methods)]
fn prepare(process: &Process) -> Result<(), Failed> {
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        set_rlimit(limit)?;
    }
    if process.no_new_privileges() == Some(true) {
        prctl::set_no_new_privs().map_err(|e| Failed::new("setting noNewPrivileges", e))?;
    }
    let user = process.user();
    if let Some(umask) = user.umask() {
        stat::umask(stat::Mode::from_bits_truncate(umask));
    }
    // Some directories only root may enter, others only the user.
    let entered = unistd::chdir(process.cwd());
    let groups: Vec<Gid> =
        user.additional_gids().as_deref().unwrap_or_default().iter().map(|gid| Gid::from_raw(*gid)).collect();
    unistd::setgroups(&groups).map_err(|e| Failed::new("setting additionalGids", e))?;
    prctl::set_keepcaps(true).map_err(|e| Failed::new("keeping capabilities", e))?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    unistd::setresgid(gid, gid, gid).map_err(|e| Failed::new(format!("becoming group {gid}"), e))?;
    unistd::setresuid(uid, uid, uid).map_err(|e| Failed::new(format!("becoming user {uid}"), e))?;
    prctl::set_keepcaps(false).map_err(|e| Failed::new("keeping capabilities", e))?;
    if entered.is_err() {
        unistd::chdir(process.cwd())
            .map_err(|e| Failed::new(format!("entering {}", process.cwd().display()), e))?;
    }
    stay_inside()
}

/// A working directory can be outside the root, if the way there was a descriptor of the machine's (CVE-2024-21626).
///
/// The kernel's own words are needed: libc answers a path that cannot be reached by looking for it itself.
pub(super) fn stay_inside() -> Result<(), Failed> {
    let step = "looking where the working directory is";
    let cwd = rustix::process::getcwd(Vec::new()).map_err(|e| Failed::new(step, e))?;
    if cwd.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Failed::new(step, "it is outside the container's root"))
}

/// How readily the kernel kills this process when memory runs out, and those that it makes.
///
/// To be called outside the container: there `/proc` may be anything, and lead the write elsewhere (CVE-2025-52881).
pub(super) fn set_oom_score(score: i32) -> Result<(), Failed> {
    let fail = |e: io::Error| Failed::new("setting oomScoreAdj", e);
    let mut file = fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj").map_err(fail)?;
    if fstatfs(&file).map_err(|e| fail(e.into()))?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Failed::new("setting oomScoreAdj", "/proc is not procfs"));
    }
    file.write_all(score.to_string().as_bytes()).map_err(fail)
}

/// Filters need CAP_SYS_ADMIN or `no_new_privs`; where neither is to stay, the former is given up last.
fn set_capabilities(process: &Process, filters: &[BpfProgram]) -> Result<(), Failed> {
    let fail = |e: caps::errors::CapsError| Failed::new("setting capabilities", e);
    let sets = process.capabilities().clone();
    let of = |set: Option<&Option<std::collections::HashSet<SpecCapability>>>| -> caps::CapsHashSet {
        let names = set.and_then(Option::as_ref).into_iter().flatten();
        names.filter_map(|name| capability(*name)).collect()
    };
    let bounding = of(sets.as_ref().map(oci_spec::runtime::LinuxCapabilities::bounding));
    let permitted = of(sets.as_ref().map(oci_spec::runtime::LinuxCapabilities::permitted));
    let effective = of(sets.as_ref().map(oci_spec::runtime::LinuxCapabilities::effective));
    let inheritable = of(sets.as_ref().map(oci_spec::runtime::LinuxCapabilities::inheritable));
    let ambient = of(sets.as_ref().map(oci_spec::runtime::LinuxCapabilities::ambient));
    // The effective set is empty after a change of user; dropping from the bounding set needs CAP_SETPCAP.
    let held = caps::read(None, CapSet::Permitted).map_err(fail)?;
    caps::set(None, CapSet::Effective, &held).map_err(fail)?;
    for capability in caps::read(None, CapSet::Bounding).map_err(fail)?.difference(&bounding) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(fail)?;
    }
    let lent: Vec<Capability> = match filters.is_empty() || process.no_new_privileges() == Some(true) {
        true => vec![],
        false => [Capability::CAP_SYS_ADMIN].into_iter().filter(|c| !permitted.contains(c)).collect(),
    };
    let with = |set: &caps::CapsHashSet| set.iter().chain(&lent).copied().collect();
    caps::set(None, CapSet::Effective, &with(&effective)).map_err(fail)?;
    caps::set(None, CapSet::Permitted, &with(&permitted)).map_err(fail)?;
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(fail)?;
    caps::clear(None, CapSet::Ambient).map_err(fail)?;
    for capability in ambient.iter().filter(|c| permitted.contains(c) && inheritable.contains(c)) {
        caps::raise(None, CapSet::Ambient, *capability).map_err(fail)?;
    }
    restrict(filters, &lent)
}

/// The spec's name of a capability leaves the prefix out.
fn capability(name: SpecCapability) -> Option<Capability> {
    let text = name.to_string();
    format!("CAP_{}", text.trim_start_matches("CAP_")).parse().ok()
}

/// Loads the filters, then gives up what was only lent for that.
pub(super) fn restrict(filters: &[BpfProgram], lent: &[Capability]) -> Result<(), Failed> {
    for filter in filters {
        sys::load_seccomp(filter).map_err(|e| Failed::new("loading a seccomp filter", e))?;
    }
    for &capability in lent {
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::drop(None, set, capability).map_err(|e| Failed::new("dropping capabilities", e))?;
        }
    }
    Ok(())
}

fn set_rlimit(limit: &PosixRlimit) -> Result<(), Failed> {
    use resource::Resource;
    let kind = match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    };
    resource::setrlimit(kind, limit.soft(), limit.hard())
        .map_err(|e| Failed::new(format!("setting {}", limit.typ()), e))
}

/// A program with its arguments and environment, as `execve` takes them.
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    pub(super) fn find(args: &[String], env: &[String]) -> Result<Self, Failed> {
        let name =
            args.first().ok_or_else(|| Failed::new("starting the program", "process.args is empty"))?;
        let nul = |_| Failed::new(format!("starting {name}"), "an argument or variable holds a NUL byte");
        let strings = |list: &[String]| -> Result<Vec<_>, _> {
            list.iter().map(|text| CString::new(text.as_str())).collect()
        };
        let path = find_program(name, env)?.into_os_string().into_encoded_bytes();
        Ok(Self {
            path: CString::new(path).map_err(nul)?,
            args: strings(args).map_err(nul)?,
            env: strings(env).map_err(nul)?,
        })
    }

    /// Replaces this process. Returns only on failure.
    pub(super) fn execute(&self) -> Failed {
        let Err(error) = unistd::execve(&self.path, &self.args, &self.env);
        Failed::new(format!("starting {}", self.path.to_string_lossy()), error)
    }
}

/// A name without a slash is looked for in the PATH that the process itself is given, and never in the working directory.
pub(super) fn find_program(name: &str, env: &[String]) -> Result<PathBuf, Failed> {
    let step = || format!("finding {name:?}");
    let usable = |path: &Path| {
        let metadata = fs::metadata(path)?;
        let executable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        if executable { Ok(()) } else { Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied)) }
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return usable(&path).map(|()| path).map_err(|e| Failed::new(step(), e));
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let found = path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name));
    let found = found.into_iter().find(|path| usable(path).is_ok());
    found.ok_or_else(|| Failed::new(step(), format!("executable file not found in PATH ({path:?})")))
}

/// As `/etc/passwd` in the container has it; `/` where that cannot be told.
pub(super) fn home(uid: u32) -> String {
    let passwd = read_regular(Path::new("/etc/passwd")).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut homes = entry.filter(|fields| fields.len() >= 6 && fields[2].parse() == Ok(uid));
    homes.next().map_or_else(|| "/".to_owned(), |fields| fields[5].to_owned())
}

/// A file that the image may have replaced by anything: a pipe does not make it wait, nor a device without an end. Links are
/// followed, since the root is the container's already.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_PASSWD + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_PASSWD {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_PASSWD >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_keep_their_meaning() {
        assert_eq!(capability(SpecCapability::SysAdmin), Some(Capability::CAP_SYS_ADMIN));
        assert_eq!(capability(SpecCapability::AuditWrite), Some(Capability::CAP_AUDIT_WRITE));
    }

    #[test]
    fn programs_are_found_in_the_given_path_only() {
        let env = ["PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find_program("sh", &env).unwrap(), Path::new("/bin/sh"));
        assert!(find_program("sh", &["PATH=/nowhere".to_owned()]).unwrap_err().to_string().contains("PATH"));
        assert!(find_program("sh", &[]).is_err());
        assert_eq!(find_program("/bin/sh", &[]).unwrap(), Path::new("/bin/sh"));
        assert!(find_program("/etc/passwd", &[]).is_err(), "not executable");
        assert!(find_program("/tmp", &[]).is_err(), "a directory");
    }

    #[test]
    fn programs_are_not_looked_for_from_the_working_directory_on() {
        let depth = std::env::current_dir().unwrap().components().count();
        let relative = format!("{}bin", "../".repeat(depth));
        assert!(Path::new(&relative).join("sh").exists());
        assert!(find_program("sh", &[format!("PATH={relative}")]).is_err());
        assert!(find_program("sh", &[format!("PATH={relative}:/bin")]).is_ok());
    }

    #[test]
    fn only_a_plain_file_of_a_sane_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo, link) = (dir.path().join("file"), dir.path().join("fifo"), dir.path().join("link"));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_regular(&link).unwrap(), b"text");
        nix::unistd::mkfifo(&fifo, stat::Mode::S_IRWXU).unwrap();
        for other in [&fifo, Path::new("/dev/zero"), dir.path()] {
            assert!(read_regular(other).is_err(), "{}", other.display());
        }
        fs::File::create(&file).unwrap().set_len(MAX_PASSWD + 1).unwrap();
        assert!(read_regular(&file).unwrap_err().to_string().contains("1 MiB"));
    }
}
