//! `cordium version`.

use cordium_proto::v1::GetStatusRequest;
use serde_json::json;

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    output::{self, format::Structured, json::Object},
};

const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Output format
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    pub out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    // Without a supervisor there is still a client with a version.
    let server = match Client::connect(global, Start::Never).await {
        Ok(client) => {
            client.control().get_status(GetStatusRequest {}).await.ok().map(|s| s.into_inner().version)
        }
        Err(_) => None,
    };
    match args.out {
        Some(format) => {
            let server = server.map(|version| json!({ "version": version }));
            let value = Object::default()
                .set("client", json!({ "version": CLIENT, "apiVersion": "cordium/v1" }))
                .maybe("server", server)
                .done();
            output::print(&format.render(&value)?);
        }
        None => {
            output::line(&format!("client  {CLIENT}"));
            output::line(&format!("server  {}", server.as_deref().unwrap_or("not running")));
        }
    }
    Ok(0)
}
