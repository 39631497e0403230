//! PKCS#12 without a password, as Java 18 and later ship `cacerts`: nested DER (RFC 7292), no encryption, no checksum.

use super::{ALIASES, StoreError};
use crate::trust::der::{self, OCTET_STRING, OID, SEQUENCE, SET, explicit};

/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.12.10.1.3
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// 1.2.840.113549.1.9.22.1
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// 1.2.840.113549.1.9.20
const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
/// 2.16.840.1.113894.746875.1.1: without it, Java does not take the certificate for a trusted one.
const TRUSTED_KEY_USAGE: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
/// 2.5.29.37.0
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

pub fn edit(store: &[u8], former: Option<&[u8]>, new: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
    let mut rest = der::only(store, SEQUENCE)?;
    let version = der::take_a(&mut rest, der::INTEGER)?;
    let contents = plain_data(der::take_a(&mut rest, SEQUENCE)?)?;
    if !rest.is_empty() {
        return Err(StoreError::Encrypted);
    }
    let mut parts = der::only(contents, SEQUENCE)?;
    let mut edited = Vec::with_capacity(store.len() + 4096);
    while !parts.is_empty() {
        let bags = der::only(plain_data(der::take_a(&mut parts, SEQUENCE)?)?, SEQUENCE)?;
        let mut kept = without(bags, former)?;
        if parts.is_empty()
            && let Some(new) = new
        {
            kept.extend(bag(new));
        }
        edited.extend(data(&der::encode(SEQUENCE, &kept)));
    }
    if edited.is_empty() {
        return Err(StoreError::Broken);
    }
    let contents = data(&der::encode(SEQUENCE, &edited));
    Ok(der::encode(SEQUENCE, &[der::encode(der::INTEGER, version), contents].concat()))
}

/// Of the content of a ContentInfo.
fn plain_data(mut info: &[u8]) -> Result<&[u8], StoreError> {
    if der::take_a(&mut info, OID)? != DATA {
        return Err(StoreError::Encrypted);
    }
    Ok(der::only(der::only(info, explicit(0))?, OCTET_STRING)?)
}

fn data(content: &[u8]) -> Vec<u8> {
    let content = der::encode(explicit(0), &der::encode(OCTET_STRING, content));
    der::encode(SEQUENCE, &[der::encode(OID, DATA), content].concat())
}

fn without(mut bags: &[u8], former: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
    let mut kept = Vec::with_capacity(bags.len());
    while !bags.is_empty() {
        let bag = der::take(&mut bags)?;
        if bag.tag != SEQUENCE {
            return Err(StoreError::Broken);
        }
        if !is_ours(bag.content, former)? {
            kept.extend_from_slice(bag.whole);
        }
    }
    Ok(kept)
}

fn is_ours(mut bag: &[u8], former: Option<&[u8]>) -> Result<bool, StoreError> {
    if der::take_a(&mut bag, OID)? != CERTIFICATE_BAG {
        return Ok(false);
    }
    let mut certificate = der::only(der::take_a(&mut bag, explicit(0))?, SEQUENCE)?;
    if der::take_a(&mut certificate, OID)? != X509 {
        return Ok(false);
    }
    let certificate = der::only(der::only(certificate, explicit(0))?, OCTET_STRING)?;
    if former == Some(certificate) {
        return Ok(true);
    }
    let mut attributes = der::take_optional(&mut bag, SET)?.unwrap_or_default();
    while !attributes.is_empty() {
        let mut attribute = der::take_a(&mut attributes, SEQUENCE)?;
        if der::take_a(&mut attribute, OID)? == FRIENDLY_NAME {
            let name = der::only(der::only(attribute, SET)?, der::BMP_STRING)?;
            return Ok(ALIASES.iter().any(|alias| utf16(alias) == name));
        }
    }
    Ok(false)
}

fn bag(certificate: &[u8]) -> Vec<u8> {
    let sequence = |parts: &[Vec<u8>]| der::encode(SEQUENCE, &parts.concat());
    let oid = |oid: &[u8]| der::encode(OID, oid);
    let value = der::encode(explicit(0), &der::encode(OCTET_STRING, certificate));
    let attribute = |name: &[u8], value: Vec<u8>| sequence(&[oid(name), der::encode(SET, &value)]);
    let mut attributes = [
        attribute(FRIENDLY_NAME, der::encode(der::BMP_STRING, &utf16(ALIASES[0]))),
        attribute(TRUSTED_KEY_USAGE, oid(ANY_USAGE)),
    ];
    attributes.sort();
    sequence(&[
        oid(CERTIFICATE_BAG),
        der::encode(explicit(0), &sequence(&[oid(X509), value])),
        der::encode(SET, &attributes.concat()),
    ])
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}
