//! Volumes.

use super::{At, Stage};
use crate::error::SpecError;
use crate::model::VolumeSpec;

/// A Volume spec.
pub fn validate_volume(spec: &VolumeSpec) -> Result<(), SpecError> {
    let (root, size) = (At::root("spec", Stage::Draft), spec.size.megabytes);
    let at = root.field("size");
    if (16..=10_000_000).contains(&size) {
        return Ok(());
    }
    Err(at.field("megabytes").error(format!("was {size}; allowed: 16 to 10000000 MiB")))
}
