//! Plan to OCI spec, as a pure function.
//!
//! Every source path lies below the keeper's private tmpfs, which the inner user namespace can walk; the node's own
//! directories (mode 0700 of the supervisor's user) it cannot.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder,
        LinuxNamespaceType, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
        ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
    },
};

use crate::SandboxPlan;

/// Where the agent is in every sandbox, on a tmpfs of ours that hides whatever the image has there.
pub const AGENT_PATH: &str = "/run/cordium/bin/cordium-agent";

/// That tmpfs.
const OWN_DIR: &str = "/run/cordium";

/// What the keeper prepared for the inner container.
#[derive(Debug, Clone)]
pub struct InnerPaths {
    pub rootfs: PathBuf,
    /// User and network namespaces, already made: `/proc/<keeper>/fd/<n>`.
    pub user_namespace: PathBuf,
    pub network_namespace: PathBuf,
    /// (source below the private tmpfs, target in the sandbox).
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Below the unified hierarchy.
    pub cgroups_path: PathBuf,
    /// Whether a fresh sysfs may be mounted; otherwise the node's is bound read-only.
    pub fresh_sysfs: bool,
    pub cgroup_mount: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("building the OCI spec: {0}")]
    Build(#[from] OciSpecError),
    #[error("unknown capability {0:?}")]
    Capability(String),
}

/// The OCI spec of the inner container.
pub fn build(plan: &SandboxPlan, paths: &InnerPaths) -> Result<Spec, SpecError> {
    let user = UserBuilder::default().uid(0_u32).gid(0_u32).build()?;
    let mut env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "HOME=/root".to_owned(),
        "CORDIUM_AGENT_FD=3".to_owned(),
    ];
    env.extend(plan.env.iter().map(|(key, value)| format!("{key}={value}")));
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(vec![AGENT_PATH.to_owned()])
        .env(env)
        .cwd("/")
        .capabilities(capabilities(&plan.capabilities)?)
        .rlimits(rlimits(plan)?)
        .no_new_privileges(false)
        .build()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(paths)?)
        .cgroups_path(paths.cgroups_path.clone())
        .masked_paths(Vec::<String>::new())
        .readonly_paths(Vec::<String>::new())
        .rootfs_propagation("private")
        .build()?;
    Ok(SpecBuilder::default()
        .version("1.2.0")
        .root(RootBuilder::default().path(paths.rootfs.clone()).readonly(false).build()?)
        .hostname(plan.hostname.clone())
        .process(process)
        .mounts(mounts(paths)?)
        .linux(linux)
        .build()?)
}

/// Without a pids cgroup the number of processes is bounded for each user inside, by what every process inherits and none
/// may raise.
fn rlimits(plan: &SandboxPlan) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let limit = |typ, value| PosixRlimitBuilder::default().typ(typ).soft(value).hard(value).build();
    let mut limits = vec![limit(PosixRlimitType::RlimitNofile, nofile(plan.limits.open_files))?];
    let has_pids = plan.cgroup.as_ref().is_some_and(|cgroup| cgroup.has_controller("pids"));
    if plan.limits.pids != 0 && !has_pids {
        let given = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC)
            .map_or(u64::MAX, |(_, hard)| hard);
        limits.push(limit(PosixRlimitType::RlimitNproc, plan.limits.pids.min(given))?);
    }
    Ok(limits)
}

/// As many open files as the plan wants, but not more than we may promise: what the keeper itself was given.
fn nofile(wanted: u64) -> u64 {
    let given = nofile_given();
    if wanted == 0 { given } else { wanted.min(given) }
}

/// The most open files that a process of the sandbox can have.
pub fn nofile_given() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}

/// All sets alike: bounding is what counts, the rest makes root's effective. CAP_SYS_ADMIN is always among them,
/// because loading the seccomp filter needs it; the executor drops it again if the plan does not have it.
fn capabilities(names: &[String]) -> Result<oci_spec::runtime::LinuxCapabilities, SpecError> {
    let mut set = HashSet::from([Capability::SysAdmin]);
    for name in names {
        let short = name.trim_start_matches("CAP_").to_owned();
        set.insert(
            serde_json::from_value(serde_json::Value::String(format!("CAP_{short}")))
                .map_err(|_| SpecError::Capability(name.clone()))?,
        );
    }
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn namespaces(paths: &InnerPaths) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let join = |typ, path: &Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    Ok(vec![
        join(LinuxNamespaceType::User, &paths.user_namespace)?,
        join(LinuxNamespaceType::Network, &paths.network_namespace)?,
        new(LinuxNamespaceType::Pid)?,
        new(LinuxNamespaceType::Ipc)?,
        new(LinuxNamespaceType::Uts)?,
        new(LinuxNamespaceType::Mount)?,
        new(LinuxNamespaceType::Cgroup)?,
    ])
}

fn mounts(paths: &InnerPaths) -> Result<Vec<Mount>, OciSpecError> {
    let mount = |target: &Path, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
            .build()
    };
    let fs =
        |target: &str, kind: &str, options: &[&str]| mount(Path::new(target), kind, Path::new(kind), options);
    let mut mounts = vec![
        fs("/proc", "proc", &["nosuid", "nodev", "noexec"])?,
        fs("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        fs(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        fs("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777", "size=50%"])?,
        fs("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"])?,
    ];
    mounts.push(if paths.fresh_sysfs {
        fs("/sys", "sysfs", &["nosuid", "nodev", "noexec", "ro"])?
    } else {
        mount(Path::new("/sys"), "bind", Path::new("/sys"), &["rbind", "ro"])?
    });
    if paths.cgroup_mount {
        mounts.push(fs("/sys/fs/cgroup", "cgroup", &["nosuid", "nodev", "noexec"])?);
    }
    // Ours come last: a tenant that has made `/run` a link into the volume must not get a later mount over the agent.
    let (ours, mut theirs): (Vec<_>, Vec<_>) =
        paths.binds.iter().partition(|(_, target)| target.starts_with(OWN_DIR));
    // Outer ones first, or they would hide those within.
    theirs.sort_by_key(|(_, target)| target.components().count());
    for (source, target) in theirs {
        mounts.push(mount(target, "bind", source, &["bind"])?);
    }
    mounts.push(fs(OWN_DIR, "tmpfs", &["nosuid", "nodev", "mode=755", "size=1m"])?);
    for (source, target) in ours {
        mounts.push(mount(target, "bind", source, &["bind"])?);
    }
    Ok(mounts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn paths() -> InnerPaths {
        InnerPaths {
            rootfs: "/tmp/rootfs".into(),
            user_namespace: "/proc/1/fd/4".into(),
            network_namespace: "/proc/1/fd/5".into(),
            binds: vec![("/tmp/bind/0".into(), "/workspace".into())],
            cgroups_path: "/c/x/box".into(),
            fresh_sysfs: true,
            cgroup_mount: true,
        }
    }

    #[test]
    fn every_namespace_is_its_own() {
        let spec = build(&plan(), &paths()).unwrap();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(namespaces.len(), 7);
        let joined = namespaces.iter().filter(|ns| ns.path().is_some()).count();
        assert_eq!(joined, 2);
    }

    #[test]
    fn capabilities_are_the_plans_and_ptrace_is_not_among_them() {
        let spec = build(&plan(), &paths()).unwrap();
        let caps = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        let bounding = caps.bounding().clone().unwrap();
        assert!(bounding.contains(&Capability::NetAdmin) && bounding.contains(&Capability::NetRaw));
        assert!(!bounding.contains(&Capability::SysPtrace));
        assert!(caps.ambient().clone().unwrap().is_empty());
    }

    #[test]
    fn limits_of_processes_are_the_plans_where_no_cgroup_has_them() {
        let asked = |plan: &crate::SandboxPlan| {
            let limits = rlimits(plan).unwrap();
            let found = |typ| limits.iter().find(|limit| limit.typ() == typ).map(|limit| limit.hard());
            (found(PosixRlimitType::RlimitNofile), found(PosixRlimitType::RlimitNproc))
        };
        let mut plan = plan();
        plan.limits.open_files = 256;
        plan.limits.pids = 20;
        assert_eq!(asked(&plan), (Some(256), Some(20)));
        plan.limits.open_files = u64::MAX;
        assert_eq!(asked(&plan).0, Some(nofile_given()));
        let hierarchy = crate::cgroup::Hierarchy {
            kind: crate::cgroup::HierarchyKind::V1(vec!["pids".into()]),
            mount: "/c".into(),
            base: "/c".into(),
        };
        plan.cgroup = Some(crate::cgroup::CgroupPlan {
            id: "x".into(),
            hierarchies: vec![hierarchy],
            unified_mount: None,
        });
        assert_eq!(asked(&plan).1, None);
    }

    #[test]
    fn the_spec_survives_a_round_trip() {
        let spec = build(&plan(), &paths()).unwrap();
        let again: Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(spec, again);
    }

    #[test]
    fn binds_come_after_the_file_systems_that_hold_them() {
        let mounts = mounts(&paths()).unwrap();
        let position =
            |target: &str| mounts.iter().position(|m| m.destination() == Path::new(target)).unwrap();
        assert!(position("/dev") < position("/dev/pts"));
    }

    #[test]
    fn a_bind_does_not_hide_one_within_it() {
        let binds = ["/a/b/c", "/a", "/a/b"].map(|target| ("/tmp/bind/x".into(), target.into())).to_vec();
        let mounts = mounts(&InnerPaths { binds, ..paths() }).unwrap();
        let targets: Vec<_> = mounts.iter().map(|m| m.destination().display().to_string()).collect();
        let own: Vec<_> = targets.iter().filter(|target| target.starts_with("/a")).collect();
        assert_eq!(own, ["/a", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn nothing_can_be_mounted_over_the_agent() {
        let binds = [AGENT_PATH, "/workspace", "/run/cordium/home-volume"];
        let binds = binds.map(|target| ("/tmp/bind/x".into(), target.into())).to_vec();
        let mounts = mounts(&InnerPaths { binds, ..paths() }).unwrap();
        let last: Vec<_> =
            mounts[mounts.len() - 4..].iter().map(|m| m.destination().display().to_string()).collect();
        assert_eq!(last, ["/workspace", "/run/cordium", AGENT_PATH, "/run/cordium/home-volume"]);
    }
}
