//! The image's `git`, run as the workspace user.

pub mod credential;
pub mod url;

use std::path::Path;

use tokio::time::Instant;

use crate::command;
use crate::failures::human;
use crate::identity::{Identity, Who};
use crate::logs::Origin;
use crate::spawn::{Launch, Role, SpawnError};
use crate::state::State;
use crate::tail::with_output;
use url::Access;

/// Said of images without it.
const MISSING: &str =
    "the image has no `git`: add it to the image (Debian: `apt-get install git`, Alpine: `apk add git`)";

/// Settings for every invocation; none of them is written to a repository.
const SETTINGS: [&str; 5] = [
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
];

#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("{MISSING}")]
    Missing,
    #[error("starting git: {0}")]
    Spawn(SpawnError),
    #[error("{message}")]
    Failed { message: String, output: String },
    #[error("{0}")]
    TimedOut(String),
}

pub struct Git<'a> {
    pub state: &'a State,
    pub identity: &'a Identity,
    pub origin: Origin,
    pub access: Option<&'a Access>,
    pub deadline: Instant,
}

impl Git<'_> {
    /// Runs git with `arguments` in `directory`; its output goes to the log.
    pub async fn run(&self, directory: &Path, arguments: &[String]) -> Result<(), GitError> {
        let launch = self.launch(directory, arguments);
        let begun = Instant::now();
        let outcome = match command::run(self.state, &launch, &self.origin, Some(self.deadline)).await {
            Ok(outcome) => outcome,
            Err(SpawnError::NotFound { .. }) => return Err(GitError::Missing),
            Err(error) => return Err(GitError::Spawn(error)),
        };
        let verb = arguments.first().map_or("", String::as_str);
        if outcome.timed_out {
            let took = human(std::time::Duration::from_secs(begun.elapsed().as_secs()));
            let message = format!("git {verb} was stopped after {took}");
            return Err(GitError::TimedOut(with_output(message, &outcome.output)));
        }
        if outcome.exit.success() {
            return Ok(());
        }
        let message = with_output(format!("git {verb} ended with {}", outcome.exit), &outcome.output);
        Err(GitError::Failed { message, output: outcome.output })
    }

    fn launch(&self, directory: &Path, arguments: &[String]) -> Launch {
        let mut argv = vec!["git".to_owned()];
        let mut setting = |value: &str| argv.extend(["-c".to_owned(), value.to_owned()]);
        SETTINGS.into_iter().for_each(&mut setting);
        let mut environment = self.identity.environment(Who::User).with([
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("GIT_ALLOW_PROTOCOL", "https:http"),
            ("LC_ALL", "C"),
        ]);
        if let Some(access) = self.access {
            // The first, empty value drops the helpers of the image, which must not see this credential.
            setting("credential.helper=");
            setting(&credential::helper_setting());
            for (key, value) in credential::variables(access) {
                environment.set(key, value);
            }
        }
        argv.extend_from_slice(arguments);
        Launch {
            argv,
            environment,
            working_dir: directory.to_path_buf(),
            credentials: self.identity.credentials(Who::User),
            role: Role::Program,
        }
    }
}
