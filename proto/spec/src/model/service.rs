//! Servers elsewhere that the broker logs in to for a workspace.

use cordium_egress::service::{Kind, Shape, local_host};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// A server elsewhere that the workspace uses without its password: it connects to `local`, and the broker logs in to `upstream`.
/// That it stands here is the permission: no egress rule need allow it, though a DENY still denies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Lower-case letters, digits and '-'.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The name of a Secret of the Space: the password of a PostgreSQL account.
    #[schemars(length(min = 1, max = 253))]
    pub from_secret: String,
    pub upstream: Upstream,
    #[serde(default, skip_serializing_if = "is_default")]
    pub local: Local,
    pub protocol: ServiceProtocol,
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// A name or an address; host.cordium.internal is the node itself, on the ports that it opens.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// By default the protocol's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// Where the workspace finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Local {
    /// A name below cordium.internal. By default the service's name there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// By default the protocol's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// What is spoken, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ServiceProtocol {
    /// PostgreSQL. The user that a client says is replaced.
    Postgresql {
        #[schemars(length(min = 1, max = 63))]
        user: String,
        /// Replaces the one that a client asks for. Without it the client's is asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 63))]
        database: Option<String>,
        #[serde(default, skip_serializing_if = "is_default")]
        tls: TlsMode,
    },
}

/// How the broker speaks with the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// With TLS, whose certificate must be for `upstream.host` and of an authority of the node or of `network.extraRoots`.
    #[default]
    VerifyFull,
    /// Without TLS. The password is then proven with SCRAM and never sent.
    Disable,
}

impl Service {
    pub fn kind(&self) -> Kind {
        match self.protocol {
            ServiceProtocol::Postgresql { .. } => Kind::Postgresql,
        }
    }

    pub fn upstream_port(&self) -> u16 {
        self.upstream.port.unwrap_or(self.kind().port())
    }

    pub fn local_host(&self) -> String {
        self.local.host.clone().unwrap_or_else(|| local_host(&self.name))
    }

    pub fn local_port(&self) -> u16 {
        self.local.port.unwrap_or(self.kind().port())
    }

    /// As the broker checks it.
    pub(crate) fn shape<'a>(&'a self, local_host: &'a str) -> Shape<'a> {
        let ServiceProtocol::Postgresql { user, database, .. } = &self.protocol;
        Shape {
            name: &self.name,
            kind: self.kind(),
            upstream_host: &self.upstream.host,
            upstream_port: self.upstream_port(),
            local_host,
            local_port: self.local_port(),
            user,
            database: database.as_deref(),
            host_keys: &[],
        }
    }
}
