//! The requests that a credential is bound to, and where in them its value goes. Data, and what is wrong with it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Host;
use crate::request::{Wrong, check_methods, check_paths};

/// Bindings of one workspace.
pub const MAX_BINDINGS: usize = 64;
/// Hosts, methods or paths of one binding.
pub const MAX_SCOPE: usize = 32;
const MAX_NAME: usize = 63;
const MAX_TEXT: usize = 1024;
/// Shorter ones could stand in a request by chance.
pub const MIN_PLACEHOLDER: usize = 16;
pub const MAX_PLACEHOLDER: usize = 4096;
/// The longest value of a credential, in bytes.
pub const MAX_VALUE: usize = 16 * 1024;

/// Headers that say where a request goes and where it ends.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where the value goes if the request has the placeholder nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Inject {
    /// `NAME: PREFIXVALUE`.
    Header {
        name: String,
        #[serde(default)]
        prefix: String,
    },
    /// `Authorization: Basic`, the value being the password.
    Basic { username: String },
    /// `?NAME=VALUE`.
    Query { name: String },
    /// Nowhere: the request is signed with it (AWS Signature Version 4).
    #[serde(rename_all = "camelCase")]
    SigV4 { access_key_id: String },
}

/// The requests that a credential is for. The dimensions are ANDed, the entries of one ORed; no methods or no paths means any.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Shown in denials.
    pub name: &'a str,
    /// Exact names.
    pub hosts: &'a [String],
    pub methods: &'a [String],
    /// Beginnings of paths, by whole segments.
    pub paths: &'a [String],
    pub inject: &'a Inject,
}

/// Where a binding is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: {problem}")]
pub struct BindingError {
    /// Such as `hosts[0]`.
    pub path: String,
    pub problem: String,
}

impl BindingError {
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

impl Scope<'_> {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), BindingError> {
        let wrong = |path: String, problem: &str| Err(BindingError::new(path, problem));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return wrong("name".into(), "is no name; allowed: 1 to 63 letters, digits, '-', '_' and '.'");
        }
        bound("hosts", self.hosts.len(), 1, MAX_SCOPE)?;
        bound("methods", self.methods.len(), 0, MAX_SCOPE)?;
        bound("paths", self.paths.len(), 0, MAX_SCOPE)?;
        for (index, host) in self.hosts.iter().enumerate() {
            if let Err(error) = Host::parse(host) {
                let problem = format!("{error}; allowed: an exact name such as api.example.com");
                return wrong(format!("hosts[{index}]"), &problem);
            }
        }
        let entry = |list: &str, Wrong { index, problem, allowed }: Wrong| {
            BindingError::new(format!("{list}[{index}]"), format!("{problem}; allowed: {allowed}"))
        };
        check_methods(self.methods).map_err(|error| entry("methods", error))?;
        check_paths(self.paths).map_err(|error| entry("paths", error))?;
        self.inject.check().or_else(|problem| wrong("inject".into(), problem))
    }
}

impl Inject {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Header { name, .. } if !is_token(name) => {
                Err("the header's name is none; allowed: letters, digits and '-'")
            }
            Self::Header { name, .. } if FRAMING.contains(&name.to_ascii_lowercase().as_str()) => {
                Err("that header says where a request goes or ends; allowed: any other")
            }
            Self::Header { prefix, .. } if !is_text(prefix) => {
                Err("the prefix is no part of a header; allowed: printable ASCII, at most 1,024 characters")
            }
            Self::Basic { username } if !is_text(username) || username.contains(':') => {
                Err("the user name is none; allowed: printable ASCII without ':', at most 1,024 characters")
            }
            Self::Query { name } if name.is_empty() || !is_text(name) => {
                Err("the parameter's name is none; allowed: printable ASCII, 1 to 1,024 characters")
            }
            Self::SigV4 { access_key_id } if !is_key_id(access_key_id) => {
                Err("the access key's id is none; allowed: 16 to 128 letters, digits and '_'")
            }
            _ => Ok(()),
        }
    }
}

fn is_key_id(text: &str) -> bool {
    (16..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What is wrong with a placeholder, if anything.
pub fn check_placeholder(placeholder: &str) -> Result<(), BindingError> {
    bound("placeholder", placeholder.len(), MIN_PLACEHOLDER, MAX_PLACEHOLDER)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte);
    if placeholder.bytes().all(plain) {
        return Ok(());
    }
    Err(BindingError::new("placeholder", "has other characters; allowed: letters, digits and '-_.~+/='"))
}

/// What is wrong with a value, if anything, without a word of it.
pub fn check_value(value: &[u8]) -> Result<(), BindingError> {
    bound("value", value.len(), 1, MAX_VALUE)?;
    if value.iter().all(|byte| (0x20..=0x7e).contains(byte)) {
        return Ok(());
    }
    Err(BindingError::new(
        "value",
        "has characters that a header cannot have; allowed: one line of printable ASCII",
    ))
}

/// A value without the end of line that editors and `echo` leave behind it.
pub fn trimmed(value: &[u8]) -> &[u8] {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    value.strip_suffix(b"\r").unwrap_or(value)
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(allowed)
}

fn bound(path: &str, count: usize, least: usize, most: usize) -> Result<(), BindingError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(BindingError::new(path, format!("has a length of {count}; allowed: {least} to {most}")))
}
