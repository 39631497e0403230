//! `cordium ports`: what listens in a workspace.

use std::time::Duration;

use cordium_proto::v1::{ListeningPort, ListeningPorts, WatchPortsRequest};
use jiff::Timestamp;
use tonic::{Code, Status};

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult},
    output::{self, format::Structured, ports},
};

/// A broken connection is tried so often in a row.
const BREAKS: u64 = 10;

/// What of it is reached from here: `cordium port-forward`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    workspace: String,
    /// Go on with what begins or ends to listen, until the workspace stops
    #[arg(short = 'f', long)]
    follow: bool,
    /// Output format; with --follow, one object for each change
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    if args.follow {
        return follow(&client, &args).await;
    }
    let list = get(&client, &args.workspace).await?;
    match args.out {
        Some(format) => output::print(&format.render(&ports::list(&list))?),
        None if list.items.is_empty() => output::note(&format!("nothing listens in {}", args.workspace)),
        None => output::print(&ports::table(&list, Timestamp::now())),
    }
    left_out(&list);
    Ok(0)
}

/// What listens now.
pub async fn get(client: &Client, workspace: &str) -> CliResult<ListeningPorts> {
    let request = WatchPortsRequest { workspace: workspace.to_owned(), follow: false };
    let list = async { client.session().watch_ports(request).await?.into_inner().message().await }.await;
    Ok(list.map_err(|status| failed(workspace, &status))?.unwrap_or_default())
}

fn failed(workspace: &str, status: &Status) -> CliError {
    CliError::from_status(&format!("see what listens in {workspace}"), status)
}

fn left_out(list: &ListeningPorts) {
    if list.left_out > 0 {
        output::warning(&format!("{} more listen", list.left_out));
    }
}

async fn follow(client: &Client, args: &Args) -> Outcome {
    let mut before: Vec<ListeningPort> = Vec::new();
    let (mut breaks, mut seen) = (0, false);
    loop {
        let request = WatchPortsRequest { workspace: args.workspace.clone(), follow: true };
        let ended = async {
            let mut lists = client.session().watch_ports(request).await?.into_inner();
            while let Some(list) = lists.message().await? {
                (breaks, seen) = (0, true);
                for (open, port) in ports::changes(&before, &list.items) {
                    output::print(
                        &change(args.out, open, &port)
                            .map_err(|error| Status::internal(error.to_string()))?,
                    );
                }
                left_out(&list);
                before = list.items;
            }
            Ok::<(), Status>(())
        }
        .await;
        match ended {
            Ok(()) => return Ok(0),
            // The supervisor was restarted, perhaps.
            Err(status) if seen && breaks < BREAKS && lost(&status) => {
                breaks += 1;
                tokio::time::sleep(Duration::from_millis(100 * breaks)).await;
            }
            // It has stopped.
            Err(status) if seen && status.code() == Code::FailedPrecondition => return Ok(0),
            Err(status) => return Err(failed(&args.workspace, &status)),
        }
    }
}

fn lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}

fn change(out: Option<Structured>, open: bool, port: &ListeningPort) -> CliResult<String> {
    let event = if open { "open" } else { "closed" };
    let object = || ports::object(port).set("event", event).done();
    Ok(match out {
        None => format!("{}\n", ports::describe(open, port)),
        // One line each.
        Some(Structured::Json) => format!("{}\n", object()),
        Some(Structured::Yaml) => format!("---\n{}", Structured::Yaml.render(&object())?),
    })
}
