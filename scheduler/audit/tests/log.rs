//! A log as its owner, a crash and somebody with an editor see it.
#![allow(clippy::unwrap_used)]

use std::{fs, io::Write as _, path::Path};

use cordium_audit::{Entry, Head, Kept, Limits, Log, Report, Touch, read, verify};
use proptest::prelude::*;

const SMALL: Limits = Limits { file: 2000, files: 3 };

fn entry(n: u64) -> Entry {
    let detail = [("n".to_owned(), n.to_string())].into();
    Entry {
        actor: "uid 1000".into(),
        action: "workspace.start".into(),
        object: "workspace a".into(),
        detail,
        ..Entry::default()
    }
}

/// A log with so many records, and what is kept of it.
fn written(dir: &Path, count: u64, limits: Limits) -> Kept {
    let mut log = Log::open(dir, &Kept::default(), limits).unwrap();
    for n in 0..count {
        log.append(entry(n)).unwrap();
    }
    log.sync().unwrap()
}

fn checked(dir: &Path, kept: &Kept) -> Report {
    verify(dir, Some(kept), &[]).unwrap()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// All lines, each with its end, over all files.
fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let texts = files(dir).into_iter().map(|path| fs::read(path).unwrap());
    texts
        .flat_map(|text| text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

/// The same log in one file.
fn rewritten(dir: &Path, lines: &[Vec<u8>]) {
    let all = files(dir);
    for path in &all[1..] {
        fs::remove_file(path).unwrap();
    }
    fs::write(&all[0], lines.concat()).unwrap();
}

fn touches(report: &Report) -> Vec<Touch> {
    report.findings.iter().map(|finding| finding.touch).collect()
}

#[test]
fn what_is_written_is_sound_and_read_back_over_restarts_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = Kept::default();
    for round in 0..5 {
        let mut log = Log::open(dir.path(), &kept, Limits { files: 100, ..SMALL }).unwrap();
        for n in 0..7 {
            log.append(entry(round * 7 + n)).unwrap();
        }
        // Not every round tells what to keep: a process was killed before it could.
        if round % 2 == 0 {
            kept = log.sync().unwrap();
        }
    }
    let report = checked(dir.path(), &kept);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.first, report.last.seq), (35, 1, 35));
    assert!(report.files > 3);
    let records = read(dir.path(), 0, usize::MAX).unwrap();
    assert!(records.iter().enumerate().all(|(n, record)| record.detail["n"] == n.to_string()));
    let some: Vec<u64> = read(dir.path(), 20, 3).unwrap().iter().map(|record| record.seq).collect();
    assert_eq!(some, [21, 22, 23]);
    assert!(read(dir.path(), 35, 10).unwrap().is_empty());
}

#[test]
fn the_oldest_go_and_the_rest_is_still_sound() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), &Kept::default(), SMALL).unwrap();
    let mut kept = Kept::default();
    for n in 0..200 {
        log.append(entry(n)).unwrap();
        if n % 10 == 9 {
            let before = kept;
            kept = log.sync().unwrap();
            // A crash between what is stored and what is removed.
            assert!(checked(dir.path(), &before).is_sound() && checked(dir.path(), &kept).is_sound());
            log.prune(&kept).unwrap();
            assert!(files(dir.path()).len() <= SMALL.files, "{:?}", files(dir.path()));
        }
    }
    let report = checked(dir.path(), &kept);
    assert!(report.is_sound() && report.first > 100, "{report:?}");
    assert_eq!((kept.head.seq, kept.anchor.seq), (200, report.first - 1));
    drop(log);
    let log = Log::open(dir.path(), &kept, SMALL).unwrap();
    assert_eq!(log.head(), kept.head);
    // Without the anchor it cannot be told from a log whose beginning was removed.
    let gone = Kept { anchor: Head::default(), ..kept };
    assert_eq!(touches(&checked(dir.path(), &gone)), [Touch::Removed]);
}

#[test]
fn each_touch_is_found_and_named() {
    type Tamper = fn(&mut Vec<Vec<u8>>);
    let changed: Tamper = |lines| {
        let text = String::from_utf8(lines[4].clone()).unwrap();
        lines[4] = text.replace("uid 1000", "uid 1001").into_bytes();
    };
    let cases: [(&str, Tamper, &[Touch]); 8] = [
        ("changed", changed, &[Touch::Changed]),
        ("removed", |lines| drop(lines.remove(5)), &[Touch::Removed]),
        ("the first removed", |lines| drop(lines.remove(0)), &[Touch::Removed]),
        ("reordered", |lines| lines.swap(5, 6), &[Touch::Removed, Touch::Reordered]),
        ("twice", |lines| lines.insert(5, lines[4].clone()), &[Touch::Reordered]),
        ("truncated", |lines| lines.truncate(8), &[Touch::Truncated]),
        ("all removed", Vec::clear, &[Touch::Truncated]),
        ("nonsense", |lines| lines.insert(3, b"{}\n".to_vec()), &[Touch::Unreadable]),
    ];
    for (what, tamper, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let kept = written(dir.path(), 12, SMALL);
        let mut all = lines(dir.path());
        tamper(&mut all);
        rewritten(dir.path(), &all);
        let found = touches(&checked(dir.path(), &kept));
        assert!(expected.iter().all(|touch| found.contains(touch)), "{what}: {found:?}");
    }
}

#[test]
fn a_log_written_anew_is_told_by_what_is_kept_or_noted() {
    let dir = tempfile::tempdir().unwrap();
    let kept = written(dir.path(), 10, SMALL);
    for path in files(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    let other = written(dir.path(), 12, SMALL);
    assert!(checked(dir.path(), &other).is_sound(), "by itself it is");
    assert_eq!(touches(&checked(dir.path(), &kept)), [Touch::Changed]);
    assert_eq!(touches(&verify(dir.path(), None, &[kept.head]).unwrap()), [Touch::Changed]);
    assert!(verify(dir.path(), None, &[other.head]).unwrap().is_sound());
}

#[test]
fn a_line_that_was_cut_off_is_not_a_record_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let kept = written(dir.path(), 3, SMALL);
    let path = files(dir.path()).pop().unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":4,\"ti").unwrap();
    assert!(checked(dir.path(), &kept).is_sound());
    let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
    assert_eq!(log.append(entry(3)).unwrap().seq, 4);
    let kept = log.sync().unwrap();
    let report = checked(dir.path(), &kept);
    assert!(report.is_sound() && report.records == 4, "{report:?}");
}

#[test]
fn a_file_that_a_crash_left_without_a_record_is_the_one_that_is_gone_on_with() {
    for text in ["", "{\"seq\":6,"] {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = written(dir.path(), 5, Limits { file: 1 << 20, files: 2 });
        fs::write(dir.path().join("audit-00000000000000000006.jsonl"), text).unwrap();
        let mut log = Log::open(dir.path(), &kept, Limits { file: 1 << 20, files: 2 }).unwrap();
        for n in 5..8 {
            log.append(entry(n)).unwrap();
        }
        let seqs =
            |after| read(dir.path(), after, 10).unwrap().iter().map(|record| record.seq).collect::<Vec<_>>();
        assert_eq!((seqs(4), seqs(6)), (vec![5, 6, 7, 8], vec![7, 8]));
        kept = log.sync().unwrap();
        // What goes by the files' names takes nothing with it that is newer.
        let anchor = read(dir.path(), 5, 1).unwrap()[0].prev;
        kept.anchor = Head { seq: 5, hash: anchor };
        log.prune(&kept).unwrap();
        assert_eq!(seqs(0), [6, 7, 8]);
        assert!(checked(dir.path(), &kept).is_sound());
    }
}

#[test]
fn a_log_that_was_cut_goes_on_and_never_forgets_it() {
    for removed in [1, 5, 12] {
        let dir = tempfile::tempdir().unwrap();
        let kept = written(dir.path(), 12, SMALL);
        let mut all = lines(dir.path());
        all.truncate(12 - removed);
        rewritten(dir.path(), &all);
        let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
        assert_eq!(log.head().seq, 13, "it says what it found");
        log.append(entry(13)).unwrap();
        let kept = log.sync().unwrap();
        drop(log);
        let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
        assert_eq!(log.append(entry(14)).unwrap().seq, 15, "once is enough");
        let report = checked(dir.path(), &log.sync().unwrap());
        assert_eq!(touches(&report), [Touch::Removed], "{removed}: {report:?}");
        let record = &read(dir.path(), 12, 1).unwrap()[0];
        assert_eq!(record.action, "audit.discontinued");
        assert!(record.detail["expected"].starts_with("12:"), "{record:?}");
    }
}

#[test]
fn a_changed_end_is_not_built_upon() {
    let dir = tempfile::tempdir().unwrap();
    let kept = written(dir.path(), 3, SMALL);
    let path = files(dir.path()).pop().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let at = text.rfind("uid 1000").unwrap();
    fs::write(&path, format!("{}uid 1001{}", &text[..at], &text[at + 8..])).unwrap();
    let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
    assert_eq!(log.head().seq, 4);
    let report = checked(dir.path(), &log.sync().unwrap());
    assert_eq!(touches(&report), [Touch::Changed], "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done to the lines: if they are not the same any more, it is found.
    #[test]
    fn no_edit_goes_unnoticed(
        edits in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..=255), 1..4)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let kept = written(dir.path(), 9, SMALL);
        let before = lines(dir.path());
        let mut after = before.clone();
        for (kind, at, other, flip) in edits {
            if after.is_empty() { break }
            let line = at.index(after.len());
            match kind {
                0 => { let byte = other.index(after[line].len()); after[line][byte] ^= flip; }
                1 => drop(after.remove(line)),
                _ => { let to = other.index(after.len()); after.swap(line, to); }
            }
        }
        rewritten(dir.path(), &after);
        let report = verify(dir.path(), Some(&kept), &[]).unwrap();
        prop_assert_eq!(report.is_sound(), after.concat() == before.concat(), "{:?}", report);
        // And whoever opens it next has something to write to.
        let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
        prop_assert!(log.append(entry(0)).unwrap().seq > 9);
    }

    #[test]
    fn nonsense_is_no_log(text in prop::collection::vec(any::<u8>(), 0..4096)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("audit-00000000000000000001.jsonl"), &text).unwrap();
        let kept = Kept { head: Head { seq: 1, ..Head::default() }, ..Kept::default() };
        prop_assert!(!verify(dir.path(), Some(&kept), &[]).unwrap().is_sound());
        let mut log = Log::open(dir.path(), &kept, SMALL).unwrap();
        prop_assert!(log.append(entry(0)).is_ok());
    }
}
