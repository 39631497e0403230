//! What a workspace uses, and whom the out-of-memory killer took.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{ExecResponse, Failure, Pressure, Usage, exec_response::Message, failure::Type};
use cordium_runtime::{Reported, cgroup};
use tokio::time::timeout;

use crate::runtime::SandboxHandle;

/// How long the keeper may take to find out who was killed; it reports once a second at most.
const VICTIM: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;
/// How a shell reports that a command of its own was killed.
const KILLED: i32 = 128 + SIGKILL;

/// Everything that is known of a running sandbox's use.
pub fn of_sandbox(sandbox: &dyn SandboxHandle) -> Usage {
    let stats = sandbox.stats();
    let reported = sandbox.reported().borrow().clone();
    let pressure = |p: Option<cgroup::Pressure>| {
        p.map(|p| Pressure { some_avg10: p.some_avg10, full_avg10: p.full_avg10 })
    };
    let (storage, measured_at) = reported.storage.unzip();
    let storage = storage.unwrap_or_default();
    Usage {
        at: Some(std::time::SystemTime::now().into()),
        cpu_usec: stats.cpu_usec,
        memory_bytes: stats.memory_bytes,
        memory_peak_bytes: stats.memory_peak_bytes,
        swap_bytes: stats.swap_bytes,
        pids: stats.pids,
        pids_refused: stats.pids_refused,
        storage_bytes: storage.bytes,
        inodes: storage.inodes,
        storage_measured_at: measured_at.map(Into::into),
        oom_kills: stats.oom_kills.max(reported.oom_kills),
        last_oom_victim: reported.oom_victim.unwrap_or_default(),
        cpu_pressure: pressure(stats.cpu_pressure),
        memory_pressure: pressure(stats.memory_pressure),
        io_pressure: pressure(stats.io_pressure),
    }
}

/// Begins the one warning that tells of kills; a newer one replaces it.
pub use cordium_proto::OOM_WARNING;

/// The warning for people who look at the workspace.
pub fn oom_warning(reported: &Reported) -> String {
    let kills = reported.oom_kills;
    let noun = if kills == 1 { "process" } else { "processes" };
    match &reported.oom_victim {
        Some(victim) => {
            format!("{OOM_WARNING} ended {kills} {noun} of this workspace; the last was {victim}")
        }
        None => format!("{OOM_WARNING} ended {kills} {noun} of this workspace"),
    }
}

/// Who was killed for want of memory since there had been `before` such kills; nothing if nobody was. `known` is who it must
/// have been, from the agent that saw it end; its word is about its own workspace only.
async fn killed_since(sandbox: &dyn SandboxHandle, before: u64, known: &str) -> Option<String> {
    if sandbox.stats().oom_kills <= before {
        return None;
    }
    if !known.is_empty() {
        let known: String = known.chars().filter(|c| !c.is_control()).take(64).collect();
        return Some(format!("killed by {OOM_WARNING}: {known}"));
    }
    let mut reported = sandbox.reported();
    // An error is a keeper that has ended: then nobody knows more.
    let _ = timeout(VICTIM, reported.wait_for(|reported| reported.oom_kills > before)).await;
    let victim = reported.borrow().oom_victim.clone();
    Some(match victim {
        Some(victim) => format!("killed by {OOM_WARNING}: {victim}"),
        None => format!("killed by {OOM_WARNING}"),
    })
}

/// Says of a command that was killed whether it, or one of its processes, fell to the out-of-memory killer.
pub async fn explain_exec(
    mut response: ExecResponse,
    sandbox: Option<Arc<dyn SandboxHandle>>,
    before: u64,
) -> ExecResponse {
    if let Some(Message::Exit(exit)) = &mut response.message {
        let known = std::mem::take(&mut exit.killed_by);
        if let Some(sandbox) = sandbox
            && (exit.signal == SIGKILL || exit.code == KILLED)
        {
            exit.killed_by = killed_since(sandbox.as_ref(), before, &known).await.unwrap_or_default();
        }
    }
    response
}

/// The same for a task whose failure ends the run.
pub async fn explain_failure(failure: &mut Failure, sandbox: &dyn SandboxHandle) {
    let Some(Type::Task(task)) = &failure.r#type else { return };
    // -1 stands for a signal.
    if !matches!(task.exit_code, -1 | KILLED) {
        return;
    }
    if let Some(how) = killed_since(sandbox, 0, &task.killed).await {
        failure.message = match failure.message.split_once('\n') {
            Some((first, rest)) => format!("{first}: {how}\n{rest}"),
            None => format!("{}: {how}", failure.message),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use cordium_proto::v1::{ExecExit, failure::TaskFailure};
    use futures::{FutureExt as _, future::BoxFuture};
    use tokio::sync::watch;

    use super::*;
    use crate::runtime::{Ended, RuntimeFailure};

    struct Killed(watch::Sender<Reported>);

    impl SandboxHandle for Killed {
        fn agent_socket(&self) -> PathBuf {
            PathBuf::new()
        }
        fn warnings(&self) -> Vec<String> {
            Vec::new()
        }
        fn stats(&self) -> cgroup::Stats {
            cgroup::Stats { oom_kills: 3, ..Default::default() }
        }
        fn reported(&self) -> watch::Receiver<Reported> {
            self.0.subscribe()
        }
        fn set_policy<'a>(
            &'a self,
            _: &'a cordium_egress::Policy,
            _: Option<&'a cordium_broker::Renewal>,
        ) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
            async { Ok(()) }.boxed()
        }
        fn wait(&self) -> BoxFuture<'_, Ended> {
            futures::future::pending().boxed()
        }
        fn kill(&self, _: Duration) -> BoxFuture<'_, Result<(), RuntimeFailure>> {
            async { Ok(()) }.boxed()
        }
    }

    fn sandbox() -> Arc<Killed> {
        let reported =
            Reported { oom_kills: 3, oom_victim: Some("hog (pid 7)".into()), ..Reported::default() };
        Arc::new(Killed(watch::Sender::new(reported)))
    }

    async fn exec(exit: ExecExit, before: u64) -> String {
        let response = ExecResponse { message: Some(Message::Exit(exit)) };
        match explain_exec(response, Some(sandbox()), before).await.message {
            Some(Message::Exit(exit)) => exit.killed_by,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_killed_command_says_by_whom_and_no_other_does() {
        let killed = ExecExit { code: 137, signal: 9, ..ExecExit::default() };
        let by_shell = ExecExit { code: 137, ..ExecExit::default() };
        let text = "killed by the out-of-memory killer: hog (pid 7)";
        assert_eq!(exec(killed.clone(), 2).await, text);
        assert_eq!(exec(by_shell, 2).await, text);
        let seen = ExecExit { killed_by: "big\u{1b} (pid 9)".into(), ..killed.clone() };
        assert_eq!(exec(seen.clone(), 2).await, "killed by the out-of-memory killer: big (pid 9)");
        assert_eq!(exec(seen, 3).await, "", "it was killed for another reason");
        assert_eq!(exec(killed, 3).await, "", "nobody was killed meanwhile");
        assert_eq!(exec(ExecExit { code: 1, ..ExecExit::default() }, 0).await, "");
    }

    #[tokio::test]
    async fn a_task_that_was_killed_says_so_in_its_first_line() {
        let fail = |exit_code, message: &str| Failure {
            message: message.into(),
            r#type: Some(Type::Task(TaskFailure { name: "t".into(), exit_code, ..Default::default() })),
        };
        let mut failure = fail(-1, "task \"t\": signal 9\nlast words");
        explain_failure(&mut failure, sandbox().as_ref()).await;
        let expected = "task \"t\": signal 9: killed by the out-of-memory killer: hog (pid 7)\nlast words";
        assert_eq!(failure.message, expected);
        let mut failure = fail(1, "x");
        explain_failure(&mut failure, sandbox().as_ref()).await;
        assert_eq!(failure.message, "x");
    }

    #[test]
    fn the_warning_counts_and_names() {
        let reported = Reported { oom_kills: 1, oom_victim: Some("a (pid 2)".into()), ..Default::default() };
        let text = "the out-of-memory killer ended 1 process of this workspace; the last was a (pid 2)";
        assert_eq!(oom_warning(&reported), text);
    }
}
