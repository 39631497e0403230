//! What a keeper says about a workspace's credentials: data, and the bounds that hold on both sides of the socket.

use std::collections::BTreeSet;

use cordium_egress::binding::{BindingError, Inject, MAX_BINDINGS, Scope, check_placeholder, check_value};
use serde::{Deserialize, Serialize};

use super::inspection::Inspection;
use super::roots::Roots;
use super::secret::Secret;

const MAX_ROOTS: usize = 32;
const MAX_PEM: usize = 16 * 1024;
const MAX_SECRET_NAME: usize = 256;
/// Written as JSON.
pub(crate) const MAX_CREDENTIALS: u64 = 4 << 20;

/// The credentials that are put on a workspace's requests, and the authority that the workspace trusts for their hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    pub authority: Authority,
    /// Certificates (PEM) of authorities that servers of bound hosts may have beside those of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_roots: Vec<String>,
    pub bindings: Vec<Binding>,
}

/// A workspace's own certificate authority, as PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    pub certificate: String,
    pub key: Secret,
}

/// One credential and the requests that it is for. The dimensions are ANDed, the entries of one ORed; no methods or no paths
/// means any.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// Shown in denials.
    pub name: String,
    /// The name of what the value is of, for the audit log.
    #[serde(default)]
    pub secret: String,
    /// Exact names.
    pub hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Beginnings of paths, by whole segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    pub inject: Inject,
    /// What the workspace has in place of the value.
    pub placeholder: String,
    pub value: Secret,
}

/// Where credentials are wrong. Never has a value in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct CredentialsError {
    /// Such as `bindings[3].hosts[0]`.
    pub path: String,
    pub problem: String,
}

impl CredentialsError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

impl Credentials {
    /// Whether a broker would take these; where they are wrong.
    pub fn check(&self) -> Result<(), CredentialsError> {
        Inspection::new(self.clone(), &Roots::none()).map(drop)
    }

    /// Everything but the certificates.
    pub(super) fn check_texts(&self) -> Result<(), CredentialsError> {
        // None: the authority alone, for rules that go by request.
        bound("bindings", self.bindings.len(), 0, MAX_BINDINGS)?;
        bound("extraRoots", self.extra_roots.len(), 0, MAX_ROOTS)?;
        bound("authority.certificate", self.authority.certificate.len(), 1, MAX_PEM)?;
        bound("authority.key", self.authority.key.expose().len(), 1, MAX_PEM)?;
        for (index, root) in self.extra_roots.iter().enumerate() {
            bound(&format!("extraRoots[{index}]"), root.len(), 1, MAX_PEM)?;
        }
        let mut names = BTreeSet::new();
        for (index, binding) in self.bindings.iter().enumerate() {
            let path = format!("bindings[{index}]");
            binding
                .check()
                .map_err(|error| CredentialsError::new(format!("{path}.{}", error.path), error.problem))?;
            if !names.insert(&binding.name) {
                return Err(CredentialsError::new(format!("{path}.name"), "another binding has this name"));
            }
        }
        self.check_placeholders()
    }

    /// Each must be told from the others, and no value may bring another's along.
    fn check_placeholders(&self) -> Result<(), CredentialsError> {
        for (index, binding) in self.bindings.iter().enumerate() {
            let path = |field: &str| format!("bindings[{index}].{field}");
            for (other_index, other) in self.bindings.iter().enumerate() {
                if index != other_index && binding.placeholder.contains(&other.placeholder) {
                    let problem = format!("the placeholder of {} stands in it", other.name);
                    return Err(CredentialsError::new(path("placeholder"), problem));
                }
                if super::replace::contains(binding.value.expose(), other.placeholder.as_bytes()) {
                    let problem = format!("the placeholder of {} stands in it", other.name);
                    return Err(CredentialsError::new(path("value"), problem));
                }
            }
        }
        Ok(())
    }
}

impl Binding {
    fn check(&self) -> Result<(), BindingError> {
        let Self { name, secret, hosts, methods, paths, inject, placeholder, value } = self;
        Scope { name, hosts, methods, paths, inject }.check()?;
        if secret.len() > MAX_SECRET_NAME {
            let problem = format!("is longer than {MAX_SECRET_NAME} bytes");
            return Err(BindingError { path: "secret".into(), problem });
        }
        check_placeholder(placeholder)?;
        check_value(value.expose())
    }
}

fn bound(path: &str, count: usize, least: usize, most: usize) -> Result<(), CredentialsError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(CredentialsError::new(path, format!("has a length of {count}; allowed: {least} to {most}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cordium_egress::binding::MAX_VALUE;

    use super::super::testing::{binding, credentials};
    use super::*;

    fn wrong(spoil: impl Fn(&mut Binding)) -> String {
        let mut spoiled = binding("one", "a.example");
        spoil(&mut spoiled);
        credentials(vec![binding("two", "b.example"), spoiled]).check_texts().unwrap_err().path
    }

    #[test]
    fn bounds_are_kept_and_the_place_is_told() {
        assert_eq!(
            credentials(vec![binding("one", "a.example"), binding("two", "a.example")]).check(),
            Ok(())
        );
        assert_eq!(credentials(vec![]).check(), Ok(()));
        let many = vec![binding("one", "a.example"); MAX_BINDINGS + 1];
        assert_eq!(credentials(many).check_texts().unwrap_err().path, "bindings");
        assert_eq!(wrong(|b| b.name = "a b".into()), "bindings[1].name");
        assert_eq!(wrong(|b| b.name = "two".into()), "bindings[1].name");
        assert_eq!(wrong(|b| b.secret = "x".repeat(257)), "bindings[1].secret");
        assert_eq!(wrong(|b| b.hosts.clear()), "bindings[1].hosts");
        assert_eq!(wrong(|b| b.hosts = vec!["*.example".into()]), "bindings[1].hosts[0]");
        assert_eq!(wrong(|b| b.hosts = vec!["127.0.0.1".into()]), "bindings[1].hosts[0]");
        assert_eq!(wrong(|b| b.methods = vec!["get".into()]), "bindings[1].methods[0]");
        for path in ["", "x", "/a/../b", "/a//b", "/%41"] {
            assert_eq!(wrong(|b| b.paths = vec![path.into()]), "bindings[1].paths[0]", "{path}");
        }
        assert_eq!(wrong(|b| b.placeholder = "short".into()), "bindings[1].placeholder");
        assert_eq!(wrong(|b| b.placeholder = "x".repeat(20) + "%"), "bindings[1].placeholder");
        assert_eq!(
            wrong(|b| b.placeholder = binding("two", "x").placeholder + "x"),
            "bindings[1].placeholder"
        );
        for value in [&b""[..], b"a\r\nX: y", b"a\0", b"\xff", &[b'x'; MAX_VALUE + 1]] {
            assert_eq!(wrong(|b| b.value = Secret::new(value.to_vec())), "bindings[1].value");
        }
        let own = |b: &mut Binding| b.value = Secret::new(b.placeholder.clone().into_bytes());
        assert_eq!(wrong(own), "bindings[1].value", "the placeholder itself");
        for (name, prefix) in
            [("Host", ""), ("Transfer-Encoding", ""), ("a b", ""), ("", ""), ("X-Key", "a\nb")]
        {
            let inject = Inject::Header { name: name.into(), prefix: prefix.into() };
            assert_eq!(wrong(|b| b.inject = inject.clone()), "bindings[1].inject", "{name}");
        }
        assert_eq!(wrong(|b| b.inject = Inject::Basic { username: "a:b".into() }), "bindings[1].inject");
        assert_eq!(wrong(|b| b.inject = Inject::Query { name: String::new() }), "bindings[1].inject");
    }
}
