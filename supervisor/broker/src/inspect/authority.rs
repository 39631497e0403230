//! A workspace's certificate authority, and the certificates that it signs for bound hosts: made when first needed, kept for a day.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cordium_egress::Host;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::credentials::{Authority, CredentialsError};
use super::secret::Secret;

/// Certificates kept; the oldest goes.
const KEPT: usize = 256;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The sandbox's clock is the node's, but a client may compare with another one.
const BACK: Duration = Duration::from_secs(3600);
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a key or a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("taking the new certificate: {0}")]
    Take(#[from] rustls::Error),
    #[error("the new key is not understood: {0}")]
    Key(&'static str),
}

impl Authority {
    /// Makes one for a workspace; it may sign certificates of servers and nothing else.
    pub fn generate(workspace: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("cordium workspace {workspace}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - BACK).into(), (now + YEARS).into());
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: Secret::new(key.serialize_pem().into_bytes()) })
    }
}

/// Signs and keeps.
pub(super) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    kept: Mutex<HashMap<Host, (SystemTime, Arc<CertifiedKey>)>>,
}

impl Leaves {
    pub(super) fn new(authority: &Authority) -> Result<Self, CredentialsError> {
        let wrong =
            |field: &str, problem: String| CredentialsError::new(format!("authority.{field}"), problem);
        let pem = authority.key.expose();
        let text = std::str::from_utf8(pem).map_err(|_| wrong("key", "not PEM".into()))?;
        // The errors of parsers are not repeated: what they quote could be the key.
        let signing = KeyPair::from_pem(text).map_err(|_| wrong("key", "not a private key as PEM".into()))?;
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| wrong("key", "not a private key as PEM".into()))?;
        let certificate = CertificateDer::from_pem_slice(authority.certificate.as_bytes())
            .map_err(|error| wrong("certificate", error.to_string()))?;
        CertifiedKey::from_der(vec![certificate.clone()], key, &super::provider())
            .map_err(|error| wrong("certificate", format!("does not go with the key: {error}")))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, signing)
            .map_err(|error| wrong("certificate", error.to_string()))?;
        Ok(Self { issuer, kept: Mutex::default() })
    }

    /// The certificate for a host, with its key.
    pub(super) fn leaf(&self, host: &Host, now: SystemTime) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, leaf)) = kept.get(host)
            && now.duration_since(*made).is_ok_and(|age| age < DAY)
        {
            return Ok(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.sign(host, now)?);
        kept.insert(host.clone(), (now, Arc::clone(&leaf)));
        if kept.len() > KEPT
            && let Some(oldest) = kept.iter().min_by_key(|(_, (made, _))| *made).map(|(host, _)| host.clone())
        {
            kept.remove(&oldest);
        }
        Ok(leaf)
    }

    fn sign(&self, host: &Host, now: SystemTime) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_string()])?;
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = ((now - BACK).into(), (now + 3 * DAY).into());
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let der = Zeroizing::new(key.serialize_der());
        let key = PrivateKeyDer::try_from(der.as_slice()).map_err(AuthorityError::Key)?.clone_key();
        Ok(CertifiedKey::from_der(vec![certificate], key, &super::provider())?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_certificate_is_kept_for_a_day_and_the_store_is_bounded() {
        let leaves = Leaves::new(&Authority::generate("w").unwrap()).unwrap();
        let now = SystemTime::now();
        let first = leaves.leaf(&host("a.example"), now).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.leaf(&host("a.example"), now + DAY / 2).unwrap()));
        assert!(!Arc::ptr_eq(&first, &leaves.leaf(&host("a.example"), now + DAY).unwrap()));
        let back = leaves.leaf(&host("a.example"), now).unwrap();
        assert!(!Arc::ptr_eq(&first, &back), "a clock that goes back");
        for number in 0..KEPT as u32 {
            let later = now + Duration::from_secs(1 + u64::from(number));
            leaves.leaf(&host(&format!("h{number}.example")), later).unwrap();
        }
        let kept = leaves.kept.lock().unwrap();
        assert_eq!((kept.len(), kept.contains_key(&host("a.example"))), (KEPT, false));
    }

    #[test]
    fn a_key_of_another_authority_or_none_is_refused_without_quoting_it() {
        let (one, two) = (Authority::generate("one").unwrap(), Authority::generate("two").unwrap());
        let mixed = Authority { certificate: one.certificate.clone(), key: two.key };
        let path = |authority: &Authority| Leaves::new(authority).err().unwrap().path;
        assert_eq!(path(&mixed), "authority.certificate");
        let none = Authority { certificate: "x".into(), key: one.key };
        assert_eq!(path(&none), "authority.certificate");
        let nonsense = Authority { certificate: one.certificate, key: Secret::new(b"hunter2".to_vec()) };
        let error = Leaves::new(&nonsense).err().unwrap();
        assert_eq!(error.path, "authority.key");
        assert!(!error.problem.contains("hunter"));
    }
}
