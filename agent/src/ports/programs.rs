//! Which process holds a socket.
//!
//! The kernel shows the descriptors of another user's process to that user, or to who has CAP_SYS_PTRACE, which the
//! sandbox has not. So the looking thread takes the process's user and group for the look, as file systems see it.
//! A process in a user namespace of its own stays closed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, open, openat2, readlinkat, statat,
};

/// Bounds of one look; what is beyond them has no program.
const MOST_PROCESSES: usize = 8_192;
const MOST_DESCRIPTORS: usize = 131_072;
const NAME: u64 = 64;
const STAT: u64 = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub pid: u32,
    pub name: String,
}

/// A process beside its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    pub parent: i32,
    pub session: i32,
}

/// The sandbox's procfs: nothing that was put over it, or over a part of it.
pub struct Processes(OwnedFd);

impl Processes {
    pub fn open() -> io::Result<Self> {
        let proc = open(c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
            return Err(io::Error::other("/proc is no procfs"));
        }
        Ok(Self(proc))
    }

    /// The process with its name as it is now; none when it has gone.
    pub fn program(&self, pid: u32) -> Option<Program> {
        let mut name = Vec::new();
        // At most 15 bytes of the process's own choice.
        File::from(self.at(&format!("{pid}/comm"), OFlags::RDONLY)?)
            .take(NAME)
            .read_to_end(&mut name)
            .ok()?;
        Some(Program { pid, name: String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned() })
    }

    /// The path of what the process executes; empty where that may not be seen.
    pub fn executable(&self, pid: u32) -> String {
        let Ok(owner) = statat(&self.0, pid.to_string(), AtFlags::SYMLINK_NOFOLLOW) else {
            return String::new();
        };
        let _as_owner = As::user(owner.st_uid, owner.st_gid);
        let link = readlinkat(&self.0, format!("{pid}/exe"), Vec::new());
        link.map(|path| String::from_utf8_lossy(path.to_bytes()).into_owned()).unwrap_or_default()
    }

    pub fn kin(&self, pid: i32) -> Option<Kin> {
        let mut stat = Vec::new();
        File::from(self.at(&format!("{pid}/stat"), OFlags::RDONLY)?)
            .take(STAT)
            .read_to_end(&mut stat)
            .ok()?;
        kin(&stat)
    }

    /// The youngest process that holds the socket: one that hands it on to a child is rarely the one that speaks.
    pub fn holder(&self, inode: u32) -> Option<u32> {
        let mut budget = MOST_DESCRIPTORS;
        let pids = self.pids();
        pids.into_iter().rev().find(|pid| budget > 0 && self.sockets(*pid, &mut budget).contains(&inode))
    }

    /// The first process that holds each of these sockets.
    pub fn holders(&self, inodes: &[u32]) -> HashMap<u32, Program> {
        let mut found = HashMap::new();
        let mut budget = MOST_DESCRIPTORS;
        for pid in self.pids() {
            if found.len() == inodes.len() || budget == 0 {
                break;
            }
            let mut held = self.sockets(pid, &mut budget);
            held.retain(|inode| inodes.contains(inode) && !found.contains_key(inode));
            if held.is_empty() {
                continue;
            }
            let Some(program) = self.program(pid) else { continue };
            found.extend(held.into_iter().map(|inode| (inode, program.clone())));
        }
        found
    }

    fn pids(&self) -> Vec<u32> {
        let Ok(entries) = Dir::read_from(&self.0) else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok());
        let mut pids: Vec<u32> = pids.take(MOST_PROCESSES).collect();
        pids.sort_unstable();
        pids
    }

    fn sockets(&self, pid: u32, budget: &mut usize) -> Vec<u32> {
        let Ok(owner) = statat(&self.0, pid.to_string(), AtFlags::SYMLINK_NOFOLLOW) else {
            return Vec::new();
        };
        let _as_owner = As::user(owner.st_uid, owner.st_gid);
        let Some(directory) = self.at(&format!("{pid}/fd"), OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::read_from(&directory) else { return Vec::new() };
        let mut sockets = Vec::new();
        for entry in entries.take(*budget) {
            *budget -= 1;
            let Ok(entry) = entry else { break };
            let link = readlinkat(&directory, entry.file_name(), Vec::new());
            sockets.extend(link.ok().and_then(|link| inode(link.to_str().ok()?)));
        }
        sockets
    }

    fn at(&self, path: &str, flags: OFlags) -> Option<OwnedFd> {
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let inside = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        openat2(&self.0, path, flags, Mode::empty(), inside).ok()
    }
}

/// Of a line of `/proc/PID/stat`, in which the name can hold anything.
fn kin(stat: &[u8]) -> Option<Kin> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // State, parent, process group, session.
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some(Kin { parent, session: fields.nth(1)?.parse().ok()? })
}

fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Only this thread, and only until it is dropped.
struct As {
    uid: Uid,
    gid: Gid,
}

impl As {
    fn user(uid: u32, gid: u32) -> Self {
        // In this order: changing the group needs what root has.
        let gid = setfsgid(Gid::from_raw(gid));
        Self { gid, uid: setfsuid(Uid::from_raw(uid)) }
    }
}

impl Drop for As {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    #[test]
    fn links_of_descriptors() {
        for (link, expected) in [
            ("socket:[77]", Some(77)),
            ("socket:[]", None),
            ("socket:[77", None),
            ("pipe:[77]", None),
            ("/tmp/socket:[77]", None),
        ] {
            assert_eq!(inode(link), expected, "{link}");
        }
    }

    #[test]
    fn kin_whatever_the_name() {
        let expected = Some(Kin { parent: 7, session: 9 });
        assert_eq!(kin(b"12 (sh) S 7 8 9 0 -1 4194560"), expected);
        assert_eq!(kin(b"12 (a) 1 2 3 4) R 7 8 9 0"), expected);
        for bad in [&b"12 (sh"[..], b"", b"12 (sh) S 7", b"12 (sh) S x 8 9"] {
            assert_eq!(kin(bad), None);
        }
        let processes = Processes::open().unwrap();
        let own = processes.kin(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert_eq!(own.session, nix::unistd::getsid(None).unwrap().as_raw());
        let executable = std::env::current_exe().unwrap();
        assert_eq!(processes.executable(std::process::id()), executable.to_str().unwrap());
        assert_eq!(processes.executable(u32::MAX), "");
    }

    #[test]
    fn the_holder_is_found_whoever_it_runs_as() {
        let processes = Processes::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino as u32;
        let found = processes.holders(&[inode]);
        assert_eq!(found[&inode].pid, std::process::id());
        assert_eq!(processes.holder(inode), Some(std::process::id()));
        assert_eq!(processes.program(std::process::id()).as_ref(), found.get(&inode));
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut command = Command::new("sleep");
        command.arg("1000").uid(12_345).gid(12_346).stdin(Stdio::from(OwnedFd::from(listener)));
        let mut child = command.spawn().unwrap();
        drop(command);
        let found = processes.holders(&[inode]);
        assert_eq!((found[&inode].pid, found[&inode].name.as_str()), (child.id(), "sleep"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(processes.holders(&[inode]).len(), 0);
        assert_eq!(setfsuid(Uid::from_raw(0)).as_raw(), 0, "the thread is itself again");
    }
}
