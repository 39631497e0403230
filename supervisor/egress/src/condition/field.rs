//! What a condition may ask for.

use super::check::Type;

/// A field of `ctx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// As it is written.
    pub path: &'static str,
    pub of: Type,
    pub kind: Kind,
    /// It may be absent: `has` tells.
    pub optional: bool,
}

/// When a field is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whenever anything is decided.
    Always,
    /// When something is decided under a name.
    Host,
    /// When a flow is decided, not when a name is resolved.
    Place,
    /// When a request of HTTP is decided.
    Request,
}

const fn field(path: &'static str, of: Type, kind: Kind) -> Field {
    Field { path, of, kind, optional: false }
}

const fn optional(path: &'static str) -> Field {
    Field { path, of: Type::Text, kind: Kind::Always, optional: true }
}

pub(super) const FIELDS: [Field; 16] = [
    field("ctx.workspace.name", Type::Text, Kind::Always),
    field("ctx.workspace.uid", Type::Text, Kind::Always),
    field("ctx.workspace.space", Type::Text, Kind::Always),
    optional("ctx.workspace.template"),
    optional("ctx.user.name"),
    field("ctx.request.host", Type::Text, Kind::Host),
    field("ctx.request.address", Type::Text, Kind::Place),
    field("ctx.request.port", Type::Int, Kind::Place),
    field("ctx.request.protocol", Type::Text, Kind::Place),
    field("ctx.request.method", Type::Text, Kind::Request),
    field("ctx.request.path", Type::Text, Kind::Request),
    field("ctx.time.hour", Type::Int, Kind::Always),
    field("ctx.time.minute", Type::Int, Kind::Always),
    field("ctx.time.weekday", Type::Int, Kind::Always),
    field("ctx.time.date", Type::Text, Kind::Always),
    field("ctx.time.timestamp", Type::Int, Kind::Always),
];

/// How the tree calls the answer of `has`: no name that can be written begins so.
pub(super) const HAS: &str = "?";
