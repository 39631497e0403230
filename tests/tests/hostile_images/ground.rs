//! What every case stands on: one supervisor, one workspace that runs all along, a directory of the host that layers try to
//! reach, and a look at everything that is on disk.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cordium_tests::{
    Context, Fixture, Result, Workspace, ensure, ensure_eq, images, json,
    oci::{Compression, Config, Layer, LayerWriter, Layout},
    process::until,
    spec::with_image,
    suite::TearDown,
    v1::{Failure, WorkspaceState as State, failure::Type},
    watch::names,
};

/// No refusal may take longer. Each takes a second or so; this bounds what "never" means on a slow machine.
const LIMIT: Duration = Duration::from_secs(90);
/// What is removed in the background gets some time.
const REMOVAL: Duration = Duration::from_secs(60);
const VICTIM: &str = "not touched\n";

pub struct Ground {
    pub f: Fixture,
    /// A directory of the host that everybody may write to.
    pub canary: PathBuf,
    base: Layout,
    base_layers: Vec<Layer>,
    bystander: Workspace,
    /// When the bystander's first process started, and which supervisor serves it.
    before: (String, Option<u32>),
}

impl Ground {
    pub async fn start() -> Result<Self> {
        let timeouts = json!({"connect": 2, "idle": 1, "document": 2, "attempts": 2, "backoff": 0.05});
        let change = |options: &mut cordium_tests::node::Options| {
            options.config = json!({"imageTimeouts": timeouts});
        };
        let f = Fixture::start_with("hostile", change).await?;
        let canary = f.dir.join("canary");
        fs::create_dir(&canary)?;
        fs::write(canary.join("victim"), VICTIM)?;
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o777))?;
        fs::set_permissions(canary.join("victim"), fs::Permissions::from_mode(0o666))?;
        let base = images::all()?.into_iter().find(|image| image.name == images::MUSL).context("no image")?;
        let base_layers = images::layers_of(&base.layout)?;
        let bystander = f.run("bystander", &f.small(json!({}))).await?;
        let before = (born(&bystander).await?, f.node.pid());
        Ok(Self { canary, base: base.layout, base_layers, bystander, before, f })
    }

    /// The canary's path, for names in archives.
    pub fn target(&self) -> String {
        self.canary.to_string_lossy().into_owned()
    }

    /// A layout on disk with room for layers above those of the base image.
    pub fn layout(&self, name: &str) -> Result<Layout> {
        let layout = Layout::create(&self.f.dir.join("oci").join(name))?;
        for layer in &self.base_layers {
            layout.adopt(&self.base, layer)?;
        }
        Ok(layout)
    }

    /// Makes the base image with these layers above it the layout's image.
    pub fn write(&self, layout: &Layout, layers: &[Layer]) -> Result<()> {
        let layers: Vec<Layer> = self.base_layers.iter().chain(layers).cloned().collect();
        layout.image("image", &layers, &Config::default()).map(drop)
    }

    pub fn base_layers(&self) -> usize {
        self.base_layers.len()
    }

    /// An image with one layer above the base.
    pub fn with_layer(
        &self,
        name: &str,
        fill: impl FnOnce(&mut tar::Builder<LayerWriter>) -> Result<()>,
    ) -> Result<Layout> {
        let layout = self.layout(name)?;
        let layer = layout.tar_layer(Compression::Gzip, fill)?;
        self.write(&layout, &[layer])?;
        Ok(layout)
    }

    /// Runs a workspace on a layout whose image must be refused with these words, then on the same layout mended.
    pub async fn refused(&self, name: &str, layout: &Layout, words: &[&str]) -> Result<()> {
        let reference = reference(layout);
        let mend = || self.write(layout, &[]);
        self.refused_until_mended(name, &reference, words, mend).await
    }

    /// A workspace on a bad image fails with one clear line, nothing else is touched, nothing is left on disk, and the same
    /// workspace starts once `mend` has been called.
    pub async fn refused_until_mended(
        &self,
        name: &str,
        reference: &str,
        words: &[&str],
        mend: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let about = || format!("image {name:?}");
        let before = self.on_disk();
        let w = self.f.create(name, &with_image(reference, json!({}))).await?;
        let begun = Instant::now();
        let failure = fail(&w).await.with_context(about)?;
        let message = &failure.message;
        println!("{name}, after {:.1?}: {message}", begun.elapsed());
        for word in words {
            ensure!(message.contains(word), "{name}: {word:?} is not in: {message}");
        }
        ensure_eq!((name, message.matches(reference).count()), (name, 1));
        ensure!(!message.contains('\n') && message.len() < 1000, "{name}: it is not one line: {message}");
        self.untouched().await.with_context(about)?;
        self.only(&before, |line| !line.starts_with("images/")).with_context(about)?;
        mend()?;
        w.start().await.with_context(about)?;
        ensure!(w.ok("cat /etc/os-release").await?.contains("busybox-musl"), "{name}: it is another image");
        w.delete().await?;
        self.forget(reference).await?;
        self.only(&before, |_| false).with_context(about)
    }

    /// Starts a workspace on an image that is odd, but can be used.
    pub async fn accepted(&self, name: &str, layout: &Layout) -> Result<Accepted<'_>> {
        let before = self.on_disk();
        let reference = reference(layout);
        let workspace = self.f.run(name, &with_image(&reference, json!({}))).await?;
        Ok(Accepted { ground: self, workspace, reference, before })
    }

    /// The supervisor and the bystander are the same as ever, and so is the host.
    pub async fn untouched(&self) -> Result<()> {
        ensure_eq!(self.bystander.ok("echo alive").await?, "alive");
        ensure_eq!((born(&self.bystander).await?, self.f.node.pid()), self.before);
        ensure_eq!(listing(&self.canary), ["victim"]);
        ensure_eq!(fs::read_to_string(self.canary.join("victim"))?, VICTIM);
        Ok(())
    }

    async fn forget(&self, reference: &str) -> Result<()> {
        self.f.cli().ok(&["image", "rm", reference]).await.map(drop)
    }

    /// Everything that the node keeps: layers, images, references, workspaces, sockets.
    fn on_disk(&self) -> BTreeSet<String> {
        let (state, run) = (self.f.node.state(), self.f.node.run());
        let mut found = BTreeSet::new();
        for dir in ["images/layers", "images/staging", "images/manifests", "images/configs", "workspaces"] {
            found.extend(listing(&state.join(dir)).into_iter().map(|name| format!("{dir}/{name}")));
        }
        found.extend(listing(&run.join("ws")).into_iter().map(|name| format!("run/{name}")));
        let tags = fs::read_to_string(state.join("images/tags.json")).unwrap_or_default();
        found.insert(format!("images/tags.json: {tags}"));
        found
    }

    /// Waits until nothing has come or gone, but for what `passed_over` accepts.
    fn only(&self, before: &BTreeSet<String>, passed_over: fn(&str) -> bool) -> Result<()> {
        let mut change = String::new();
        let clean = || {
            let now = self.on_disk();
            let mut changed = now.symmetric_difference(before).filter(|line| !passed_over(line));
            match changed.next() {
                None => Ok(Some(())),
                Some(line) => {
                    change.clone_from(line);
                    Ok(None)
                }
            }
        };
        let result = until("the disk as it was", REMOVAL, clean);
        result.with_context(|| format!("something has come or gone: {change}"))
    }
}

/// A running workspace on an odd image.
pub struct Accepted<'a> {
    ground: &'a Ground,
    pub workspace: Workspace,
    reference: String,
    before: BTreeSet<String>,
}

impl Accepted<'_> {
    /// Removes workspace and image; all that they brought must go.
    pub async fn end(self) -> Result<()> {
        self.ground.untouched().await?;
        self.workspace.delete().await?;
        self.ground.forget(&self.reference).await?;
        self.ground.only(&self.before, |_| false)
    }
}

impl TearDown for Ground {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        self.f.node.tear_down().await?;
        cordium_tests::fixture::remove_dir(&self.f.dir)
    }
}

pub fn reference(layout: &Layout) -> String {
    format!("oci:{}:image", layout.dir().display())
}

/// Runs a workspace to its end, which must be a failure to get its image.
async fn fail(w: &Workspace) -> Result<Failure> {
    let run = tokio::time::timeout(LIMIT, w.start_to_end());
    let (watch, workspace) = run.await.with_context(|| format!("no end after {LIMIT:?}"))??;
    ensure!(!watch.seen.contains(&State::StartingRuntime), "went on: {}", names(&watch.seen));
    let status = workspace.status.context("there is no status")?;
    ensure_eq!((status.state(), status.successful_runs), (State::Stopped, 0));
    let failure = status.failure.context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::ImagePull(_))), "the failure is {failure:?}");
    let run = status.run.or_else(|| status.last_runs.first().cloned()).context("there is no run")?;
    ensure!(run.failure.is_some(), "the run does not know its failure");
    Ok(failure)
}

/// When the first process of a workspace started.
async fn born(w: &Workspace) -> Result<String> {
    w.ok("cut -d' ' -f22 /proc/1/stat").await
}

fn listing(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
