//! A workspace's credentials, checked and ready to be put on requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use cordium_egress::Host;
use cordium_egress::binding::Inject;
use http::{HeaderName, Method};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};

use super::authority::{AuthorityError, Leaves};
use super::credentials::{Binding, Credentials, CredentialsError};
use super::roots::Roots;
use super::secret::Secret;

pub(crate) struct Inspection {
    pub(super) bindings: Vec<Bound>,
    /// Positions in `bindings`.
    by_host: HashMap<Host, Vec<usize>>,
    leaves: Leaves,
    client: ClientConfig,
}

/// A binding whose texts have been read.
pub(super) struct Bound {
    pub name: String,
    pub secret: String,
    pub methods: Vec<Method>,
    pub paths: Vec<String>,
    pub inject: Slot,
    pub placeholder: String,
    pub value: Secret,
}

pub(super) enum Slot {
    Header { name: HeaderName, prefix: String },
    Basic { username: String },
    Query { name: String },
    SigV4 { access_key_id: String },
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection").finish_non_exhaustive()
    }
}

impl Inspection {
    pub(crate) fn new(credentials: Credentials, roots: &Roots) -> Result<Self, CredentialsError> {
        credentials.check_texts()?;
        let leaves = Leaves::new(&credentials.authority)?;
        let roots = roots.with(&credentials.extra_roots)?;
        let client = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| CredentialsError::new("extraRoots", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut by_host: HashMap<Host, Vec<usize>> = HashMap::new();
        let mut bindings = Vec::new();
        for (index, binding) in credentials.bindings.into_iter().enumerate() {
            for host in &binding.hosts {
                let host = Host::parse(host).map_err(|error| {
                    CredentialsError::new(format!("bindings[{index}].hosts"), error.to_string())
                })?;
                let found = by_host.entry(host).or_default();
                if !found.contains(&index) {
                    found.push(index);
                }
            }
            bindings.push(
                Bound::new(binding)
                    .map_err(|problem| CredentialsError::new(format!("bindings[{index}]"), problem))?,
            );
        }
        Ok(Self { bindings, by_host, leaves, client })
    }

    pub(crate) fn binds(&self, host: &Host) -> bool {
        self.by_host.contains_key(host)
    }

    /// Whether requests to a host may have to be signed.
    pub(super) fn signs(&self, host: &Host) -> bool {
        self.of(host).any(|bound| matches!(bound.inject, Slot::SigV4 { .. }))
    }

    /// The bindings of a host, in the order of the registration.
    pub(super) fn of(&self, host: &Host) -> impl Iterator<Item = &Bound> {
        self.by_host.get(host).into_iter().flatten().filter_map(|index| self.bindings.get(*index))
    }

    /// For the side of the workspace: with these protocols in ALPN.
    pub(super) fn server(
        &self,
        host: &Host,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let leaf = self.leaves.leaf(host, SystemTime::now())?;
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = protocols;
        // The configuration is of one connection: nothing could be resumed.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For the side of the server: with these protocols in ALPN.
    pub(super) fn client(&self, protocols: Vec<Vec<u8>>) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config.alpn_protocols = protocols;
        Arc::new(config)
    }
}

impl Bound {
    fn new(binding: Binding) -> Result<Self, String> {
        let method = |text: &String| Method::from_bytes(text.as_bytes()).map_err(|error| error.to_string());
        let inject = match binding.inject {
            Inject::Header { name, prefix } => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
                Slot::Header { name, prefix }
            }
            Inject::Basic { username } => Slot::Basic { username },
            Inject::Query { name } => Slot::Query { name },
            Inject::SigV4 { access_key_id } => Slot::SigV4 { access_key_id },
        };
        let methods = binding.methods.iter().map(method).collect::<Result<_, _>>()?;
        let Binding { name, secret, paths, placeholder, value, .. } = binding;
        Ok(Self { name, secret, methods, paths, inject, placeholder, value })
    }
}
