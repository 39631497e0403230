//! Tasks of the workspace: strictly one after another, background ones started and passed over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cordium_proto::v1::{Failure, LogSource, OnFailure, Task, TaskType};
use tokio::time::Instant;

use crate::command::{self, Outcome, Running};
use crate::environment::pairs;
use crate::failures::{self, human};
use crate::identity::{Identity, Who};
use crate::logs::Origin;
use crate::spawn::{Launch, Role, SpawnError};
use crate::state::{Stage, State};
use crate::tail::with_output;

/// The time that is left for all tasks of one kind together.
#[derive(Clone, Copy)]
pub struct Budget {
    pub total: Duration,
    pub deadline: Instant,
}

impl Budget {
    pub fn of(total: Duration) -> Self {
        Self { total, deadline: Instant::now() + total }
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// How a task went wrong.
struct Problem {
    exit_code: i32,
    message: String,
    budget_over: bool,
    /// The process that SIGKILL ended, if one did.
    killed: String,
}

/// An image without a shell cannot run tasks; better said before anything was done.
pub fn check_shell(identity: &Identity, tasks: &[Task]) -> Result<(), Failure> {
    match tasks.first() {
        Some(task) if identity.user.shell.is_none() => {
            let message = format!(
                "task `{}` cannot run: the image has no shell (looked for bash, zsh and sh); add one to the image or remove the tasks",
                task.name
            );
            Err(failures::task(&task.name, 127, message))
        }
        _ => Ok(()),
    }
}

/// Runs the tasks of one type at start. An `ABORT` one that fails ends the run.
pub async fn run_startup(
    state: &Arc<State>,
    identity: &Arc<Identity>,
    tasks: &[Task],
    kind: TaskType,
    budget: Budget,
) -> Result<(), Failure> {
    for task in tasks.iter().filter(|task| task.r#type() == kind) {
        if task.background {
            start_background(state, identity, task);
            continue;
        }
        state.events.step(format!("running task `{}`", task.name));
        let Err(problem) = run_one(state, identity, task, budget).await else { continue };
        if problem.budget_over {
            return Err(failures::too_slow(&format!("task `{}`", task.name), budget.total));
        }
        if task.on_failure() == OnFailure::Abort {
            let Problem { exit_code, message, killed, .. } = problem;
            return Err(failures::killed_task(&task.name, exit_code, message, killed));
        }
        state.logs.system(&problem.message);
        state.events.warning(problem.message);
    }
    Ok(())
}

/// Runs PRE_STOP tasks; what fails is told and does not hold up the stop.
pub async fn run_pre_stop(
    state: &Arc<State>,
    identity: &Arc<Identity>,
    tasks: &[Task],
    budget: Budget,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for task in tasks.iter().filter(|task| task.r#type() == TaskType::PreStop) {
        if budget.is_over() {
            warnings.push(format!("task `{}` was not run: no time was left before the stop", task.name));
        } else if task.background {
            start_background(state, identity, task);
        } else if let Err(problem) = run_one(state, identity, task, budget).await {
            state.logs.system(&problem.message);
            warnings.push(problem.message);
        }
    }
    warnings
}

async fn run_one(state: &State, identity: &Identity, task: &Task, budget: Budget) -> Result<(), Problem> {
    let own = own_timeout(task).map(|timeout| Instant::now() + timeout);
    let deadline = own.map_or(budget.deadline, |own| own.min(budget.deadline));
    let outcome = match start(state, identity, task) {
        Ok(running) => Ok(running.finish(Some(deadline)).await),
        Err(error) => Err(error),
    };
    judge(task, outcome, own.is_none_or(|own| own > budget.deadline))
}

fn judge(task: &Task, outcome: Result<Outcome, SpawnError>, budget_first: bool) -> Result<(), Problem> {
    let name = &task.name;
    match outcome {
        Err(error) => {
            let message = format!("task `{name}` could not be started: {error}");
            Err(Problem { exit_code: error.exit_code(), message, budget_over: false, killed: String::new() })
        }
        Ok(Outcome { exit, timed_out: false, .. }) if exit.success() => Ok(()),
        Ok(outcome) => {
            let what = match own_timeout(task).filter(|_| outcome.timed_out) {
                Some(limit) if !budget_first => format!("task `{name}` timed out after {}", human(limit)),
                _ if outcome.timed_out => format!("task `{name}` timed out"),
                _ => format!("task `{name}` failed with {}", outcome.exit),
            };
            Err(Problem {
                exit_code: if outcome.timed_out { -1 } else { outcome.exit.task_code() },
                message: with_output(what, &outcome.output),
                budget_over: outcome.timed_out && budget_first,
                killed: outcome.killed,
            })
        }
    }
}

/// Its failure is told, whatever `onFailure` says: by then the workspace may long be in use.
fn start_background(state: &Arc<State>, identity: &Arc<Identity>, task: &Task) {
    let started = start(state, identity, task);
    let (state, task) = (Arc::clone(state), task.clone());
    tokio::spawn(async move {
        let deadline = own_timeout(&task).map(|timeout| Instant::now() + timeout);
        let outcome = match started {
            Ok(running) => Ok(running.keep().finish(deadline).await),
            Err(error) => Err(error),
        };
        // At the stop every background task is ended by a signal, which is no news.
        let stopping = matches!(state.stage(), Stage::Stopping);
        if let Err(problem) = judge(&task, outcome, false)
            && !stopping
        {
            let message = format!("background {}", problem.message);
            state.logs.system(&message);
            state.events.warning(message);
        }
    });
}

fn start(state: &State, identity: &Identity, task: &Task) -> Result<Running, SpawnError> {
    let running = command::start(state, &launch(identity, task), &origin(task))?;
    state.task_sessions.note(running.process.pid, &task.name);
    Ok(running)
}

fn own_timeout(task: &Task) -> Option<Duration> {
    (task.timeout_ms > 0).then(|| Duration::from_millis(task.timeout_ms))
}

fn origin(task: &Task) -> Origin {
    Origin::new(LogSource::Task, &task.name)
}

fn launch(identity: &Identity, task: &Task) -> Launch {
    let who = Who::root_if(task.run_as_root);
    let shell = identity.user.shell.as_deref().unwrap_or(Path::new("/bin/sh"));
    Launch {
        argv: vec![shell.to_string_lossy().into_owned(), "-c".into(), task.run.clone()],
        environment: identity.environment(who).with(pairs(&task.env)),
        working_dir: working_dir(identity.home(who), &task.working_dir),
        credentials: identity.credentials(who),
        role: Role::Program,
    }
}

/// Relative to the home, which is also what nothing means.
pub fn working_dir(home: &Path, wanted: &str) -> PathBuf {
    if wanted.is_empty() { home.to_path_buf() } else { home.join(wanted) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reaper::Exit;

    fn task(timeout_ms: u64) -> Task {
        Task { name: "t".into(), timeout_ms, ..Task::default() }
    }

    fn outcome(exit: Exit, timed_out: bool) -> Result<Outcome, SpawnError> {
        Ok(Outcome { exit, timed_out, output: "last words".into(), killed: String::new() })
    }

    #[test]
    fn failures_say_what_happened() {
        let problem = judge(&task(0), outcome(Exit::Code(13), false), true).err().unwrap();
        assert_eq!(problem.exit_code, 13);
        assert_eq!(problem.message, "task `t` failed with exit code 13; its last output:\nlast words");
        let problem = judge(&task(1500), outcome(Exit::Code(0), true), false).err().unwrap();
        assert_eq!((problem.exit_code, problem.budget_over), (-1, false));
        assert!(problem.message.starts_with("task `t` timed out after 1500ms"));
        let problem = judge(&task(0), outcome(Exit::Signal(15), true), true).err().unwrap();
        assert!(problem.budget_over);
        assert!(judge(&task(0), outcome(Exit::Code(0), false), true).is_ok());
    }

    #[test]
    fn working_directories_start_at_home() {
        let home = Path::new("/home/me");
        assert_eq!(working_dir(home, ""), home);
        assert_eq!(working_dir(home, "/srv"), Path::new("/srv"));
        assert_eq!(working_dir(home, "x"), Path::new("/home/me/x"));
    }
}
