//! Credentials for tests.
#![allow(clippy::unwrap_used)]

use super::{Authority, Binding, Credentials, Inject, Secret};

pub(super) fn binding(name: &str, host: &str) -> Binding {
    Binding {
        name: name.into(),
        secret: String::new(),
        hosts: vec![host.into()],
        methods: vec![],
        paths: vec![],
        inject: Inject::Header { name: "Authorization".into(), prefix: "Bearer ".into() },
        placeholder: format!("placeholder-of-{name}"),
        value: Secret::new(format!("value of {name}").into_bytes()),
    }
}

pub(super) fn credentials(bindings: Vec<Binding>) -> Credentials {
    Credentials { authority: Authority::generate("test").unwrap(), extra_roots: vec![], bindings }
}
