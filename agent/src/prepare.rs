//! From a bare root file system to a running workspace, in order:
//!
//! an empty /run → names → trust stores → user → directories → read-only root → *commands may run* → main process → clones → dotfiles →
//! ON_CREATE → POST_START (the rest of the history is fetched meanwhile) → *running*.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cordium_proto::v1::{Failure, PrepareRequest, Repository, TaskType};

use crate::environment::{Environment, pairs};
use crate::identity::{Identity, WorkspaceUser};
use crate::repositories::Repositories;
use crate::state::{Stage, State};
use crate::state_dir::{CREATING, StateDir};
use crate::tasks::Budget;
use crate::{
    dotfiles, etc, failures, main_process, rootfs, rootless, run_dir, sys, tasks, tree, trust, workspace_user,
};

const FRESH_BUDGET: Duration = Duration::from_secs(60 * 60);
const LATER_BUDGET: Duration = Duration::from_secs(20 * 60);
const WORKSPACE: &str = "/workspace";

/// The whole preparation. Its outcome is an event: running, or a failure.
pub async fn run(state: Arc<State>, request: Arc<PrepareRequest>) {
    state.events.preparing();
    if let Err(failure) = prepare(&state, &request).await {
        if !matches!(state.stage(), Stage::Ready(_)) {
            state.enter(Stage::Failed);
        }
        state.logs.system(&failure.message);
        state.events.failure(failure);
    }
    sys::trim_memory();
}

async fn prepare(state: &Arc<State>, request: &Arc<PrepareRequest>) -> Result<(), Failure> {
    let setup = {
        let (state, request) = (Arc::clone(state), Arc::clone(request));
        blocking(move || Ok(set_up(&state, &request)))
            .await
            .map_err(|e| failures::unknown(e.to_string()))??
    };
    let creating = setup.creating;
    let identity = Arc::new(Identity::new(setup.user, request, &setup.trust));
    state.enter(Stage::Ready(Arc::clone(&identity)));
    tasks::check_shell(&identity, &request.tasks)?;
    if let Some(main) = request.main.as_ref().filter(|main| !main.argv.is_empty()) {
        main_process::start(state, &identity, main);
    }

    let budget = Budget::of(match (request.startup_timeout_ms, creating) {
        (0, true) => FRESH_BUDGET,
        (0, false) => LATER_BUDGET,
        (millis, _) => Duration::from_millis(millis),
    });
    let marks = setup.marks.map(Arc::new);
    let repositories = Repositories {
        state: Arc::clone(state),
        identity: Arc::clone(&identity),
        marks: marks.clone(),
        budget,
    };
    let plans = repositories.clone_all(&all_repositories(request)).await?;
    if creating && let Some(wanted) = request.dotfiles.as_ref().filter(|wanted| !wanted.url.is_empty()) {
        dotfiles::install(state, &identity, wanted, budget.deadline).await;
    }
    let run_tasks = async {
        if creating {
            tasks::run_startup(state, &identity, &request.tasks, TaskType::OnCreate, budget).await?;
            if let Some(Err(error)) = marks.map(|marks| marks.clear(CREATING)) {
                state.events.warning(format!("remembering that ON_CREATE is done: {error}"));
            }
            state.events.created();
        }
        tasks::run_startup(state, &identity, &request.tasks, TaskType::PostStart, budget).await
    };
    let unshallow = async {
        repositories.unshallow_all(&plans).await;
        Ok(())
    };
    futures::future::try_join(run_tasks, unshallow).await?;

    let user = &identity.user;
    state.set_running();
    state.events.running(&user.name, user.uid, &user.home.to_string_lossy());
    if request.auto_stop {
        state.events.finished();
    }
    Ok(())
}

fn all_repositories(request: &PrepareRequest) -> Vec<Repository> {
    let wanted = |repository: &&Repository| !repository.url.is_empty();
    request.repository.iter().chain(&request.additional_repositories).filter(wanted).cloned().collect()
}

fn creates_something(request: &PrepareRequest) -> bool {
    let task = request.tasks.iter().any(|task| task.r#type() == TaskType::OnCreate);
    task || request.dotfiles.is_some() || !all_repositories(request).is_empty()
}

struct Setup {
    user: WorkspaceUser,
    marks: Option<StateDir>,
    /// A fresh run, or one that takes up a creation that was cut short.
    creating: bool,
    trust: trust::Variables,
}

/// The part that works on files only.
fn set_up(state: &State, request: &PrepareRequest) -> Result<Setup, Failure> {
    if let Err(error) = run_dir::mount_fresh() {
        state.events.warning(format!("/run is as the last run left it: {error}"));
    }
    etc::write(request, &state.events);
    if let Err(error) = crate::rootfs::make_temporary_dirs() {
        state.events.warning(format!("making the temporary directories: {error}"));
    }
    let set = Environment::default().with(pairs(&request.image_env)).with(pairs(&request.env));
    let trust = trust::apply(Path::new("/"), &request.trust_anchor_pem, &set);
    trust.warnings.into_iter().for_each(|warning| state.events.warning(warning));
    let user = workspace_user::ensure(&state.events).map_err(|e| failures::unknown(e.to_string()))?;
    rootless::give_ids(&user, &state.events);
    let marks = match StateDir::open() {
        Ok(marks) => Some(marks),
        Err(error) => {
            state.events.warning(format!("nothing can be remembered in /var/lib/cordium: {error}"));
            None
        }
    };
    let creating = request.fresh || marks.as_ref().is_some_and(|marks| marks.has(CREATING));
    // The mark costs a flush of the disk: a start that creates nothing need not wait for one.
    let to_be_resumed = creating && creates_something(request);
    if to_be_resumed && let Some(Err(error)) = marks.as_ref().map(|marks| marks.set(CREATING)) {
        state.events.warning(format!("remembering that ON_CREATE has begun: {error}"));
    }
    let directories = std::iter::once(WORKSPACE).chain(request.user_dirs.iter().map(String::as_str));
    for directory in directories.map(Path::new).filter(|directory| directory.is_absolute()) {
        own_directory(directory, &user, request.fresh).map_err(|e| {
            failures::unknown(format!("giving {} to {}: {e}", directory.display(), user.name))
        })?;
    }
    if request.read_only_root {
        rootfs::make_read_only(&user).map_err(|e| failures::unknown(e.to_string()))?;
    }
    rootless::give_directories(&user, &state.events);
    Ok(Setup { user, marks, creating, trust: trust.variables })
}

/// All of it when it is new or belongs to somebody else, as after a change of the image; else nothing.
fn own_directory(directory: &Path, user: &WorkspaceUser, fresh: bool) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::create_dir_all(directory)?;
    let owner = std::fs::metadata(directory)?.uid();
    if fresh || owner != user.uid { tree::chown_tree(directory, user.uid, user.gid) } else { Ok(()) }
}

/// Work on files off the event loop.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
