//! A policy, and credentials, on their way from a keeper to the broker: text in a sealed memory file, since a packet is bounded.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use cordium_egress::Policy;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::inspect::{Binding, Credentials, MAX_CREDENTIALS};
use crate::service::{MAX_TERMS, Service, Services};

/// The longest policy, in bytes of JSON.
pub const MAX_POLICY: u64 = cordium_egress::MAX_BYTES as u64;
/// With room for the names of the three.
const MAX_FILE: u64 = MAX_POLICY + MAX_CREDENTIALS + MAX_TERMS + 64;
const NAME: &str = "cordium-policy";

#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("writing the policy into a memory file: {0}")]
    Write(io::Error),
    #[error("the policy takes {size} bytes; at most {MAX_POLICY} are sent")]
    TooLong { size: u64 },
    #[error("credentials and services take {size} bytes; at most {} are sent", MAX_CREDENTIALS + MAX_TERMS)]
    CredentialsTooLong { size: u64 },
    #[error("the policy's descriptor is not a sealed memory file")]
    NotSealed,
    #[error("reading the policy: {0}")]
    Read(io::Error),
    #[error("the policy is not understood: {0}")]
    Decode(serde_json::Error),
}

/// What a workspace's flows are decided by.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms<'a> {
    pub policy: &'a Policy,
    /// Without any, no connection is looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<&'a Credentials>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<&'a Services>,
}

impl<'a> From<&'a Policy> for Terms<'a> {
    fn from(policy: &'a Policy) -> Self {
        Self { policy, credentials: None, services: None }
    }
}

/// What takes the place of a run's credentials when a secret has changed: all of them, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    pub bindings: Vec<Binding>,
    pub services: Vec<Service>,
}

/// [`Terms`] as they arrive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Received {
    pub policy: Policy,
    pub credentials: Option<Credentials>,
    pub services: Option<Services>,
}

/// Whether a broker would take this policy; why not, in words.
pub fn check_policy(policy: &Policy) -> Result<(), String> {
    policy.compile().map_err(|error| format!("the policy is not valid: {error}"))?;
    text(&policy.into()).map(drop).map_err(|error| error.to_string())
}

/// Puts them where nobody can change them any more.
pub(crate) fn write(terms: &Terms<'_>) -> Result<OwnedFd, PolicyFileError> {
    sealed(&text(terms)?).map_err(PolicyFileError::Write)
}

fn text(terms: &Terms<'_>) -> Result<Zeroizing<Vec<u8>>, PolicyFileError> {
    let failed = |error: serde_json::Error| PolicyFileError::Write(error.into());
    let mut size = Count(0);
    serde_json::to_writer(&mut size, terms.policy).map_err(failed)?;
    let Count(policy) = size;
    if policy > MAX_POLICY {
        return Err(PolicyFileError::TooLong { size: policy });
    }
    serde_json::to_writer(&mut size, terms).map_err(failed)?;
    let size = size.0 - policy;
    if size > MAX_FILE {
        return Err(PolicyFileError::CredentialsTooLong { size: size - policy });
    }
    // Room for all: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default()));
    serde_json::to_writer(&mut *text, terms).map_err(failed)?;
    Ok(text)
}

/// How long a text is that is not kept.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
pub(crate) fn read(descriptor: OwnedFd) -> Result<Received, PolicyFileError> {
    let seals = fcntl_get_seals(&descriptor).map_err(|_| PolicyFileError::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(PolicyFileError::NotSealed);
    }
    let mut file = File::from(descriptor);
    let size = file.metadata().map_err(PolicyFileError::Read)?.len();
    if size > MAX_FILE {
        return Err(PolicyFileError::TooLong { size });
    }
    // One byte more than there is: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1));
    file.rewind().map_err(PolicyFileError::Read)?;
    file.take(size).read_to_end(&mut text).map_err(PolicyFileError::Read)?;
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
            protocols: vec![],
            methods: vec![],
            paths: vec![],
            condition: None,
        };
        let default_action = DefaultAction::AllowPublic;
        Policy { default_action, rules: vec![rule; rules], ..Policy::default() }
    }

    #[test]
    fn a_long_policy_arrives_whole_and_cannot_be_changed_on_the_way() {
        let policy = policy(5_000);
        let descriptor = write(&(&policy).into()).unwrap();
        let mut file = File::from(descriptor.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
        let received = read(descriptor).unwrap();
        assert_eq!(received.policy, policy);
        assert!(received.credentials.is_none());
    }

    #[test]
    fn credentials_arrive_beside_it_and_are_bounded() {
        let mut credentials: Credentials = serde_json::from_value(serde_json::json!({
            "authority": {"certificate": "x", "key": "eA=="},
            "bindings": [{
                "name": "one", "hosts": ["a.example"], "inject": {"basic": {"username": "git"}},
                "placeholder": "placeholder-of-one", "value": "aHVudGVyMg==",
            }],
        }))
        .unwrap();
        let policy = policy(1);
        let terms = Terms { policy: &policy, credentials: Some(&credentials), services: None };
        let received = read(write(&terms).unwrap()).unwrap();
        assert!(!format!("{received:?}").contains("hunter2"));
        let bindings = received.credentials.unwrap().bindings;
        assert_eq!((bindings.len(), bindings[0].value.expose()), (1, &b"hunter2"[..]));
        credentials.extra_roots = vec!["x".repeat(1 << 20); 8];
        let terms = Terms { policy: &policy, credentials: Some(&credentials), services: None };
        assert!(matches!(write(&terms), Err(PolicyFileError::CredentialsTooLong { .. })));
    }

    #[test]
    fn one_that_is_too_long_is_not_sent_and_not_read() {
        assert!(matches!(write(&(&policy(20_000)).into()), Err(PolicyFileError::TooLong { .. })));
        let long = sealed(&vec![b' '; MAX_FILE as usize + 1]).unwrap();
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
        let nonsense = sealed(b"{\"policy\":{\"defaultAction\":\"MAYBE\"}}").unwrap();
        assert!(matches!(read(nonsense), Err(PolicyFileError::Decode(_))));
    }
}
