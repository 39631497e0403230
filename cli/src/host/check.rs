//! The result of one look at the machine.

use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Ok,
    /// It works without, with less.
    Warn,
    /// Workspaces cannot run without it.
    Fail,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub level: Level,
    pub found: String,
    /// The command or the step that mends it.
    pub fix: Option<String>,
}

impl Check {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, found: found.into(), fix: None }
    }

    pub fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    pub fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, found: found.into(), fix: Some(fix.into()) }
    }

    pub fn json(&self) -> Value {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warning",
            Level::Fail => "failed",
        };
        json!({ "name": self.name, "level": level, "found": self.found, "fix": self.fix })
    }
}
