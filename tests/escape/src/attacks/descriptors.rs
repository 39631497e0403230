//! What a program is given when it is started, and sockets without a file.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{Layer, Probe};

pub fn inherited(probe: &mut Probe) {
    let entries = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(error) => return probe.broken("listing own descriptors", error),
    };
    let mut open: Vec<(i32, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        .collect();
    open.sort();
    for (number, target) in open {
        // The one by which they were listed is our own.
        if target.starts_with("/proc/") && target.ends_with("/fd") {
            continue;
        }
        let harmless = number <= 2
            && (target == "/dev/null" || target.starts_with("pipe:") || target.starts_with("/dev/pts/"));
        let seen = if harmless { Ok(target) } else { Err(format!("it is {target}")) };
        probe.confined(format!("use descriptor {number}"), Layer::NoSuchThing, seen);
        let up = openat(
            CWD,
            format!("/proc/self/fd/{number}/.."),
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        );
        probe.refused(
            format!("leave by descriptor {number}"),
            Layer::NoSuchThing,
            &[Errno::ENOTDIR, Errno::ENOENT],
            up,
        );
    }
    for marker in probe.facts.list("markers").into_iter().map(str::to_owned).collect::<Vec<_>>() {
        let relative = format!("{}{}", "../".repeat(40), marker.trim_start_matches('/'));
        let missing = [Errno::ENOENT, Errno::ENOTDIR];
        let layer = Layer::MountNamespace;
        probe.refused("read a file of the node by its path", layer, &missing, fs::read(&marker));
        probe.refused("read it from the working directory", layer, &missing, fs::read(relative));
    }
    let here = std::env::current_dir().map(|dir| dir.display().to_string());
    let seen = match here {
        Ok(dir) if dir.starts_with('/') => Ok(dir),
        Ok(dir) => Err(format!("it is {dir}")),
        Err(error) => Err(error.to_string()),
    };
    probe.confined("stand outside the root", Layer::MountNamespace, seen);
}

fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// Listens on an abstract socket of one's own network namespace.
pub fn listen_abstract(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&abstract_address(name)?)
}

pub fn abstract_sockets(probe: &mut Probe) {
    let names: Vec<(String, String)> =
        probe.facts.with_prefix("abstract.").map(|(key, name)| (key.to_owned(), name.to_owned())).collect();
    if names.is_empty() {
        return probe.broken("abstract sockets", "the driver named none");
    }
    for (key, name) in names {
        let connected = abstract_address(&name).and_then(|address| UnixStream::connect_addr(&address));
        probe.refused(
            format!("connect to {key}"),
            Layer::NetworkNamespace,
            &[Errno::ECONNREFUSED],
            connected,
        );
    }
    // Its own can be reached: the attack is not stopped by something else.
    let own = "cordium-escape-own";
    let reached =
        listen_abstract(own).and_then(|_listener| UnixStream::connect_addr(&abstract_address(own)?));
    match reached {
        Ok(_) => probe.confined("connect to its own", Layer::NamespaceScope, Ok("it answers".into())),
        Err(error) => probe.broken("connect to its own", error),
    }
}
