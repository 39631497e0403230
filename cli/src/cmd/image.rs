//! `cordium image`.

use cordium_proto::v1::{
    Image, ListImagesRequest, PruneImagesRequest, PullImageRequest, PullProgress, RemoveImageRequest,
    pull_progress::Step,
};

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult, Doing as _},
    output::{
        self, duration,
        format::{Format, Out},
        json::Object,
        pull::PullView,
        table,
    },
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Images in this node's store
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        out: Out,
    },
    /// Pull an image; its tag is resolved anew
    Pull {
        /// A registry reference, oci:DIR or oci:DIR:TAG, or docker-archive:FILE
        reference: String,
        /// User name for the registry
        #[arg(long, value_name = "NAME", default_value = "", requires = "password_env")]
        username: String,
        /// Environment variable that holds the registry's password
        #[arg(long, value_name = "VAR", requires = "username")]
        password_env: Option<String>,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
    },
    /// Remove what no workspace and no tag uses
    Prune {
        /// Also images with a tag that no workspace uses
        #[arg(short = 'a', long)]
        all: bool,
    },
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::IfNeeded).await?;
    match args.what {
        What::List { out } => list(&client, out.format).await,
        What::Pull { reference, username, password_env } => {
            let password = match password_env {
                Some(key) => std::env::var(&key).map_err(|_| {
                    CliError::usage(format!("{key} is not set")).hint(format!("export {key} first"))
                })?,
                None => String::new(),
            };
            pull(&client, PullImageRequest { reference, username, password }).await
        }
        What::Rm { references } => remove(&client, &references).await,
        What::Prune { all } => {
            let pruned = client
                .node()
                .prune_images(PruneImagesRequest { all })
                .await
                .doing("prune images")?
                .into_inner();
            for reference in &pruned.removed {
                output::line(&format!("removed {reference}"));
            }
            output::line(&format!("freed {}", duration::bytes(pruned.freed_bytes)));
            Ok(0)
        }
    }
}

async fn list(client: &Client, out: Format) -> Outcome {
    let mut items =
        client.node().list_images(ListImagesRequest {}).await.doing("list images")?.into_inner().items;
    items.sort_by(|a, b| a.reference.cmp(&b.reference));
    if let Some(format) = out.structured() {
        let value = serde_json::json!({ "items": items.iter().map(image_json).collect::<Vec<_>>() });
        output::print(&format.render(&value)?);
        return Ok(0);
    }
    if out == Format::Name {
        output::print(&items.iter().map(|i| format!("{}\n", i.reference)).collect::<String>());
        return Ok(0);
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|i| {
            let digest =
                if out == Format::Wide { i.digest.clone() } else { short_digest(&i.digest).to_owned() };
            vec![
                if i.reference.is_empty() { "<none>".to_owned() } else { i.reference.clone() },
                digest,
                duration::bytes(i.size_bytes),
                i.layers.to_string(),
                i.pulled_at.as_ref().map(|at| duration::age(at, now)).unwrap_or_default(),
                if i.in_use { "yes" } else { "" }.to_owned(),
            ]
        })
        .collect();
    output::print(&table::render(&["REFERENCE", "DIGEST", "SIZE", "LAYERS", "PULLED", "IN USE"], &rows));
    Ok(0)
}

fn short_digest(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

fn image_json(i: &Image) -> serde_json::Value {
    Object::default()
        .set("reference", i.reference.clone())
        .set("digest", i.digest.clone())
        .set("sizeBytes", i.size_bytes)
        .set("layers", i.layers)
        .time("pulledAt", i.pulled_at.as_ref())
        .set("inUse", i.in_use)
        .done()
}

async fn pull(client: &Client, request: PullImageRequest) -> CliResult<u8> {
    let doing = format!("pull {}", request.reference);
    let mut stream = client.node().pull_image(request).await.doing(&doing)?.into_inner();
    let mut view = PullView::new();
    let mut last: Option<Image> = None;
    while let Some(progress) = stream.message().await.doing(&doing)? {
        view.show(&progress);
        last = progress.image.or(last);
    }
    drop(view);
    let image =
        last.ok_or_else(|| CliError::new(format!("cannot {doing}: the node ended without an image")))?;
    output::line(&format!("{} {} {}", image.reference, image.digest, duration::bytes(image.size_bytes)));
    Ok(0)
}

async fn remove(client: &Client, references: &[String]) -> Outcome {
    let mut failed = false;
    for reference in references {
        match client.node().remove_image(RemoveImageRequest { reference: reference.clone() }).await {
            Ok(r) => output::line(&format!(
                "removed {reference}, freed {}",
                duration::bytes(r.into_inner().freed_bytes)
            )),
            Err(status) => {
                CliError::from_status(&format!("remove image {reference}"), &status)
                    .hint("`cordium image list` shows what there is and what is in use")
                    .print();
                failed = true;
            }
        }
    }
    if failed { Err(CliError::silent(1)) } else { Ok(0) }
}

/// What a step of a pull is called.
pub fn step_word(progress: &PullProgress) -> &'static str {
    match progress.step() {
        Step::Resolving => "resolving",
        Step::Waiting => "waiting",
        Step::Downloading => "downloading",
        Step::Done => "done",
        Step::Cached => "cached",
        Step::Unset => "",
    }
}
