//! `cordium schema`.

use cordium_spec::{DocumentKind, json_schema};

use super::Outcome;
use crate::output::{self, format::Structured};

#[derive(clap::Args, Debug)]
pub struct Args {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    #[value(alias = "ws")]
    Workspace,
    #[value(alias = "tmpl")]
    Template,
    Space,
    #[value(alias = "vol")]
    Volume,
}

pub fn run(args: &Args) -> Outcome {
    let kind = match args.kind {
        Kind::Workspace => DocumentKind::Workspace,
        Kind::Template => DocumentKind::Template,
        Kind::Space => DocumentKind::Space,
        Kind::Volume => DocumentKind::Volume,
    };
    output::print(&Structured::Json.render(&json_schema(kind))?);
    Ok(0)
}
