//! The workspace schema: what users write about a Space, a Template or a Workspace, and what becomes of it.
//!
//! Text comes in through [`parse_document`] (a whole document) or [`parse_workspace_json`] and its sisters (a bare
//! spec). Both are strict: the first thing that is wrong is reported as one [`SpecError`] that names the field,
//! what it was and what is allowed. [`resolve()`] then makes of a Template, a Workspace, a Space and the variables of
//! one run the spec that a node carries out. Nothing here does I/O.
//!
//! Memory and storage are given in a field called `megabytes` for the sake of existing files; its unit is MiB
//! (1,048,576 bytes) everywhere. CPU is given in thousandths of a core.
//!
//! A full example, which is also a test:
//!
//! ```
//! let text = cordium_spec::EXAMPLE;
//! let cordium_spec::Document::Workspace(workspace) = cordium_spec::parse_document(text)? else {
//!     unreachable!("the example is a Workspace")
//! };
//! assert_eq!(workspace.metadata.name, "demo");
//!
//! let resolved = cordium_spec::resolve(
//!     &Default::default(), // no Template
//!     &workspace.spec,
//!     &Default::default(), // no Space settings
//!     &[("GREETING".to_string(), "hi".to_string())].into(),
//!     &Default::default(), // the node's usual limits
//! )?;
//! assert_eq!(resolved.runtime.env_vars[0].value.as_deref(), Some("hi, Ada"));
//! assert_eq!(resolved.limit.effective().memory_mib, 1024);
//! # Ok::<(), cordium_spec::SpecError>(())
//! ```

mod argv;
mod error;
mod merge;
mod model;
mod parse;
mod reference;
mod resolve;
mod schema;
mod validate;
mod vars;

pub use argv::split_command;
pub use cordium_egress::{binding, service};
pub use error::SpecError;
pub use model::*;
pub use parse::{
    Document, MAX_DOCUMENT_BYTES, Metadata, Resource, parse_document, parse_egress, parse_merged_egress,
    parse_resolved_json, parse_space_json, parse_template_json, parse_volume_json, parse_workspace_json,
};
pub use reference::{ImageUrl, ImageUrlError, absolute_image};
pub use resolve::{LimitDefaults, check_supported, resolve, secret_names};
pub use schema::{DocumentKind, json_schema};
pub use validate::{
    MAX_NAME, validate_name, validate_resolved, validate_space, validate_template, validate_volume,
    validate_workspace,
};

/// A Workspace document that uses most of the schema.
pub const EXAMPLE: &str = include_str!("example.yaml");
