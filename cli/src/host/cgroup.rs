//! The machine's cgroup hierarchies, and the delegated subtree in each.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{check::Check, users::User};

/// A mounted hierarchy, with where we are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// Empty for the unified hierarchy; `name=…` for one without controllers.
    pub controllers: Vec<String>,
    /// The directory of our own cgroup.
    pub own: PathBuf,
}

impl Hierarchy {
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// `cordium-<uid>` in our own cgroup or one above it.
    pub fn delegated(&self, uid: u32) -> Option<PathBuf> {
        let name = format!("cordium-{uid}");
        let above = || self.own.ancestors().take_while(|dir| dir.starts_with(&self.mount));
        above()
            .find(|dir| dir.file_name().is_some_and(|last| last.to_string_lossy() == name))
            .map(Path::to_owned)
            .or_else(|| above().map(|dir| dir.join(&name)).find(|dir| dir.is_dir()))
    }

    /// What a service manager has given to the user: the highest cgroup above us that is the user's.
    fn given_by_manager(&self, uid: u32) -> Option<PathBuf> {
        let above = self.own.ancestors().take_while(|dir| dir.starts_with(&self.mount));
        above
            .filter(|dir| uid != 0 && fs::metadata(dir).is_ok_and(|m| m.uid() == uid))
            .last()
            .map(Path::to_owned)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    V2,
    Hybrid,
    V1,
    None,
}

pub fn layout(hierarchies: &[Hierarchy]) -> Layout {
    let unified = hierarchies.iter().any(Hierarchy::is_unified);
    let v1 = hierarchies.iter().any(|h| !h.is_unified());
    match (unified, v1) {
        (true, false) => Layout::V2,
        (true, true) => Layout::Hybrid,
        (false, true) => Layout::V1,
        (false, false) => Layout::None,
    }
}

pub fn hierarchies() -> Vec<Hierarchy> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// Mountinfo: `id parent dev root mount-point options … - type source super-options`; cgroup: `id:controllers:path`.
fn parse(mountinfo: &str, membership: &str) -> Vec<Hierarchy> {
    const NOT_CONTROLLERS: [&str; 5] = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let (Some(root), Some(mount), Some(kind)) = (front.get(3), front.get(4), back.first()) else {
            continue;
        };
        let controllers: Vec<String> = match *kind {
            "cgroup2" => Vec::new(),
            "cgroup" => back
                .get(2)
                .map(|options| options.split(','))
                .into_iter()
                .flatten()
                .filter(|o| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent"))
                .map(str::to_owned)
                .collect(),
            _ => continue,
        };
        let Some(path) = own_path(membership, &controllers) else { continue };
        // With a mount of part of the hierarchy, what lies above is out of sight.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let mount = PathBuf::from(mount);
        if found.iter().all(|h| h.controllers != controllers) {
            found.push(Hierarchy { own: mount.join(below), mount, controllers });
        }
    }
    found
}

fn own_path<'a>(membership: &'a str, controllers: &[String]) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has: Vec<&str> = fields.next()?.split(',').filter(|c| !c.is_empty()).collect();
        let path = fields.next()?;
        let same =
            has.is_empty() == controllers.is_empty() && controllers.iter().all(|c| has.contains(&c.as_str()));
        same.then_some(path)
    })
}

pub fn checks(user: &User) -> Vec<Check> {
    const NAME: &str = "cgroup subtree";
    let found = hierarchies();
    let fix = format!("sudo cordium setup --user {}", user.name);
    let layout = layout(&found);
    let mut checks = vec![match layout {
        Layout::V2 => Check::ok("cgroup layout", "v2"),
        Layout::Hybrid => Check::ok("cgroup layout", "hybrid: controllers on v1, kill and freeze on v2"),
        Layout::V1 => Check::warn(
            "cgroup layout",
            "v1 only: no cgroup.kill",
            "mount the unified hierarchy: sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        ),
        Layout::None => Check::warn(
            "cgroup layout",
            "no cgroup hierarchy is mounted: no limits",
            "mount one at /sys/fs/cgroup",
        ),
    }];
    let mut missing = Vec::new();
    let mut has = Vec::new();
    for h in &found {
        let base = h.delegated(user.uid).or_else(|| h.given_by_manager(user.uid).filter(|_| h.is_unified()));
        let usable = base.filter(|dir| fs::metadata(dir).is_ok_and(|m| m.uid() == user.uid || user.uid == 0));
        match usable {
            Some(dir) if h.is_unified() => {
                let names = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
                has.extend(names.split_whitespace().map(str::to_owned));
            }
            Some(_) => has.extend(h.controllers.iter().cloned()),
            None if h.is_unified() => missing.push("unified".to_owned()),
            None => {}
        }
    }
    for controller in ["cpu", "memory", "pids"] {
        if !has.iter().any(|c| c == controller) {
            missing.push(controller.to_owned());
        }
    }
    if layout != Layout::None {
        checks.push(if missing.is_empty() {
            Check::ok(NAME, format!("{} for {}", has.join(" "), user.name))
        } else {
            let what = missing.join(", ");
            Check::warn(
                NAME,
                format!("not delegated to {}: {what}; those limits are not enforced", user.name),
                fix,
            )
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const MEMBER: &str = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/x\n0::/u\n";

    #[test]
    fn hybrid() {
        let found = parse(HYBRID, MEMBER);
        let own: Vec<_> = found.iter().map(|h| h.own.to_str().unwrap_or_default()).collect();
        assert_eq!(
            own,
            [
                "/sys/fs/cgroup/cpu,cpuacct/x",
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/systemd/",
                "/sys/fs/cgroup/unified/u"
            ]
        );
        assert_eq!(layout(&found), Layout::Hybrid);
        assert!(found[0].has("cpuacct") && found[3].is_unified());
    }

    #[test]
    fn a_mount_of_a_part() {
        let line = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw";
        let found = parse(line, "0::/docker/abc/init\n");
        assert_eq!(found[0].own, Path::new("/sys/fs/cgroup/init"));
        assert_eq!(layout(&found), Layout::V2);
    }
}
