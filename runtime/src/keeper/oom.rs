//! Notices when the kernel's out-of-memory killer strikes in the sandbox, and finds out whom it took.
//!
//! The kernel counts the kills but names nobody to us. So the likeliest victims are noted when memory gets short and
//! when the killer is called, and whoever of them is gone or dying when the count has risen is the one.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};

use crate::cgroup::{CgroupPlan, HierarchyKind, Leaf, keyed};

/// How long a victim is looked for once the count has risen, and how often.
const SEARCH: Duration = Duration::from_millis(500);
const SEARCH_EVERY: Duration = Duration::from_millis(5);
/// How long after the killer was called the count may rise.
const CALLED: Duration = Duration::from_secs(2);
/// Between two notes of the likeliest victims.
const NOTE_EVERY: Duration = Duration::from_millis(20);
/// Between two reports, of which a loop of kills would make many.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const MAX_PROCESSES: usize = 1024;
const MAX_SUSPECTS: usize = 16;
/// A victim was alive this short a time before the count was seen to have risen.
const FRESH: Duration = Duration::from_secs(2);

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OomReport {
    pub(super) kills: u64,
    /// The last one: `NAME (pid N)`, with the number that it had inside.
    pub(super) victim: Option<String>,
}

pub(super) struct OomWatch {
    cgroup: CgroupPlan,
    /// `memory.events` or `memory.oom_control`: where the kills are counted.
    counter: PathBuf,
    events: Vec<OwnedFd>,
    suspects: Vec<Suspect>,
    noted_at: Option<Instant>,
    /// What has been told.
    kills: u64,
    victim: Option<String>,
    reported_at: Option<Instant>,
    /// The killer may strike, or its victim is being looked for, until then.
    alert_until: Option<Instant>,
    search_until: Option<Instant>,
    /// A process with less memory than this may have ended for any reason.
    large: u64,
    /// Asked for once, before the system call filter is there.
    page_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspect {
    pid: i32,
    /// Bytes in memory.
    score: u64,
    shown: String,
    /// When it was last seen among the living.
    noted: Instant,
}

/// How many inotify instances the watch of a sandbox takes, with one watch each. The kernel counts them as the sandbox's.
pub(super) fn inotify_instances(cgroup: Option<&CgroupPlan>) -> u64 {
    let hierarchy = cgroup.and_then(|cgroup| cgroup.with_controller("memory"));
    u64::from(hierarchy.is_some_and(|hierarchy| matches!(hierarchy.kind, HierarchyKind::V2(_))))
}

impl OomWatch {
    /// Nothing without a memory cgroup of the sandbox's own.
    pub(super) fn new(cgroup: &CgroupPlan, memory_mib: u64) -> Option<Self> {
        let hierarchy = cgroup.with_controller("memory")?;
        let dir = cgroup.dir(hierarchy, Leaf::Box);
        let v2 = matches!(hierarchy.kind, HierarchyKind::V2(_));
        let (counter, events) = if v2 {
            let counter = dir.join("memory.events");
            (counter.clone(), v2_events(&counter).map(|fd| vec![fd]))
        } else {
            (dir.join("memory.oom_control"), v1_events(&dir, memory_mib << 20))
        };
        let events = match events {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "watching for the out-of-memory killer");
                return None;
            }
        };
        Some(Self {
            kills: keyed(&counter, "oom_kill").unwrap_or(0),
            cgroup: cgroup.clone(),
            counter,
            events,
            suspects: Vec::new(),
            noted_at: None,
            victim: None,
            reported_at: None,
            alert_until: None,
            search_until: None,
            large: (memory_mib << 20) / 8,
            page_size: page_size(),
        })
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd)
    }

    /// When to be asked again although no event came.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.search_until.is_some() || self.alert_until.is_some()).then(|| Instant::now() + SEARCH_EVERY)
    }

    /// Does what is due. `ready` says that an event has come.
    pub(super) fn turn(&mut self, now: Instant, ready: bool) -> Option<OomReport> {
        if ready {
            self.drain();
            self.note(now);
            self.alert_until = Some(now + CALLED);
        }
        self.alert_until = self.alert_until.filter(|until| *until > now);
        if self.alert_until.is_none() && self.search_until.is_none() {
            return None;
        }
        let kills = keyed(&self.counter, "oom_kill").unwrap_or(self.kills);
        if kills <= self.kills {
            return None;
        }
        let until = *self.search_until.get_or_insert(now + SEARCH);
        self.suspects.retain(|suspect| now.duration_since(suspect.noted) < FRESH);
        let found = find(&self.suspects, self.large, state_of).cloned();
        if found.is_none() && now < until {
            return None;
        }
        if self.reported_at.is_some_and(|at| now.duration_since(at) < REPORT_EVERY) {
            // Told together with what comes meanwhile.
            self.victim = found.map(|suspect| suspect.shown).or(self.victim.take());
            self.search_until = Some(now + SEARCH);
            return None;
        }
        self.search_until = None;
        self.reported_at = Some(now);
        self.kills = kills;
        if let Some(found) = found {
            self.suspects.retain(|suspect| suspect.pid != found.pid);
            self.victim = Some(found.shown);
        }
        Some(OomReport { kills, victim: self.victim.clone() })
    }

    fn drain(&self) {
        let mut buffer = [0; 4096];
        for fd in &self.events {
            while rustix::io::read(fd, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
        }
    }

    fn note(&mut self, now: Instant) {
        if self.noted_at.is_some_and(|at| now.duration_since(at) < NOTE_EVERY) {
            return;
        }
        self.noted_at = Some(now);
        let mut found: Vec<(u64, i32)> = self
            .cgroup
            .processes()
            .into_iter()
            .take(MAX_PROCESSES)
            .filter_map(|pid| Some((resident(pid)?.saturating_mul(self.page_size), pid)))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(MAX_SUSPECTS);
        let known = std::mem::take(&mut self.suspects);
        let suspect = |(score, pid)| Some(Suspect { pid, score, shown: show(pid)?, noted: now });
        self.suspects = found.into_iter().filter_map(suspect).collect();
        // One that is dying has left the cgroup already.
        let left = |old: &Suspect| now.duration_since(old.noted) < FRESH && state_of(old.pid) != State::Alive;
        self.suspects.extend(known.into_iter().filter(left).take(MAX_SUSPECTS));
        let mut seen = std::collections::HashSet::new();
        self.suspects.retain(|suspect| seen.insert(suspect.pid));
        self.suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.score));
    }
}

/// From the C library, which was told when the program began: a process that may not be looked at cannot read its own
/// auxiliary vector any more, and kernels before 6.4 have no other way.
fn page_size() -> u64 {
    let told = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    told.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// The largest that was killed, or that is gone and was large. Small ones come and go.
fn find(suspects: &[Suspect], large: u64, state_of: impl Fn(i32) -> State) -> Option<&Suspect> {
    let states: Vec<(&Suspect, State)> = suspects.iter().map(|s| (s, state_of(s.pid))).collect();
    let with = |wanted| states.iter().filter(move |(_, state)| *state == wanted).map(|(suspect, _)| *suspect);
    with(State::Killed).next().or_else(|| with(State::Gone).find(|suspect| suspect.score >= large))
}

fn v2_events(counter: &Path) -> io::Result<OwnedFd> {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&events, counter, inotify::WatchFlags::MODIFY)?;
    Ok(events)
}

/// One for the killer itself and two for memory that is getting short.
fn v1_events(dir: &Path, limit: u64) -> io::Result<Vec<OwnedFd>> {
    let mut wanted = vec![("memory.oom_control", String::new())];
    if limit > 0 {
        wanted.extend([limit / 2, limit - limit / 8].map(|at| ("memory.usage_in_bytes", format!(" {at}"))));
    }
    let register = |(file, argument): (&str, String)| {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let target = File::open(dir.join(file))?;
        let line = format!("{} {}{argument}", event.as_raw_fd(), target.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), line)?;
        Ok(event)
    };
    wanted.into_iter().map(register).collect()
}

/// Pages in memory: the kernel's choice depends on them above all.
fn resident(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

/// The name and the innermost number of a process. A tenant chooses the name.
fn show(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let name: String = field("Name:")?.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let inside = field("NSpid:").and_then(|ids| ids.split_whitespace().last()).map(str::to_owned);
    Some(format!("{name} (pid {})", inside.unwrap_or_else(|| pid.to_string())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// It ends, or has ended, by SIGKILL.
    Killed,
    /// It ends, or has ended, in some other way.
    Ended,
    Gone,
}

fn state_of(pid: i32) -> State {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(State::Gone, |stat| parse_state(&stat))
}

fn parse_state(stat: &str) -> State {
    // The name may hold anything, brackets included.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return State::Alive };
    let fields: Vec<&str> = rest.trim_end().split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let (state, memory, exit) = (field(3), field(23), field(52));
    if !matches!(state, "Z" | "X") && memory != "0" {
        return State::Alive;
    }
    let signal = exit.parse::<i32>().map_or(0, |status| status & 0x7f);
    if signal == libc::SIGKILL { State::Killed } else { State::Ended }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// With everything between that is of no interest.
    fn stat(state: &str, memory: &str, exit: &str) -> String {
        format!("7 (a) b) {state} {}{memory} {}{exit}\n", "1 ".repeat(19), "1 ".repeat(28))
    }

    #[test]
    fn the_killed_are_told_from_the_living_and_the_rest() {
        assert_eq!(parse_state(&stat("S", "4096", "0")), State::Alive);
        assert_eq!(parse_state(&stat("Z", "0", "9")), State::Killed);
        assert_eq!(parse_state(&stat("R", "0", "9")), State::Killed);
        assert_eq!(parse_state(&stat("Z", "0", "256")), State::Ended);
        assert_eq!(parse_state(&stat("Z", "0", "15")), State::Ended);
        assert_eq!(parse_state("nonsense"), State::Alive);
        assert_eq!(state_of(i32::MAX), State::Gone);
        assert_eq!(state_of(i32::try_from(std::process::id()).unwrap()), State::Alive);
        assert!(resident(i32::try_from(std::process::id()).unwrap()).unwrap() > 0);
    }

    #[test]
    fn a_small_process_that_is_gone_is_no_victim() {
        let suspect = |pid, score| Suspect { pid, score, shown: String::new(), noted: Instant::now() };
        let suspects = [suspect(7, 90), suspect(8, 20), suspect(9, 10)];
        let found = |states: [State; 3]| {
            let state_of = |pid: i32| states[usize::try_from(pid - 7).unwrap()];
            find(&suspects, 50, state_of).map(|suspect| suspect.pid)
        };
        use State::{Alive, Ended, Gone, Killed};
        assert_eq!(found([Alive, Gone, Gone]), None);
        assert_eq!(found([Gone, Alive, Alive]), Some(7));
        assert_eq!(found([Gone, Killed, Alive]), Some(8));
        assert_eq!(found([Ended, Ended, Ended]), None);
    }

    #[test]
    fn a_process_is_shown_by_name_and_number() {
        let shown = show(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(shown.contains(" (pid "), "{shown}");
    }
}
