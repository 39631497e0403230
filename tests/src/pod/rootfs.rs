//! The root file system of the pod: our static programs, `newuidmap` and `nft` of this machine, and no shell.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{GID, SUBORDINATE, UID};
use crate::{
    paths,
    process::{run, sh},
};

/// The programs of this machine that the supervisor and its keepers run, with the file capability that they get.
const TOOLS: [(&str, Option<&str>); 3] = [
    ("/usr/bin/newuidmap", Some("cap_setuid+ep")),
    ("/usr/bin/newgidmap", Some("cap_setgid+ep")),
    ("/usr/sbin/nft", None),
];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes it in a directory that is not there yet.
pub fn make(root: &Path, programs: &Path, host_ports: &[u16]) -> Result<()> {
    for dir in [
        "dev",
        "etc/cordium",
        "etc/ssl/certs",
        "host/proc",
        "proc",
        "run/cordium",
        "sys",
        "tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "var/lib/cordium",
    ] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("making /{dir} of the pod"))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))
            .with_context(|| format!("linking /{name} of the pod"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for name in ["cordium", "cordium-supervisor", "cordium-agent"] {
        let (from, to) = (programs.join(name), root.join("usr/bin").join(name));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .with_context(|| format!("putting {} into the pod", from.display()))?;
    }
    for library in TOOLS.iter().map(|(tool, _)| libraries(tool)).collect::<Result<Vec<_>>>()?.iter().flatten()
    {
        copy(library, root)?;
    }
    for (tool, capability) in TOOLS {
        copy(Path::new(tool), root)?;
        let inside = inside(root, Path::new(tool));
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
        if let Some(capability) = capability {
            sh("setcap", &[capability, &inside.to_string_lossy()])?;
        }
    }
    copy(Path::new(CERTIFICATES), root)?;
    let (start, count) = SUBORDINATE;
    let ranges = format!("cordium:{start}:{count}\n");
    let etc = [
        (
            "passwd",
            format!("root:x:0:0::/:/sbin/nologin\ncordium:x:{UID}:{GID}::/var/lib/cordium:/sbin/nologin\n"),
        ),
        ("group", format!("root:x:0:\ncordium:x:{GID}:\n")),
        ("subuid", ranges.clone()),
        ("subgid", ranges),
        ("resolv.conf", String::new()),
        ("cordium/supervisor.yaml", format!("hostPorts: {host_ports:?}\n")),
    ];
    for (name, text) in etc {
        fs::write(root.join("etc").join(name), text)
            .with_context(|| format!("writing /etc/{name} of the pod"))?;
    }
    Ok(())
}

/// What `ldd` says that a program loads, by the path under which the loader looks for it.
fn libraries(program: &str) -> Result<BTreeSet<PathBuf>> {
    let text = run(Command::new("ldd").arg(program))?;
    let found: BTreeSet<PathBuf> = parse_ldd(&text).collect();
    ensure!(!found.is_empty(), "ldd finds no libraries of {program}: {text}");
    Ok(found)
}

fn parse_ldd(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
}

/// Where a file of this machine is in the pod, in which `/lib` and its like are links into `/usr`.
fn inside(root: &Path, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let merged = ["bin", "sbin", "lib", "lib64"].iter().any(|dir| relative.starts_with(dir));
    if merged { root.join("usr").join(relative) } else { root.join(relative) }
}

fn copy(path: &Path, root: &Path) -> Result<()> {
    let to = inside(root, path);
    fs::create_dir_all(to.parent().unwrap_or(root))?;
    fs::copy(path, &to).map(drop).with_context(|| format!("copying {} into the pod", path.display()))
}

/// Like an `emptyDir` with the pod's `fsGroup`: a directory of the node that the pod's user may write to.
pub fn volume(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("making the volume {}", dir.display()))?;
    chown(dir, Some(UID), Some(GID)).with_context(|| format!("giving {} to the pod's user", dir.display()))
}

/// The programs of this product, where the pod's user can reach them.
pub fn programs() -> Result<PathBuf> {
    paths::staged_programs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_the_loader_looks_for_them() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let found: Vec<_> = parse_ldd(text).map(|path| inside(Path::new("/r"), &path)).collect();
        let expected = ["/r/usr/lib/x86_64-linux-gnu/libc.so.6", "/r/usr/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
