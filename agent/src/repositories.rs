//! Clones the workspace's repositories, and later fetches the history that a shallow clone left out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cordium_proto::v1::{Failure, LogSource, Repository};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::clone_plan::{ClonePlan, plan};
use crate::failures;
use crate::git::{Git, GitError};
use crate::identity::Identity;
use crate::logs::Origin;
use crate::prepare::blocking;
use crate::state::State;
use crate::state_dir::StateDir;
use crate::tasks::Budget;
use crate::tree;

/// For one repository, whatever the start as a whole may take.
const CLONE_LIMIT: Duration = Duration::from_secs(30 * 60);

pub struct Repositories {
    pub state: Arc<State>,
    pub identity: Arc<Identity>,
    pub marks: Option<Arc<StateDir>>,
    pub budget: Budget,
}

impl Repositories {
    /// Clones all that are not there yet, at once. The first that fails ends the run.
    pub async fn clone_all(&self, repositories: &[Repository]) -> Result<Vec<ClonePlan>, Failure> {
        let clones = repositories.iter().map(|repository| async move {
            let name = repository.name.as_str();
            let plan = plan(repository).map_err(|error| failures::clone(name, error.to_string()))?;
            self.clone_one(&plan).await.map_err(|error| self.failure(&plan, error))?;
            Ok::<_, Failure>(plan)
        });
        try_join_all(clones).await
    }

    /// Fetches what shallow clones left out. The working trees are usable without it: failing is a warning.
    pub async fn unshallow_all(&self, plans: &[ClonePlan]) {
        for plan in plans.iter().filter(|plan| plan.unshallow && is_shallow(plan)) {
            if let Err(error) = self.git(plan).run(&plan.path, &plan.unshallow_arguments()).await {
                let text = format!("the history of {} stays shallow: {error}", plan.title());
                self.state.logs.system(&text);
                self.state.events.warning(text);
            }
        }
    }

    fn failure(&self, plan: &ClonePlan, error: GitError) -> Failure {
        if matches!(error, GitError::TimedOut(_)) && self.budget.is_over() {
            return failures::too_slow(&format!("cloning {}: {error}", plan.title()), self.budget.total);
        }
        let message = format!("cloning {} into {}: {error}", plan.title(), plan.path.display());
        failures::clone(&plan.name, message)
    }

    async fn clone_one(&self, plan: &ClonePlan) -> Result<(), GitError> {
        let unfinished = self.marks.as_ref().is_some_and(|marks| marks.has(&plan.mark()));
        if !self.make_way(plan, unfinished).await? {
            return Ok(());
        }
        self.state.events.step(format!("cloning {}", plan.title()));
        self.set_mark(plan, true);
        self.check_out(plan).await?;
        self.set_mark(plan, false);
        Ok(())
    }

    /// Clears an unfinished clone away. False when something is there that is to be left alone.
    async fn make_way(&self, plan: &ClonePlan, unfinished: bool) -> Result<bool, GitError> {
        let (path, user) = (plan.path.clone(), self.identity.user.clone());
        let vacant = blocking(move || {
            if unfinished && path.exists() {
                std::fs::remove_dir_all(&path)?;
            }
            let vacant = tree::is_vacant(&path)?;
            if vacant {
                let parent = path.parent().unwrap_or(Path::new("/workspace"));
                tree::make_owned(parent, user.uid, user.gid)?;
            }
            Ok(vacant)
        })
        .await
        .map_err(|error| GitError::Failed {
            message: format!("making room: {error}"),
            output: String::new(),
        })?;
        if !vacant && !is_checkout(&plan.path) {
            let path = plan.path.display();
            self.state.events.warning(format!("{} was not cloned: {path} holds other files", plan.title()));
        }
        Ok(vacant)
    }

    async fn check_out(&self, plan: &ClonePlan) -> Result<(), GitError> {
        let git = self.git(plan);
        let parent = plan.path.parent().unwrap_or(Path::new("/workspace"));
        match git.run(parent, &plan.clone_arguments(true)).await {
            // A server of plain files can only give everything.
            Err(GitError::Failed { output, .. }) if output.contains("does not support shallow") => {
                git.run(parent, &plan.clone_arguments(false)).await?;
            }
            other => other?,
        }
        if let Some(arguments) = plan.widen_arguments() {
            git.run(&plan.path, &arguments).await?;
        }
        if !plan.checkout.is_empty() {
            self.go_to(plan, &git).await?;
        }
        if plan.path.join(".gitmodules").exists() {
            let shallow = git.run(&plan.path, &plan.submodule_arguments(plan.shallow_submodules)).await;
            match shallow {
                // The wanted commit need not be the tip of a branch.
                Err(GitError::Failed { .. }) if plan.shallow_submodules => {
                    git.run(&plan.path, &plan.submodule_arguments(false)).await?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    async fn go_to(&self, plan: &ClonePlan, git: &Git<'_>) -> Result<(), GitError> {
        let checkout = vec!["checkout".to_owned(), plan.checkout.clone()];
        let commit = plan.checkout.len() == 40 && plan.checkout.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_shallow(plan) {
            let fetched = commit && git.run(&plan.path, &plan.fetch_commit_arguments()).await.is_ok();
            if !fetched {
                git.run(&plan.path, &plan.unshallow_arguments()).await?;
            }
        }
        git.run(&plan.path, &checkout).await
    }

    fn git<'a>(&'a self, plan: &'a ClonePlan) -> Git<'a> {
        Git {
            state: &self.state,
            identity: &self.identity,
            origin: Origin::new(LogSource::Clone, &plan.name),
            access: plan.access.as_ref(),
            deadline: self.budget.deadline.min(Instant::now() + CLONE_LIMIT),
        }
    }

    fn set_mark(&self, plan: &ClonePlan, standing: bool) {
        let Some(marks) = &self.marks else { return };
        let done = if standing { marks.set(&plan.mark()) } else { marks.clear(&plan.mark()) };
        if let Err(error) = done {
            self.state
                .events
                .warning(format!("remembering how far the clone of {} is: {error}", plan.title()));
        }
    }
}

fn is_shallow(plan: &ClonePlan) -> bool {
    plan.path.join(".git/shallow").exists()
}

fn is_checkout(path: &Path) -> bool {
    path.join(".git").exists()
}
