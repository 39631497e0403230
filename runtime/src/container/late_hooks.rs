//! The hooks of a container that runs already or is gone. One that fails is a warning, and the others are still run, as the
//! specification has it; libcontainer stops at the first, so they are kept from it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use libcontainer::{config::YoukiConfig, container::State, error::LibcontainerError, hooks::run_hooks};
use oci_spec::runtime::{Hook, Hooks};

use super::error::chain;

/// In a container's state directory.
fn file(dir: &Path) -> PathBuf {
    dir.join("late-hooks.json")
}

/// Takes the late hooks out of what libcontainer has written down.
pub(super) fn keep(dir: &Path) -> Result<(), LibcontainerError> {
    let mut config = YoukiConfig::load(dir)?;
    let Some(hooks) = config.hooks.as_mut() else { return Ok(()) };
    let mut late = Hooks::default();
    late.set_poststart(hooks.poststart().clone()).set_poststop(hooks.poststop().clone());
    hooks.set_poststart(None).set_poststop(None);
    let text = serde_json::to_vec(&late).map_err(|e| LibcontainerError::OtherIO(e.into()))?;
    fs::write(file(dir), text).map_err(LibcontainerError::OtherIO)?;
    Ok(config.save(dir)?)
}

/// What was kept; nothing for a container that is only half made.
pub(super) fn kept(dir: &Path) -> Hooks {
    let read = || -> io::Result<Hooks> { Ok(serde_json::from_slice(&fs::read(file(dir))?)?) };
    read().unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!("reading {}: {error}", file(dir).display());
        }
        Hooks::default()
    })
}

pub(super) fn run(what: &str, hooks: Option<&Vec<Hook>>, state: &State, dir: Option<&Path>) {
    for hook in hooks.into_iter().flatten() {
        if let Err(error) = run_hooks(Some(&vec![hook.clone()]), Some(state), dir, None, None) {
            let (path, id) = (hook.path().display(), &state.id);
            tracing::warn!("container {id:?}: the {what} hook {path} failed: {}", chain(&error));
        }
    }
}
