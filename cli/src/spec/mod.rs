//! What the user wrote, from files and flags, as a validated spec in JSON.

pub mod build;
pub mod file;
pub mod flags;
pub mod parse;

use clap::ValueEnum;
use cordium_proto::v1::Kind as Proto;

/// The kinds of resources, as people write them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    #[value(name = "workspaces", aliases = ["workspace", "ws"])]
    Workspace,
    #[value(name = "spaces", aliases = ["space", "sp"])]
    Space,
    #[value(name = "templates", aliases = ["template", "tmpl", "tmpls"])]
    Template,
    #[value(name = "secrets", aliases = ["secret", "sec"])]
    Secret,
    #[value(name = "volumes", aliases = ["volume", "vol", "vols"])]
    Volume,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Space => "space",
            Self::Template => "template",
            Self::Secret => "secret",
            Self::Volume => "volume",
        }
    }

    /// As in a document's `kind`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Workspace => "Workspace",
            Self::Space => "Space",
            Self::Template => "Template",
            Self::Secret => "Secret",
            Self::Volume => "Volume",
        }
    }

    pub fn of(proto: Proto) -> Option<Self> {
        Some(match proto {
            Proto::Workspace => Self::Workspace,
            Proto::Space => Self::Space,
            Proto::Template => Self::Template,
            Proto::Secret => Self::Secret,
            Proto::Volume => Self::Volume,
            Proto::Unset => return None,
        })
    }
}

impl From<Kind> for Proto {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Workspace => Self::Workspace,
            Kind::Space => Self::Space,
            Kind::Template => Self::Template,
            Kind::Secret => Self::Secret,
            Kind::Volume => Self::Volume,
        }
    }
}
