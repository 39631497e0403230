//! Egress rules, and the credentials that are put on what leaves.

use std::collections::BTreeSet;

use cordium_egress::binding::{self, BindingError, Scope};

use super::{At, names, service};
use crate::error::SpecError;
use crate::model::{Credential, Egress, Network};

/// Rules as written.
const MAX_RULES: usize = 1_000;
const MAX_ROOTS: usize = 32;
const MAX_PEM: usize = 16 * 1024;

pub(super) fn network(at: At<'_>, network: &Network) -> Result<(), SpecError> {
    egress(at.field("egress"), &network.egress)?;
    credentials(at.field("credentials"), &network.credentials)?;
    service::services(at.field("services"), &network.services)?;
    let at = at.field("extraRoots");
    if network.extra_roots.len() > MAX_ROOTS {
        let length = network.extra_roots.len();
        return Err(at.error(format!("was a list of {length}; allowed: at most {MAX_ROOTS}")));
    }
    for (index, root) in network.extra_roots.iter().enumerate() {
        if root.len() > MAX_PEM || !root.trim_start().starts_with("-----BEGIN CERTIFICATE-----") {
            let problem = "is not a certificate; allowed: PEM of at most 16,384 bytes";
            return Err(at.index(index).error(problem));
        }
    }
    Ok(())
}

fn credentials(at: At<'_>, credentials: &[Credential]) -> Result<(), SpecError> {
    // Of Template and Workspace together, too: the broker takes no more.
    if credentials.len() > binding::MAX_BINDINGS {
        let (length, max) = (credentials.len(), binding::MAX_BINDINGS);
        return Err(at.error(format!("was a list of {length}; allowed: at most {max}")));
    }
    let (mut seen, mut variables) = (BTreeSet::new(), BTreeSet::new());
    for (index, credential) in credentials.iter().enumerate() {
        let at = at.index(index);
        let wrong = |error: BindingError| at.field(&error.path).error(&error.problem);
        let Credential { name, hosts, methods, paths, .. } = credential;
        let inject = (&credential.inject).into();
        Scope { name, hosts, methods, paths, inject: &inject }.check().map_err(wrong)?;
        names::dotted(at.field("fromSecret"), &credential.from_secret)?;
        if let Some(placeholder) = &credential.placeholder {
            binding::check_placeholder(placeholder).map_err(wrong)?;
        }
        if !seen.insert(name) {
            return Err(at.field("name").was(name, "each name once"));
        }
        if let Some(key) = &credential.env {
            names::env_key(at.field("env"), key)?;
            if !variables.insert(key) {
                return Err(at.field("env").was(key, "each variable once"));
            }
        }
    }
    Ok(())
}

fn egress(at: At<'_>, egress: &Egress) -> Result<(), SpecError> {
    at.field("rules").count(egress.rules.len(), MAX_RULES)?;
    // Its default and the node's networks do not make rules right or wrong.
    let policy = egress.policy(cordium_egress::DefaultAction::Deny, Vec::new());
    let wrong = |error: cordium_egress::PolicyError| {
        let path = format!("{}.{}", at.path(), error.path);
        SpecError::new(path, format!("was {}; allowed: {}", error.was, error.allowed))
    };
    policy.compile().map(drop).map_err(wrong)
}
