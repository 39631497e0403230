//! `cordium policy get`.

use cordium_proto::v1::GetEgressRequest;
use serde_json::Value;

use crate::{
    args::Global,
    client::{Client, Start},
    cmd::Outcome,
    error::{CliError, CliResult, Doing as _},
    output::{self, format::Structured},
};

/// Prints what `cordium policy set` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or uid
    #[arg(value_name = "WORKSPACE")]
    pub workspace: String,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// With the rules of its template, as its next start takes it
    #[arg(long, conflicts_with = "run")]
    pub merged: bool,
    /// As its run has it
    #[arg(long)]
    pub run: bool,
    #[arg(
        short = 'o',
        long = "out",
        visible_alias = "output",
        value_name = "FORMAT",
        default_value = "yaml"
    )]
    pub format: Structured,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let request = GetEgressRequest { r#ref: args.workspace.clone(), space: args.space };
    let doing = format!("get the policy of workspace {}", args.workspace);
    let policy = client.control().get_egress(request).await.doing(&doing)?.into_inner();
    let text = match (args.merged, args.run) {
        (true, _) if policy.merged_json.is_empty() => {
            return Err(CliError::new(format!("cannot {doing}: only the vars of a start complete its spec"))
                .hint("leave --merged out; --run shows what its run has"));
        }
        (_, true) if policy.run_json.is_empty() => {
            return Err(CliError::new(format!("cannot {doing}: it does not run"))
                .hint("--merged shows what its next start takes"));
        }
        (true, _) => policy.merged_json,
        (_, true) => policy.run_json,
        _ => policy.egress_json,
    };
    output::print(&args.format.render(&json(&text)?)?);
    Ok(0)
}

fn json(text: &str) -> CliResult<Value> {
    serde_json::from_str(text).map_err(|e| CliError::new(format!("the supervisor's answer is no JSON: {e}")))
}
