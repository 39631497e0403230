//! The user's dotfiles: cloned into the home and installed, once. What fails is a warning.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cordium_proto::v1::{Dotfiles, LogSource};
use tokio::time::Instant;

use crate::command;
use crate::git::{Git, url};
use crate::identity::{Identity, Who};
use crate::logs::Origin;
use crate::spawn::{Launch, Role};
use crate::state::State;
use crate::tail::with_output;
use crate::tree;

const CLONE_LIMIT: Duration = Duration::from_secs(60);
const INSTALL_LIMIT: Duration = Duration::from_secs(3 * 60);
const INSTALLERS: [&str; 8] = [
    "install.sh",
    "install",
    "bootstrap.sh",
    "bootstrap",
    "script/bootstrap",
    "setup.sh",
    "setup",
    "script/setup",
];

pub async fn install(state: &State, identity: &Identity, dotfiles: &Dotfiles, deadline: Instant) {
    state.events.step("installing dotfiles");
    if let Err(error) = try_install(state, identity, dotfiles, deadline).await {
        let text = format!("dotfiles were not installed: {error}");
        state.logs.system(&text);
        state.events.warning(text);
    }
}

async fn try_install(
    state: &State,
    identity: &Identity,
    dotfiles: &Dotfiles,
    deadline: Instant,
) -> Result<(), String> {
    let (address, access) =
        url::split(&dotfiles.url, &dotfiles.username, &dotfiles.password).map_err(|e| e.to_string())?;
    if dotfiles.branch.starts_with('-') {
        return Err(format!("`{}` is not the name of a branch", dotfiles.branch));
    }
    let directory = identity.user.home.join("dotfiles");
    if !tree::is_vacant(&directory).map_err(|error| error.to_string())? {
        return Err(format!("{} is there already", directory.display()));
    }
    let origin = Origin::new(LogSource::Dotfiles, "");
    let git = Git {
        state,
        identity,
        origin: origin.clone(),
        access: access.as_ref(),
        deadline: deadline.min(Instant::now() + CLONE_LIMIT),
    };
    let mut arguments = vec!["clone".to_owned(), "--depth=1".into()];
    if !dotfiles.branch.is_empty() {
        arguments.push(format!("--branch={}", dotfiles.branch));
    }
    arguments.extend(["--".into(), address, directory.to_string_lossy().into_owned()]);
    git.run(&identity.user.home, &arguments).await.map_err(|error| error.to_string())?;
    let Some(script) = installer(&directory) else { return Ok(()) };
    let launch = Launch {
        argv: vec![script.to_string_lossy().into_owned()],
        environment: identity.environment(Who::User),
        working_dir: directory,
        credentials: identity.credentials(Who::User),
        role: Role::Program,
    };
    let deadline = deadline.min(Instant::now() + INSTALL_LIMIT);
    let outcome =
        command::run(state, &launch, &origin, Some(deadline)).await.map_err(|error| error.to_string())?;
    match (outcome.timed_out, outcome.exit.success()) {
        (false, true) => Ok(()),
        (true, _) => Err(with_output(format!("{} took too long", script.display()), &outcome.output)),
        (false, false) => {
            Err(with_output(format!("{} ended with {}", script.display(), outcome.exit), &outcome.output))
        }
    }
}

fn installer(directory: &Path) -> Option<PathBuf> {
    INSTALLERS
        .iter()
        .map(|name| directory.join(name))
        .find(|path| std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_executable_installer_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(installer(dir.path()), None);
        std::fs::write(dir.path().join("install.sh"), "").unwrap();
        std::fs::create_dir(dir.path().join("install")).unwrap();
        std::fs::create_dir(dir.path().join("script")).unwrap();
        let setup = dir.path().join("script/setup");
        std::fs::write(&setup, "").unwrap();
        assert_eq!(installer(dir.path()), None);
        std::fs::set_permissions(&setup, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(installer(dir.path()), Some(setup));
    }
}
