//! One spelling for what may be said in several ways.

use std::collections::HashSet;

use crate::model::{Capabilities, Runtime};
use crate::validate::capability_name;

pub(super) fn runtime(runtime: &mut Runtime) {
    last_of_each_key(runtime);
    capabilities(&mut runtime.capabilities);
    for (index, task) in runtime.tasks.iter_mut().enumerate() {
        if task.name.is_empty() {
            task.name = format!("task-{}", index + 1);
        }
    }
}

/// The last of each environment key, in order.
fn last_of_each_key(runtime: &mut Runtime) {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = std::mem::take(&mut runtime.env_vars);
    kept.reverse();
    kept.retain(|env| seen.insert(env.key.clone()));
    kept.reverse();
    runtime.env_vars = kept;
}

/// Without `CAP_`, each once; what is dropped is not added.
fn capabilities(capabilities: &mut Capabilities) {
    let once = |names: &mut Vec<String>, not: &[String]| {
        let mut seen = HashSet::new();
        for name in names.iter_mut() {
            if let Some(known) = capability_name(name) {
                *name = known.to_string();
            }
        }
        names.retain(|name| !not.contains(name) && seen.insert(name.clone()));
    };
    once(&mut capabilities.drop, &[]);
    once(&mut capabilities.add, &capabilities.drop);
}
