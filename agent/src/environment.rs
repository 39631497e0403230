//! The environment of what runs in the sandbox: later layers win, some names are always ours.

use std::collections::BTreeMap;

use cordium_proto::v1::EnvVar;

pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Applies one more layer. Names that no program could read are left out.
    pub fn with<'a>(mut self, layer: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (key, value) in layer {
            self.set(key, value);
        }
        self
    }

    pub fn set(&mut self, key: &str, value: &str) {
        let bad = key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
        if !bad {
            self.0.insert(key.to_owned(), value.to_owned());
        }
    }

    pub fn set_default(&mut self, key: &str, value: &str) {
        if !self.0.contains_key(key) {
            self.set(key, value);
        }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

pub fn pairs(variables: &[EnvVar]) -> impl Iterator<Item = (&str, &str)> {
    variables.iter().map(|variable| (variable.key.as_str(), variable.value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_bad_names_are_left_out() {
        let environment = Environment::default().with([("A", "1"), ("B", "1")]).with([
            ("B", "2"),
            ("", "x"),
            ("C=D", "x"),
            ("E", "nul\0"),
        ]);
        let all: Vec<_> = environment.iter().collect();
        assert_eq!(all, [("A", "1"), ("B", "2")]);
    }

    #[test]
    fn defaults_do_not_override() {
        let mut environment = Environment::default().with([("PATH", "/mine")]);
        environment.set_default("PATH", DEFAULT_PATH);
        environment.set_default("TERM", "dumb");
        assert_eq!(environment.get("PATH"), Some("/mine"));
        assert_eq!(environment.get("TERM"), Some("dumb"));
    }
}
