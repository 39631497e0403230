//! Ends sessions: every process that descends from one command and has not left its session.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::reaper::Process;

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// Signals every member of the session that `leader` leads or led.
pub fn signal_session(leader: i32, signal: Signal) -> usize {
    let members = session_members(leader);
    for pid in &members {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
    members.len()
}

/// Signals the leader's own process group, as a terminal would.
pub fn signal_group(process: &Process, signal: i32) -> Result<(), String> {
    let signal = Signal::try_from(signal).map_err(|_| format!("signal {signal} does not exist"))?;
    if process.exited().is_none() {
        // The group may have gone in this very moment, which is what a signal is for.
        let _ = nix::sys::signal::killpg(Pid::from_raw(process.pid), signal);
    }
    Ok(())
}

/// Sends `first` to the session, waits at most `grace` for it to end, then kills what is left.
pub async fn end_session(process: &Process, first: &[Signal], grace: Duration) {
    for signal in first {
        signal_session(process.pid, *signal);
    }
    signal_session(process.pid, Signal::SIGCONT);
    let deadline = Instant::now() + grace;
    let _ = tokio::time::timeout_at(deadline, process.wait()).await;
    let mut pause = Duration::from_millis(2);
    while !session_members(process.pid).is_empty() && Instant::now() + pause < deadline {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    // A process that forks while it is looked for is found in the next round.
    for _ in 0..50 {
        if signal_session(process.pid, Signal::SIGKILL) == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn session_members(leader: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![leader] };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            live_session(&stat) == Some(leader)
        })
        .collect()
}

/// The session in the text of /proc/PID/stat, unless the process is a zombie.
fn live_session(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_found_behind_any_name() {
        assert_eq!(live_session("12 (a) b) S 1 12 7 0 -1"), Some(7));
        assert_eq!(live_session("12 (x) Z 1 12 7 0 -1"), None);
        assert_eq!(live_session(""), None);
    }
}
