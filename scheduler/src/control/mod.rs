//! One file per request: what it checks, what it writes, and in which order it talks to the node.

pub mod create;
pub mod delete;
pub mod egress;
pub mod placeholders;
pub mod read;
pub mod secrets;
pub mod share;
pub mod start;
pub mod stop;
pub mod update;
pub mod volumes;

use std::collections::HashMap;

use crate::error::ApiError;

const MAX_DISPLAY_NAME: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 128;
const MAX_LABEL_VALUE: usize = 256;

fn check_display_name(name: &str) -> Result<(), ApiError> {
    if name.len() > MAX_DISPLAY_NAME {
        return Err(ApiError::invalid(format!(
            "display_name: has {} bytes; allowed: at most {MAX_DISPLAY_NAME}",
            name.len()
        )));
    }
    Ok(())
}

fn check_labels(labels: &HashMap<String, String>) -> Result<(), ApiError> {
    if labels.len() > MAX_LABELS {
        return Err(ApiError::invalid(format!(
            "labels: has {} entries; allowed: at most {MAX_LABELS}",
            labels.len()
        )));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE {
            let shown: String = key.chars().take(40).collect();
            return Err(ApiError::invalid(format!(
                "labels[{shown:?}]: keys have 1 to {MAX_LABEL_KEY} bytes, values at most {MAX_LABEL_VALUE}"
            )));
        }
    }
    Ok(())
}
