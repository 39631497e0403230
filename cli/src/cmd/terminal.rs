//! `cordium terminal`.

use cordium_proto::v1::{CreateTerminalRequest, ListTerminalsRequest, RemoveTerminalRequest};

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult, Doing as _},
    output::{self, duration, table},
    session::{
        detach::{self, Keys},
        terminal::{self, End},
    },
    tty,
};

pub const DETACH_KEYS: &str = "ctrl-],d";

/// The shell lives in the workspace: leave it with the detach keys and come back with --id.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    pub workspace: String,
    /// Attach to this terminal instead of opening a new one
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// List the workspace's terminals
    #[arg(long, conflicts_with = "id")]
    pub list: bool,
    /// End a terminal and its shell
    #[arg(long, value_name = "ID", conflicts_with_all = ["id", "list"])]
    pub remove: Option<String>,
    /// As root instead of the workspace's user
    #[arg(long)]
    pub root: bool,
    /// Keys that leave the terminal without ending it (`none` for no such keys)
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS, value_parser = detach::parse)]
    pub detach_keys: Keys,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let workspace = &args.workspace;
    if args.list {
        let client = Client::connect(global, Start::Never).await?;
        return list(&client, workspace).await;
    }
    if let Some(id) = args.remove {
        let client = Client::connect(global, Start::Never).await?;
        let request = RemoveTerminalRequest { workspace: workspace.clone(), id: id.clone() };
        client.session().remove_terminal(request).await.doing(format!("end terminal {id} of {workspace}"))?;
        return Ok(0);
    }
    if !tty::is_interactive() {
        return Err(CliError::usage("standard input and output must be a terminal")
            .hint(format!("without one, use `cordium exec {workspace} -- COMMAND`")));
    }
    let client = Client::connect(global, Start::Never).await?;
    open(&client, workspace, workspace, args.id, args.root, args.detach_keys).await
}

/// Opens a terminal, or attaches to the one with `id`, and stays until its shell ends or the user leaves.
///
/// `workspace` is what the calls name, `shown` what people are told.
pub async fn open(
    client: &Client,
    workspace: &str,
    shown: &str,
    id: Option<String>,
    root: bool,
    keys: Keys,
) -> CliResult<u8> {
    let id = match id {
        Some(id) => id,
        None => {
            let request = CreateTerminalRequest {
                workspace: workspace.to_owned(),
                size: Some(tty::size()),
                run_as_root: root,
            };
            let doing = format!("open a terminal in {shown}");
            client.session().create_terminal(request).await.doing(doing)?.into_inner().id
        }
    };
    match terminal::attach(client, workspace, shown, &id, keys).await? {
        End::Closed(code) => Ok((code & 0xff) as u8),
        End::Detached => {
            output::note(&format!(
                "\nleft terminal {id}; come back with `cordium terminal {shown} --id {id}`"
            ));
            Ok(0)
        }
        End::HungUp(code) => Ok(code),
    }
}

async fn list(client: &Client, workspace: &str) -> Outcome {
    let request = ListTerminalsRequest { workspace: workspace.to_owned() };
    let doing = format!("list terminals of {workspace}");
    let items = client.session().list_terminals(request).await.doing(doing)?.into_inner().items;
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|t| {
            let size = t.size.as_ref().map(|s| format!("{}x{}", s.cols, s.rows)).unwrap_or_default();
            let age = t.created_at.as_ref().map(|at| duration::age(at, now)).unwrap_or_default();
            vec![t.id.clone(), size, age]
        })
        .collect();
    output::print(&table::render(&["ID", "SIZE", "AGE"], &rows));
    Ok(0)
}
