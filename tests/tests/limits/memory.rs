//! Memory bombs: the killer's victim is named.

use std::sync::Arc;

use cordium_tests::spec::task;
use cordium_tests::v1::failure::Type;
use cordium_tests::workspace::Output;
use cordium_tests::{Context, Fixture, Result, ensure, ensure_eq, json};

use crate::observe::{Neighbour, has_warning, nothing_left, status_with, usage};

/// Takes a gigabyte of memory, as one process called `dd`.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=1G count=1";
/// Takes more and more memory, as a process called `busybox-hog` that is not the command itself.
const SLOW_HOG: &str = r#"cp /bin/busybox /tmp/busybox-hog
head -c 1048576 /dev/zero | tr "\0" x > /tmp/line; echo >> /tmp/line
while cat /tmp/line; do sleep 0.02; done | /tmp/busybox-hog sort
exit $?"#;

pub async fn a_memory_bomb_is_named(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-m").await?;
    let supervisor = f.node.pid();
    let w = f.run("membomb", &f.small(json!({"limit": {"memory": {"megabytes": 64}}}))).await?;
    ensure_eq!(usage(&w.status().await?).oom_kills, 0);
    let direct = w.exec(&["sh", "-c", &format!("exec {HOG}")]).await?;
    ensure_eq!((direct.code(), direct.exit.signal), (137, 9));
    by_the_killer(&direct, "dd")?;
    // A child of the command's: its shell tells of it by its own code.
    let nested = w.sh(SLOW_HOG).await?;
    ensure_eq!((nested.code(), nested.exit.signal), (137, 0));
    by_the_killer(&nested, "busybox-hog")?;
    neighbour.answers_now().await?;
    // Not everything that is killed falls to it.
    let killed = w.sh("kill -9 $$").await?;
    ensure_eq!((killed.code(), killed.exit.killed_by.as_str()), (137, ""));
    let status = status_with(&w, "both kills", |status| usage(status).oom_kills >= 2).await?;
    ensure!(usage(&status).last_oom_victim.starts_with("busybox-hog (pid "), "{:?}", usage(&status));
    let status =
        status_with(&w, "the warning", |status| has_warning(status, "the out-of-memory killer ended 2"))
            .await?;
    ensure!(!has_warning(&status, "not watched any more"), "{:?}", status.warnings);
    let told = status.warnings.iter().filter(|warning| warning.starts_with("the out-of-memory killer"));
    ensure_eq!(told.count(), 1);
    ensure!(w.log_text(None).await?.contains("the out-of-memory killer ended"), "the log does not tell");
    ensure_eq!(w.ok("echo lives").await?, "lives");
    let shown = f.cli().run(&["exec", "membomb", "--", "sh", "-c", &format!("exec {HOG}")]).await?;
    ensure_eq!(shown.code, 137);
    ensure!(shown.err.contains("killed by the out-of-memory killer: dd (pid "), "{}", shown.err);
    ensure_eq!(f.node.pid(), supervisor);
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

fn by_the_killer(output: &Output, name: &str) -> Result<()> {
    let expected = format!("killed by the out-of-memory killer: {name} (pid ");
    ensure!(output.exit.killed_by.starts_with(&expected), "{:?}", output.exit);
    Ok(())
}

pub async fn a_killed_task_says_so(f: Arc<Fixture>) -> Result<()> {
    let mut bad = task("hungry", "POST_START", &format!("exec {HOG}"));
    bad["onFailure"] = json!("ON_FAILURE_ABORT");
    let spec = f.small(json!({"limit": {"memory": {"megabytes": 64}}, "runtime": {"tasks": [bad]}}));
    let w = f.create("memtask", &spec).await?;
    let (_, workspace) = w.start_to_end().await?;
    let status = workspace.status.context("there is no status")?;
    let failure = status.failure.context("there is no failure")?;
    ensure!(matches!(&failure.r#type, Some(Type::Task(task)) if task.name == "hungry"), "{failure:?}");
    let first = failure.message.lines().next().unwrap_or_default();
    ensure!(first.contains("killed by the out-of-memory killer: dd (pid "), "{}", failure.message);
    w.delete().await?;
    nothing_left(&f.node, &w)
}
