//! Text to typed documents: one strict reading for YAML and JSON, bounded in every direction.
//!
//! Text becomes a tree first ([`tree`]), the tree becomes types ([`node`]). In between nothing is lost that an error
//! message needs: a fault is told with the path of the field and the value that stood there.

mod fault;
mod node;
mod tree;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::SpecError;
use crate::model::{Egress, SpaceSpec, TemplateSpec, VolumeSpec, WorkspaceSpec};
use crate::schema::DocumentKind;
use crate::validate;

/// No document is longer.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The only `apiVersion`.
pub(crate) const API_VERSION: &str = "cordium/v1";

/// A document of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Workspace(Resource<WorkspaceSpec>),
    Template(Resource<TemplateSpec>),
    Space(Resource<SpaceSpec>),
    Volume(Resource<VolumeSpec>),
}

impl Document {
    pub fn kind(&self) -> DocumentKind {
        match self {
            Self::Workspace(_) => DocumentKind::Workspace,
            Self::Template(_) => DocumentKind::Template,
            Self::Space(_) => DocumentKind::Space,
            Self::Volume(_) => DocumentKind::Volume,
        }
    }

    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Workspace(resource) => &resource.metadata,
            Self::Template(resource) => &resource.metadata,
            Self::Space(resource) => &resource.metadata,
            Self::Volume(resource) => &resource.metadata,
        }
    }
}

/// A spec with its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource<T> {
    pub metadata: Metadata,
    pub spec: T,
}

/// What people call it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metadata {
    /// Lower-case letters, digits and '-', at most 63 characters. A Workspace may leave it out and is then given one.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub display_name: String,
    /// For those who filter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope<T> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: T,
}

/// Reads one YAML or JSON document and checks it: at most 1 MiB, no duplicate or unknown field, no bombs.
pub fn parse_document(text: &str) -> Result<Document, SpecError> {
    let tree = tree::read(text, "")?;
    let Value::Object(fields) = &tree else {
        return Err(SpecError::new("", "was not a mapping; allowed: apiVersion, kind, metadata, spec"));
    };
    one_of(fields, "apiVersion", &[API_VERSION])?;
    let document = match one_of(fields, "kind", &DocumentKind::NAMES)? {
        "Workspace" => Document::Workspace(resource(&tree)?),
        "Template" => Document::Template(resource(&tree)?),
        "Volume" => Document::Volume(resource(&tree)?),
        _ => Document::Space(resource(&tree)?),
    };
    validate::metadata(document.metadata(), document.kind())?;
    match &document {
        Document::Workspace(resource) => validate::validate_workspace(&resource.spec)?,
        Document::Template(resource) => validate::validate_template(&resource.spec)?,
        Document::Space(resource) => validate::validate_space(&resource.spec)?,
        Document::Volume(resource) => validate::validate_volume(&resource.spec)?,
    }
    Ok(document)
}

/// Reads and checks a bare Workspace spec, JSON or YAML, as a user gives it.
pub fn parse_workspace_json(text: &str) -> Result<WorkspaceSpec, SpecError> {
    let spec = bare(text)?;
    validate::validate_workspace(&spec)?;
    Ok(spec)
}

/// Reads and checks a Workspace spec that [`crate::resolve()`] made: longer lists, and an env value may be empty where
/// a variable was not set.
pub fn parse_resolved_json(text: &str) -> Result<WorkspaceSpec, SpecError> {
    let spec = bare(text)?;
    validate::validate_resolved(&spec)?;
    Ok(spec)
}

/// Reads and checks a bare Template spec, JSON or YAML.
pub fn parse_template_json(text: &str) -> Result<TemplateSpec, SpecError> {
    let spec = bare(text)?;
    validate::validate_template(&spec)?;
    Ok(spec)
}

/// Reads and checks a bare Space spec, JSON or YAML.
pub fn parse_space_json(text: &str) -> Result<SpaceSpec, SpecError> {
    let spec = bare(text)?;
    validate::validate_space(&spec)?;
    Ok(spec)
}

/// Reads and checks a bare Volume spec, JSON or YAML.
pub fn parse_volume_json(text: &str) -> Result<VolumeSpec, SpecError> {
    let spec = bare(text)?;
    validate::validate_volume(&spec)?;
    Ok(spec)
}

/// Reads and checks what a workspace may reach: the `egress` section alone, or a Workspace or Template document with it.
pub fn parse_egress(text: &str) -> Result<Egress, SpecError> {
    let tree = tree::read(text, "")?;
    if tree.get("kind").is_some() || tree.get("apiVersion").is_some() {
        return match parse_document(text)? {
            Document::Workspace(resource) => Ok(resource.spec.runtime.network.egress),
            Document::Template(resource) => Ok(resource.spec.runtime.network.egress),
            other => {
                let allowed = "Workspace, Template, or the egress section alone";
                Err(SpecError::was("kind", other.kind().as_str(), allowed))
            }
        };
    }
    let spec = around(tree)?;
    validate::validate_workspace(&spec)?;
    Ok(spec.runtime.network.egress)
}

/// Reads and checks an `egress` section that [`crate::resolve()`] made: it may have more rules.
pub fn parse_merged_egress(text: &str) -> Result<Egress, SpecError> {
    let spec = around(tree::read(text, "")?)?;
    validate::validate_resolved(&spec)?;
    Ok(spec.runtime.network.egress)
}

/// A spec with nothing but this section, for the sake of its paths.
fn around(egress: Value) -> Result<WorkspaceSpec, SpecError> {
    let whole = serde_json::json!({ "runtime": { "network": { "egress": egress } } });
    node::typed(&whole, "spec")
}

fn bare<T: DeserializeOwned>(text: &str) -> Result<T, SpecError> {
    node::typed(&tree::read(text, "spec")?, "spec")
}

fn resource<T: DeserializeOwned + Default>(tree: &Value) -> Result<Resource<T>, SpecError> {
    let envelope: Envelope<T> = node::typed(tree, "")?;
    Ok(Resource { metadata: envelope.metadata, spec: envelope.spec })
}

fn one_of<'a>(
    fields: &serde_json::Map<String, Value>,
    name: &str,
    allowed: &[&'a str],
) -> Result<&'a str, SpecError> {
    let list = allowed.join(", ");
    match fields.get(name) {
        None => Err(SpecError::new(name, format!("missing; allowed: {list}"))),
        Some(value) => allowed
            .iter()
            .find(|known| value.as_str() == Some(known))
            .copied()
            .ok_or_else(|| SpecError::new(name, format!("was {}; allowed: {list}", fault::show(value)))),
    }
}

#[cfg(test)]
mod tests;
