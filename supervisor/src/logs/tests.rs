#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::*;

fn line(text: &str) -> Line {
    Line::text(LogSource::System, text)
}

fn task(name: &str, text: &str, agent_seq: u64) -> Line {
    Line { source: LogSource::Task, name: name.into(), agent_seq, ..Line::text(LogSource::Task, text) }
}

async fn read(log: &Arc<Log>, query: Query) -> Vec<LogEntry> {
    log.read(query, CancellationToken::new()).try_collect().await.unwrap()
}

fn texts(entries: &[LogEntry]) -> Vec<String> {
    entries.iter().map(|e| String::from_utf8_lossy(&e.data).trim().to_owned()).collect()
}

#[tokio::test]
async fn entries_survive_reopening_and_go_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    log.append("r1", vec![line("a"), task("t", "b", 3)]).await.unwrap();
    drop(log);
    let log = Log::new(dir.path());
    assert_eq!(log.agent_cursor("r1").await.unwrap(), 3);
    assert_eq!(log.agent_cursor("r2").await.unwrap(), 0);
    log.append("r2", vec![line("c")]).await.unwrap();
    let entries = read(&log, Query::default()).await;
    assert_eq!(texts(&entries), ["a", "b", "c"]);
    // The agent's entries 1 and 2 were never seen: the numbers say so.
    assert_eq!(entries.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!(entries[2].run_id, "r2");
}

#[tokio::test]
async fn an_entry_that_the_agent_sends_again_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    log.append("r", vec![task("t", "one", 1), task("t", "two", 2)]).await.unwrap();
    log.append("r", vec![task("t", "two", 2), task("t", "three", 3)]).await.unwrap();
    assert_eq!(texts(&read(&log, Query::default()).await), ["one", "two", "three"]);
}

#[tokio::test]
async fn a_damaged_end_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    log.append("r", vec![line("whole")]).await.unwrap();
    drop(log);
    let path = segments::path_of(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2, 3]);
    std::fs::write(&path, bytes).unwrap();
    let log = Log::new(dir.path());
    log.append("r", vec![line("next")]).await.unwrap();
    assert_eq!(texts(&read(&log, Query::default()).await), ["whole", "next"]);
}

#[tokio::test]
async fn old_segments_are_dropped_and_the_numbers_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::with_segments_of(dir.path(), 4096);
    for n in 0..1000 {
        log.append("r", vec![line(&format!("{n} {}", "x".repeat(90)))]).await.unwrap();
    }
    let size: u64 =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 2 * 4096 + 512, "{size}");
    let entries = read(&log, Query::default()).await;
    assert!(entries.first().unwrap().seq > 1);
    assert_eq!(entries.last().unwrap().seq, 1000);
    assert!(entries.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
}

#[tokio::test]
async fn tail_task_and_after_select() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    let lines = (0..100).map(|n| task(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string(), 0)).collect();
    log.append("r", lines).await.unwrap();
    let query = Query { tail: 3, task: "odd".into(), ..Query::default() };
    assert_eq!(texts(&read(&log, query).await), ["95", "97", "99"]);
    let query = Query { after: 98, ..Query::default() };
    assert_eq!(texts(&read(&log, query).await), ["98", "99"]);
    assert!(read(&log, Query { task: "none".into(), ..Query::default() }).await.is_empty());
}

#[tokio::test]
async fn a_follower_gets_everything_across_rotations_and_ends_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::with_segments_of(dir.path(), 64 << 10);
    log.set_running(true);
    let reader = log.read(Query { follow: true, ..Query::default() }, CancellationToken::new());
    let reading = tokio::spawn(reader.map(|e| e.unwrap().seq).collect::<Vec<_>>());
    for _ in 0..200 {
        log.append("r", vec![line(&"y".repeat(1000))]).await.unwrap();
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    log.set_running(false);
    let seqs = tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap().unwrap();
    assert_eq!(seqs, (1..=200).collect::<Vec<u64>>());
}

#[tokio::test]
async fn large_output_is_split() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    log.append("r", vec![line(&"z".repeat(ENTRY_BYTES + 10))]).await.unwrap();
    let entries = read(&log, Query::default()).await;
    assert_eq!(entries.iter().map(|e| e.data.len()).collect::<Vec<_>>(), [ENTRY_BYTES, 11]);
}
