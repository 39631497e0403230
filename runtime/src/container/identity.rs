//! Whether a pid is still the process that it was: the kernel gives numbers again, and a container's may be asked for long
//! after its init has ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

/// In a container's state directory: when its init was started, in the kernel's ticks.
fn file(dir: &Path) -> PathBuf {
    dir.join("init-started")
}

/// Writes down when init was started.
pub(super) fn record(dir: &Path, init: Pid) -> io::Result<()> {
    fs::write(file(dir), started(init)?.to_string())
}

/// Whether the process with that number is the one that was recorded. Without a record there is nothing to tell it by: the
/// container is still being made.
pub(super) fn is_recorded(dir: &Path, init: Pid) -> io::Result<bool> {
    let recorded = match fs::read_to_string(file(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        recorded => recorded?,
    };
    match started(init) {
        Ok(started) => Ok(recorded == started.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(e) => Err(e),
    }
}

fn started(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    start_time(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat holds no start time")))
}

/// The name in the second field may hold anything, brackets and blanks too.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let stat = format!("7 (a) S b) S 1 {}", (5..40).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn another_process_with_that_number_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let own = Pid::this();
        assert!(is_recorded(dir.path(), own).unwrap(), "nothing is recorded");
        record(dir.path(), own).unwrap();
        assert!(is_recorded(dir.path(), own).unwrap());
        assert!(!is_recorded(dir.path(), Pid::from_raw(1)).unwrap());
        assert!(!is_recorded(dir.path(), Pid::from_raw(i32::MAX)).unwrap());
    }
}
