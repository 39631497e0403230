//! The end of an agent or of a keeper: nothing is left, whatever PID 1 has been made to do.

use std::{sync::Arc, time::Duration};

use cordium_tests::{
    Context, Result, Workspace, delegation, ensure, json, process, skip, v1::WorkspaceState, watch,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    node::{self, Pids},
    shared::{PROGRAM, Shared, equip},
};

const END: Duration = Duration::from_secs(60);

/// Root in a sandbox may end it: the run fails with a reason, and nothing is left of it.
pub async fn agent_ended_by_its_tenant(s: Arc<Shared>) -> Result<()> {
    let w = s.f.run("suicide", &s.f.small(json!({}))).await?;
    let pids = Pids::of(&s.f.node.run(), &w)?;
    let mut watch = w.watch().await?;
    watch.next(END).await?;
    // Its stream may end before it does.
    let _ = w.root("kill -TERM 1; sleep 5").await;
    let event = watch.stopped(END).await?;
    let failure = watch::failure_of(&event).context("the run has ended without a reason")?;
    println!("agent_ended_by_its_tenant: {}", watch::describe(&failure));
    ensure!(!failure.message.is_empty(), "the reason is empty");
    gone(pids)?;
    w.delete().await?;
    s.unharmed().await
}

/// A workspace whose PID 1 was made to take back that it be killed when its keeper ends.
async fn hostile(s: &Shared, name: &str) -> Result<(Workspace, Pids)> {
    let spec = s.f.small(json!({"runtime": {"capabilities": {"add": ["SYS_PTRACE"]}}}));
    let w = s.f.run(name, &spec).await?;
    equip(&s.f, &w)?;
    let pids = Pids::of(&s.f.node.run(), &w)?;
    ensure!(w.root_ok(&format!("{PROGRAM} clear-death-signal")).await? == "cleared", "PID 1 was not changed");
    Ok((w, pids))
}

fn kill_keeper(pids: Pids) -> Result<()> {
    kill(Pid::from_raw(pids.keeper), Signal::SIGKILL).context("killing the keeper")
}

/// PID 1 asks to be killed when its keeper ends. A hostile one takes that back; then the supervisor ends it.
pub async fn keeper_killed(s: Arc<Shared>) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("the attack on PID 1's registers is written for x86_64");
    }
    let (w, pids) = hostile(&s, "hostile").await?;
    let mut watch = w.watch().await?;
    watch.next(END).await?;
    kill_keeper(pids)?;
    let event = watch.stopped(END).await?;
    let failure = watch::failure_of(&event).context("the run has ended without a reason")?;
    println!("keeper_killed_under_a_hostile_init: {}", watch::describe(&failure));
    gone(pids)?;
    w.delete().await?;
    s.unharmed().await
}

/// As above, while there is no supervisor that could notice; the next one does.
pub async fn keeper_killed_unseen(s: Arc<Shared>) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("the attack on PID 1's registers is written for x86_64");
    }
    let (w, pids) = hostile(&s, "unseen").await?;
    s.f.node.end(Signal::SIGKILL)?;
    kill_keeper(pids)?;
    let survived = node::is_alive(pids.init);
    s.f.node.launch()?;
    let w = Workspace { clients: s.f.node.clients().await?, ..w };
    let mut watch = w.watch().await?;
    let event = watch.until(END, |event| watch::state_of(event) == WorkspaceState::Stopped).await?;
    let failure = watch::failure_of(&event).context("the run has ended without a reason")?;
    println!("keeper_killed_unseen: PID 1 went on: {survived}; {}", watch::describe(&failure));
    gone(pids)?;
    w.delete().await?;
    s.unharmed().await
}

/// Trees of directories and cgroups that are deeper than whoever removes them may have thought.
pub async fn trees_without_end(s: Arc<Shared>) -> Result<()> {
    let w = s.f.run("digger", &s.f.small(json!({}))).await?;
    equip(&s.f, &w)?;
    for base in ["/workspace", "/var/tmp", "/var/lib/containers"] {
        println!("{base}: {}", w.root(&format!("mkdir -p {base} && {PROGRAM} dig {base} 1500")).await?.out());
    }
    let cgroups =
        "for d in /sys/fs/cgroup /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); do DIG $d 2000; done";
    println!("cgroups: {}", w.root(&cgroups.replace("DIG", &format!("{PROGRAM} dig"))).await?.out());
    let storage = s.f.storage_of(&w);
    w.stop().await.context("stopping")?;
    w.delete().await.context("deleting")?;
    ensure!(!storage.exists(), "{} is left", storage.display());
    // What is removed is taken out of the way first, and emptied later.
    let staging = s.f.node.state().join("images/staging");
    let emptied = || Ok(std::fs::read_dir(&staging)?.next().is_none().then_some(()));
    process::until("removal of the trees", END, emptied)?;
    for subtree in delegation::subtrees(s.f.node.user.uid) {
        ensure!(!subtree.join(&w.uid).exists(), "{} is left", subtree.join(&w.uid).display());
    }
    s.unharmed().await
}

fn gone(pids: Pids) -> Result<()> {
    process::until("end of PID 1", Duration::from_secs(10), || {
        Ok((!node::is_alive(pids.init)).then_some(()))
    })?;
    process::until("end of the keeper", Duration::from_secs(10), || {
        Ok((!node::is_alive(pids.keeper)).then_some(()))
    })
}
