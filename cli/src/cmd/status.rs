//! `cordium status`.

use cordium_proto::v1::{GetStatusRequest, GetStatusResponse, Kind, ListRequest, NodeStatus, Resource};
use serde_json::{Value, json};

use super::{Outcome, resource, workspace_status};
use crate::{
    args::Global,
    client::{Client, Start},
    error::Doing as _,
    output::{
        self, duration,
        format::Detailed,
        json::{self, Object, limit},
        table, usage,
    },
};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this workspace (name or uid)
    pub workspace: Option<String>,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true, requires = "workspace")]
    pub space: String,
    /// Output format; all but the table have the ports that listen in the workspace
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    pub out: Option<Detailed>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    if let Some(name) = &args.workspace {
        return workspace_status::show(&client, name, &args.space, args.out).await;
    }
    let status = client.control().get_status(GetStatusRequest {}).await.doing("get the status")?.into_inner();
    let request = ListRequest { kind: Kind::Workspace.into(), ..ListRequest::default() };
    let mut workspaces =
        client.control().list(request).await.doing("list the workspaces")?.into_inner().items;
    workspaces.sort_by(|a, b| (&a.space, resource::name(a)).cmp(&(&b.space, resource::name(b))));
    if let Some(format) = args.out.and_then(Detailed::structured) {
        output::print(&format.render(&as_json(&status, &workspaces))?);
        return Ok(0);
    }
    output::line(&format!("version   {}", status.version));
    output::line(&format!("socket    {}", client.paths.socket.display()));
    let mut states: Vec<_> = status.workspaces_by_state.iter().filter(|(_, n)| **n > 0).collect();
    states.sort();
    let states: Vec<String> = states.iter().map(|(state, n)| format!("{n} {}", short(state))).collect();
    output::line(&format!(
        "workspaces {}\n",
        if states.is_empty() { "none".to_owned() } else { states.join(", ") }
    ));
    let rows: Vec<Vec<String>> = status.nodes.iter().map(row).collect();
    let header = ["NODE", "REACHABLE", "RUNNING", "CPU", "MEMORY", "STORAGE", "VERSION", "STATE DIR"];
    output::print(&table::render(&header, &rows));
    let usage = usage::table(&workspaces);
    if !usage.is_empty() {
        output::print(&format!("\n{usage}"));
    }
    for workspace in &workspaces {
        let status = workspace.status.clone().unwrap_or_default();
        for warning in status.warnings.iter().filter(|_| status.usage.is_some()) {
            output::warning(&format!("workspace {}: {warning}", resource::name(workspace)));
        }
    }
    for status in &status.nodes {
        let node = status.node.clone().unwrap_or_default();
        if !status.error.is_empty() {
            output::warning(&format!("node {}: {}", node.name, status.error));
        }
        for warning in &node.warnings {
            output::warning(&format!("node {}: {warning}", node.name));
        }
    }
    Ok(0)
}

fn short(state: &str) -> &str {
    state.trim_start_matches("WORKSPACE_STATE_")
}

fn row(status: &NodeStatus) -> Vec<String> {
    let node = status.node.clone().unwrap_or_default();
    let (has, used) = (node.capacity.unwrap_or_default(), node.allocated.unwrap_or_default());
    let of = |used: u64, has: u64, unit: &str| format!("{used}/{has}{unit}");
    let mib = |n: u64| duration::bytes(n << 20);
    vec![
        node.name,
        if status.reachable { "yes" } else { "no" }.to_owned(),
        node.running_workspaces.to_string(),
        of(used.cpu_millicores, has.cpu_millicores, "m"),
        format!("{}/{}", mib(used.memory_mib), mib(has.memory_mib)),
        format!("{}/{}", mib(used.storage_mib), mib(has.storage_mib)),
        node.version,
        node.state_dir,
    ]
}

fn as_json(status: &GetStatusResponse, workspaces: &[Resource]) -> Value {
    let mut states: Vec<_> = status.workspaces_by_state.iter().collect();
    states.sort();
    let states: serde_json::Map<String, Value> =
        states.into_iter().map(|(s, n)| (short(s).to_owned(), (*n).into())).collect();
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|s| {
            let n = s.node.clone().unwrap_or_default();
            Object::default()
                .set("name", n.name)
                .set("reachable", s.reachable)
                .text("error", &s.error)
                .time("lastSeenAt", s.last_seen_at.as_ref())
                .text("version", &n.version)
                .maybe("capacity", n.capacity.as_ref().map(limit))
                .maybe("allocated", n.allocated.as_ref().map(limit))
                .set("runningWorkspaces", n.running_workspaces)
                .set("revision", n.revision)
                .time("startedAt", n.started_at.as_ref())
                .list("warnings", n.warnings.into_iter().map(Value::from).collect())
                .text("stateDir", &n.state_dir)
                .done()
        })
        .collect();
    let running: Vec<Value> = workspaces
        .iter()
        .filter_map(|workspace| {
            let status = workspace.status.as_ref()?;
            let used = json::usage(status.usage.as_ref()?);
            let object = Object::default()
                .set("name", resource::name(workspace))
                .reference("spaceRef", &workspace.space)
                .maybe("limit", status.limit.as_ref().map(limit))
                .set("usage", used)
                .list("warnings", status.warnings.iter().cloned().map(Value::from).collect());
            Some(object.done())
        })
        .collect();
    json!({
        "version": status.version, "revision": status.revision, "workspacesByState": states,
        "nodes": nodes, "workspaces": running,
    })
}
