//! What is put on a workspace's requests: the values go to the broker, the workspace gets placeholders.

use cordium_broker::{Authority, Binding, Credentials, Renewal, Secret};
use cordium_egress::{DefaultAction, binding::trimmed};
use cordium_proto::v1::EnvVar;
use cordium_spec::{Credential, Network, WorkspaceSpec};

use super::{Secrets, services};
use crate::request_error::RequestError;

/// The credentials of a run that begins, with an authority of its own. Every value must be there. Rules by method or path need
/// the authority, too: requests inside TLS are not seen without it.
pub(super) fn credentials(
    workspace: &str,
    spec: &WorkspaceSpec,
    secrets: &Secrets,
) -> Result<Option<Credentials>, RequestError> {
    let Network { egress, credentials: asked, extra_roots, .. } = &spec.runtime.network;
    if asked.is_empty() && !egress.policy(DefaultAction::Deny, Vec::new()).goes_by_request() {
        return Ok(None);
    }
    for credential in asked {
        secrets.get(&credential.from_secret).map_err(RequestError::Invalid)?;
    }
    let authority = Authority::generate(workspace).map_err(|error| {
        RequestError::Internal(format!("making the authority for the run's credentials: {error}"))
    })?;
    let bindings = bindings(spec, secrets)?;
    let credentials = Credentials { authority, extra_roots: extra_roots.clone(), bindings };
    check(&credentials)?;
    Ok(Some(credentials))
}

/// The credentials of a run as they are now.
pub fn renewal(spec: &WorkspaceSpec, secrets: &Secrets) -> Result<Renewal, RequestError> {
    Ok(Renewal { bindings: bindings(spec, secrets)?, services: services::terms(spec, secrets) })
}

/// The bindings of a run, as far as there is a value. A credential without one is revoked.
fn bindings(spec: &WorkspaceSpec, secrets: &Secrets) -> Result<Vec<Binding>, RequestError> {
    let mut bindings = Vec::new();
    for (index, credential) in spec.runtime.network.credentials.iter().enumerate() {
        if let Some(value) = secrets.find(&credential.from_secret) {
            bindings.push(binding(index, credential, value)?);
        }
    }
    Ok(bindings)
}

fn binding(index: usize, credential: &Credential, value: &str) -> Result<Binding, RequestError> {
    let placeholder = credential.placeholder.clone().ok_or_else(|| {
        RequestError::Invalid(format!(
            "spec.runtime.network.credentials[{index}].placeholder: missing; whoever starts a run makes one"
        ))
    })?;
    Ok(Binding {
        name: credential.name.clone(),
        secret: credential.from_secret.clone(),
        hosts: credential.hosts.clone(),
        methods: credential.methods.clone(),
        paths: credential.paths.clone(),
        inject: (&credential.inject).into(),
        placeholder,
        value: Secret::new(trimmed(value.as_bytes()).to_vec()),
    })
}

/// What the broker would refuse, in the spec's terms.
fn check(credentials: &Credentials) -> Result<(), RequestError> {
    credentials.check().map_err(|error| {
        let path = error.path.replacen("bindings", "credentials", 1).replacen(".value", ".fromSecret", 1);
        RequestError::Invalid(format!("spec.runtime.network.{path}: {}", error.problem))
    })
}

/// What a workspace's programs have instead of the values.
pub(super) fn placeholders(spec: &WorkspaceSpec) -> impl Iterator<Item = EnvVar> {
    spec.runtime.network.credentials.iter().filter_map(|credential| {
        let (key, value) = (credential.env.clone()?, credential.placeholder.clone()?);
        Some(EnvVar { key, value })
    })
}
