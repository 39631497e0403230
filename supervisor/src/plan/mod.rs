//! From a resolved spec to what the agent and the keeper are told: pure functions over data.
//!
//! [`run_plan`] is made when a start is asked for, and refuses what this node cannot do. When the image's
//! configuration is known, [`finish_prepare`] completes what the agent is told and [`sandbox_plan`] says what the
//! keeper builds.

mod credentials;
mod main_process;
mod prepare;
mod sandbox;
mod services;
mod spec;

use std::collections::{BTreeMap, HashMap};

use cordium_proto::v1::{Limit, PrepareRequest};

pub use credentials::renewal;
pub use prepare::finish_prepare;
pub use sandbox::sandbox_plan;
pub use spec::{Asked, check_id, run_plan};

use crate::{images::Login, volumes::VolumeMount};

/// The values of secrets, by name. Never printed.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Takes the values of a start request. One that is not text is refused by its name.
    pub fn new(values: HashMap<String, bytes::Bytes>) -> Result<Self, String> {
        values
            .into_iter()
            .map(|(name, value)| match String::from_utf8(value.to_vec()) {
                Ok(text) if !text.contains('\0') => Ok((name, text)),
                _ => Err(format!(
                    "secret {name:?} is not text without NUL, so it can be neither a variable nor a password"
                )),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn get(&self, name: &str) -> Result<String, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("the value of secret {name:?} was not given"))
    }
}

/// Everything about a run that is known before its image is.
pub struct RunPlan {
    /// The image's reference.
    pub image: String,
    /// Credentials for its registry.
    pub login: Option<Login>,
    /// What the run is promised.
    pub limit: Limit,
    /// The storage goes when the run ends.
    pub ephemeral: bool,
    /// The bounding set, with `CAP_`.
    pub capabilities: Vec<String>,
    /// What may be reached, as far as the spec says.
    pub egress: cordium_spec::Egress,
    /// What is put on its requests.
    pub credentials: Option<cordium_broker::Credentials>,
    /// Servers that the broker logs in to for it.
    pub services: Option<cordium_broker::Services>,
    /// Whose flows these are.
    pub subject: cordium_egress::Subject,
    /// What is mounted from the node's volumes, outer ones first.
    pub volumes: Vec<VolumeMount>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub cmd: Option<Vec<String>>,
    /// What the agent is told, but for the image's part and the time that is left.
    pub prepare: PrepareRequest,
    /// What is left out, in words.
    pub warnings: Vec<String>,
}

/// Whether the storage of a workspace with this resolved spec goes when its run ends.
pub fn is_ephemeral(spec_json: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(spec_json)
        .is_ok_and(|spec| spec.get("isEphemeral").and_then(serde_json::Value::as_bool) == Some(true))
}

#[cfg(test)]
mod tests;
