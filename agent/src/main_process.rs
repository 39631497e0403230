//! The image's own entrypoint, run beside the agent. Its end is told in the log and is no failure.

use std::path::Path;
use std::sync::Arc;

use cordium_proto::v1::{LogSource, MainProcess};

use crate::accounts::{AccountFiles, resolve};
use crate::command;
use crate::environment::pairs;
use crate::identity::Identity;
use crate::logs::Origin;
use crate::spawn::{Launch, Role};
use crate::state::{Stage, State};
use crate::system_init;

pub fn start(state: &Arc<State>, identity: &Identity, main: &MainProcess) {
    let started = launch(state, identity, main).and_then(|launch| {
        command::start(state, &launch, &Origin::new(LogSource::Main, "")).map_err(|error| error.to_string())
    });
    match started {
        Ok(running) => {
            let state = Arc::clone(state);
            tokio::spawn(async move {
                let outcome = running.keep().finish(None).await;
                if !matches!(state.stage(), Stage::Stopping) {
                    state.logs.system(&format!("the image's main process ended with {}", outcome.exit));
                }
            });
        }
        Err(error) => {
            let message = format!("the image's main process was not started: {error}");
            state.logs.system(&message);
            state.events.warning(message);
        }
    }
}

fn launch(state: &State, identity: &Identity, main: &MainProcess) -> Result<Launch, String> {
    let files = AccountFiles::read_names().map_err(|error| error.to_string())?;
    let user = resolve::of_image_user(&files, &main.user).map_err(|error| error.to_string())?;
    let wanted = if main.working_dir.is_empty() { "/" } else { &main.working_dir };
    let working_dir = if Path::new(wanted).is_dir() {
        wanted
    } else {
        state.logs.system(&format!("the main process starts in /: its directory {wanted} is missing"));
        "/"
    };
    let mut environment = identity.environment_of(&user.name, Path::new(&user.home)).with(pairs(&main.env));
    let is_system = user.credentials.uid == 0 && system_init::is_one(&main.argv);
    if is_system {
        // How an init learns that the machine is not its own.
        environment.set("container", "cordium");
    }
    Ok(Launch {
        argv: main.argv.clone(),
        environment,
        working_dir: working_dir.into(),
        credentials: user.credentials,
        role: if is_system { Role::SystemInit } else { Role::Program },
    })
}
