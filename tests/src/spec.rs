//! Specs of the workspaces that tests run.

use serde_json::{Value, json};

/// A spec with an image, over which `rest` is laid: objects are merged, everything else is replaced.
pub fn with_image(reference: &str, rest: Value) -> Value {
    // Many run at once, on machines of any size: less than a node promises by default.
    let mut spec =
        json!({"image": {"registry": {"url": reference}}, "limit": {"memory": {"megabytes": 512}}});
    merge(&mut spec, rest);
    spec
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A task of the spec.
pub fn task(name: &str, kind: &str, run: &str) -> Value {
    json!({"name": name, "type": kind, "run": run})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lays_one_spec_over_another() {
        let spec =
            with_image("a", json!({"runtime": {"cmd": "x"}, "image": {"registry": {"authentication": {}}}}));
        assert_eq!(spec["image"]["registry"], json!({"url": "a", "authentication": {}}));
        assert_eq!(spec["runtime"]["cmd"], "x");
    }
}
