//! Users and groups of the image, read and written without a name service.

pub mod create;
pub mod records;
pub mod resolve;
pub mod subordinate;

use std::io;
use std::path::{Path, PathBuf};

use crate::files::read_small;

/// What a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The account files as they are, byte for byte; a missing one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountFiles {
    pub passwd: Vec<u8>,
    pub group: Vec<u8>,
    pub shadow: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("reading {}: {source}", path.display())]
pub struct AccountsError {
    pub path: PathBuf,
    pub source: io::Error,
}

impl AccountFiles {
    pub fn read() -> Result<Self, AccountsError> {
        Ok(Self { passwd: file("/etc/passwd")?, group: file("/etc/group")?, shadow: file("/etc/shadow")? })
    }

    /// Only what credentials need, for use at every start of a program.
    pub fn read_names() -> Result<Self, AccountsError> {
        Ok(Self { passwd: file("/etc/passwd")?, group: file("/etc/group")?, shadow: Vec::new() })
    }
}

fn file(path: &str) -> Result<Vec<u8>, AccountsError> {
    match read_small(Path::new(path)) {
        Ok(content) => Ok(content.unwrap_or_default()),
        Err(source) => Err(AccountsError { path: path.into(), source }),
    }
}
