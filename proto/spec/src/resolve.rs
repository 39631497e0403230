//! From what people wrote to what a node carries out.

mod normalize;
mod substitute;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::SpecError;
use crate::merge;
use crate::model::*;
use crate::validate;
use crate::vars::Vars;

/// What a node gives when nobody says anything, and what it never exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitDefaults {
    pub default: EffectiveLimit,
    /// A dimension that is unset has no cap.
    pub max: Limit,
}

impl Default for LimitDefaults {
    fn default() -> Self {
        Self { default: EffectiveLimit::DEFAULT, max: Limit::default() }
    }
}

/// Template → Workspace, then the Space's environment, tasks and capabilities, then limits, then variables
/// (Template < Workspace < run). The result is checked again, has every limit set, each environment key once, a name
/// for each task and only what this version can carry out.
pub fn resolve(
    template: &TemplateSpec,
    workspace: &WorkspaceSpec,
    space: &SpaceSpec,
    run_vars: &BTreeMap<String, String>,
    node_defaults: &LimitDefaults,
) -> Result<WorkspaceSpec, SpecError> {
    validate::run_vars(run_vars)?;
    if template.git_provider.is_some() {
        return Err(unsupported("spec.gitProvider", "git providers", "repository.authentication"));
    }
    let mut spec = merge::merge(template, workspace);
    merge::space(&space.runtime, &mut spec.runtime);
    spec.limit = limit(&spec.limit, space, node_defaults)?;

    let mut raw: BTreeMap<_, _> = spec.vars.drain(..).map(|var| (var.name, var.value)).collect();
    raw.extend(run_vars.clone());
    let mut vars = Vars::new(&raw)?;
    substitute::spec(&mut spec, &mut vars)?;
    spec.vars =
        vars.values().iter().map(|(name, value)| Var { name: name.clone(), value: value.clone() }).collect();

    normalize::runtime(&mut spec.runtime);
    validate::validate_resolved(&spec).map_err(|error| vars.explain(error))?;
    check_supported(&spec)?;
    Ok(spec)
}

/// What is asked for must lie within what the Space and the node allow; what nobody asked for is made to.
fn limit(asked: &Limit, space: &SpaceSpec, node: &LimitDefaults) -> Result<Limit, SpecError> {
    for (who, max) in [("the Space", space.limit.max_limit), ("the node", node.max)] {
        let beyond: Vec<String> = asked
            .beyond(&max)
            .into_iter()
            .map(|(field, asked, allowed)| format!("{field} was {asked}, allowed: at most {allowed}"))
            .collect();
        if !beyond.is_empty() {
            let message = format!("asks for more than {who} allows: {}", beyond.join("; "));
            return Err(SpecError::new("spec.limit", message));
        }
    }
    // The number of files follows the storage unless somebody has said it.
    let usual = Limit { inodes: None, ..node.default.into() };
    let limit = asked.or(space.limit.default_limit).or(usual).capped(space.limit.max_limit).capped(node.max);
    Ok(limit.or(limit.effective().into()))
}

/// Refuses by name what the schema has but no node can do yet.
pub fn check_supported(spec: &WorkspaceSpec) -> Result<(), SpecError> {
    match &spec.image {
        None | Some(ImageSource::Registry(_)) => {}
        Some(source) => {
            let kind = source.kind();
            return Err(unsupported(&format!("spec.image.{kind}"), "building an image", "image.registry"));
        }
    }
    if !spec.runtime.devcontainers.features.is_empty() {
        return Err(unsupported(
            "spec.runtime.devcontainers.features",
            "installing devcontainer features",
            "an ON_CREATE task",
        ));
    }
    Ok(())
}

fn unsupported(path: &str, what: &str, instead: &str) -> SpecError {
    SpecError::new(path, format!("{what} is not supported yet; use {instead}"))
}

/// The name of every Secret that the spec uses.
pub fn secret_names(spec: &WorkspaceSpec) -> BTreeSet<String> {
    let registry = match &spec.image {
        Some(ImageSource::Registry(image)) => {
            image.authentication.as_ref().map(|auth| &auth.password.from_secret)
        }
        _ => None,
    };
    let additional = spec.additional_repositories.iter().map(|additional| &additional.repository);
    let repositories = spec.repository.iter().chain(additional);
    let passwords = repositories.filter_map(|repository| repository.authentication.as_ref());
    let env = spec.runtime.env_vars.iter().filter_map(|env| env.from_secret.as_ref());
    let credentials = spec.runtime.network.credentials.iter().map(|credential| &credential.from_secret);
    let services = spec.runtime.network.services.iter().map(|service| &service.from_secret);
    registry
        .into_iter()
        .chain(passwords.map(|auth| &auth.http.password.from_secret))
        .chain(env)
        .chain(credentials)
        .chain(services)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
