//! A document as people write it.

/// Checks that it is refused in so many words, or that what its egress section says makes a policy.
pub fn document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = cordium_spec::parse_document(text) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(egress) = cordium_spec::parse_egress(text) {
        let policy = egress.policy(cordium_egress::DefaultAction::Deny, Vec::new());
        policy.compile().expect("a section that is valid makes a policy");
    }
}
