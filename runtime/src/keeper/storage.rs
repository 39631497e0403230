//! Holds a workspace to its storage limit where the file system itself does not.
//!
//! ```text
//!  turn ─▶ free space of the node's file system (one system call)
//!    └─ due? ─▶ a child walks the volume ─▶ decide ─▶ nothing · a warning · the end of the run
//! ```
//! A walk is due when much of the room that is left could have been used since the last one. The writers cannot be
//! given an error as a full disk would, so what outgrows its limit is ended at once; its files stay.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant, SystemTime},
};

use nix::{sys::wait::waitpid, unistd::Pid};
use serde::{Deserialize, Serialize};

use crate::{
    Limits,
    cgroup::CgroupPlan,
    sys,
    usage::{Coverage, MAX_DEPTH, Measured, Room, Usage, measure, mib, unlinked},
};

/// What a disk may be expected to take in a second.
const BYTES_A_SECOND: u64 = 1 << 30;
const INODES_A_SECOND: u64 = 50_000;
/// Between two looks at the free space.
const LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// Between two walks, when the free space has not told of one being due.
const WALK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
const WALK_TIME: Duration = Duration::from_secs(20);
/// A walk may take a twentieth of the time.
const REST: u32 = 20;
/// How much a run that begins over its limit may still grow.
const SLACK: Usage = Usage { bytes: 16 << 20, inodes: 1024 };
/// The clock by which the kernel notes changes of files is behind by this much at most.
const TICK: Duration = Duration::from_millis(10);
/// What a walk reports is one short line.
const MAX_REPORT: u64 = 4096;

/// What the child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    walked: Measured,
    unlinked: Usage,
}

/// What came of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) usage: Usage,
    pub(super) warning: Option<String>,
    /// Why the run must end.
    pub(super) exceeded: Option<String>,
}

pub(super) struct StorageWatch {
    volume: OwnedFd,
    cgroup: Option<CgroupPlan>,
    /// Before anything of the tenant's ran.
    began: SystemTime,
    limit: Usage,
    /// The limit, or somewhat more when the run began over it.
    ceiling: Usage,
    last: Option<Last>,
    walk: Option<Walk>,
    look_at: Instant,
}

/// The walk before.
#[derive(Debug, Clone, Copy)]
struct Last {
    usage: Usage,
    /// When it began.
    room: Room,
    ended: Instant,
    took: Duration,
}

struct Walk {
    child: Pid,
    report: File,
    began: Instant,
    /// As it was before the walk: what is written behind the walker's back must make the next one due.
    room: Option<Room>,
}

impl StorageWatch {
    /// Begins with a walk. Nothing to watch without a limit. The run began at `began`.
    pub(super) fn new(
        volume: OwnedFd,
        limits: &Limits,
        cgroup: Option<CgroupPlan>,
        began: SystemTime,
    ) -> Option<Self> {
        let limit = Usage { bytes: limits.storage_mib.saturating_mul(1 << 20), inodes: limits.inodes };
        if limit == Usage::default() {
            return None;
        }
        let now = Instant::now();
        let mut watch = Self {
            volume,
            cgroup,
            began: began - TICK,
            limit,
            ceiling: limit,
            last: None,
            walk: None,
            look_at: now + LOOK.1,
        };
        watch.begin(now);
        Some(watch)
    }

    /// Readable when a walk has ended.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.walk.as_ref().map(|walk| walk.report.as_fd())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.walk.is_none().then_some(self.look_at)
    }

    /// Does what is due. `ready` says that the descriptor is.
    pub(super) fn turn(&mut self, now: Instant, ready: bool) -> Option<Finding> {
        if ready && let Some(walk) = self.walk.take() {
            return self.end(walk);
        }
        if self.walk.is_none() && now >= self.look_at {
            match (Room::of_fd(&self.volume), self.last) {
                (Ok(room), Some(last)) if !is_due(now, &room, &last, &self.ceiling) => {
                    self.look_at = now + until_look(&room, &last.usage, &self.ceiling);
                }
                _ => self.begin(now),
            }
        }
        None
    }

    fn begin(&mut self, now: Instant) {
        let room = Room::of_fd(&self.volume).ok();
        match self.spawn() {
            Ok((child, report)) => self.walk = Some(Walk { child, report, began: now, room }),
            Err(error) => {
                tracing::warn!(%error, "measuring the workspace's storage");
                self.look_at = now + WALK.1;
            }
        }
    }

    fn spawn(&self) -> nix::Result<(Pid, File)> {
        let (report, mut to_parent) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map(|(r, w)| (File::from(r), File::from(w)))?;
        let processes = self.cgroup.as_ref().map(CgroupPlan::processes).unwrap_or_default();
        let max_entries = self.ceiling.inodes.max(self.limit.inodes).saturating_add(SLACK.inodes);
        let max_entries = if self.limit.inodes == 0 { u64::MAX } else { max_entries };
        let keeper = nix::unistd::getpid();
        let child = sys::fork_child(|| {
            // The keeper may have ended in between.
            if sys::die_with_parent().is_err() || nix::unistd::getppid() != keeper {
                return 1;
            }
            work(&self.volume, self.began, &processes, max_entries, &mut to_parent)
        })?;
        Ok((child, report))
    }

    fn end(&mut self, walk: Walk) -> Option<Finding> {
        let mut text = String::new();
        let read = walk.report.take(MAX_REPORT).read_to_string(&mut text);
        if let Err(error) = waitpid(walk.child, None) {
            tracing::warn!(%error, "waiting for the process that measures storage");
        }
        let now = Instant::now();
        let report = read.ok().and_then(|_| serde_json::from_str::<Report>(&text).ok());
        let (Some(report), Ok(room)) = (report, Room::of_fd(&self.volume)) else {
            tracing::warn!("the workspace's storage could not be measured");
            self.look_at = now + WALK.1;
            return None;
        };
        let usage = report.walked.usage.plus(&report.unlinked);
        // What was written since the run began, while this first walk was under way, makes nobody's ceiling higher.
        if self.last.is_none() && report.walked.older.exceeds(&self.limit) {
            self.ceiling = ceiling(&report.walked.older, &self.limit);
        }
        let before = self.last.map_or(usage, |last| last.usage);
        let before_walk = walk.room.unwrap_or(room);
        self.last = Some(Last { usage, room: before_walk, ended: now, took: now.duration_since(walk.began) });
        self.look_at = now + until_look(&room, &usage, &self.ceiling);
        let exceeded = verdict(&report.walked.coverage, &usage, &before, &self.limit, &self.ceiling, &room);
        Some(Finding { usage, warning: warning(&report.walked.coverage, &usage, &self.limit), exceeded })
    }
}

/// In the child.
fn work(volume: &OwnedFd, since: SystemTime, processes: &[i32], max_entries: u64, to: &mut File) -> i32 {
    // None of it is needed for the measurement to be right.
    let _ = rustix::process::nice(5);
    raise_descriptors();
    let root = rustix::fs::openat(
        volume,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let Ok(walked) = root.and_then(|root| measure(root, since, max_entries, WALK_TIME)) else { return 1 };
    let report = Report { walked, unlinked: unlinked(processes, volume.as_fd()) };
    match serde_json::to_vec(&report).map(|text| to.write_all(&text)) {
        Ok(Ok(())) => 0,
        _ => 1,
    }
}

fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What a run that begins over its limit may come to.
fn ceiling(usage: &Usage, limit: &Usage) -> Usage {
    let raised = |used: u64, limit: u64, slack: u64| match limit {
        0 => 0,
        limit => limit.max(used.saturating_add(slack)),
    };
    Usage {
        bytes: raised(usage.bytes, limit.bytes, SLACK.bytes),
        inodes: raised(usage.inodes, limit.inodes, SLACK.inodes),
    }
}

/// What is left below the ceiling and the node's reserve.
fn headroom(room: &Room, usage: &Usage, ceiling: &Usage) -> Usage {
    let below = |used: u64, ceiling: u64| if ceiling == 0 { u64::MAX } else { ceiling.saturating_sub(used) };
    let node = room.free.grown_from(&room.reserve);
    Usage {
        bytes: below(usage.bytes, ceiling.bytes).min(node.bytes),
        inodes: below(usage.inodes, ceiling.inodes).min(node.inodes),
    }
}

/// How long the headroom lasts at worst.
fn until_look(room: &Room, usage: &Usage, ceiling: &Usage) -> Duration {
    let left = headroom(room, usage, ceiling);
    let bytes = left.bytes.saturating_mul(1000) / BYTES_A_SECOND;
    let inodes = left.inodes.saturating_mul(1000) / INODES_A_SECOND;
    Duration::from_millis(bytes.min(inodes)).clamp(LOOK.0, LOOK.1)
}

fn is_due(now: Instant, room: &Room, last: &Last, ceiling: &Usage) -> bool {
    let since = now.duration_since(last.ended);
    if since < last.took.saturating_mul(REST).min(WALK.1) {
        return false;
    }
    let used_by_all = last.room.free.grown_from(&room.free);
    let left = headroom(&last.room, &last.usage, ceiling);
    if used_by_all.bytes > left.bytes / 2 || used_by_all.inodes > left.inodes / 2 {
        return true;
    }
    // Others may free what this one takes, so from time to time one looks all the same.
    let calm = Duration::from_secs((left.bytes / (64 << 20)).min(left.inodes / 4096));
    room.free != last.room.free && since >= calm.clamp(WALK.0, WALK.1)
}

/// Why the run must end, if it must.
fn verdict(
    coverage: &Coverage,
    usage: &Usage,
    before: &Usage,
    limit: &Usage,
    ceiling: &Usage,
    room: &Room,
) -> Option<String> {
    if *coverage == Coverage::TooDeep {
        return Some(format!(
            "directories are nested more than {MAX_DEPTH} deep, so what they hold cannot be measured"
        ));
    }
    if usage.exceeds(ceiling) {
        return Some(used_up(usage, limit));
    }
    // The node's own file system: what grows goes first, and near the very end whatever grows at all.
    let shortage = room.shortage()?;
    let grown = usage.grown_from(before);
    let part = |reserve: u64, free: u64| if free < reserve / 4 { (reserve / 64).max(1) } else { reserve / 8 };
    let takes_bytes = grown.bytes > part(room.reserve.bytes, room.free.bytes);
    let takes_inodes = grown.inodes > part(room.reserve.inodes, room.free.inodes);
    let bytes_are_short = room.free.bytes < room.reserve.bytes;
    ((bytes_are_short && takes_bytes) || (!bytes_are_short && takes_inodes))
        .then(|| format!("{shortage}; this workspace took {} MiB of it most lately", mib(grown.bytes)))
}

fn used_up(usage: &Usage, limit: &Usage) -> String {
    if limit.bytes != 0 && usage.bytes > limit.bytes {
        return format!(
            "it uses {} MiB of storage; its limit is {} MiB (limit.storage)",
            mib(usage.bytes),
            mib(limit.bytes)
        );
    }
    format!("it has {} files and directories; its limit is {} (limit.inodes)", usage.inodes, limit.inodes)
}

fn warning(coverage: &Coverage, usage: &Usage, limit: &Usage) -> Option<String> {
    let nearly = |used: u64, limit: u64| limit != 0 && used > limit - limit / 10;
    let limits = || format!("{} MiB, {} files", mib(limit.bytes), limit.inodes);
    if usage.exceeds(limit) {
        return Some(format!(
            "storage: over its limit ({}); the run ends if it grows: delete files or raise the limit",
            limits()
        ));
    }
    if nearly(usage.bytes, limit.bytes) || nearly(usage.inodes, limit.inodes) {
        return Some(format!("storage: more than nine tenths of its limit are used ({})", limits()));
    }
    (*coverage == Coverage::Partial).then(|| "storage: too much to be measured in time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usage(mib: u64, inodes: u64) -> Usage {
        Usage { bytes: mib * MIB, inodes }
    }

    fn room(mib: u64, inodes: u64) -> Room {
        Room { free: usage(mib, inodes), reserve: usage(1024, 10_000) }
    }

    const PLENTY: (u64, u64) = (1 << 20, 10_000_000);

    fn plenty() -> Room {
        room(PLENTY.0, PLENTY.1)
    }

    fn judge(now: Usage, before: Usage, limit: Usage, room: Room) -> Option<String> {
        verdict(&Coverage::Whole, &now, &before, &limit, &limit, &room)
    }

    #[test]
    fn what_outgrows_its_limit_is_ended_by_bytes_and_by_files() {
        let limit = usage(64, 5000);
        assert_eq!(judge(usage(64, 5000), usage(1, 1), limit, plenty()), None);
        let text = judge(usage(65, 10), usage(1, 1), limit, plenty()).unwrap_or_default();
        assert!(text.contains("65 MiB") && text.contains("64 MiB"), "{text}");
        let text = judge(usage(1, 5001), usage(1, 1), limit, plenty()).unwrap_or_default();
        assert!(text.contains("5001 files") && text.contains("limit.inodes"), "{text}");
        let deep = verdict(&Coverage::TooDeep, &usage(1, 1), &usage(1, 1), &limit, &limit, &plenty());
        assert!(deep.is_some_and(|text| text.contains("800 deep")));
    }

    #[test]
    fn a_run_that_begins_over_its_limit_may_be_mended() {
        let limit = usage(64, 5000);
        let begun = usage(80, 10);
        let ceiling = ceiling(&begun, &limit);
        assert_eq!(ceiling, usage(96, 5000));
        let at = |now: Usage| verdict(&Coverage::Whole, &now, &begun, &limit, &ceiling, &plenty());
        assert_eq!(at(usage(96, 10)), None);
        assert!(at(usage(97, 10)).is_some());
        assert!(
            warning(&Coverage::Whole, &begun, &limit).is_some_and(|text| text.contains("over its limit"))
        );
    }

    #[test]
    fn on_a_full_node_only_what_grows_is_ended() {
        let limit = usage(1 << 20, 1_000_000);
        assert_eq!(judge(usage(900, 10), usage(900, 10), limit, room(1000, 100_000)), None);
        assert_eq!(judge(usage(910, 10), usage(900, 10), limit, room(1000, 100_000)), None, "a little");
        let text = judge(usage(1900, 10), usage(900, 10), limit, room(1000, 100_000)).unwrap_or_default();
        assert!(text.contains("nearly full") && text.contains("1000 MiB"), "{text}");
        // At the very end a little is too much.
        assert!(judge(usage(920, 10), usage(900, 10), limit, room(200, 100_000)).is_some());
        let text = judge(usage(900, 9000), usage(900, 10), limit, room(5000, 9000)).unwrap_or_default();
        assert!(text.contains("out of inodes"), "{text}");
    }

    #[test]
    fn a_walk_is_due_when_the_room_may_be_used_up() {
        let limit = usage(100, 10_000);
        let start = Instant::now();
        let last =
            Last { usage: usage(20, 10), room: plenty(), ended: start, took: Duration::from_millis(10) };
        let due = |after: u64, room: Room| is_due(start + Duration::from_millis(after), &room, &last, &limit);
        assert!(!due(10_000, plenty()), "nothing was written anywhere");
        assert!(!due(100, room(PLENTY.0 - 90, PLENTY.1)), "the walker rests");
        assert!(due(300, room(PLENTY.0 - 41, PLENTY.1)), "half of what was left");
        assert!(due(300, room(PLENTY.0, PLENTY.1 - 6000)), "half of the files that were left");
        assert!(!due(300, room(PLENTY.0 - 30, PLENTY.1)));
        assert!(due(2_500, room(PLENTY.0 - 30, PLENTY.1)), "others may have freed some");
    }

    #[test]
    fn one_looks_more_often_when_little_is_left() {
        let limit = usage(100, 10_000);
        assert_eq!(until_look(&plenty(), &usage(90, 10), &limit), LOOK.0);
        assert_eq!(until_look(&plenty(), &usage(0, 0), &usage(1 << 20, 0)), LOOK.1);
        let between = until_look(&plenty(), &usage(0, 0), &usage(1024, 0));
        assert_eq!(between, Duration::from_secs(1));
    }

    #[test]
    fn nearly_used_up_is_a_warning() {
        let limit = usage(100, 0);
        assert_eq!(warning(&Coverage::Whole, &usage(90, 5), &limit), None);
        assert!(warning(&Coverage::Whole, &usage(91, 5), &limit).is_some());
    }
}
