//! `cordium volume`: what `create`, `get` and `delete` do, for volumes.

use std::path::PathBuf;

use cordium_proto::v1::{CreateRequest, Kind as Proto};

use super::{
    Outcome,
    create::{document, show, title},
    delete, get,
};
use crate::{
    args::Global,
    client::{Client, Start},
    error::Doing as _,
    output::format::{Out, Structured},
    spec::{Kind, flags::SpecFlags, parse},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Create a volume; its data outlives the workspaces that mount it
    Create(Create),
    /// Show all volumes
    #[command(visible_alias = "ls")]
    List {
        /// Only those in this space
        #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
        space: String,
        #[command(flatten)]
        out: Out,
    },
    /// Show volumes
    Get {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The space they lie in [default: default]
        #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
        space: String,
        #[command(flatten)]
        out: Out,
    },
    /// Delete volumes and their data
    #[command(alias = "rm")]
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The space they lie in [default: default]
        #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
        space: String,
        /// What does not exist is no error
        #[arg(long)]
        ignore_not_found: bool,
    },
}

#[derive(clap::Args, Debug)]
pub struct Create {
    /// Its name [default: that of the file, else one is made up]
    name: Option<String>,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    space: String,
    /// How much it is meant to hold, in MiB, or with M, G, T [default: 10000]
    #[arg(long, value_name = "SIZE", value_parser = parse::mebibytes)]
    size: Option<u64>,
    /// Several running workspaces may mount it at the same time
    #[arg(long)]
    shared: bool,
    /// The node that is to hold it [default: that of the first workspace that mounts it]
    #[arg(
        long,
        visible_alias = "region",
        value_name = "NODE",
        default_value = "",
        hide_default_value = true
    )]
    node: String,
    /// YAML or JSON document to begin with; flags are laid over it (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Print what was created
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let get =
        |names, space, out: Out| get::Args { kind: Kind::Volume, names, space, template: String::new(), out };
    match args.what {
        What::Create(args) => create(global, args).await,
        What::List { space, out } => get::run(global, get(Vec::new(), space, out)).await,
        What::Get { names, space, out } => get::run(global, get(names, space, out)).await,
        What::Delete { names, space, ignore_not_found } => {
            let args = delete::Args { kind: Kind::Volume, names, space, ignore_not_found, force: false };
            delete::run(global, args).await
        }
    }
}

pub async fn create(global: &Global, args: Create) -> Outcome {
    let flags = SpecFlags { file: args.file, ..SpecFlags::default() };
    let mut doc = document(Kind::Volume, args.name, &flags, false)?;
    title(&mut doc, args.display_name);
    if let Some(size) = args.size {
        doc.spec["size"]["megabytes"] = size.into();
    }
    if args.shared {
        doc.spec["accessMode"] = "ACCESS_MODE_SHARED".into();
    }
    let doc = doc.checked()?;
    let client = Client::connect(global, Start::IfNeeded).await?;
    let request = CreateRequest {
        kind: Proto::Volume.into(),
        name: doc.name.clone(),
        display_name: doc.display_name.clone(),
        labels: doc.labels.clone().into_iter().collect(),
        space: args.space,
        spec_json: doc.spec.to_string(),
        node: args.node,
        ..CreateRequest::default()
    };
    let doing = format!("create volume {}", doc.name);
    show(&client.control().create(request).await.doing(doing)?.into_inner(), args.out)
}
