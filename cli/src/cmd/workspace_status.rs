//! `cordium status WORKSPACE`.

use cordium_proto::v1::{ListeningPorts, Resource, WorkspaceState};
use jiff::Timestamp;
use serde_json::Value;

use super::{Outcome, ports, resource};
use crate::{
    client::Client,
    error::CliResult,
    output::{
        self, duration,
        format::Detailed,
        json,
        ports::{list as ports_object, table as ports_table},
        text, usage,
    },
};

pub async fn show(client: &Client, name: &str, space: &str, out: Option<Detailed>) -> Outcome {
    let workspace = resource::workspace(client, name, space).await?;
    let ports = match out {
        Some(_) => listening(client, &workspace).await?,
        None => None,
    };
    if let Some(format) = out.and_then(Detailed::structured) {
        output::print(&format.render(&as_json(&workspace, ports.as_ref()))?);
        return Ok(0);
    }
    output::print(&summary(&workspace, Timestamp::now()));
    let usage = usage::table(std::slice::from_ref(&workspace));
    if !usage.is_empty() {
        output::print(&format!("\n{usage}"));
    }
    match &ports {
        Some(list) if list.items.is_empty() => output::line("\nno port listens"),
        Some(list) => output::print(&format!("\n{}", ports_table(list, Timestamp::now()))),
        None => {}
    }
    for warning in workspace.status.iter().flat_map(|status| &status.warnings) {
        output::warning(warning);
    }
    Ok(0)
}

/// None if it does not run, or has just stopped.
async fn listening(client: &Client, workspace: &Resource) -> CliResult<Option<ListeningPorts>> {
    if resource::state(workspace) != WorkspaceState::Running {
        return Ok(None);
    }
    match ports::get(client, resource::uid(workspace)).await {
        Ok(list) => Ok(Some(list)),
        Err(error) if error.status() == Some(tonic::Code::FailedPrecondition) => Ok(None),
        Err(error) => Err(error),
    }
}

fn summary(workspace: &Resource, now: Timestamp) -> String {
    let status = workspace.status.clone().unwrap_or_default();
    let since = status.current_state_set_at.as_ref().map(|at| duration::age(at, now));
    let state = json::state_name(status.state);
    let rows = [
        ("workspace", resource::name(workspace).to_owned()),
        ("state", since.map_or_else(|| state.to_owned(), |since| format!("{state} for {since}"))),
        ("space", workspace.space.clone()),
        ("node", status.node),
        ("failure", status.failure.map(|failure| failure.message).unwrap_or_default()),
    ];
    rows.iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key:<10} {}\n", text::one_line(value)))
        .collect()
}

/// The resource as `cordium get` shows it, and what listens.
fn as_json(workspace: &Resource, ports: Option<&ListeningPorts>) -> Value {
    let mut value = json::resource(workspace);
    if let (Some(ports), Some(status)) = (ports, value["status"].as_object_mut()) {
        status.insert("listeningPorts".to_owned(), ports_object(ports)["ports"].take());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::{ListeningPort, Metadata, WorkspaceStatus};

    #[test]
    fn ports_stand_in_the_status() {
        let workspace = Resource {
            metadata: Some(Metadata { name: "dev".into(), ..Metadata::default() }),
            space: "default".into(),
            status: Some(WorkspaceStatus { state: WorkspaceState::Running.into(), ..Default::default() }),
            ..Resource::default()
        };
        let port = ListeningPort { port: 3000, ..ListeningPort::default() };
        let value = as_json(&workspace, Some(&ListeningPorts { items: vec![port], left_out: 0 }));
        assert_eq!(value["status"]["listeningPorts"][0]["port"], 3000);
        assert_eq!(as_json(&workspace, None)["status"]["listeningPorts"], Value::Null);
        let expected = "workspace  dev\nstate      RUNNING\nspace      default\n";
        assert_eq!(summary(&workspace, Timestamp::UNIX_EPOCH), expected);
    }
}
