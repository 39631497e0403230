//! Servers that the broker logs in to for a workspace: their credentials go to the broker, and nothing of them inside.

use cordium_broker::{Place, Secret, Service, ServiceProtocol, Services};
use cordium_egress::binding::trimmed;
use cordium_spec::{Network, TlsMode, WorkspaceSpec};

use super::Secrets;
use crate::request_error::RequestError;

/// The services of a run that begins. Every credential must be there.
pub(super) fn services(spec: &WorkspaceSpec, secrets: &Secrets) -> Result<Option<Services>, RequestError> {
    let Network { services: asked, extra_roots, .. } = &spec.runtime.network;
    if asked.is_empty() {
        return Ok(None);
    }
    for service in asked {
        secrets.get(&service.from_secret).map_err(RequestError::Invalid)?;
    }
    let services = Services { extra_roots: extra_roots.clone(), services: terms(spec, secrets) };
    // What the broker would refuse, in the spec's terms.
    services.check().map_err(|error| {
        RequestError::Invalid(format!("spec.runtime.network.{}: {}", error.path, error.problem))
    })?;
    Ok(Some(services))
}

/// The services of a run, each with its credential if there is one. One without has been revoked.
pub(super) fn terms(spec: &WorkspaceSpec, secrets: &Secrets) -> Vec<Service> {
    let services = spec.runtime.network.services.iter();
    services.map(|service| one(service, secrets.find(&service.from_secret))).collect()
}

fn one(service: &cordium_spec::Service, value: Option<&str>) -> Service {
    let protocol = match service.protocol.clone() {
        cordium_spec::ServiceProtocol::Postgresql { user, database, tls } => {
            ServiceProtocol::Postgresql { user, database, tls: tls == TlsMode::VerifyFull }
        }
    };
    Service {
        name: service.name.clone(),
        upstream: Place { host: service.upstream.host.clone(), port: service.upstream_port() },
        local: Place { host: service.local_host(), port: service.local_port() },
        protocol,
        secret: value.map(|value| Secret::new(trimmed(value.as_bytes()).to_vec())),
    }
}
