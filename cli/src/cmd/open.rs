//! `cordium open`: the address of a port, for a browser on this machine.

use std::process::{Command, Stdio};

use cordium_proto::v1::{ListeningPorts, OpenPortRequest, Resource};
use serde_json::{Value, json};
use tonic::Code;

use super::{Outcome, ports, resource, watch::JsonLines};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult},
    output,
};

/// The address holds the workspace's token: whoever has it reaches every port of the workspace from this machine. The browser
/// keeps it as a cookie of that address; the workspace never sees it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    workspace: String,
    /// A port, or an application of the spec [default: the default application, else the one port that listens]
    #[arg(value_name = "PORT|APPLICATION")]
    what: Option<String>,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    space: String,
    /// Open it with xdg-open. Other users of this machine may see the address while that runs
    #[arg(long)]
    browser: bool,
    /// One JSON object
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<JsonLines>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let workspace = resource::workspace(&client, &args.workspace, &args.space).await?;
    let port = match args.what.as_deref().map(str::parse) {
        Some(Ok(port)) => port,
        _ => {
            let listening = ports::get(&client, resource::uid(&workspace)).await.unwrap_or_default();
            choose(&workspace, &listening, args.what.as_deref())?
        }
    };
    let request = OpenPortRequest {
        workspace: resource::uid(&workspace).to_owned(),
        space: String::new(),
        port: port.into(),
    };
    let doing = format!("open port {port} of {}", args.workspace);
    let url = match client.entry().open_port(request).await {
        Ok(opened) => opened.into_inner().url,
        Err(status) if status.code() == Code::Unimplemented => {
            return Err(CliError::new(format!("cannot {doing}: this node has no HTTP entry")).hint(format!(
                "remove `entryPort: 0` from its configuration, or use `cordium port-forward {} {port}`",
                args.workspace
            )));
        }
        Err(status) => return Err(CliError::from_status(&doing, &status)),
    };
    output::line(&match args.out {
        Some(JsonLines::Json) => json!({"url": url, "port": port}).to_string(),
        None => url.clone(),
    });
    if args.browser {
        browse(&url)?;
    }
    Ok(0)
}

/// What an application's name means, or no name at all.
fn choose(workspace: &Resource, listening: &ListeningPorts, name: Option<&str>) -> CliResult<u16> {
    let spec: Value = serde_json::from_str(&workspace.spec_json).unwrap_or_default();
    let applications = spec["applications"].as_array().cloned().unwrap_or_default();
    let port = |application: &Value| application["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let listens = |wanted: &dyn Fn(&str) -> bool| {
        let found = listening.items.iter().find(|item| wanted(&item.application));
        found.and_then(|item| u16::try_from(item.port).ok())
    };
    if let Some(name) = name {
        // A template's applications are known of ports that listen only.
        let stated = applications.iter().find(|application| application["name"] == name).and_then(port);
        return stated.or_else(|| listens(&|application| application == name)).ok_or_else(|| {
            CliError::new(format!("{name:?} is neither a port nor an application that is known")).hint(
                format!("`cordium ports {}` shows what listens; give its number", resource::name(workspace)),
            )
        });
    }
    let default = applications.iter().find(|application| application["isDefault"] == true).and_then(port);
    let mut numbers: Vec<u32> = listening.items.iter().map(|item| item.port).collect();
    numbers.dedup();
    let only = match (&applications[..], &numbers[..]) {
        ([one], _) => port(one),
        (_, [one]) => u16::try_from(*one).ok(),
        _ => None,
    };
    default.or(only).ok_or_else(|| {
        CliError::new("which port?")
            .hint(format!("name one: `cordium ports {}` shows what listens", resource::name(workspace)))
    })
}

fn browse(url: &str) -> CliResult {
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().map_err(|error| {
        CliError::new(format!("cannot start xdg-open: {error}")).hint("open the address yourself")
    })?;
    if status.success() {
        return Ok(());
    }
    Err(CliError::new("xdg-open found no browser").hint("open the address yourself"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cordium_proto::v1::ListeningPort;

    fn listening(ports: &[(u32, &str)]) -> ListeningPorts {
        let item = |(port, application): &(u32, &str)| ListeningPort {
            port: *port,
            application: (*application).to_owned(),
            ..ListeningPort::default()
        };
        ListeningPorts { items: ports.iter().map(item).collect(), left_out: 0 }
    }

    #[test]
    fn a_name_the_default_or_the_only_one() {
        let workspace = |spec: Value| Resource { spec_json: spec.to_string(), ..Resource::default() };
        let two = workspace(
            json!({"applications": [{"name": "a", "port": 1}, {"name": "b", "port": 2, "isDefault": true}]}),
        );
        let none = workspace(json!({}));
        let chosen = |workspace: &Resource, ports: &[(u32, &str)], name| {
            choose(workspace, &listening(ports), name).ok()
        };
        assert_eq!(chosen(&two, &[], Some("a")), Some(1));
        assert_eq!(chosen(&two, &[], None), Some(2));
        assert_eq!(chosen(&none, &[(80, "web")], Some("web")), Some(80), "a template's");
        assert_eq!(chosen(&none, &[(80, "web")], Some("other")), None);
        assert_eq!(chosen(&none, &[(80, ""), (80, "")], None), Some(80), "of two families");
        assert_eq!(chosen(&none, &[(80, ""), (81, "")], None), None);
        assert_eq!(chosen(&none, &[], None), None);
    }
}
