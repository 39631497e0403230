//! Attacks on processes outside, and attempts to be confined by less.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::kill,
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::Pid,
};

use crate::{Layer, Probe, places, sys};

/// The pids that the driver knows, by whose they are.
fn foreign(probe: &Probe) -> Vec<(String, i32)> {
    probe
        .facts
        .with_prefix("pid.")
        .filter_map(|(key, pid)| Some((key.to_owned(), pid.parse().ok()?)))
        // A sandbox that has had as many processes may have one of that number itself.
        .filter(|(_, pid)| {
            std::path::Path::new(&format!("/proc/{pid}")).exists() == probe.facts.get("host").is_some()
        })
        .collect()
}

pub fn across_workspaces(probe: &mut Probe) {
    let pids = foreign(probe);
    if pids.is_empty() {
        return probe.broken("foreign processes", "the driver named none");
    }
    let none = [Errno::ESRCH];
    for (name, pid) in pids {
        let target = Pid::from_raw(pid);
        let layer = Layer::PidNamespace;
        probe.refused(format!("signal {name}"), layer, &none, kill(target, None));
        let opened = rustix::process::Pid::from_raw(pid)
            .ok_or(rustix::io::Errno::INVAL)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        probe.refused(format!("open a pidfd of {name}"), layer, &none, opened);
        if probe.facts.get("host").is_some() {
            continue;
        }
        probe.refused(format!("trace {name}"), layer, &none, sys::attach(pid));
        let (mut local, remote) = ([0_u8; 8], [RemoteIoVec { base: 0x1000, len: 8 }]);
        let read = process_vm_readv(target, &mut [io::IoSliceMut::new(&mut local)], &remote);
        probe.refused(format!("read the memory of {name}"), layer, &none, read);
        let limit = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        let limited = rustix::process::Pid::from_raw(pid)
            .ok_or(rustix::io::Errno::INVAL)
            .and_then(|pid| rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit));
        probe.refused(format!("limit {name}"), layer, &none, limited);
    }
    if probe.facts.get("host").is_none() {
        // All that one may: processes of other pid namespaces, though of the same host id, are not among them.
        let all = kill(Pid::from_raw(-1), nix::sys::signal::Signal::SIGCONT);
        probe.confined("signal everything", Layer::PidNamespace, Ok(format!("{all:?}")));
    }
}

pub fn keeper_in_proc(probe: &mut Probe) {
    let Some(keeper) = probe.fact("pid.keeper") else { return };
    let words = ["cordium-supervisor", "keeper", "broker"];
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => return probe.broken("listing /proc", error),
    };
    let pids: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().is_ok())
        .collect();
    let found: Vec<String> = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|comm| comm.trim().to_owned())
        .filter(|comm| words.iter().any(|word| comm.contains(word)))
        .collect();
    let seen = if found.is_empty() { Ok(format!("not among {}", pids.len())) } else { Err(found.join(", ")) };
    probe.confined("find the keeper by its name", Layer::PidNamespace, seen);
    if !pids.contains(&keeper) || probe.facts.get("host").is_some() {
        for file in ["status", "mem", "root", "ns/user", "fd"] {
            let path = format!("/proc/{keeper}/{file}");
            let expected = [Errno::ENOENT];
            probe.refused(
                format!("look at {path}"),
                Layer::PidNamespace,
                &expected,
                fs::symlink_metadata(&path),
            );
        }
    }
    let ours = fs::read_to_string("/proc/1/status").unwrap_or_default();
    let outer =
        ours.lines().find(|line| line.starts_with("NSpid:")).map(|line| line.split_whitespace().count());
    let seen =
        if outer == Some(2) { Ok("PID 1 has one number".to_owned()) } else { Err(format!("{outer:?}")) };
    probe.confined("learn PID 1's number outside", Layer::PidNamespace, seen);
}

/// What confines this process, as text: its seccomp mode and the capabilities that it could ever have.
pub fn confinement() -> anyhow::Result<String> {
    let status = fs::read_to_string("/proc/self/status").context("reading the own status")?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim_start_matches(':').trim())
    };
    let filters = field("Seccomp_filters").unwrap_or("?");
    Ok(format!(
        "seccomp {} filters {filters} bounding {}",
        field("Seccomp").unwrap_or("?"),
        field("CapBnd").unwrap_or("?")
    ))
}

pub fn inherited(probe: &mut Probe) {
    let Ok(here) = confinement() else { return probe.broken("reading the own confinement", "no status") };
    let seen = if here.starts_with("seccomp 2 ") { Ok(here.clone()) } else { Err(here.clone()) };
    probe.confined("run without a filter", Layer::Seccomp, seen);
    let compare = |told: io::Result<String>| match told {
        Ok(told) if told == here => Ok("as confined as its parent".to_owned()),
        Ok(told) => Err(format!("{told} instead of {here}")),
        Err(error) => Ok(format!("it could not be executed: {error}")),
    };
    let own = std::env::current_exe().unwrap_or_default();
    probe.confined("execute itself", Layer::Seccomp, compare(told_by(&own)));
    probe.confined(
        "execute a memfd",
        Layer::Seccomp,
        compare(memfd_copy(&own).and_then(|(_file, path)| told_by(&path))),
    );
    probe.confined("execute a set-id copy", Layer::Seccomp, compare(set_id_copy(&own)));
    probe.child(
        "nested user namespace",
        || places::nested(CloneFlags::empty()),
        |probe| {
            // There its capabilities are its own affair, the filter is not.
            let told = told_by(&own).unwrap_or_else(|error| error.to_string());
            let seen = if told.starts_with("seccomp 2 ") { Ok(told) } else { Err(told) };
            probe.confined("execute itself", Layer::Seccomp, seen);
        },
    );
    let left = sys::leave_seccomp();
    probe.refused("switch the filter off", Layer::Kernel, &[Errno::EINVAL], left);
    match Command::new(&own).args(["hold", "pipes"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
        Ok(mut child) => {
            let traced = sys::seize_without_seccomp(i32::try_from(child.id()).unwrap_or_default());
            let denied = [Errno::EPERM, Errno::EINVAL];
            probe.refused("switch it off for a child by ptrace", Layer::UserNamespace, &denied, traced);
            let _ = child.kill().and_then(|()| child.wait());
        }
        Err(error) => probe.broken("starting a child to trace", error),
    }
    for (name, number) in
        [("CAP_SYS_PTRACE", 19), ("CAP_SYS_MODULE", 16), ("CAP_SYS_RAWIO", 17), ("CAP_BPF", 39)]
    {
        let gained = sys::gain_capability(number);
        probe.refused(format!("gain {name}"), Layer::Bounding, &[Errno::EPERM], gained);
    }
}

fn told_by(program: &std::path::Path) -> io::Result<String> {
    let output = Command::new(program).arg("confinement").stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn memfd_copy(program: &std::path::Path) -> io::Result<(File, std::path::PathBuf)> {
    let mut file = File::from(memfd_create("copy", MFdFlags::empty())?);
    file.write_all(&fs::read(program)?)?;
    // The descriptor is still open for writing here, and in the child until it executes: a file that is being
    // written is not executed, so a second, read-only one is what is executed.
    let read_only = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    drop(file);
    let path = format!("/proc/self/fd/{}", read_only.as_raw_fd()).into();
    Ok((read_only, path))
}

fn set_id_copy(program: &std::path::Path) -> io::Result<String> {
    let path = places::scratch("set-id")?.join("copy");
    fs::copy(program, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755))?;
    let told = told_by(&path);
    fs::remove_file(&path)?;
    told
}
