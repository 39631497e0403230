//! `cordium create`.

use cordium_proto::v1::{CreateRequest, Kind as Proto, Resource};

use super::{Outcome, resource, secret_input, start, volume};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult, Doing as _},
    names,
    output::{self, format::Structured, json},
    spec::{
        Kind, build,
        file::{self, Doc},
        flags::SpecFlags,
    },
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// A workspace; without a name it is given one
    #[command(visible_alias = "ws", alias = "workspaces")]
    Workspace(Workspace),
    /// A space, in which templates, workspaces, secrets and volumes lie
    #[command(alias = "spaces")]
    Space(Plain),
    /// A template that workspaces begin with
    #[command(visible_alias = "tmpl", alias = "templates")]
    Template(Template),
    /// A secret, which workspaces name with fromSecret
    #[command(alias = "secrets")]
    Secret(Secret),
    /// A volume, whose data outlives the workspaces that mount it
    #[command(visible_alias = "vol", alias = "volumes")]
    Volume(volume::Create),
}

#[derive(clap::Args, Debug, Default)]
pub struct Place {
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// The template it begins with [default: the space's `default`]
    #[arg(long, value_name = "TEMPLATE", default_value = "", hide_default_value = true)]
    pub template: String,
}

#[derive(clap::Args, Debug)]
struct Workspace {
    /// Its name [default: that of the file, else one is made up]
    name: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    spec: SpecFlags,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Start it as well (`cordium watch` shows how it goes)
    #[arg(long)]
    start: bool,
    /// Print what was created
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

#[derive(clap::Args, Debug)]
struct Template {
    /// Its name
    name: String,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    space: String,
    #[command(flatten)]
    spec: SpecFlags,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Print what was created
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

#[derive(clap::Args, Debug)]
struct Plain {
    /// Its name
    name: String,
    /// YAML or JSON document to take the spec from (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Print what was created
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

#[derive(clap::Args, Debug)]
struct Secret {
    /// Its name
    name: String,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    space: String,
    #[command(flatten)]
    from: secret_input::From,
    /// Replace the value if the secret exists
    #[arg(long)]
    replace: bool,
    /// Print what was created
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    match args.what {
        What::Workspace(args) => workspace(global, args).await,
        What::Template(args) => {
            let mut doc = document(Kind::Template, Some(args.name), &args.spec, true)?;
            title(&mut doc, args.display_name);
            let client = Client::connect(global, Start::IfNeeded).await?;
            show(&resource::create(&client, &doc, &args.space, "", false).await?, args.out)
        }
        What::Space(args) => {
            let flags = SpecFlags { file: args.file, ..SpecFlags::default() };
            let mut doc = document(Kind::Space, Some(args.name), &flags, false)?;
            title(&mut doc, args.display_name);
            let client = Client::connect(global, Start::IfNeeded).await?;
            show(&resource::create(&client, &doc, "", "", false).await?, args.out)
        }
        What::Secret(args) => secret(global, args).await,
        What::Volume(args) => volume::create(global, args).await,
    }
}

async fn workspace(global: &Global, args: Workspace) -> Outcome {
    let mut doc = document(Kind::Workspace, args.name, &args.spec, true)?;
    title(&mut doc, args.display_name);
    let client = Client::connect(global, Start::IfNeeded).await?;
    let created =
        resource::create(&client, &doc, &args.place.space, &args.place.template, args.start).await?;
    if args.start && args.out.is_none() {
        start::say_accepted(resource::name(&created));
    }
    show(&created, args.out)
}

async fn secret(global: &Global, args: Secret) -> Outcome {
    let doc = Doc::empty(Kind::Secret, &args.name).checked()?;
    let data = args.from.read()?;
    let client = Client::connect(global, Start::IfNeeded).await?;
    if args.replace
        && let Some(there) = resource::find(&client, Kind::Secret, &doc.name, &args.space).await?
    {
        let request = cordium_proto::v1::UpdateRequest {
            kind: Proto::Secret.into(),
            r#ref: resource::uid(&there).to_owned(),
            secret_data: Some(data),
            ..Default::default()
        };
        let doing = format!("update secret {}", doc.name);
        client.control().update(request).await.doing(doing)?;
        output::line(&format!("secret/{} updated", doc.name));
        return Ok(0);
    }
    let request = CreateRequest {
        kind: Proto::Secret.into(),
        name: doc.name.clone(),
        space: args.space,
        spec_json: "{}".to_owned(),
        secret_data: data,
        ..CreateRequest::default()
    };
    let created =
        client.control().create(request).await.doing(format!("create secret {}", doc.name))?.into_inner();
    show(&created, args.out)
}

pub fn title(doc: &mut Doc, title: String) {
    if !title.is_empty() {
        doc.display_name = title;
    }
}

/// What file and flags describe together, checked, with a name.
pub fn document(kind: Kind, name: Option<String>, flags: &SpecFlags, with_vars: bool) -> CliResult<Doc> {
    let mut doc = match &flags.file {
        None => Doc::empty(kind, ""),
        Some(path) => {
            let mut docs = file::read(path)?;
            let fits = docs.len() == 1 && docs[0].kind == kind;
            match docs.pop() {
                Some(doc) if fits => doc,
                _ => {
                    return Err(CliError::usage(format!(
                        "{} must hold exactly one document, of kind {}",
                        path.display(),
                        kind.title()
                    ))
                    .hint("`cordium apply -f FILE` takes several documents of any kind"));
                }
            }
        }
    };
    if let Some(name) = name {
        doc.name = name;
    }
    if doc.name.is_empty() {
        doc.name = names::generate();
    }
    doc.spec = build::with_flags(doc.spec, flags, with_vars)?;
    doc.checked()
}

pub fn show(created: &Resource, out: Option<Structured>) -> Outcome {
    match out {
        Some(format) => output::print(&format.render(&json::resource(created))?),
        None => {
            let kind = Kind::of(created.kind()).map_or("resource", Kind::word);
            output::line(&format!("{kind}/{} created", resource::name(created)));
        }
    }
    Ok(0)
}
