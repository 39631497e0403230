//! Ways towards the namespaces outside.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

use crate::{
    Layer, Probe, places,
    sys::{self, NsRequest},
};

const KINDS: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

pub fn outward(probe: &mut Probe) {
    tries(probe);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), from_below);
    let fresh = || Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?);
    probe.child("unmapped user namespace", fresh, |probe| {
        // The node's root, the first id of the sandbox as the node has it, and more ids than the sandbox has.
        for map in ["0 100000 1", "0 65536 1", "0 0 4294967295", "0 1 65536"] {
            let mapped = fs::write("/proc/self/uid_map", map);
            probe.refused(format!("map the ids {map:?}"), Layer::UserNamespace, &[Errno::EPERM], mapped);
        }
    });
}

fn tries(probe: &mut Probe) {
    for kind in KINDS {
        let path = format!("/proc/1/ns/{kind}");
        let entered = File::open(&path).and_then(|file| Ok(setns(&file, CloneFlags::empty())?));
        probe.refused(
            format!("enter {path}"),
            Layer::UndumpableInit,
            &[Errno::EACCES, Errno::EPERM],
            entered,
        );
    }
    let own = match open_own() {
        Ok(own) => own,
        Err(error) => return probe.broken("opening own namespaces", error),
    };
    for (kind, file) in &own {
        // Only user and pid namespaces have a parent.
        if ["user", "pid"].contains(kind) {
            let parent = sys::namespace_of(file.as_fd(), NsRequest::Parent);
            probe.refused(
                format!("the parent of the own {kind} namespace"),
                Layer::UserNamespace,
                &[Errno::EPERM],
                parent,
            );
        }
        let owner = sys::namespace_of(file.as_fd(), NsRequest::UserOwner);
        match kind {
            // Owned by the outer user namespace; the time namespace is the machine's.
            &"user" | &"time" => {
                probe.refused(
                    format!("the owner of the own {kind} namespace"),
                    Layer::UserNamespace,
                    &[Errno::EPERM],
                    owner,
                );
            }
            _ => {
                let seen = owner.map_err(|error| error.to_string()).and_then(|owner| {
                    let found = File::from(owner).metadata().map(|meta| meta.ino()).unwrap_or_default();
                    let wanted = own[0].1.metadata().map(|meta| meta.ino()).unwrap_or_default();
                    if found == wanted {
                        Ok("the sandbox's own".to_owned())
                    } else {
                        Err(format!("{found}, not {wanted}"))
                    }
                });
                probe.confined(format!("the owner of the own {kind} namespace"), Layer::NamespaceScope, seen);
            }
        }
    }
    neighbours(probe, &own);
}

/// `setns` back up, from a user namespace below.
fn from_below(probe: &mut Probe) {
    for kind in ["user", "mnt", "pid", "net"] {
        let path = format!("/proc/1/ns/{kind}");
        let opened = File::open(&path);
        probe.refused(format!("open {path}"), Layer::UndumpableInit, &[Errno::EACCES, Errno::EPERM], opened);
    }
    let parent =
        File::open("/proc/self/ns/user").and_then(|own| sys::namespace_of(own.as_fd(), NsRequest::Parent));
    probe.refused("the parent of the nested user namespace", Layer::UserNamespace, &[Errno::EPERM], parent);
}

fn open_own() -> io::Result<Vec<(&'static str, File)>> {
    KINDS.into_iter().map(|kind| Ok((kind, File::open(format!("/proc/self/ns/{kind}"))?))).collect()
}

/// Mount namespaces can be walked, and listed by number.
fn neighbours(probe: &mut Probe, own: &[(&'static str, File)]) {
    let Some((_, mounts)) = own.iter().find(|(kind, _)| *kind == "mnt") else { return };
    for request in [NsRequest::NextMounts, NsRequest::PreviousMounts] {
        // The next one that this process may look into: there is none but its own.
        let expected = [Errno::ENOENT, Errno::EPERM, Errno::ENOTTY, Errno::EINVAL];
        let found = sys::namespace_of(mounts.as_fd(), request);
        match found {
            Ok(found) => {
                let owner = sys::namespace_of(found.as_fd(), NsRequest::UserOwner);
                let seen = owner
                    .map(|_| "one of the sandbox's".to_owned())
                    .map_err(|error| format!("a foreign one: {error}"));
                probe.confined(format!("{request:?}"), Layer::UserNamespace, seen);
            }
            Err(_) => probe.refused(format!("{request:?}"), Layer::UserNamespace, &expected, found),
        }
    }
    // Its own may be among them on a machine that was started a moment ago.
    let own_id = sys::mount_namespace_id(mounts.as_fd()).ok();
    let foreign = |id: &u64| Some(*id) != own_id && sys::list_mounts(*id).is_ok();
    let listed: Vec<u64> = (1..4096).filter(foreign).collect();
    let seen = if listed.is_empty() {
        Ok(format!("none of 4095; the own is {own_id:?}"))
    } else {
        Err(format!("{listed:?}"))
    };
    probe.confined("list mounts of other namespaces by number", Layer::UserNamespace, seen);
}
