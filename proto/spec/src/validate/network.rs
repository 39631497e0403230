//! Egress rules.

use super::At;
use crate::error::SpecError;
use crate::model::Egress;

/// Rules as written.
const MAX_RULES: usize = 1_000;

pub(super) fn egress(at: At<'_>, egress: &Egress) -> Result<(), SpecError> {
    at.field("rules").count(egress.rules.len(), MAX_RULES)?;
    // Its default and the node's networks do not make rules right or wrong.
    let policy = egress.policy(cordium_egress::DefaultAction::Deny, Vec::new());
    let wrong = |error: cordium_egress::PolicyError| {
        let path = format!("{}.{}", at.path(), error.path);
        SpecError::new(path, format!("was {}; allowed: {}", error.was, error.allowed))
    };
    policy.compile().map(drop).map_err(wrong)
}
