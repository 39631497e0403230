//! Mutual TLS from PEM files: each side shows a certificate that an authority named by the other has signed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {}: {source}", path.display())]
pub struct ReadPem {
    path: PathBuf,
    source: io::Error,
}

/// What one side needs.
#[derive(Debug, Clone, Copy)]
pub struct PemFiles<'a> {
    /// Our certificate chain.
    pub cert: &'a Path,
    /// Its private key.
    pub key: &'a Path,
    /// The authority that the other side's certificate must come from.
    pub authority: &'a Path,
}

impl PemFiles<'_> {
    /// For a listener: clients without a certificate are refused.
    pub fn server(&self) -> Result<ServerTlsConfig, ReadPem> {
        let (identity, authority) = self.read()?;
        Ok(ServerTlsConfig::new().identity(identity).client_ca_root(authority).client_auth_optional(false))
    }

    /// For a connection.
    pub fn client(&self) -> Result<ClientTlsConfig, ReadPem> {
        let (identity, authority) = self.read()?;
        Ok(ClientTlsConfig::new().identity(identity).ca_certificate(authority))
    }

    fn read(&self) -> Result<(Identity, Certificate), ReadPem> {
        let identity = Identity::from_pem(pem(self.cert)?, pem(self.key)?);
        Ok((identity, Certificate::from_pem(pem(self.authority)?)))
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, ReadPem> {
    fs::read(path).map_err(|source| ReadPem { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let missing = Path::new("/nonexistent/ca.pem");
        let files =
            PemFiles { cert: Path::new("/dev/null"), key: Path::new("/dev/null"), authority: missing };
        let text = |error: Option<ReadPem>| error.map(|e| e.to_string()).unwrap_or_default();
        assert!(text(files.server().err()).starts_with("reading /nonexistent/ca.pem: "));
        assert!(text(files.client().err()).starts_with("reading /nonexistent/ca.pem: "));
    }
}
