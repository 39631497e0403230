//! The workspace schema: what users write about a Space, a Template or a Workspace, and what becomes of it.
mod error;
mod model;
pub use error::SpecError;
pub use model::*;
