//! The node's configuration file.
//!
//! ```yaml
//! baseImage: registry.example.org/team/base:12   # for workspaces without an image
//! egress: allowPublic                            # or deny: for workspaces that do not say
//! protectedNetworks: [10.96.0.0/12]              # that no workspace reaches, whatever its rules say
//! hostPorts: [5432]                              # of the node's loopback, as host.cordium.internal
//! entryPort: 7300                                # of the HTTP entry, from the start; 0 for no entry
//! parallelLayers: 4
//! sandboxesAhead: 2
//! idRanges: 64                                   # at most, of those that /etc/subuid gives
//! imageLimits: {imageBytes: 137438953472}
//! imageTimeouts: {idle: 60}                      # seconds
//! registries:
//!   registry.example.org: {mirrors: [mirror.local:5000], plainHttp: false, caFile: /etc/ssl/private-ca.pem}
//! authFile: /home/me/.docker/config.json
//! telemetry: {otlpEndpoint: "http://127.0.0.1:4317"} # denials and uses of secrets as log records
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the node's configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is longer than any sensible one.
    #[error("the node's configuration {} is longer than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not what it should be.
    #[error("the node's configuration {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which field, what it was, what is allowed.
        message: String,
    },
}

/// What a workspace may reach when its spec does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    /// Public addresses.
    #[default]
    AllowPublic,
    /// Nothing.
    Deny,
}

/// The file's content; everything has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeConfig {
    /// For workspaces without an image.
    pub base_image: Option<String>,
    /// For workspaces that do not say.
    pub egress: Egress,
    /// Networks that no workspace reaches: a cluster's pods, services and API, and the like.
    pub protected_networks: Vec<String>,
    /// Ports of the node's loopback that sandboxes reach as `host.cordium.internal`.
    pub host_ports: Vec<u16>,
    /// Where the HTTP entry listens on loopback, from the start; without it on a free port once somebody opens one; 0 for never.
    pub entry_port: Option<u16>,
    /// Layers that are fetched at the same time.
    pub parallel_layers: Option<usize>,
    /// Sandboxes that are made ahead, as far as that goes without knowing their workspaces; 0 for none.
    pub sandboxes_ahead: Option<usize>,
    /// Ranges of subordinate ids that are used at most, where the user has more: each has views of its own of the layers of the
    /// images that ran in it.
    pub id_ranges: Option<usize>,
    /// What an image may cost.
    pub image_limits: cordium_image::Limits,
    /// How long registries are waited for.
    pub image_timeouts: cordium_image::Timeouts,
    /// By host and port.
    pub registries: BTreeMap<String, cordium_image::Registry>,
    /// Credentials in the form of `~/.docker/config.json`, which is used when this is unset.
    pub auth_file: Option<PathBuf>,
    /// Where denials and uses of secrets go as log records.
    pub telemetry: crate::telemetry::Telemetry,
}

impl From<Egress> for cordium_egress::DefaultAction {
    fn from(egress: Egress) -> Self {
        match egress {
            Egress::AllowPublic => Self::AllowPublic,
            Egress::Deny => Self::Deny,
        }
    }
}

impl NodeConfig {
    /// Reads the file, if one is named.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(ConfigError::TooLong { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|message| ConfigError::Parse { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if config.host_ports.contains(&0) {
            return Err("hostPorts: was 0; allowed: 1 to 65535".to_owned());
        }
        let policy =
            cordium_egress::Policy { protected: config.protected_networks.clone(), ..Default::default() };
        policy.compile().map_err(|error| error.to_string().replacen("protected", "protectedNetworks", 1))?;
        if config.parallel_layers == Some(0) {
            return Err("parallelLayers: was 0; allowed: 1 and more".to_owned());
        }
        if config.image_timeouts.attempts == 0 {
            return Err("imageTimeouts.attempts: was 0; allowed: 1 and more".to_owned());
        }
        if let Some(ahead) = config.sandboxes_ahead.filter(|ahead| *ahead > cordium_runtime::MAX_AHEAD) {
            let most = cordium_runtime::MAX_AHEAD;
            return Err(format!("sandboxesAhead: was {ahead}; allowed: 0 to {most}"));
        }
        if let Some(ranges) =
            config.id_ranges.filter(|ranges| !(1..=cordium_runtime::MAX_RANGES).contains(ranges))
        {
            let most = cordium_runtime::MAX_RANGES;
            return Err(format!("idRanges: was {ranges}; allowed: 1 to {most}"));
        }
        Ok(config)
    }

    /// The registries' part.
    pub fn registries(&self) -> cordium_image::RegistriesConfig {
        cordium_image::RegistriesConfig {
            registries: self.registries.clone(),
            auth_file: self.auth_file.clone(),
        }
        .with_user_auth_file()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn yaml_and_json_are_read() {
        let config = NodeConfig::parse(
            "baseImage: a/b:1\negress: deny\nhostPorts: [5432]\nregistries:\n  r.example:5000: {plainHttp: true}\n",
        )
        .unwrap();
        assert_eq!((config.base_image.as_deref(), config.egress), (Some("a/b:1"), Egress::Deny));
        assert_eq!(config.registries["r.example:5000"].plain_http, Some(true));
        assert_eq!(NodeConfig::parse(r#"{"hostPorts":[80]}"#).unwrap().host_ports, [80]);
        assert!(NodeConfig::parse("").unwrap().host_ports.is_empty());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(NodeConfig::parse("hostPort: [1]").unwrap_err().contains("hostPort"));
        assert!(NodeConfig::parse("hostPorts: [0]").unwrap_err().contains("hostPorts"));
        assert!(NodeConfig::parse("hostPorts: [70000]").is_err());
        let error = NodeConfig::parse("protectedNetworks: [10.0.0.0/8, 10.1.2.3/8]").unwrap_err();
        assert!(
            error.starts_with("protectedNetworks[1]: was \"10.1.2.3/8\"; allowed: 10.0.0.0/8 for"),
            "{error}"
        );
        assert!(NodeConfig::parse("sandboxesAhead: 9").unwrap_err().contains("allowed: 0 to 8"));
        assert_eq!(NodeConfig::parse("sandboxesAhead: 0").unwrap().sandboxes_ahead, Some(0));
        assert!(NodeConfig::parse("telemetry: {otlp: x}").unwrap_err().contains("otlp"));
        assert!(NodeConfig::parse("imageTimeouts: {idle: soon}").is_err());
        assert!(NodeConfig::parse("imageTimeouts: {attempts: 0}").unwrap_err().contains("attempts"));
    }
}
