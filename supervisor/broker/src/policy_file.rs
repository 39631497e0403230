//! A policy on its way from a keeper to the broker: text in a sealed memory file, since a packet is bounded.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use cordium_egress::Policy;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// The longest policy, in bytes of JSON.
pub const MAX_POLICY: u64 = cordium_egress::MAX_BYTES as u64;
const NAME: &str = "cordium-policy";

#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("writing the policy into a memory file: {0}")]
    Write(io::Error),
    #[error("the policy takes {size} bytes; at most {MAX_POLICY} are sent")]
    TooLong { size: u64 },
    #[error("the policy's descriptor is not a sealed memory file")]
    NotSealed,
    #[error("reading the policy: {0}")]
    Read(io::Error),
    #[error("the policy is not understood: {0}")]
    Decode(serde_json::Error),
}

/// Whether a broker would take this policy; why not, in words.
pub fn check_policy(policy: &Policy) -> Result<(), String> {
    policy.compile().map_err(|error| format!("the policy is not valid: {error}"))?;
    text(policy).map(drop).map_err(|error| error.to_string())
}

/// Puts a policy where nobody can change it any more.
pub(crate) fn write(policy: &Policy) -> Result<OwnedFd, PolicyFileError> {
    sealed(&text(policy)?).map_err(PolicyFileError::Write)
}

fn text(policy: &Policy) -> Result<Vec<u8>, PolicyFileError> {
    let text = serde_json::to_vec(policy).map_err(|error| PolicyFileError::Write(error.into()))?;
    let size = text.len() as u64;
    if size > MAX_POLICY { Err(PolicyFileError::TooLong { size }) } else { Ok(text) }
}

fn sealed(text: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux 6.3 has the flag.
        Err(rustix::io::Errno::INVAL) => memfd_create(NAME, flags)?,
        other => other?,
    };
    let mut file = File::from(descriptor);
    file.write_all(text)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Reads what [`write()`] has written. Anything else, such as a pipe that never ends, is refused unread.
pub(crate) fn read(descriptor: OwnedFd) -> Result<Policy, PolicyFileError> {
    let seals = fcntl_get_seals(&descriptor).map_err(|_| PolicyFileError::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(PolicyFileError::NotSealed);
    }
    let mut file = File::from(descriptor);
    let size = file.metadata().map_err(PolicyFileError::Read)?.len();
    if size > MAX_POLICY {
        return Err(PolicyFileError::TooLong { size });
    }
    let mut text = Vec::new();
    file.rewind().map_err(PolicyFileError::Read)?;
    file.take(MAX_POLICY).read_to_end(&mut text).map_err(PolicyFileError::Read)?;
    serde_json::from_slice(&text).map_err(PolicyFileError::Decode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cordium_egress::{Action, DefaultAction, Rule};

    use super::*;

    fn policy(rules: usize) -> Policy {
        let rule = Rule {
            name: None,
            action: Action::Allow,
            cidrs: vec![],
            hosts: vec![format!("{}.example.com", "x".repeat(60))],
            ports: vec![443],
        };
        Policy { default_action: DefaultAction::AllowPublic, rules: vec![rule; rules], protected: vec![] }
    }

    #[test]
    fn a_long_policy_arrives_whole_and_cannot_be_changed_on_the_way() {
        let policy = policy(5_000);
        let descriptor = write(&policy).unwrap();
        let mut file = File::from(descriptor.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
        assert_eq!(read(descriptor).unwrap(), policy);
    }

    #[test]
    fn one_that_is_too_long_is_not_sent_and_not_read() {
        assert!(matches!(write(&policy(20_000)), Err(PolicyFileError::TooLong { .. })));
        let long = sealed(&vec![b' '; MAX_POLICY as usize + 1]).unwrap();
        assert!(matches!(read(long), Err(PolicyFileError::TooLong { .. })));
    }

    #[test]
    fn what_is_no_sealed_memory_file_is_refused_unread() {
        let pipe = rustix::pipe::pipe().unwrap();
        assert!(matches!(read(pipe.0), Err(PolicyFileError::NotSealed)));
        let open = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read(open), Err(PolicyFileError::NotSealed)));
        let disk = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(read(disk), Err(PolicyFileError::NotSealed)));
        let nonsense = sealed(b"{\"defaultAction\":\"MAYBE\"}").unwrap();
        assert!(matches!(read(nonsense), Err(PolicyFileError::Decode(_))));
    }
}
