//! What a keeper says about a workspace's services: data, and the bounds that hold on both sides of the socket.

use cordium_egress::service::{Kind, MAX_SERVICES, Shape, check_all, check_secret};
use serde::{Deserialize, Serialize};

use super::table::Table;
use crate::inspect::{CredentialsError, Roots, Secret};

/// Written as JSON.
pub(crate) const MAX_TERMS: u64 = 2 << 20;

/// The services of a workspace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Services {
    /// Certificates (PEM) of authorities that upstreams may have beside those of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_roots: Vec<String>,
    pub services: Vec<Service>,
}

/// A name inside, behind which the broker logs in to a server elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Shown in refusals.
    pub name: String,
    pub upstream: Place,
    pub local: Place,
    pub protocol: Protocol,
    /// Without one it has been taken away, and whoever connects is told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

/// What is spoken, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Protocol {
    #[serde(rename_all = "camelCase")]
    Postgresql {
        user: String,
        /// Without one, the one that the client asks for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<String>,
        /// With TLS whose certificate is verified; without it, only in ways that do not show the password.
        tls: bool,
    },
}

impl Services {
    /// Whether a broker would take these; where they are wrong. Never has a value in it.
    pub fn check(&self) -> Result<(), CredentialsError> {
        Table::new(self.clone(), &Roots::none()).map(drop)
    }

    /// Everything but the certificates.
    pub(super) fn check_texts(&self) -> Result<(), CredentialsError> {
        let wrong = |path: String, problem: String| Err(CredentialsError { path, problem });
        let count = self.services.len();
        if !(1..=MAX_SERVICES).contains(&count) {
            return wrong(
                "services".into(),
                format!("has a length of {count}; allowed: 1 to {MAX_SERVICES}"),
            );
        }
        let shapes: Vec<Shape<'_>> = self.services.iter().map(Service::shape).collect();
        check_all(&shapes)
            .or_else(|(index, error)| wrong(format!("services[{index}].{}", error.path), error.problem))?;
        for (index, service) in self.services.iter().enumerate() {
            if let Some(secret) = &service.secret {
                check_secret(service.kind(), secret.expose()).or_else(|error| {
                    wrong(format!("services[{index}].{}", error.path), format!("its value {}", error.problem))
                })?;
            }
        }
        Ok(())
    }
}

impl Service {
    pub(super) fn kind(&self) -> Kind {
        match self.protocol {
            Protocol::Postgresql { .. } => Kind::Postgresql,
        }
    }

    fn shape(&self) -> Shape<'_> {
        let Protocol::Postgresql { user, database, .. } = &self.protocol;
        Shape {
            name: &self.name,
            kind: self.kind(),
            upstream_host: &self.upstream.host,
            upstream_port: self.upstream.port,
            local_host: &self.local.host,
            local_port: self.local.port,
            user,
            database: database.as_deref(),
            host_keys: &[],
        }
    }
}
