//! Where a container's cgroups are, and entering those of its init.
//!
//! A process that runs in a container but not in its cgroups is past every limit: what cannot be entered is an error, and
//! never left out because a file was not found.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use nix::{
    sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs},
    unistd::Pid,
};

use super::process::Failed;

/// How many cgroups deep members are looked for.
const MAX_DEPTH: u32 = 64;

/// A path below a hierarchy's root. None for the root itself, and where `..` leads somewhere else.
pub(super) fn below_root(path: &Path) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!below.as_os_str().is_empty()).then_some(below)
}

/// A hierarchy as it is mounted here.
#[derive(Debug)]
struct Mount<'a> {
    /// The cgroup that the mount shows as its root.
    root: &'a Path,
    point: &'a Path,
    unified: bool,
    options: &'a str,
}

impl Mount<'_> {
    /// The unified hierarchy has no controllers in its name.
    fn is_of(&self, controllers: &str) -> bool {
        match controllers {
            "" => self.unified,
            names => !self.unified && names.split(',').all(|name| self.options.split(',').any(|o| o == name)),
        }
    }
}

fn mounts(mountinfo: &str) -> Vec<Mount<'_>> {
    let mount = |line| {
        let (left, right): (&str, &str) = str::split_once(line, " - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, point) = (Path::new(left.next()?), Path::new(left.next()?));
        let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
        let unified = kind == "cgroup2";
        (unified || kind == "cgroup").then_some(Mount { root, point, unified, options })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The lines of `/proc/<pid>/cgroup`: controllers and path.
fn memberships(text: &str) -> impl Iterator<Item = (&str, &Path)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some((controllers, Path::new(path)))
    })
}

/// A cgroup to be entered.
#[derive(Debug, PartialEq, Eq)]
struct Join {
    procs: PathBuf,
    /// It is the container's own; another one is what whoever created the container was in.
    own: bool,
}

/// What a process has to enter to be where init is. `own` is the container's path in every hierarchy that it has a cgroup in.
///
/// Left out are hierarchies that are not mounted, and those where the caller is in the same cgroup already.
fn plan(init: &str, caller: &str, mountinfo: &str, own: Option<&Path>) -> Result<Vec<Join>, String> {
    let mounts = mounts(mountinfo);
    let mut joins = Vec::new();
    for (controllers, path) in memberships(init) {
        let mut shown = mounts.iter().filter(|mount| mount.is_of(controllers)).peekable();
        if shown.peek().is_none() || memberships(caller).any(|entry| entry == (controllers, path)) {
            continue;
        }
        let found = shown.find_map(|mount| {
            let below = path.strip_prefix(mount.root).ok()?;
            let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
            plain.then(|| Join {
                procs: mount.point.join(below).join("cgroup.procs"),
                own: own.is_some_and(|own| below.starts_with(own)),
            })
        });
        joins.push(found.ok_or_else(|| {
            format!("no mount of the hierarchy {controllers:?} shows the cgroup {}", path.display())
        })?);
    }
    Ok(joins)
}

/// The cgroups of a container's init, open to be entered.
#[derive(Debug)]
pub(super) struct Cgroups(Vec<(Join, fs::File)>);

impl Cgroups {
    /// To be called before anything is joined: the paths are the caller's.
    pub(super) fn open(init: Pid, cgroups_path: &Path) -> Result<Self, Failed> {
        let step = "finding the container's cgroups";
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|e| Failed::new(step, format!("reading {path}: {e}")))
        };
        let (theirs, ours) = (read(&format!("/proc/{init}/cgroup"))?, read("/proc/self/cgroup")?);
        let own = below_root(cgroups_path);
        let joins = plan(&theirs, &ours, &read("/proc/self/mountinfo")?, own.as_deref());
        let mut open = Vec::new();
        for join in joins.map_err(|e| Failed::new(step, e))? {
            match open_procs(&join.procs) {
                Ok(file) => open.push((join, file)),
                Err(error) if join.may_be_left_out(&error) => {}
                Err(error) => return Err(join.failed(error)),
            }
        }
        Ok(Self(open))
    }

    /// Moves the calling process.
    pub(super) fn enter(&mut self) -> Result<(), Failed> {
        for (join, file) in &mut self.0 {
            match file.write_all(b"0") {
                Err(error) if !join.may_be_left_out(&error) => return Err(join.failed(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Join {
    /// An ordinary user may not enter the cgroups of another session, and the container has none there. Its own hold its
    /// limits: those are entered, or there is no process, whoever calls.
    fn may_be_left_out(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        !self.own && matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
    }

    fn failed(&self, error: io::Error) -> Failed {
        Failed::new(format!("entering {}", self.procs.display()), error)
    }
}

/// Something else may be mounted over a hierarchy.
fn open_procs(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let kind = fstatfs(&file)?.filesystem_type();
    if kind == CGROUP_SUPER_MAGIC || kind == CGROUP2_SUPER_MAGIC {
        return Ok(file);
    }
    Err(io::Error::other("it is not a file of a cgroup"))
}

/// The directories of a container's cgroups, in every hierarchy where there is one.
pub(super) fn directories(cgroups_path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(own) = below_root(cgroups_path) else { return Ok(Vec::new()) };
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let dirs = mounts(&mountinfo).into_iter().map(|mount| mount.point.join(&own));
    Ok(dirs.filter(|dir| dir.join("cgroup.procs").exists()).collect())
}

/// The processes in these cgroups and below them. One that ends while it is looked for is not an error.
pub(super) fn members(dirs: &[PathBuf]) -> io::Result<BTreeSet<Pid>> {
    let mut pids = BTreeSet::new();
    for dir in dirs {
        gather(dir, 0, &mut pids).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
    }
    Ok(pids)
}

fn gather(dir: &Path, depth: u32, pids: &mut BTreeSet<Pid>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("cgroups are more than {MAX_DEPTH} deep")));
    }
    let Some(procs) = unless_gone(fs::read_to_string(dir.join("cgroup.procs")))? else { return Ok(()) };
    // A process that cannot be seen from here has the number 0, which as a pid is the caller's own group.
    pids.extend(procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw));
    let Some(entries) = unless_gone(fs::read_dir(dir))? else { return Ok(()) };
    for entry in entries {
        let Some(entry) = unless_gone(entry)? else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), depth + 1, pids)?;
        }
    }
    Ok(())
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                          31 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                          32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          33 29 0:29 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";

    fn joins(init: &str, caller: &str) -> Result<Vec<(String, bool)>, String> {
        let plan = plan(init, caller, MOUNTS, Some(Path::new("a/c")))?;
        Ok(plan.into_iter().map(|join| (join.procs.to_str().unwrap().to_owned(), join.own)).collect())
    }

    #[test]
    fn hierarchies_are_found_where_they_are_mounted() {
        let init = "3:cpu,cpuacct:/a/c\n2:name=systemd:/a/c/sub\n0::/a/c\n";
        let wanted = ["cpu", "systemd", "unified"];
        let found = joins(init, "3:cpu,cpuacct:/\n2:name=systemd:/\n0::/\n").unwrap();
        assert!(found.iter().all(|(_, own)| *own), "{found:?}");
        for ((path, _), name) in found.iter().zip(wanted) {
            assert!(path.starts_with(&format!("/sys/fs/cgroup/{name}/a/c")), "{path}");
            assert!(path.ends_with("/cgroup.procs"));
        }
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn what_shows_a_part_of_a_hierarchy_shows_paths_below_it() {
        let found = joins("4:pids:/docker/x/a/c\n", "4:pids:/docker/x\n").unwrap();
        assert_eq!(found, [("/sys/fs/cgroup/pids/a/c/cgroup.procs".to_owned(), true)]);
        assert!(joins("4:pids:/elsewhere\n", "4:pids:/\n").unwrap_err().contains("/elsewhere"));
        assert!(joins("0::/../other\n", "0::/\n").is_err(), "`..` was followed");
    }

    #[test]
    fn only_what_is_not_mounted_or_shared_with_the_caller_is_left_out() {
        assert_eq!(joins("9:rdma:/a/c\n", "9:rdma:/\n").unwrap(), []);
        assert_eq!(joins("0::/user\n", "0::/user\n").unwrap(), []);
        let of_the_creator = joins("0::/session-1\n", "0::/session-2\n").unwrap();
        assert_eq!(of_the_creator, [("/sys/fs/cgroup/unified/session-1/cgroup.procs".to_owned(), false)]);
    }

    #[test]
    fn a_cgroup_of_the_containers_own_that_cannot_be_entered_is_an_error() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let join = |own| Join { procs: PathBuf::from("/x/cgroup.procs"), own };
        assert!(join(false).may_be_left_out(&denied()));
        assert!(!join(true).may_be_left_out(&denied()));
        for own in [true, false] {
            assert!(!join(own).may_be_left_out(&io::Error::from(io::ErrorKind::NotFound)));
        }
    }

    #[test]
    fn a_path_that_is_no_cgroup_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let procs = dir.path().join("cgroup.procs");
        assert_eq!(open_procs(&procs).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&procs, "").unwrap();
        assert!(open_procs(&procs).unwrap_err().to_string().contains("not a file of a cgroup"));
    }

    #[test]
    fn the_root_of_a_hierarchy_is_nobodys_cgroup() {
        for path in ["", "/", "/..", "a/../..", "/."] {
            assert_eq!(below_root(Path::new(path)), None, "{path:?}");
            assert!(directories(Path::new(path)).unwrap().is_empty());
        }
        assert_eq!(below_root(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
    }

    #[test]
    fn members_are_found_below_too_and_nobody_is_number_0() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "0\n7\n").unwrap();
        fs::write(dir.path().join("sub/cgroup.procs"), "8\n7\n").unwrap();
        let found = members(&[dir.path().to_owned(), dir.path().join("gone")]).unwrap();
        assert_eq!(found.into_iter().map(Pid::as_raw).collect::<Vec<_>>(), [7, 8]);
    }
}
