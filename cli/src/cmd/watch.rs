//! `cordium watch`.

use std::time::Duration;

use console::style;
use cordium_proto::v1::{PhaseEvent, WatchWorkspacesRequest, WorkspaceEvent};
use tonic::Code;

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::CliError,
    output::{
        self,
        duration::rfc3339,
        json::{self, failure_type},
        text,
    },
};

/// Begins with what each workspace is now; goes on after the last revision when the connection breaks.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this workspace (name or uid)
    pub workspace: Option<String>,
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// Only what comes after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub after: u64,
    /// One JSON object on each line
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    pub out: Option<JsonLines>,
    /// End when the connection breaks instead of connecting again
    #[arg(long)]
    pub no_reconnect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum JsonLines {
    Json,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let mut revision = args.after;
    let mut pause = Duration::from_millis(100);
    let mut connected_once = false;
    let mut told = false;
    loop {
        let request = WatchWorkspacesRequest {
            after_revision: revision,
            r#ref: args.workspace.clone().unwrap_or_default(),
            space: args.space.clone(),
        };
        let ended = async {
            let mut stream = client.control().watch_workspaces(request).await?.into_inner();
            if told {
                output::note(&format!("watching again after revision {revision}"));
            }
            (connected_once, told, pause) = (true, false, Duration::from_millis(100));
            while let Some(event) = stream.message().await? {
                revision = revision.max(event.revision);
                output::line(&match args.out {
                    Some(JsonLines::Json) => json::event(&event).to_string(),
                    None => describe(&event),
                });
            }
            Ok::<(), tonic::Status>(())
        }
        .await;
        let again = match &ended {
            Ok(()) => true,
            Err(s) => {
                matches!(s.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
            }
        };
        if args.no_reconnect || !connected_once || !again {
            return match ended {
                Ok(()) => Ok(0),
                Err(status) => Err(CliError::from_status("watch workspaces", &status)),
            };
        }
        if !told {
            output::warning("the connection was lost; waiting for the supervisor to come back");
            told = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn describe(event: &WorkspaceEvent) -> String {
    let empty = PhaseEvent::default();
    let phase = event.phase.as_ref().unwrap_or(&empty);
    let name = match event.workspace.as_ref().and_then(|w| w.metadata.as_ref()) {
        Some(meta) if !meta.name.is_empty() => &meta.name,
        _ => &phase.workspace_name,
    };
    let at = phase.at.as_ref().map_or_else(|| "-".to_owned(), rfc3339);
    let status = event.workspace.as_ref().and_then(|w| w.status.as_ref()).filter(|_| event.phase.is_none());
    let state = match status {
        _ if event.deleted => "DELETED",
        Some(status) => json::state_name(status.state),
        None => json::state_name(phase.state),
    };
    let mut line = format!("{at} {} {}", text::one_line(name), style(state).bold());
    if phase.snapshot {
        line.push_str(" (now)");
    }
    // Without a transition it is something else about it that has changed.
    if let Some(status) = status.filter(|_| !event.deleted) {
        line.push_str(" (still)");
        for warning in &status.warnings {
            line.push_str(&format!(" warning: {}", text::one_line(warning)));
        }
    }
    if !phase.detail.is_empty() {
        line.push_str(&format!(" {}", text::one_line(&phase.detail)));
    }
    if let Some(failure) = &phase.failure {
        let (kind, _) = failure_type(failure);
        line.push_str(&format!(
            " {kind}: {}",
            text::one_line(failure.message.lines().next().unwrap_or_default())
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::{Failure, Metadata, Resource, WorkspaceState, WorkspaceStatus};

    #[test]
    fn a_line_tells_state_and_failure() {
        let event = WorkspaceEvent {
            phase: Some(PhaseEvent {
                workspace_name: "dev".into(),
                state: WorkspaceState::StoppingRequest.into(),
                failure: Some(Failure { message: "bad\nmore".into(), r#type: None }),
                ..PhaseEvent::default()
            }),
            ..WorkspaceEvent::default()
        };
        console::set_colors_enabled(false);
        assert_eq!(describe(&event), "- dev STOPPING_REQUEST unknown: bad");
    }

    #[test]
    fn a_line_without_a_transition_tells_the_state_and_the_warnings() {
        let status = WorkspaceStatus {
            state: WorkspaceState::Running.into(),
            warnings: vec!["node a does not answer".into()],
            ..WorkspaceStatus::default()
        };
        let metadata = Metadata { name: "dev".into(), ..Metadata::default() };
        let workspace = Resource { metadata: Some(metadata), status: Some(status), ..Resource::default() };
        let event = WorkspaceEvent { workspace: Some(workspace), ..WorkspaceEvent::default() };
        console::set_colors_enabled(false);
        assert_eq!(describe(&event), "- dev RUNNING (still) warning: node a does not answer");
    }
}
