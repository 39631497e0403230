//! Registries as the node's owner configures them: mirrors, plain HTTP, private authorities, credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// A user name and a password or token for one registry.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistriesConfig {
    /// By host and, unless it is the default, port: `registry.example.com`, `127.0.0.1:5000`, `docker.io`.
    pub registries: BTreeMap<String, Registry>,
    /// A file of the form of `~/.docker/config.json`, whose `auths` are used when nothing else names credentials.
    pub auth_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// `HOST[:PORT][/PREFIX]`, tried in order before the registry itself.
    pub mirrors: Vec<String>,
    /// Unset: only for loopback addresses.
    pub plain_http: Option<bool>,
    /// PEM file with further authorities to trust.
    pub ca_file: Option<PathBuf>,
    pub credentials: Option<Credentials>,
}

impl RegistriesConfig {
    /// The settings of the user's own container tools: `$DOCKER_CONFIG` or `~/.docker/config.json`.
    pub fn with_user_auth_file(mut self) -> Self {
        if self.auth_file.is_none() {
            let dir = std::env::var_os("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
            self.auth_file = dir.map(|dir| dir.join("config.json"));
        }
        self
    }

    pub(crate) fn get(&self, host: &str) -> Registry {
        self.registries.get(host).cloned().unwrap_or_default()
    }

    pub(crate) fn plain_http(&self, host: &str) -> bool {
        self.get(host).plain_http.unwrap_or_else(|| is_loopback(host))
    }

    /// Credentials for a host: configured ones first, then those of the auth file. An unreadable file is
    /// worth a warning, not a failure: most images need none.
    pub(crate) fn credentials(&self, host: &str) -> Option<Credentials> {
        if let Some(found) = self.get(host).credentials {
            return Some(found);
        }
        let path = self.auth_file.as_ref()?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read registry credentials");
                return None;
            }
        };
        let found = auth_from_file(&text, host);
        if let Err(error) = &found {
            tracing::warn!(path = %path.display(), %error, "cannot use registry credentials");
        }
        found.ok().flatten()
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

fn auth_from_file(text: &str, host: &str) -> Result<Option<Credentials>, String> {
    let file: AuthFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let names = match host {
        "docker.io" | "index.docker.io" => {
            vec!["https://index.docker.io/v1/", "index.docker.io", "docker.io"]
        }
        other => vec![other],
    };
    let entry = file.auths.iter().find(|(key, _)| {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        names.iter().any(|name| *name == key.as_str() || *name == bare)
    });
    let Some((_, entry)) = entry else { return Ok(None) };
    if let (Some(username), Some(password)) = (&entry.username, &entry.password) {
        return Ok(Some(Credentials { username: username.clone(), password: password.clone() }));
    }
    let Some(auth) = &entry.auth else { return Ok(None) };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim_end_matches('\0'))
        .map_err(|e| format!("auth of {host} is not base64: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("auth of {host} is not UTF-8"))?;
    match text.split_once(':') {
        Some((username, password)) => {
            Ok(Some(Credentials { username: username.into(), password: password.into() }))
        }
        None => Err(format!("auth of {host} is not user:password")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_plain_http_unless_told_otherwise() {
        let mut config = RegistriesConfig::default();
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.0.1", "[::1]:5000"] {
            assert!(config.plain_http(host), "{host}");
        }
        for host in ["docker.io", "localhost.example.com:5000", "10.0.0.1:5000"] {
            assert!(!config.plain_http(host), "{host}");
        }
        config
            .registries
            .insert("localhost:5000".into(), Registry { plain_http: Some(false), ..Registry::default() });
        assert!(!config.plain_http("localhost:5000"));
    }

    #[test]
    fn auth_file_in_all_its_forms() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOng="},
            "r.example.com":{"username":"a","password":"b"},"bad":{"auth":"!"},"helper":{}},"credsStore":"x"}"#;
        let hub = auth_from_file(text, "docker.io").unwrap().unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p:x"));
        assert_eq!(auth_from_file(text, "r.example.com").unwrap().unwrap().username, "a");
        assert!(auth_from_file(text, "bad").is_err());
        assert_eq!(auth_from_file(text, "helper").unwrap(), None);
        assert_eq!(auth_from_file(text, "other").unwrap(), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = format!("{:?}", Credentials { username: "u".into(), password: "hunter2".into() });
        assert!(!shown.contains("hunter2"));
    }

    #[test]
    fn unknown_settings_are_refused() {
        let error = serde_json::from_str::<RegistriesConfig>(r#"{"registries":{"x":{"insecure":true}}}"#);
        assert!(error.unwrap_err().to_string().contains("insecure"));
    }
}
