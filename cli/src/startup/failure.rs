//! A failed run, told: the structured type, the message with the last lines of output, the next step.

use cordium_proto::v1::{Failure, WorkspaceState};
use serde_json::Value;

use crate::{error::CliError, output::json::failure_type};

const SHOWN_LINES: usize = 40;

pub fn error(name: &str, failure: Option<&Failure>, failed_in: WorkspaceState) -> CliError {
    let Some(failure) = failure else {
        return CliError::new(format!("workspace {name} was stopped before it ran"))
            .hint(format!("start it again with `cordium start {name}`"));
    };
    let (kind, body) = failure_type(failure);
    let phase = match failed_in {
        WorkspaceState::Unknown => String::new(),
        state => format!(" in {}", state.short_name()),
    };
    let lines: Vec<String> = failure.message.lines().map(str::to_owned).collect();
    let skipped = lines.len().saturating_sub(SHOWN_LINES);
    let more = (skipped > 0).then(|| format!("… {skipped} lines left out"));
    // The first line says what was being done; the end of the output is what matters of the rest.
    let shown = lines.iter().take(1).cloned().chain(more).chain(lines.iter().skip(1 + skipped).cloned());
    CliError::new(format!("workspace {name} failed{phase}: {kind}{}", describe(&body)))
        .detail(shown.collect::<Vec<_>>())
        .hint(next_step(name, kind, &body))
}

/// `task "setup", exit code 13`.
fn describe(body: &Value) -> String {
    let mut text = String::new();
    if let Some(name) = body["name"].as_str() {
        text.push_str(&format!(" {name:?}"));
    }
    match body["exitCode"].as_i64() {
        Some(-1) => text.push_str(", ended by a signal"),
        Some(code) => text.push_str(&format!(", exit code {code}")),
        None => {}
    }
    text
}

fn next_step(name: &str, kind: &str, body: &Value) -> String {
    let again = format!("then `cordium start {name}`");
    match kind {
        "imagePull" => {
            format!("check the reference and the registry (`cordium image pull REF` tries it alone), {again}")
        }
        "imageBuild" => format!("use an image that is built: --image REF, {again}"),
        "repoClone" | "additionalRepoClone" => {
            format!("check the repository's url, branch and authentication, {again}")
        }
        "task" => {
            let task = body["name"].as_str().unwrap_or_default();
            format!("`cordium logs {name} --task {task:?}` shows its output; mend the task, {again}")
        }
        "startupTimeoutExceeded" => {
            format!("`cordium logs {name}` shows what took so long; shorten it, {again}")
        }
        "volume" => {
            let volume = body["name"].as_str().unwrap_or_default();
            format!(
                "mount volume {volume:?} at a path that the image leaves free (no link, no file), {again}"
            )
        }
        "loadStorage" | "saveStorage" => {
            format!("`cordium doctor` shows the space left on the disk; free some, {again}")
        }
        "runContainer" | "networkPolicy" => {
            format!("`cordium doctor` checks what this machine offers, {again}")
        }
        _ => format!("`cordium logs {name}` and the supervisor's log say more, {again}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::failure::{TaskFailure, Type};

    #[test]
    fn a_task_is_named_with_its_exit_code() {
        let failure = Failure {
            message: "task setup failed\nlast line".into(),
            r#type: Some(Type::Task(TaskFailure {
                name: "setup".into(),
                exit_code: 13,
                ..Default::default()
            })),
        };
        let error = error("dev", Some(&failure), WorkspaceState::Preparing);
        assert_eq!(error.to_string(), "workspace dev failed in PREPARING: task \"setup\", exit code 13");
        assert_eq!(error.exit_code(), 1);
    }
}
