//! Whom the broker believes when a server of a bound host shows its certificate.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing::warn;

use super::credentials::CredentialsError;

/// The node's authorities.
#[derive(Clone)]
pub(crate) struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads those of the node. To be called before the broker gives up its files.
    pub(crate) fn of_node() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            warn!(%error, "reading the node's certificate authorities");
        }
        let mut store = RootCertStore::empty();
        let (_, ignored) = store.add_parsable_certificates(found.certs);
        if ignored > 0 {
            warn!(ignored, "some of the node's certificate authorities are not understood");
        }
        Self(Arc::new(store))
    }

    /// Nobody.
    pub(crate) fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    pub(crate) fn with(&self, extra: &[String]) -> Result<Arc<RootCertStore>, CredentialsError> {
        if extra.is_empty() {
            return Ok(Arc::clone(&self.0));
        }
        let mut store = RootCertStore::clone(&self.0);
        for (index, pem) in extra.iter().enumerate() {
            let wrong = |problem: String| CredentialsError::new(format!("extraRoots[{index}]"), problem);
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                store.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        }
        Ok(Arc::new(store))
    }
}
