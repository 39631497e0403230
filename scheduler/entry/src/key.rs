//! Tokens of workspaces, and the cookies that they are exchanged for: keyed hashes, so that none has to be kept.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

const BYTES: usize = 32;
const TOKEN: &[u8] = b"cordium entry token 1\0";
const COOKIE: &[u8] = b"cordium entry cookie 1\0";

/// The key of the tokens cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file operation failed.
    #[error("{doing} the key of the HTTP entry {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what this made.
    #[error("the key of the HTTP entry {} {why}: remove it, and old addresses are worth nothing", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No random numbers.
    #[error("making a key for the HTTP entry: the system gives no random numbers")]
    Random,
}

pub struct Key(hmac::Key);

impl Key {
    /// Reads the file, or makes it, mode 0600.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let fail = |doing| move |source| KeyError::File { doing, path: path.to_owned(), source };
        let unfit = |why| KeyError::Unfit { path: path.to_owned(), why };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::make(path),
            Err(error) => return Err(fail("opening")(error)),
        };
        if file.metadata().map_err(fail("looking at"))?.mode() & 0o077 != 0 {
            return Err(unfit("can be read by others"));
        }
        let mut key = Vec::new();
        file.take(BYTES as u64 + 1).read_to_end(&mut key).map_err(fail("reading"))?;
        if key.len() != BYTES {
            return Err(unfit("is not 32 bytes long"));
        }
        Ok(Self::from(&key))
    }

    /// The file is whole or it is not there.
    fn make(path: &Path) -> Result<Self, KeyError> {
        let fail = |doing| move |source| KeyError::File { doing, path: path.to_owned(), source };
        let mut key = [0; BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Random)?;
        let new = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new).map_err(fail("making"))?;
        file.write_all(&key).and_then(|()| file.sync_all()).map_err(fail("writing"))?;
        std::fs::rename(&new, path).map_err(fail("naming"))?;
        Ok(Self::from(&key))
    }

    fn from(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// What opens every port of this workspace.
    pub fn token(&self, uid: &str) -> String {
        self.made(&[TOKEN, uid.as_bytes()])
    }

    pub fn is_token(&self, uid: &str, said: &str) -> bool {
        self.is_made(&[TOKEN, uid.as_bytes()], said)
    }

    /// What opens the one port of this workspace that the host names. Browsers send it to other ports of this machine, too.
    pub fn cookie(&self, uid: &str, host: &str) -> String {
        self.made(&[COOKIE, uid.as_bytes(), b"\0", host.as_bytes()])
    }

    pub fn is_cookie(&self, uid: &str, host: &str, said: &str) -> bool {
        self.is_made(&[COOKIE, uid.as_bytes(), b"\0", host.as_bytes()], said)
    }

    fn made(&self, parts: &[&[u8]]) -> String {
        hex::encode(hmac::sign(&self.0, &parts.concat()))
    }

    /// Compared in constant time.
    fn is_made(&self, parts: &[&[u8]], said: &str) -> bool {
        hex::decode(said).is_ok_and(|said| hmac::verify(&self.0, &parts.concat(), &said).is_ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_opens_one_workspace_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry.key");
        let token = Key::open(&path).unwrap().token("a");
        let key = Key::open(&path).unwrap();
        assert_eq!((token.len(), std::fs::metadata(&path).unwrap().mode() & 0o777), (64, 0o600));
        assert!(key.is_token("a", &token));
        let other = Key::open(&dir.path().join("other.key")).unwrap();
        assert!(!key.is_token("b", &token) && !other.is_token("a", &token));
        for bad in ["", "00", "zz", &token[..62], &format!("{token}00")] {
            assert!(!key.is_token("a", bad), "{bad}");
        }
        let cookie = key.cookie("a", "h");
        assert!(key.is_cookie("a", "h", &cookie) && !key.is_token("a", &cookie));
        assert!(!key.is_cookie("a", "i", &cookie) && !key.is_cookie("b", "h", &cookie));
        assert!(!key.is_cookie("a", "h", &token));
    }

    #[test]
    fn a_key_that_is_short_or_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entry.key");
        Key::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Key::open(&path), Err(KeyError::Unfit { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(Key::open(&path), Err(KeyError::Unfit { .. })));
    }
}
