//! Writing id maps with `newuidmap` and `newgidmap`, the only steps that need the node's help.

use std::{io, process::Output};

use crate::IdMap;
use crate::ids::{IdRange, SANDBOX_IDS};

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("running {program}: {source}; install the package that has it (Debian: uidmap)")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} refused the map of process {pid}: {message}")]
    Refused { program: &'static str, pid: u32, message: String },
}

/// Gives process `pid`, which has made a user namespace, the O map: 0 is the caller, 1…65536 are subordinate ids.
pub async fn map_child(pid: u32, ids: &IdMap) -> Result<(), MapError> {
    let uid = nix::unistd::getuid().as_raw();
    let gid = nix::unistd::getgid().as_raw();
    tokio::try_join!(run("newuidmap", pid, uid, ids.uid), run("newgidmap", pid, gid, ids.gid))?;
    Ok(())
}

async fn run(program: &'static str, pid: u32, own: u32, range: IdRange) -> Result<(), MapError> {
    let output = tokio::process::Command::new(program)
        .args(map_args(pid, own, range))
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|source| MapError::Run { program, source })?;
    check(program, pid, output)
}

fn check(program: &'static str, pid: u32, output: Output) -> Result<(), MapError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MapError::Refused { program, pid, message })
}

fn map_args(pid: u32, own: u32, range: IdRange) -> Vec<String> {
    [pid, 0, own, 1, 1, range.host_start, SANDBOX_IDS].map(|n| n.to_string()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_puts_the_caller_at_zero_and_the_range_behind_it() {
        let range = IdRange { host_start: 100_000, count: 65_536 };
        assert_eq!(map_args(42, 1000, range).join(" "), "42 0 1000 1 1 100000 65536");
    }
}
