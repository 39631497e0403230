//! `cordium delete`.

use cordium_proto::v1::{DeleteResourceRequest, Kind as Proto};
use tonic::Code;

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::CliError,
    output,
    spec::Kind,
};

/// Deleting a workspace stops it and removes its storage.
#[derive(clap::Args, Debug)]
pub struct Args {
    pub kind: Kind,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// What does not exist is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Forget a workspace even if its node does not answer; revoke a secret that is in use
    #[arg(long)]
    pub force: bool,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let word = args.kind.word();
    let mut failed = false;
    // The others are deleted even if one cannot be.
    for name in &args.names {
        let request = DeleteResourceRequest {
            kind: Proto::from(args.kind).into(),
            r#ref: name.clone(),
            space: args.space.clone(),
            force: args.force,
        };
        match client.control().delete(request).await {
            Ok(answer) => {
                answer.into_inner().warnings.iter().for_each(|warning| output::warning(warning));
                output::line(&format!("{word}/{name} deleted"));
            }
            Err(status) if status.code() == Code::NotFound && args.ignore_not_found => {}
            Err(status) => {
                CliError::from_status(&format!("delete {word} {name}"), &status).print();
                failed = true;
            }
        }
    }
    if failed { Err(CliError::silent(1)) } else { Ok(0) }
}
