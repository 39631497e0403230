//! `cordium apply`.

use std::path::PathBuf;

use super::{Outcome, resource};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult},
    names, output,
    spec::{
        Kind,
        file::{self, Doc},
    },
};

/// Documents of any kind in any order; spaces are made first, then volumes, templates and workspaces. All are checked before
/// the first is sent.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// YAML or JSON file, may be given several times (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// The space in which volumes, templates and workspaces lie [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// The template that new workspaces begin with [default: the space's `default`]
    #[arg(long, value_name = "TEMPLATE", default_value = "", hide_default_value = true)]
    pub template: String,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let mut docs = Vec::new();
    for path in &args.file {
        docs.extend(file::read(path)?);
    }
    in_order(&mut docs);
    let client = Client::connect(global, Start::IfNeeded).await?;
    for doc in docs {
        let change = apply(&client, doc, &args.space, &args.template).await?;
        output::line(&change);
    }
    Ok(0)
}

pub fn in_order(docs: &mut [Doc]) {
    docs.sort_by_key(|doc| match doc.kind {
        Kind::Space => 0,
        Kind::Secret => 1,
        Kind::Volume => 2,
        Kind::Template => 3,
        Kind::Workspace => 4,
    });
}

pub async fn apply(client: &Client, mut doc: Doc, space: &str, template: &str) -> CliResult<String> {
    let space = if doc.kind == Kind::Space { "" } else { space };
    let template = if doc.kind == Kind::Workspace { template } else { "" };
    if doc.name.is_empty() {
        if doc.kind != Kind::Workspace {
            return Err(CliError::usage(format!("a {} needs metadata.name", doc.kind.word())));
        }
        doc.name = names::generate();
    }
    let word = match resource::find(client, doc.kind, &doc.name, space).await? {
        None => {
            resource::create(client, &doc, space, template, false).await?;
            resource::Change::Created
        }
        Some(there) => resource::update(client, there, &doc, space).await?.1,
    };
    Ok(format!("{}/{} {}", doc.kind.word(), doc.name, word.word()))
}
