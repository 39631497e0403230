//! A document as people write it: refused with a path and in a bounded text, or read, and its egress section compiled.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = cordium_spec::parse_document(text) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(egress) = cordium_spec::parse_egress(text) {
        let policy = egress.policy(cordium_egress::DefaultAction::Deny, Vec::new());
        policy.compile().expect("a section that is valid makes a policy");
    }
});
