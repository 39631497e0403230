//! The `-o` flag.

use clap::ValueEnum;
use serde_json::Value;

use crate::error::{CliError, CliResult};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// The flag of commands that show a table.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Out {
    #[arg(
        short = 'o',
        long = "out",
        visible_alias = "output",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub format: Format,
}

/// The formats of what is one object rather than a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Structured {
    Json,
    Yaml,
}

/// As [`Structured`], with a table of more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Detailed {
    Wide,
    Json,
    Yaml,
}

impl Detailed {
    pub fn structured(self) -> Option<Structured> {
        match self {
            Self::Json => Some(Structured::Json),
            Self::Yaml => Some(Structured::Yaml),
            Self::Wide => None,
        }
    }
}

impl Format {
    pub fn structured(self) -> Option<Structured> {
        match self {
            Self::Json => Some(Structured::Json),
            Self::Yaml => Some(Structured::Yaml),
            Self::Table | Self::Wide | Self::Name => None,
        }
    }
}

impl Structured {
    pub fn render(self, value: &Value) -> CliResult<String> {
        match self {
            Self::Json => serde_json::to_string_pretty(value)
                .map(|text| text + "\n")
                .map_err(|e| CliError::new(format!("cannot write JSON: {e}"))),
            Self::Yaml => {
                serde_saphyr::to_string(value).map_err(|e| CliError::new(format!("cannot write YAML: {e}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_back() {
        let value =
            json!({ "a": ["yes", "1.10", "x: y", "multi\nline"], "b": { "c": true, "d": null, "e": 3 } });
        let yaml = Structured::Yaml.render(&value).unwrap();
        assert!(yaml.ends_with('\n'));
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), value);
    }
}
