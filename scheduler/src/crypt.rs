//! Secrets at rest: XChaCha20-Poly1305 under one key file.
//!
//! The associated data binds a ciphertext to the uid, name and space of its row, so that rows cannot be swapped
//! by somebody who can write the store but has no key.

use std::{
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, Key, KeyInit as _, Payload},
};

use crate::error::{ApiError, SchedulerError};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// The row that a secret's data belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub uid: &'a str,
    pub name: &'a str,
    pub space: &'a str,
}

/// Nobody has seen these.
pub fn random_bytes() -> Result<[u8; NONCE_BYTES], ApiError> {
    XNonce::try_generate().map(Into::into).map_err(|e| ApiError::Random(e.to_string()))
}

impl Owner<'_> {
    fn associated_data(&self) -> String {
        format!("{}|{}|{}", self.uid, self.name, self.space)
    }
}

#[derive(Clone)]
pub struct Cipher(XChaCha20Poly1305);

impl Cipher {
    /// Reads the key file, or makes it (mode 0600) when there is none.
    pub fn open(path: &Path) -> Result<Self, SchedulerError> {
        let key = match read_key(path)? {
            Some(key) => key,
            None => make_key(path)?,
        };
        Ok(Self(XChaCha20Poly1305::new(&key)))
    }

    /// Nonce and ciphertext, in that order.
    pub fn seal(&self, owner: Owner<'_>, data: &[u8]) -> Result<Vec<u8>, ApiError> {
        let nonce = XNonce::try_generate().map_err(|e| ApiError::Random(e.to_string()))?;
        let aad = owner.associated_data();
        let sealed = self
            .0
            .encrypt(&nonce, Payload { msg: data, aad: aad.as_bytes() })
            .map_err(|_| corrupt(owner, "it could not be encrypted"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub fn open_sealed(&self, owner: Owner<'_>, sealed: &[u8]) -> Result<Vec<u8>, ApiError> {
        let (nonce, data) =
            sealed.split_at_checked(NONCE_BYTES).ok_or_else(|| corrupt(owner, "it is too short"))?;
        let nonce = XNonce::try_from(nonce).map_err(|_| corrupt(owner, "its nonce is too short"))?;
        let aad = owner.associated_data();
        self.0
            .decrypt(&nonce, Payload { msg: data, aad: aad.as_bytes() })
            .map_err(|_| corrupt(owner, "it was written with another key, or changed"))
    }
}

fn corrupt(owner: Owner<'_>, why: &str) -> ApiError {
    ApiError::Corrupt { what: "data", of: format!("secret {}", owner.name), why: why.to_owned() }
}

fn read_key(path: &Path) -> Result<Option<Key<XChaCha20Poly1305>>, SchedulerError> {
    let fail = |source| SchedulerError::ReadKey { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SchedulerError::KeyMode { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Key::<XChaCha20Poly1305>::try_from(bytes.as_slice())
        .map(Some)
        .map_err(|_| SchedulerError::KeyLength { path: path.to_owned(), found: bytes.len() })
}

/// Written beside its place and linked there: no half-written key, and of two makers one wins.
fn make_key(path: &Path) -> Result<Key<XChaCha20Poly1305>, SchedulerError> {
    let fail = |source| SchedulerError::WriteKey { path: path.to_owned(), source };
    let key = Key::<XChaCha20Poly1305>::try_generate().map_err(|e| SchedulerError::Random(e.to_string()))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let draft = std::path::PathBuf::from(draft);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&key)?;
        file.sync_all()?;
        std::fs::hard_link(&draft, path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => std::fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    let written = write();
    let removed = std::fs::remove_file(&draft);
    match written {
        Ok(()) => removed.map_err(fail).map(|()| key),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            read_key(path)?.ok_or_else(|| fail(std::io::ErrorKind::NotFound.into()))
        }
        Err(source) => Err(fail(source)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { uid: "u1", name: "token", space: "default" };

    #[test]
    fn opens_only_for_its_own_row() {
        let dir = tempfile::tempdir().unwrap();
        let cipher = Cipher::open(&dir.path().join("secret.key")).unwrap();
        let sealed = cipher.seal(OWNER, b"value").unwrap();
        assert_eq!(cipher.open_sealed(OWNER, &sealed).unwrap(), b"value");
        for other in
            [Owner { uid: "u2", ..OWNER }, Owner { name: "other", ..OWNER }, Owner { space: "team", ..OWNER }]
        {
            assert!(cipher.open_sealed(other, &sealed).is_err());
        }
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(cipher.open_sealed(OWNER, &changed).is_err());
        assert!(cipher.open_sealed(OWNER, &sealed[..10]).is_err());
        assert_ne!(sealed, cipher.seal(OWNER, b"value").unwrap(), "nonces are fresh");
    }

    #[test]
    fn the_key_file_is_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let sealed = Cipher::open(&path).unwrap().seal(OWNER, b"value").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Cipher::open(&path).unwrap().open_sealed(OWNER, &sealed).unwrap(), b"value");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Cipher::open(&path), Err(SchedulerError::KeyMode { .. })));
    }

    #[test]
    fn a_short_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        assert!(matches!(Cipher::open(&path), Err(SchedulerError::KeyLength { found: 0, .. })));
    }
}
