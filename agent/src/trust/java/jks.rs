//! JKS, which every Java reads: a count, entries, and a SHA-1 over a password and all of that.

use sha1::{Digest as _, Sha1};

use super::{ALIASES, StoreError};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const PASSWORD: &str = "changeit";
const DIGEST: usize = 20;
const KEY: u32 = 1;
const CERTIFICATE: u32 = 2;

pub fn edit(store: &[u8], former: Option<&[u8]>, new: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
    let length = store.len().checked_sub(DIGEST).ok_or(StoreError::Broken)?;
    let (body, digest) = store.split_at(length);
    let mut reader = Reader(body);
    // Before version 2, a certificate did not say its type; nobody ships those.
    if (reader.number()?, reader.number()?) != (MAGIC, VERSION) {
        return Err(StoreError::Unknown);
    }
    let count = reader.number()?;
    let mut kept = Vec::with_capacity(store.len() + 4096);
    let mut left = 0;
    for _ in 0..count {
        let entry = reader.entry()?;
        let named = ALIASES.iter().any(|name| name.as_bytes() == entry.alias);
        if !entry.certificate.is_some_and(|certificate| named || Some(certificate) == former) {
            kept.extend_from_slice(entry.whole);
            left += 1;
        }
    }
    if !reader.0.is_empty() {
        return Err(StoreError::Broken);
    }
    if digest_of(body) != digest {
        return Err(StoreError::Password);
    }
    if let Some(new) = new {
        kept.extend(entry_of(new)?);
        left += 1;
    }
    let mut edited = [MAGIC, VERSION, left].map(u32::to_be_bytes).concat();
    edited.append(&mut kept);
    let digest = digest_of(&edited);
    edited.extend(digest);
    Ok(edited)
}

fn digest_of(body: &[u8]) -> [u8; DIGEST] {
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    Sha1::new().chain_update(password).chain_update(b"Mighty Aphrodite").chain_update(body).finalize().into()
}

fn entry_of(certificate: &[u8]) -> Result<Vec<u8>, StoreError> {
    let length = u32::try_from(certificate.len()).map_err(|_| StoreError::Broken)?;
    // Always of the same date, so that the same certificate makes the same file.
    let date = [0; 8];
    Ok([
        &CERTIFICATE.to_be_bytes()[..],
        &text(ALIASES[0]),
        &date,
        &text("X.509"),
        &length.to_be_bytes(),
        certificate,
    ]
    .concat())
}

/// Of plain ASCII.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

struct Entry<'a> {
    whole: &'a [u8],
    alias: &'a [u8],
    /// None of a private key's.
    certificate: Option<&'a [u8]>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(StoreError::Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, StoreError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(StoreError::Broken)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    fn text(&mut self) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(StoreError::Broken)?;
        self.0 = rest;
        self.bytes(usize::from(u16::from_be_bytes(*taken)))
    }

    fn data(&mut self) -> Result<&'a [u8], StoreError> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).map_err(|_| StoreError::Broken)?)
    }

    fn certificate(&mut self) -> Result<&'a [u8], StoreError> {
        self.text()?;
        self.data()
    }

    fn entry(&mut self) -> Result<Entry<'a>, StoreError> {
        let all = self.0;
        let kind = self.number()?;
        let alias = self.text()?;
        self.bytes(8)?;
        let certificate = match kind {
            CERTIFICATE => Some(self.certificate()?),
            KEY => {
                self.data()?;
                for _ in 0..self.number()? {
                    self.certificate()?;
                }
                None
            }
            _ => return Err(StoreError::Broken),
        };
        Ok(Entry { whole: &all[..all.len() - self.0.len()], alias, certificate })
    }
}
