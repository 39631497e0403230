//! The certificate authority that the supervisor sends: one certificate, which may sign others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::der::{self, Malformed};
use super::subject_hash;

pub const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
pub const END: &str = "-----END CERTIFICATE-----";
pub const MAX_PEM: usize = 16 << 10;
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const LINE: usize = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("it is larger than 16 KiB")]
    TooLarge,
    #[error("it is not one certificate as PEM")]
    NotPem,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("it may not sign certificates (basicConstraints without CA)")]
    NotAnAuthority,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub der: Vec<u8>,
    /// Written anew: nothing but the certificate, in lines of 64 characters, with a newline at the end.
    pub pem: String,
    pub subject_hash: u32,
}

impl Authority {
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        if pem.len() > MAX_PEM {
            return Err(AuthorityError::TooLarge);
        }
        let body = pem.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let body: String = body.ok_or(AuthorityError::NotPem)?.split_ascii_whitespace().collect();
        let der = STANDARD.decode(&body).map_err(|_| AuthorityError::NotPem)?;
        let (subject, is_authority) = read(&der)?;
        if !is_authority {
            return Err(AuthorityError::NotAnAuthority);
        }
        let subject_hash = subject_hash::of(subject)?;
        Ok(Self { pem: to_pem(&body), subject_hash, der })
    }
}

fn to_pem(body: &str) -> String {
    let mut pem = format!("{BEGIN}\n");
    let mut rest = body;
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + END + "\n"
}

/// The content of the subject's name, and whether it is a certificate authority (RFC 5280 §4.1).
fn read(certificate: &[u8]) -> Result<(&[u8], bool), Malformed> {
    let mut rest = der::only(certificate, der::SEQUENCE)?;
    let mut signed = der::take_a(&mut rest, der::SEQUENCE)?;
    der::take_optional(&mut signed, der::explicit(0))?;
    der::take_a(&mut signed, der::INTEGER)?;
    for _algorithm_issuer_validity in 0..3 {
        der::take_a(&mut signed, der::SEQUENCE)?;
    }
    let subject = der::take_a(&mut signed, der::SEQUENCE)?;
    der::take_a(&mut signed, der::SEQUENCE)?;
    while !signed.is_empty() {
        let element = der::take(&mut signed)?;
        if element.tag == der::explicit(3) {
            return Ok((subject, has_ca(der::only(element.content, der::SEQUENCE)?)?));
        }
    }
    Ok((subject, false))
}

fn has_ca(mut extensions: &[u8]) -> Result<bool, Malformed> {
    while !extensions.is_empty() {
        let mut extension = der::take_a(&mut extensions, der::SEQUENCE)?;
        let name = der::take_a(&mut extension, der::OID)?;
        der::take_optional(&mut extension, der::BOOLEAN)?;
        let value = der::only(extension, der::OCTET_STRING)?;
        if name == BASIC_CONSTRAINTS {
            let mut constraints = der::only(value, der::SEQUENCE)?;
            let ca = der::take_optional(&mut constraints, der::BOOLEAN)?;
            return Ok(ca == Some(&[0xff]));
        }
    }
    Ok(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    /// As the broker makes them.
    pub fn pem_of(name: &str, is_ca: bool) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    pub fn authority(name: &str) -> Authority {
        Authority::parse(&pem_of(name, true)).unwrap()
    }

    #[test]
    fn one_authority_is_taken_and_written_plainly() {
        let pem = pem_of("cordium workspace demo", true);
        let authority = Authority::parse(&pem).unwrap();
        let windows = pem.replace('\n', "\r\n");
        assert_eq!(Authority::parse(&format!("\n {windows}\n\n")).unwrap(), authority);
        assert_eq!(Authority::parse(&authority.pem).unwrap(), authority);
        assert!(authority.pem.lines().all(|line| line.len() <= LINE) && authority.pem.ends_with("-----\n"));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = pem_of("a", true);
        let refused = |pem: &str| Authority::parse(pem).unwrap_err();
        assert_eq!(refused(&pem_of("a", false)), AuthorityError::NotAnAuthority);
        assert_eq!(refused(&format!("{good}{good}")), AuthorityError::NotPem);
        assert_eq!(refused(&format!("# comment\n{good}")), AuthorityError::NotPem);
        assert_eq!(refused(&good.replace("CERTIFICATE", "PRIVATE KEY")), AuthorityError::NotPem);
        assert_eq!(refused(&format!("{BEGIN}\n{END}\n")), AuthorityError::Malformed(Malformed));
        assert_eq!(refused(""), AuthorityError::NotPem);
        assert_eq!(refused(&format!("{good}{}", " ".repeat(MAX_PEM))), AuthorityError::TooLarge);
        let der = Authority::parse(&good).unwrap().der;
        for length in 0..der.len() {
            let cut = to_pem(&STANDARD.encode(&der[..length]));
            assert_eq!(refused(&cut), AuthorityError::Malformed(Malformed), "cut at {length}");
        }
        let longer = to_pem(&STANDARD.encode([der.as_slice(), &[0]].concat()));
        assert_eq!(refused(&longer), AuthorityError::Malformed(Malformed));
    }
}
