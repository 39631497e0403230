//! Asks a condition, by the interpreter of the `cel` crate.

use std::sync::{Arc, LazyLock};

use cel::common::types::CelBool;
use cel::{Context, Env, Value};

use super::{Condition, Facts};

/// What CEL itself brings, without macros.
static LANGUAGE: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

impl Condition {
    /// None: something is absent, overflows, or is divided by zero, and the rest does not settle it.
    pub(crate) fn evaluate(&self, facts: &Facts<'_>) -> Option<bool> {
        let mut context = Context::with_env(Arc::clone(&LANGUAGE));
        context.set_variable_resolver(facts);
        let value = Value::resolve_val(&self.tree, &context).ok()?;
        value.downcast_ref::<CelBool>().map(|value| *value.inner())
    }
}
