//! `cordium policy set`.

use std::path::PathBuf;

use cordium_proto::v1::SetEgressRequest;

use crate::{
    args::Global,
    client::{Client, Start},
    cmd::Outcome,
    error::{CliError, Doing as _},
    output,
    spec::file,
};

/// Replaces the egress section of a workspace; the rules of its template stay. A run goes by the new policy at once:
/// connections that it does not allow are closed, the others stay.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or uid
    #[arg(value_name = "WORKSPACE")]
    pub workspace: String,
    /// What `cordium policy get` prints, or a Workspace with it, in YAML or JSON (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: PathBuf,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let egress = cordium_spec::parse_egress(&file::text(&args.file)?)
        .map_err(|error| CliError::usage(format!("{}: {error}", args.file.display())))?;
    let egress_json = serde_json::to_string(&egress)
        .map_err(|error| CliError::new(format!("cannot write the policy as JSON: {error}")))?;
    let client = Client::connect(global, Start::Never).await?;
    let name = &args.workspace;
    let request = SetEgressRequest { r#ref: name.clone(), space: args.space, egress_json };
    let set = client.control().set_egress(request).await;
    let policy = set.doing(format!("set the policy of workspace {name}"))?.into_inner();
    if let Some(warning) = policy.warnings.first() {
        return Err(CliError::new(format!("workspace {name}: {warning}"))
            .hint("set it again when `cordium status` shows the node; a stop and a start do it, too"));
    }
    output::note(&match policy.in_force {
        true => format!("the policy of workspace {name} is in force"),
        false => format!("the policy of workspace {name} is in force from its next start"),
    });
    Ok(0)
}
