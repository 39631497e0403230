//! The documents as wholes.

use std::collections::BTreeMap;

use super::{At, Stage, image, limit, names, repository, runtime, task, text};
use crate::error::SpecError;
use crate::model::*;
use crate::parse::Metadata;
use crate::schema::DocumentKind;

const MAX_VAR: usize = 5000;

/// A Workspace spec as people write it.
pub fn validate_workspace(spec: &WorkspaceSpec) -> Result<(), SpecError> {
    workspace(spec, Stage::Draft)
}

/// A Workspace spec that [`crate::resolve()`] made.
pub fn validate_resolved(spec: &WorkspaceSpec) -> Result<(), SpecError> {
    workspace(spec, Stage::Resolved)
}

/// A Template spec.
pub fn validate_template(spec: &TemplateSpec) -> Result<(), SpecError> {
    let at = At::root("spec", Stage::Draft);
    common(at, spec.image.as_ref(), spec.repository.as_ref(), true, &spec.additional_repositories)?;
    limit::limit(at.field("limit"), &spec.limit)?;
    spec.git_provider.iter().try_for_each(|name| names::dotted(at.field("gitProvider"), name))?;
    vars(at.field("vars"), &spec.vars)?;
    runtime::runtime(at.field("runtime"), &spec.runtime)
}

/// A Space spec.
pub fn validate_space(spec: &SpaceSpec) -> Result<(), SpecError> {
    let at = At::root("spec", Stage::Draft);
    let here = at.field("limit");
    limit::limit(here.field("defaultLimit"), &spec.limit.default_limit)?;
    limit::limit(here.field("maxLimit"), &spec.limit.max_limit)?;
    let here = at.field("runtime");
    runtime::env_vars(here.field("envVars"), &spec.runtime.env_vars)?;
    task::tasks(here.field("tasks"), &spec.runtime.tasks)?;
    runtime::capabilities(here.field("capabilities"), &spec.runtime.capabilities)
}

fn workspace(spec: &WorkspaceSpec, stage: Stage) -> Result<(), SpecError> {
    let at = At::root("spec", stage);
    common(at, spec.image.as_ref(), spec.repository.as_ref(), false, &spec.additional_repositories)?;
    applications(at.field("applications"), &spec.applications)?;
    limit::limit(at.field("limit"), &spec.limit)?;
    vars(at.field("vars"), &spec.vars)?;
    runtime::runtime(at.field("runtime"), &spec.runtime)
}

fn common(
    at: At<'_>,
    source: Option<&ImageSource>,
    primary: Option<&Repository>,
    url_required: bool,
    additional: &[AdditionalRepository],
) -> Result<(), SpecError> {
    if let Some(source) = source {
        image::source(at.field("image"), source)?;
    }
    if let Some(primary) = primary {
        repository::primary(at.field("repository"), primary, url_required)?;
    }
    repository::additional(at.field("additionalRepositories"), additional)
}

fn applications(at: At<'_>, applications: &[Application]) -> Result<(), SpecError> {
    at.count(applications.len(), 128)?;
    for (index, application) in applications.iter().enumerate() {
        let at = at.index(index);
        names::label(at.field("name"), &application.name)?;
        text::optional_line(at.field("displayName"), &application.display_name, 256)?;
        if application.port == 0 {
            return Err(at.field("port").error("was 0; allowed: a whole number from 1 to 65535"));
        }
    }
    names::unique(at, "name", applications.iter().map(|application| application.name.as_str()))?;
    if let Some((index, _)) = applications.iter().enumerate().filter(|(_, entry)| entry.is_default).nth(1) {
        return Err(at
            .index(index)
            .field("isDefault")
            .error("was true for a second one; allowed: one default"));
    }
    Ok(())
}

fn vars(at: At<'_>, vars: &[Var]) -> Result<(), SpecError> {
    at.count(vars.len(), 128)?;
    for (index, var) in vars.iter().enumerate() {
        let at = at.index(index);
        names::variable(at.field("name"), &var.name)?;
        var_value(at.field("value"), &var.value)?;
    }
    names::unique(at, "name", vars.iter().map(|var| var.name.as_str()))
}

fn var_value(at: At<'_>, value: &str) -> Result<(), SpecError> {
    // Expanded values may be longer; what uses them is checked.
    if value.is_empty() || at.stage == Stage::Resolved { Ok(()) } else { text::block(at, value, MAX_VAR) }
}

/// The variables given at start.
pub(crate) fn run_vars(vars: &BTreeMap<String, String>) -> Result<(), SpecError> {
    let at = At::root("vars", Stage::Draft);
    at.count(vars.len(), 128)?;
    for (name, value) in vars {
        names::variable(at, name)?;
        var_value(at.field(name), value)?;
    }
    Ok(())
}

/// A document's metadata.
pub(crate) fn metadata(metadata: &Metadata, kind: DocumentKind) -> Result<(), SpecError> {
    let at = At::root("metadata", Stage::Draft);
    if !metadata.name.is_empty() {
        names::label(at.field("name"), &metadata.name)?;
    } else if kind != DocumentKind::Workspace {
        return Err(at.field("name").missing("a name"));
    }
    text::optional_line(at.field("displayName"), &metadata.display_name, 256)?;
    let here = at.field("labels");
    here.count(metadata.labels.len(), 64)?;
    for (key, value) in &metadata.labels {
        let sound = (1..=128).contains(&key.len())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'));
        if !sound {
            return Err(here.was(key, "keys of 1 to 128 letters, digits, '.', '_', '-' and '/'"));
        }
        text::optional_line(here.field(key), value, 256)?;
    }
    Ok(())
}
