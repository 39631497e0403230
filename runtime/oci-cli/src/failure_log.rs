//! `--log`: engines read the reason of a failure from there.

use std::{fs::OpenOptions, io::Write, path::PathBuf};

use serde_json::json;

use crate::args::LogFormat;

pub struct FailureLog {
    path: PathBuf,
    format: LogFormat,
}

impl FailureLog {
    pub fn new(path: PathBuf, format: LogFormat) -> Self {
        Self { path, format }
    }

    /// Appends the failure. One that cannot be logged is still told on standard error.
    pub fn write(&self, error: &anyhow::Error) {
        let message = format!("{error:#}");
        let line = match self.format {
            LogFormat::Text => format!("level=error msg={message:?}"),
            LogFormat::Json => json!({"level": "error", "msg": message}).to_string(),
        };
        let opened = OpenOptions::new().append(true).create(true).open(&self.path);
        if let Err(failed) = opened.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("cordium-oci: writing {}: {failed}", self.path.display());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        for (format, name) in [(LogFormat::Json, "json"), (LogFormat::Text, "text")] {
            let path = dir.path().join(name);
            FailureLog::new(path.clone(), format).write(&anyhow::anyhow!("a \"b\"\nc"));
            assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
        }
    }
}
