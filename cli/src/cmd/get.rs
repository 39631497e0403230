//! `cordium get`.

use cordium_proto::v1::{Kind as Proto, ListRequest, Resource};
use jiff::Timestamp;
use serde_json::Value;

use super::{Outcome, resource};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, Doing as _},
    output::{
        self, duration,
        format::{Format, Out},
        json, table, text, usage,
    },
    spec::Kind,
};

#[derive(clap::Args, Debug)]
pub struct Args {
    pub kind: Kind,
    /// Only these
    pub names: Vec<String>,
    /// Only those in this space
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// Only workspaces of this template
    #[arg(long, value_name = "TEMPLATE", default_value = "", hide_default_value = true)]
    pub template: String,
    #[command(flatten)]
    pub out: Out,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let word = args.kind.word();
    let items = if args.names.is_empty() {
        let request = ListRequest {
            kind: Proto::from(args.kind).into(),
            space: args.space.clone(),
            template: args.template.clone(),
        };
        let mut items =
            client.control().list(request).await.doing(format!("list {word}s"))?.into_inner().items;
        items.sort_by(|a, b| (&a.space, resource::name(a)).cmp(&(&b.space, resource::name(b))));
        items
    } else {
        let mut items = Vec::new();
        for name in &args.names {
            let found = resource::find(&client, args.kind, name, &args.space).await?;
            items.push(found.ok_or_else(|| {
                CliError::new(format!("{word} {name} does not exist"))
                    .hint(format!("`cordium get {word}s` lists those that do"))
            })?);
        }
        items
    };
    if let Some(format) = args.out.format.structured() {
        let value = match (&items[..], args.names.len()) {
            ([one], 1) => json::resource(one),
            (items, _) => json::list(Proto::from(args.kind), items),
        };
        output::print(&format.render(&value)?);
        return Ok(0);
    }
    if args.out.format == Format::Name {
        let names: String = items.iter().map(|r| format!("{word}/{}\n", resource::name(r))).collect();
        output::print(&names);
        return Ok(0);
    }
    if items.is_empty() {
        output::note(&format!("no {word}s; `cordium create {word}` makes one"));
        return Ok(0);
    }
    output::print(&rows(args.kind, &items, args.out.format == Format::Wide, Timestamp::now()));
    Ok(0)
}

fn rows(kind: Kind, items: &[Resource], wide: bool, now: Timestamp) -> String {
    let mut header = vec!["NAME"];
    match kind {
        Kind::Workspace => {
            header.extend(["STATE", "SPACE", "TEMPLATE", "IMAGE", "AGE"]);
            if wide {
                header.extend(["NODE", "RUNS", "CPU", "MEMORY", "STORAGE", "UID", "MESSAGE"]);
            }
        }
        Kind::Space => header.extend(["DISPLAY NAME", "AGE"]),
        Kind::Template => header.extend(["SPACE", "IMAGE", "AGE"]),
        Kind::Secret => header.extend(["SPACE", "AGE"]),
        Kind::Volume => header.extend(["STATE", "SIZE", "ACCESS", "NODE", "MOUNTED BY", "SPACE", "AGE"]),
    }
    if wide && kind != Kind::Workspace {
        header.push("UID");
    }
    let rows: Vec<Vec<String>> = items.iter().map(|r| row(kind, r, wide, now)).collect();
    table::render(&header, &rows)
}

fn row(kind: Kind, r: &Resource, wide: bool, now: Timestamp) -> Vec<String> {
    let spec: Value = serde_json::from_str(&r.spec_json).unwrap_or_default();
    let meta = r.metadata.clone().unwrap_or_default();
    let age = meta.created_at.as_ref().map_or_else(String::new, |at| duration::age(at, now));
    let status = r.status.clone().unwrap_or_default();
    let mut row = vec![meta.name];
    match kind {
        Kind::Workspace => {
            row.extend([
                json::state_name(status.state).to_owned(),
                r.space.clone(),
                status.template.clone(),
                image(&spec),
                age,
            ]);
            if wide {
                let limit = status.limit.unwrap_or_default();
                let or_dash = |n: u64, text: String| if n == 0 { "-".to_owned() } else { text };
                let message =
                    status.failure.as_ref().map_or("", |f| f.message.lines().next().unwrap_or_default());
                row.extend([
                    status.node.clone(),
                    status.successful_runs.to_string(),
                    or_dash(limit.cpu_millicores, format!("{}m", limit.cpu_millicores)),
                    match &status.usage {
                        Some(used) => usage::memory(used, &limit),
                        None => or_dash(limit.memory_mib, format!("{}MiB", limit.memory_mib)),
                    },
                    match &status.usage {
                        Some(used) => usage::storage(used, &limit),
                        None => or_dash(limit.storage_mib, format!("{}MiB", limit.storage_mib)),
                    },
                    meta.uid.clone(),
                    text::shorten(&text::one_line(message), 80),
                ]);
            }
        }
        Kind::Space => row.extend([text::one_line(&meta.display_name), age]),
        Kind::Template => row.extend([r.space.clone(), image(&spec), age]),
        Kind::Secret => row.extend([r.space.clone(), age]),
        Kind::Volume => {
            let status = r.volume_status.clone().unwrap_or_default();
            let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            row.extend([
                json::volume_state(&status).to_owned(),
                format!("{}MiB", status.capacity_mib),
                spec["accessMode"].as_str().map_or_else(String::new, json::access_mode),
                or_dash(status.node),
                or_dash(text::shorten(&status.mounted_by.join(","), 40)),
                r.space.clone(),
                age,
            ]);
        }
    }
    if wide && kind != Kind::Workspace {
        row.push(meta.uid);
    }
    row
}

fn image(spec: &Value) -> String {
    let image = &spec["image"];
    match image["registry"]["url"].as_str() {
        Some(url) => text::one_line(url),
        None if image.is_object() => {
            image.as_object().and_then(|o| o.keys().next()).map_or_else(String::new, |k| format!("({k})"))
        }
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cordium_proto::v1::{Metadata, WorkspaceState, WorkspaceStatus};

    #[test]
    fn a_table_of_workspaces() {
        let item = Resource {
            kind: Proto::Workspace.into(),
            metadata: Some(Metadata { name: "dev".into(), uid: "u".into(), ..Metadata::default() }),
            spec_json: r#"{"image":{"registry":{"url":"alpine:3"}}}"#.into(),
            space: "default".into(),
            status: Some(WorkspaceStatus {
                state: WorkspaceState::Running.into(),
                ..WorkspaceStatus::default()
            }),
            ..Resource::default()
        };
        let text = rows(Kind::Workspace, &[item], false, Timestamp::from_second(0).unwrap());
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["NAME", "STATE", "SPACE", "TEMPLATE", "IMAGE", "AGE"]
        );
        assert!(lines.next().unwrap().starts_with("dev   RUNNING  default"));
    }
}
