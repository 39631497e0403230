//! What the keeper opens, makes and mounts: everything by descriptor, opened before its own mounts hide the paths.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat};

use super::{AGENT_SOCKET, KEEPER_LOG, KEEPER_SOCKET};
use crate::SandboxPlan;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OuterError {
    #[error("opening {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("writing the log {path}: {source}", path = path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("making the mount tree private: {0}")]
    Private(nix::Error),
    #[error("listening on {path}: {source}", path = path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("making {name} on the workspace's volume: {source}")]
    Volume { name: &'static str, source: io::Error },
    #[error("mounting {what}: {source}")]
    Mount { what: String, source: io::Error },
    #[error(transparent)]
    Target(#[from] super::targets::TargetError),
    #[error("giving {path} to the sandbox's root: {source}", path = path.display())]
    Give { path: PathBuf, source: io::Error },
    #[error("making {path}: {source}", path = path.display())]
    Make { path: PathBuf, source: io::Error },
}

/// The keeper's own small file system, in its private mount namespace. Everything the inner container must walk to is
/// below it, because the node's directories are closed to ids other than the supervisor's.
const PRIVATE: &str = "/tmp";

/// Directories of the volume that the sandbox sees as they are, not through the overlay: an overlay's upper layer,
/// which nested containers need, cannot itself lie on an overlay.
const VOLUME_BINDS: [(&str, &str); 4] = [
    ("workspace", "/workspace"),
    ("containers", "/var/lib/containers"),
    ("docker", "/var/lib/docker"),
    // The agent puts it into the user's home, which is not known here.
    ("user-containers", "/run/cordium/user-containers"),
];

/// Where a read-only sandbox keeps its home.
const HOME_BIND: (&str, &str) = ("home", "/run/cordium/home-volume");

/// Out of the way of the low numbers, which a child may be promised.
const CHANNEL_FD: i32 = 10;

/// Takes standard input over as the supervisor's channel and leaves `/dev/null` in its place.
pub(crate) fn take_stdin() -> io::Result<UnixStream> {
    let stdin = rustix::stdio::stdin();
    let channel = rustix::io::fcntl_dupfd_cloexec(stdin, CHANNEL_FD)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    let stream = UnixStream::from(channel);
    stream.peer_addr()?;
    Ok(stream)
}

/// Where the keeper's own words go from now on; until then they are among the supervisor's.
pub(crate) fn log_to(run_dir: &Path) -> Result<(), OuterError> {
    let path = run_dir.join(KEEPER_LOG);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
        .and_then(rustix::stdio::dup2_stderr)
        .map_err(|e| OuterError::Log { path, source: e.into() })
}

/// Cuts the mount tree off from the node's. Until then it follows what is mounted there, as that of a keeper which is made
/// ahead must.
pub(crate) fn make_private() -> Result<(), OuterError> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(OuterError::Private)
}

/// Descriptors of all that the plan names, opened in the keeper's own mount namespace: an overlay refuses layers from
/// another one.
pub(crate) struct Paths {
    layers: Vec<OwnedFd>,
    layer_data: Option<OwnedFd>,
    volume: OwnedFd,
    agent: OwnedFd,
    binds: Vec<OwnedFd>,
    broker: OwnedFd,
    broker_name: PathBuf,
    pub(crate) agent_listener: UnixListener,
    keeper_listener: UnixListener,
}

impl Paths {
    pub(crate) fn open(plan: &SandboxPlan) -> Result<Self, OuterError> {
        let broker = &plan.network.broker_socket;
        let missing =
            || OuterError::Open { path: broker.clone(), source: io::ErrorKind::InvalidInput.into() };
        Ok(Self {
            layers: distinct(&plan.layers)
                .into_iter()
                .map(|path| open_path(path))
                .collect::<Result<_, _>>()?,
            layer_data: plan.layer_data.as_deref().map(open_path).transpose()?,
            volume: open_path(&plan.volume)?,
            agent: open_path(&plan.agent)?,
            binds: plan.binds.iter().map(|bind| open_path(&bind.source)).collect::<Result<_, _>>()?,
            broker: open_path(broker.parent().ok_or_else(missing)?)?,
            broker_name: broker.file_name().ok_or_else(missing)?.into(),
            agent_listener: listen(&plan.run_dir.join(AGENT_SOCKET))?,
            keeper_listener: listen(&plan.run_dir.join(KEEPER_SOCKET))?,
        })
    }

    /// The broker's socket by way of its directory's descriptor: the path itself may be hidden by now.
    pub(crate) fn broker_socket(&self) -> PathBuf {
        fd_path(self.broker.as_fd()).join(&self.broker_name)
    }

    /// What is needed after the start: the keeper's own socket, the broker's directory and the volume.
    pub(crate) fn keep(self) -> (UnixListener, OwnedFd, OwnedFd) {
        (self.keeper_listener, self.broker, self.volume)
    }
}

/// An image may list a layer twice, which overlay refuses; the upper one of the two holds all that the lower does.
fn distinct(layers: &[PathBuf]) -> Vec<&PathBuf> {
    let mut seen = std::collections::HashSet::new();
    let mut top_first: Vec<_> = layers.iter().rev().filter(|path| seen.insert(*path)).collect();
    top_first.reverse();
    top_first
}

fn open_path(path: &Path) -> Result<OwnedFd, OuterError> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| OuterError::Open { path: path.to_owned(), source: e.into() })
}

fn listen(path: &Path) -> Result<UnixListener, OuterError> {
    let error = |source| OuterError::Listen { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    UnixListener::bind(path).map_err(error)
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The sandbox's root, as O numbers it.
pub(super) fn root_of_inner() -> (Uid, Gid) {
    (Uid::from_raw(1), Gid::from_raw(1))
}

/// Makes the volume's directories if they are not there. They belong to the sandbox's root.
pub(crate) fn prepare_volume(paths: &Paths) -> Result<(), OuterError> {
    let (uid, gid) = root_of_inner();
    let binds = VOLUME_BINDS.iter().chain([&HOME_BIND]).map(|(name, _)| *name);
    for name in binds.chain(["upper", "work"]) {
        let owner = (name != "work").then_some((uid, gid));
        make_owned(paths.volume.as_fd(), name, owner)
            .map_err(|e| OuterError::Volume { name, source: e.into() })?;
    }
    Ok(())
}

/// Makes a directory if it is not there, and gives it away if it is still ours: a crash may have come between the two.
fn make_owned(volume: BorrowedFd<'_>, name: &str, owner: Option<(Uid, Gid)>) -> rustix::io::Result<()> {
    match mkdirat(volume, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let Some((uid, gid)) = owner else { return Ok(()) };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let made_by_us = rustix::fs::statat(volume, name, flags)?.st_uid == rustix::process::geteuid().as_raw();
    if made_by_us { chownat(volume, name, Some(uid), Some(gid), flags) } else { Ok(()) }
}

/// What `mount_root` made, below [`PRIVATE`].
pub(crate) struct Root {
    pub(crate) rootfs: PathBuf,
    /// libcontainer's bundle and state directories.
    pub(crate) bundle: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
}

/// Mounts the private tmpfs, the overlay and every bind source.
pub(crate) fn mount_root(plan: &SandboxPlan, paths: &Paths) -> Result<Root, OuterError> {
    let private = Path::new(PRIVATE);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount("tmpfs", private, "tmpfs", flags, "size=4m,mode=755")?;
    let root = Root {
        rootfs: private.join("rootfs"),
        bundle: private.join("bundle"),
        state: private.join("state"),
        binds: Vec::new(),
    };
    for dir in [&root.rootfs, &root.bundle, &root.state, &private.join("bind")] {
        make_dir(dir)?;
    }
    mount_overlay(paths, &root.rootfs)?;
    let binds = bind_sources(plan, paths, &root.rootfs, &private.join("bind"))?;
    Ok(Root { binds, ..root })
}

/// Shows libcontainer the unified hierarchy as if it were the only one, while `work` runs: that of a hybrid host, or where
/// no subtree is ours a new one, in which it may do nothing and is content with that.
pub(crate) fn with_unified_cgroups<T>(
    unified: Option<&Path>,
    work: impl FnOnce() -> T,
) -> Result<T, OuterError> {
    let place = Path::new("/sys/fs/cgroup");
    match unified {
        Some(mount) if mount == place => return Ok(work()),
        Some(mount) => bind(mount, place, MsFlags::empty())?,
        None if is_unified(place) => return Ok(work()),
        None => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).map_err(|e| OuterError::Mount {
                what: "cgroup2: making a cgroup namespace".to_owned(),
                source: e.into(),
            })?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount("cgroup2", place, "cgroup2", flags, "")?;
        }
    }
    let result = work();
    sys_mount::unmount(place, sys_mount::UnmountFlags::DETACH)
        .map_err(|source| OuterError::Mount { what: "nothing over /sys/fs/cgroup again".into(), source })?;
    Ok(result)
}

fn is_unified(place: &Path) -> bool {
    nix::sys::statfs::statfs(place)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

fn mount_overlay(paths: &Paths, rootfs: &Path) -> Result<(), OuterError> {
    let inside = |name: &str| format!("{}/{name}", fd_path(paths.volume.as_fd()).display());
    let lower: Vec<_> =
        paths.layers.iter().rev().map(|fd| fd_path(fd.as_fd()).display().to_string()).collect();
    let contents = paths.layer_data.as_ref();
    let contents = contents.map(|fd| format!("::{}", fd_path(fd.as_fd()).display())).unwrap_or_default();
    let data = format!(
        "userxattr,lowerdir={}{contents},upperdir={},workdir={}",
        lower.join(":"),
        inside("upper"),
        inside("work")
    );
    mount("overlay", rootfs, "overlay", MsFlags::empty(), &data)
}

/// Clones each source onto the private tmpfs, read-only where asked, so that inside only a plain bind is left to do.
fn bind_sources(
    plan: &SandboxPlan,
    paths: &Paths,
    rootfs: &Path,
    dir: &Path,
) -> Result<Vec<(PathBuf, PathBuf)>, OuterError> {
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mut binds = Vec::new();
    let mut add = |source: PathBuf, is_dir: bool, target: &Path, flags: MsFlags| {
        let place = dir.join(binds.len().to_string());
        if is_dir {
            make_dir(&place)?;
        } else {
            File::create(&place).map_err(|source| OuterError::Make { path: place.clone(), source })?;
        }
        bind(&source, &place, flags)?;
        binds.push((place, target.to_owned()));
        Ok::<_, OuterError>(())
    };
    add(fd_path(paths.agent.as_fd()), false, Path::new(crate::oci::AGENT_PATH), read_only)?;
    let home = plan.read_only_root.then_some(&HOME_BIND);
    for (name, target) in VOLUME_BINDS.iter().chain(home) {
        add(fd_path(paths.volume.as_fd()).join(name), true, Path::new(target), MsFlags::MS_NODEV)?;
    }
    for (wanted, fd) in plan.binds.iter().zip(&paths.binds) {
        let stat = rustix::fs::fstat(fd)
            .map_err(|e| OuterError::Open { path: wanted.source.clone(), source: e.into() })?;
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        super::targets::check(rootfs, &wanted.target, is_dir)?;
        if wanted.owned && stat.st_uid == 0 {
            let (uid, gid) = root_of_inner();
            rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .map_err(|e| OuterError::Give { path: wanted.source.clone(), source: e.into() })?;
        }
        let writable = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let flags = if wanted.read_only { read_only } else { writable };
        add(fd_path(fd.as_fd()), is_dir, &wanted.target, flags)?;
    }
    Ok(binds)
}

fn make_dir(path: &Path) -> Result<(), OuterError> {
    std::fs::create_dir(path).map_err(|source| OuterError::Make { path: path.to_owned(), source })
}

fn mount(source: &str, target: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<(), OuterError> {
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(data))
        .map_err(|e| OuterError::Mount { what: format!("{kind} on {}", target.display()), source: e.into() })
}

/// Binds, then tightens. Flags that the source's mount has already are locked for us and must be said again.
fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<(), OuterError> {
    let what = || format!("{} on {}", source.display(), target.display());
    sys_mount::Mount::builder()
        .flags(sys_mount::MountFlags::BIND)
        .mount(source, target)
        .map_err(|source| OuterError::Mount { what: what(), source })?;
    if flags.is_empty() {
        return Ok(());
    }
    let flags = flags | locked_flags(target).map_err(|source| OuterError::Mount { what: what(), source })?;
    nix::mount::mount(
        None::<&str>,
        target,
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags,
        None::<&str>,
    )
    .map_err(|e| OuterError::Mount { what: format!("{} with {flags:?}", what()), source: e.into() })
}

/// Covers one file with another.
pub(crate) fn bind_file(source: &Path, target: &Path) -> Result<(), OuterError> {
    bind(source, target, MsFlags::empty())
}

fn locked_flags(path: &Path) -> io::Result<MsFlags> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let pairs = [
        (Has::RDONLY, MsFlags::MS_RDONLY),
        (Has::NOSUID, MsFlags::MS_NOSUID),
        (Has::NODEV, MsFlags::MS_NODEV),
        (Has::NOEXEC, MsFlags::MS_NOEXEC),
        (Has::NOATIME, MsFlags::MS_NOATIME),
        (Has::NODIRATIME, MsFlags::MS_NODIRATIME),
        (Has::RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs
        .into_iter()
        .filter(|(flag, _)| has.contains(*flag))
        .fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_layers_the_upper_one_stays() {
        let layers: Vec<PathBuf> = ["/a", "/b", "/a", "/c"].map(PathBuf::from).to_vec();
        let kept: Vec<_> = distinct(&layers).into_iter().map(|p| p.display().to_string()).collect();
        assert_eq!(kept, ["/b", "/a", "/c"]);
    }
}
