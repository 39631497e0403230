//! The runtime section.

use super::{At, Stage, capability, mounts, names, network, task, text};
use crate::argv;
use crate::error::SpecError;
use crate::model::*;

pub(super) fn runtime(at: At<'_>, runtime: &Runtime) -> Result<(), SpecError> {
    env_vars(at.field("envVars"), &runtime.env_vars)?;
    task::tasks(at.field("tasks"), &runtime.tasks)?;
    runtime.cmd.iter().try_for_each(|words| command(at.field("cmd"), words))?;
    runtime.entrypoint.iter().try_for_each(|words| command(at.field("entrypoint"), words))?;
    let here = at.field("devcontainers");
    features(here.field("features"), &runtime.devcontainers.features)?;
    network::network(at.field("network"), &runtime.network)?;
    capabilities(at.field("capabilities"), &runtime.capabilities)?;
    mounts::mounts(at.field("volumeMounts"), &runtime.volume_mounts)
}

pub(super) fn capabilities(at: At<'_>, capabilities: &Capabilities) -> Result<(), SpecError> {
    capability::list(at.field("add"), &capabilities.add)?;
    capability::list(at.field("drop"), &capabilities.drop)?;
    if at.stage == Stage::Draft {
        for (index, name) in capabilities.add.iter().enumerate() {
            let same = |other: &String| super::capability_name(other) == super::capability_name(name);
            if capabilities.drop.iter().any(same) {
                return Err(at
                    .field("add")
                    .index(index)
                    .was(name, "a capability that `drop` does not name, too"));
            }
        }
    }
    Ok(())
}

pub(super) fn env_vars(at: At<'_>, env: &[EnvVar]) -> Result<(), SpecError> {
    at.count(env.len(), 128)?;
    for (index, variable) in env.iter().enumerate() {
        let at = at.index(index);
        names::env_key(at.field("key"), &variable.key)?;
        match (&variable.value, &variable.from_secret) {
            (Some(value), None) => env_value(at.field("value"), value)?,
            (None, Some(secret)) => names::dotted(at.field("fromSecret"), secret)?,
            (None, None) => return Err(at.field("value").missing("exactly one of value, fromSecret")),
            (Some(_), Some(_)) => {
                return Err(at.error("had value and fromSecret; allowed: exactly one of them"));
            }
        }
    }
    Ok(())
}

/// As written it has 1 to 1024 characters; once resolved it may be empty, where a variable was not set.
pub(super) fn env_value(at: At<'_>, value: &str) -> Result<(), SpecError> {
    if at.stage == Stage::Resolved && value.is_empty() { Ok(()) } else { text::block(at, value, 1024) }
}

fn command(at: At<'_>, words: &str) -> Result<(), SpecError> {
    text::block(at, words, 1024)?;
    argv::split_command(words).map(|_| ()).ok_or_else(|| at.was(words, argv::ALLOWED))
}

fn features(at: At<'_>, features: &[Feature]) -> Result<(), SpecError> {
    at.count(features.len(), 100)?;
    for (index, feature) in features.iter().enumerate() {
        let at = at.index(index);
        text::line(at.field("reference"), &feature.reference, 256)?;
        let options = at.field("options");
        options.count(feature.options.len(), 32)?;
        for (index, option) in feature.options.iter().enumerate() {
            let at = options.index(index);
            text::line(at.field("key"), &option.key, 256)?;
            text::block(at.field("value"), &option.value, 256)?;
        }
    }
    Ok(())
}
