//! Template and Workspace become one: what the Workspace sets overrides, lists are appended.

use crate::model::*;

/// The Workspace on top of its Template; limits and variables are merged too, but not yet applied.
pub(crate) fn merge(template: &TemplateSpec, workspace: &WorkspaceSpec) -> WorkspaceSpec {
    WorkspaceSpec {
        image: workspace.image.clone().or_else(|| template.image.clone()),
        repository: repository(template.repository.as_ref(), workspace.repository.as_ref()),
        additional_repositories: append(
            &template.additional_repositories,
            &workspace.additional_repositories,
        ),
        applications: workspace.applications.clone(),
        limit: workspace.limit.or(template.limit),
        vars: append(&template.vars, &workspace.vars),
        is_ephemeral: workspace.is_ephemeral,
        runtime: runtime(&template.runtime, &workspace.runtime),
    }
}

/// Another url replaces the repository altogether: neither a branch nor a credential is carried to another place.
fn repository(below: Option<&Repository>, above: Option<&Repository>) -> Option<Repository> {
    match (below, above) {
        (Some(below), Some(above)) if above.url.is_empty() || above.url == below.url => Some(Repository {
            url: below.url.clone(),
            clone_options: clone_options(&below.clone_options, &above.clone_options),
            authentication: above.authentication.clone().or_else(|| below.authentication.clone()),
        }),
        (below, above) => above.or(below).cloned(),
    }
}

fn clone_options(below: &CloneOptions, above: &CloneOptions) -> CloneOptions {
    CloneOptions {
        branch: above.branch.clone().or_else(|| below.branch.clone()),
        depth: above.depth.or(below.depth),
        single_branch: above.single_branch.or(below.single_branch),
        shallow_submodules: above.shallow_submodules.or(below.shallow_submodules),
        checkout: above.checkout.clone().or_else(|| below.checkout.clone()),
        disable_lazy_unshallow: above.disable_lazy_unshallow.or(below.disable_lazy_unshallow),
    }
}

pub(crate) fn runtime(below: &Runtime, above: &Runtime) -> Runtime {
    let egress = (&below.network.egress, &above.network.egress);
    Runtime {
        env_vars: append(&below.env_vars, &above.env_vars),
        tasks: append(&below.tasks, &above.tasks),
        disable_init: above.disable_init.or(below.disable_init),
        cmd: above.cmd.clone().or_else(|| below.cmd.clone()),
        entrypoint: above.entrypoint.clone().or_else(|| below.entrypoint.clone()),
        devcontainers: Devcontainers {
            features: append(&below.devcontainers.features, &above.devcontainers.features),
        },
        network: Network {
            egress: Egress {
                default_action: set(egress.0.default_action, egress.1.default_action),
                rules: append(&egress.0.rules, &egress.1.rules),
            },
            credentials: append(&below.network.credentials, &above.network.credentials),
            services: append(&below.network.services, &above.network.services),
            extra_roots: append(&below.network.extra_roots, &above.network.extra_roots),
        },
        filesystem: Filesystem { read_only: above.filesystem.read_only.or(below.filesystem.read_only) },
        capabilities: capabilities(&below.capabilities, &above.capabilities),
        timeout: RunTimeout { mode: set(below.timeout.mode, above.timeout.mode) },
        auto_stop: above.auto_stop.or(below.auto_stop),
        volume_mounts: append(&below.volume_mounts, &above.volume_mounts),
    }
}

/// The Space around the rest: its environment and its egress first, so that others override them, and its tasks last.
pub(crate) fn space(space: &SpaceRuntime, runtime: &mut Runtime) {
    runtime.env_vars = append(&space.env_vars, &runtime.env_vars);
    runtime.tasks = append(&runtime.tasks, &space.tasks);
    runtime.capabilities = capabilities(&runtime.capabilities, &space.capabilities);
    let action = &mut runtime.network.egress.default_action;
    *action = set(space.network.egress.default_action, *action);
}

fn capabilities(below: &Capabilities, above: &Capabilities) -> Capabilities {
    Capabilities { add: append(&below.add, &above.add), drop: append(&below.drop, &above.drop) }
}

fn append<T: Clone>(below: &[T], above: &[T]) -> Vec<T> {
    [below, above].concat()
}

fn set<T: Default + PartialEq>(below: T, above: T) -> T {
    if above == T::default() { below } else { above }
}
