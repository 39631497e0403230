//! The JSON Schema of the documents, for editors. Published in `docs/schema/`.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::model::{SpaceSpec, TemplateSpec, VolumeSpec, WorkspaceSpec};
use crate::parse::{API_VERSION, Metadata};

/// What a document describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    Workspace,
    Template,
    Space,
    Volume,
}

impl DocumentKind {
    pub const ALL: [Self; 4] = [Self::Workspace, Self::Template, Self::Space, Self::Volume];
    pub(crate) const NAMES: [&'static str; 4] = ["Workspace", "Template", "Space", "Volume"];

    /// As in a document's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => Self::NAMES[0],
            Self::Template => Self::NAMES[1],
            Self::Space => Self::NAMES[2],
            Self::Volume => Self::NAMES[3],
        }
    }
}

/// The JSON Schema (draft 2020-12) of a document of this kind.
pub fn json_schema(kind: DocumentKind) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let metadata = generator.subschema_for::<Metadata>().to_value();
    let spec = match kind {
        DocumentKind::Workspace => generator.subschema_for::<WorkspaceSpec>(),
        DocumentKind::Template => generator.subschema_for::<TemplateSpec>(),
        DocumentKind::Space => generator.subschema_for::<SpaceSpec>(),
        DocumentKind::Volume => generator.subschema_for::<VolumeSpec>(),
    };
    let required: &[&str] = match kind {
        DocumentKind::Workspace => &["apiVersion", "kind"],
        DocumentKind::Template | DocumentKind::Space | DocumentKind::Volume => {
            &["apiVersion", "kind", "metadata"]
        }
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Cordium {}", kind.as_str()),
        "type": "object",
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": kind.as_str() },
            "metadata": metadata,
            "spec": spec.to_value(),
        },
        "required": required,
        "additionalProperties": false,
        "$defs": generator.take_definitions(true),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;

    /// Writes the files anew with `UPDATE_SCHEMA=1`.
    #[test]
    fn published_schemas_are_up_to_date() {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
        for kind in DocumentKind::ALL {
            let path = directory.join(format!("{}.json", kind.as_str().to_lowercase()));
            let schema = serde_json::to_string_pretty(&json_schema(kind)).unwrap() + "\n";
            if std::env::var_os("UPDATE_SCHEMA").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, &schema).unwrap();
            }
            let published = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                published == schema,
                "{} is stale; run UPDATE_SCHEMA=1 cargo test -p cordium-spec",
                path.display()
            );
        }
    }

    #[test]
    fn units_are_told() {
        let text = json_schema(DocumentKind::Workspace).to_string();
        assert!(text.contains("MiB (1,048,576 bytes each)"));
        assert!(text.contains("Thousandths of a core"));
    }
}
