#![allow(clippy::unwrap_used)]

use cordium_proto::v1::WorkspaceState;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::phases;

fn record(uid: &str, state: WorkspaceState, run: &str) -> Record {
    let mut record = Record::new(uid, "n1");
    record.latest.set_state(state);
    record.latest.run_id = run.to_owned();
    record
}

fn update(uid: &str, state: WorkspaceState) -> Commit {
    Commit { change: Change::Update(Box::new(record(uid, state, "r"))), persist: true }
}

fn begin(uid: &str, run: &str) -> Commit {
    Commit {
        change: Change::BeginRun(Box::new(record(uid, WorkspaceState::InitRequest, run))),
        persist: false,
    }
}

async fn committed(store: &Store, commit: Commit) -> u64 {
    store.commit(commit).await.unwrap().unwrap().revision
}

fn open(dir: &Path, retained: u64) -> (Arc<Store>, Arc<Ring>) {
    let ring = Arc::new(Ring::default());
    let store = Store::open_retaining(&dir.join("node.db"), ring.clone(), retained).unwrap();
    (Arc::new(store), ring)
}

#[tokio::test]
async fn revisions_and_records_go_on_across_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 100);
    assert_eq!(committed(&store, begin("a", "r1")).await, 1);
    assert_eq!(committed(&store, update("a", WorkspaceState::Running)).await, 2);
    let gone = record("a", WorkspaceState::Stopped, "r1").latest;
    let delete = Commit { change: Change::Delete(Box::new(gone)), persist: false };
    assert_eq!(committed(&store, begin("b", "r2")).await, 3);
    assert_eq!(committed(&store, delete).await, 4);
    store.close();
    drop(store);

    let (store, ring) = open(dir.path(), 100);
    assert_eq!(ring.newest(), 4);
    let records = store.reader().records().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].uid(), records[0].run_revision, records[0].fresh), ("b", 3, true));
    assert_eq!(store.reader().run("r2").unwrap(), Some(("b".to_owned(), 3)));
    assert_eq!(store.reader().run("r1").unwrap(), None);
    assert_eq!(committed(&store, update("b", WorkspaceState::Running)).await, 5);
}

#[tokio::test]
async fn a_committed_transition_is_on_disk_before_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 100);
    let shutdown = CancellationToken::new();
    let mut events = Box::pin(phases::watch(store.clone(), ring, 0, shutdown));
    store.commit(update("a", WorkspaceState::Running)).await.unwrap().unwrap();
    let told = events.next().await.unwrap().unwrap();
    // Another connection sees only what is committed.
    let other = rusqlite::Connection::open(dir.path().join("node.db")).unwrap();
    let newest: i64 = other.query_row("SELECT MAX(revision) FROM journal", [], |row| row.get(0)).unwrap();
    assert_eq!((told.revision, newest), (1, 1));
}

#[tokio::test]
async fn many_transitions_that_wait_are_committed_together_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 10_000);
    let waiting: Vec<_> =
        (0..2000).map(|n| store.commit(update(&format!("w{}", n % 50), WorkspaceState::Running))).collect();
    for (n, committed) in waiting.into_iter().enumerate() {
        assert_eq!(committed.await.unwrap().unwrap().revision, n as u64 + 1);
    }
    let Page::Events(events) = store.reader().after(1990, 100).unwrap() else { panic!("it is gone") };
    assert_eq!(events.len(), 10);
}

#[tokio::test]
async fn a_slow_watcher_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 100_000);
    committed(&store, update("a", WorkspaceState::Running)).await;
    let mut slow = Box::pin(phases::watch(store.clone(), ring.clone(), 0, CancellationToken::new()));
    let first = slow.next().await.unwrap().unwrap();
    assert!(first.snapshot && first.revision == 1);
    // More than the ring holds.
    let waiting: Vec<_> = (0..9000).map(|_| store.commit(update("a", WorkspaceState::Running))).collect();
    for committed in waiting {
        committed.await.unwrap().unwrap();
    }
    for revision in 2..=9001 {
        let event = slow.next().await.unwrap().unwrap();
        assert_eq!((event.revision, event.snapshot), (revision, false));
    }
}

#[tokio::test]
async fn a_watcher_behind_the_journal_gets_a_snapshot_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 10);
    for _ in 0..700 {
        drop(store.commit(update("a", WorkspaceState::Running)));
        drop(store.commit(update("b", WorkspaceState::Running)));
    }
    committed(&store, update("c", WorkspaceState::Running)).await;
    // A new ring: what this process has in memory must not hide that the journal has been cut.
    let fresh_ring = Arc::new(Ring::default());
    fresh_ring.begin_at(ring.newest());
    let mut events = Box::pin(phases::watch(store.clone(), fresh_ring, 5, CancellationToken::new()));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = events.next().await.unwrap().unwrap();
        assert!(event.snapshot);
        seen.push((event.workspace_uid, event.revision));
    }
    assert_eq!(seen, [("a".to_owned(), 1399), ("b".to_owned(), 1400), ("c".to_owned(), 1401)]);
}

#[tokio::test]
async fn a_revision_of_another_life_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 10);
    committed(&store, update("a", WorkspaceState::Running)).await;
    let mut events = Box::pin(phases::watch(store, ring, 999, CancellationToken::new()));
    assert!(events.next().await.unwrap().unwrap().snapshot);
}

#[tokio::test]
async fn watchers_resume_and_end_at_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 100);
    for _ in 0..5 {
        committed(&store, update("a", WorkspaceState::Running)).await;
    }
    let shutdown = CancellationToken::new();
    let mut events = Box::pin(phases::watch(store.clone(), ring, 3, shutdown.clone()));
    assert_eq!(events.next().await.unwrap().unwrap().revision, 4);
    assert_eq!(events.next().await.unwrap().unwrap().revision, 5);
    let waiting = tokio::spawn(async move { events.next().await.is_none() });
    shutdown.cancel();
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 10);
    store.close();
    drop(store);
    let path = dir.path().join("node.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let Err(error) = Store::open(&path, Arc::default()) else { panic!("it was opened") };
    assert!(error.to_string().contains("schema 99"), "{error}");
}

/// Makes every commit fail until it is taken back, as a full disk does.
fn jam(dir: &Path) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(dir.join("node.db")).unwrap();
    let jam = "CREATE TRIGGER jam BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'no room'); END";
    other.execute_batch(jam).unwrap();
    other
}

#[tokio::test]
async fn what_has_happened_is_written_once_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ring) = open(dir.path(), 100);
    assert_eq!(committed(&store, begin("a", "r1")).await, 1);
    let other = jam(dir.path());
    let happened = store.commit(update("a", WorkspaceState::Running));
    let Err(StoreError::Write(_)) = store.commit(begin("b", "r2")).await.unwrap() else { panic!("it began") };
    assert_eq!(ring.newest(), 1, "nothing is told that is not written");
    other.execute_batch("DROP TRIGGER jam").unwrap();
    let event = tokio::time::timeout(std::time::Duration::from_secs(20), happened).await.unwrap();
    assert_eq!(event.unwrap().unwrap().revision, 2);
    assert_eq!(committed(&store, begin("b", "r2")).await, 3);
}

#[tokio::test]
async fn closing_does_not_wait_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 100);
    let _other = jam(dir.path());
    // More than one batch.
    let waiting: Vec<_> =
        (0..600).map(|n| store.commit(update(&format!("w{n}"), WorkspaceState::Running))).collect();
    let closing = tokio::task::spawn_blocking(move || store.close());
    tokio::time::timeout(std::time::Duration::from_secs(20), closing).await.unwrap().unwrap();
    for committed in waiting {
        assert!(committed.await.unwrap().is_err());
    }
}
