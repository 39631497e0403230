//! Brings a workspace up, step by step, and reports each phase to its owner.
//!
//! Every step ends early when the owner cancels, and none takes longer than its bound. A sandbox that is being
//! made is not abandoned half way: the start-up waits for it, for a bounded time, and hands it over.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{LogSource, WorkspaceState, failure::Type};
use cordium_runtime::{IdMap, MOUNT_TARGET, Room};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Event, Halted, Report, StartupEnd, pull};
use crate::{
    agent_link::{AgentLink, is_unanswered},
    context::Context,
    failure::{failure, volume_failure},
    id_ranges::Granted,
    images::{Layers, RunImage},
    logs::{Line, Log},
    plan::{self, RunPlan},
    runtime::{RuntimeFailure, SandboxHandle},
    volumes::VolumeMount,
};

/// How long a cancelled start-up waits for a sandbox that is being made.
const ABANDON: Duration = Duration::from_secs(15);
/// How many lines of a failed keeper's log are kept.
const KEEPER_LINES: usize = 20;
/// Between two attempts to reach the agent.
const AGENT_RETRY: Duration = Duration::from_millis(10);

/// A start-up of one run.
pub struct Startup {
    pub context: Arc<Context>,
    pub plan: RunPlan,
    pub fresh: bool,
    pub cancel: CancellationToken,
    pub report: Report,
    pub log: Arc<Log>,
    pub deadline: Instant,
}

impl Startup {
    /// Whatever happens, the owner hears of an end: it waits for it before it stops anything.
    pub async fn run(self) {
        let report = self.report.clone();
        let steps = tokio::spawn(async move {
            let mut end = StartupEnd { result: Err(Halted::Cancelled), sandbox: None, lease: None };
            end.result = self.steps(&mut end.sandbox, &mut end.lease).await;
            end
        });
        let end = steps.await.unwrap_or_else(|_| {
            let failure = failure(Type::StartupUnknown, "the start-up has panicked");
            StartupEnd { result: Err(Halted::Failed(failure)), sandbox: None, lease: None }
        });
        // Without an owner the supervisor is ending; the next one looks at what is left.
        let _ = report.send(Event::StartupEnded(end)).await;
    }

    async fn steps(
        self,
        sandbox: &mut Option<Arc<dyn SandboxHandle>>,
        lease: &mut Option<Arc<RunImage>>,
    ) -> Result<AgentLink, Halted> {
        self.phase(WorkspaceState::Initializing, "preparing storage".to_owned(), Vec::new()).await?;
        self.storage().await?;
        self.volumes().await?;
        let granted = self.ids().await?;

        self.phase(WorkspaceState::PullingImage, format!("pulling {}", self.plan.image), Vec::new()).await?;
        let puller = pull::Pull {
            context: &self.context,
            plan: &self.plan,
            report: &self.report,
            log: &self.log,
            cancel: &self.cancel,
        };
        let image = puller.run().await?;
        *lease = Some(image.clone());
        let (reference, digest) = (image.reference.clone(), image.digest.clone());
        self.report.send(Event::Image { reference, digest }).await?;
        let layers = self.layers(&image, &granted.ids).await?;

        let shared = granted.warning.into_iter().collect();
        self.phase(WorkspaceState::StartingRuntime, "starting the sandbox".to_owned(), shared).await?;
        let prepare = plan::finish_prepare(&self.plan, &image.config, self.fresh, self.remaining())
            .map_err(|message| Halted::Failed(failure(Type::RunContainer, message)))?;
        let made = self.sandbox(layers, granted.ids).await?;
        let warnings = made.warnings();
        let link = AgentLink::new(&made.agent_socket());
        *sandbox = Some(made);

        self.phase(WorkspaceState::Preparing, "the agent is preparing".to_owned(), warnings).await?;
        self.prepare(&link, prepare).await?;
        Ok(link)
    }

    async fn phase(
        &self,
        state: WorkspaceState,
        detail: String,
        warnings: Vec<String>,
    ) -> Result<(), Halted> {
        if self.cancel.is_cancelled() {
            return Err(Halted::Cancelled);
        }
        self.report.send(Event::Phase { state, detail, warnings }).await
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn storage(&self) -> Result<(), Halted> {
        let uid = &self.plan.prepare.workspace_uid;
        let volume = self.context.dirs.volume(uid);
        let run_dir = self.context.dirs.sandbox(uid);
        let runtime = self.context.runtime.clone();
        let ephemeral = self.plan.ephemeral;
        let work = async {
            // What a crash left of an earlier run is not this run's.
            runtime.remove_tree(&run_dir).await?;
            if ephemeral {
                runtime.remove_tree(&volume).await?;
            }
            let (volume, run_dir) = (volume.clone(), run_dir.clone());
            let made = tokio::task::spawn_blocking(move || {
                for dir in [&run_dir, &volume] {
                    Context::make_dir(dir).map_err(|source| {
                        RuntimeFailure(format!("making the directory {}: {source}", dir.display()))
                    })?;
                }
                // What a run writes later is watched by its keeper.
                let shortage = Room::of_path(&volume).ok().and_then(|room| room.shortage());
                shortage.map_or(Ok(()), |shortage| Err(RuntimeFailure(shortage)))
            });
            made.await.unwrap_or_else(|_| Err(RuntimeFailure("the preparation was cut off".to_owned())))
        };
        let limit = self.context.timeouts.storage;
        self.step(limit, "preparing the storage", work)
            .await?
            .map_err(|e| Halted::Failed(failure(Type::LoadStorage, format!("preparing the storage: {e}"))))
    }

    async fn volumes(&self) -> Result<(), Halted> {
        for volume in &self.plan.volumes {
            let (context, uid) = (self.context.clone(), volume.uid.clone());
            let made = tokio::task::spawn_blocking(move || context.volumes.make(&uid));
            let limit = self.context.timeouts.storage;
            let made = self.step(limit, "preparing the volumes", made).await?;
            let problem = match made {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the preparation was cut off".to_owned(),
            };
            let message = format!("making volume {:?}: {problem}", volume.name);
            return Err(Halted::Failed(volume_failure(&volume.name, message)));
        }
        Ok(())
    }

    /// The range of ids for this run, to which all its files belong from here on.
    async fn ids(&self) -> Result<Granted, Halted> {
        let (uid, volumes) = (&self.plan.prepare.workspace_uid, &self.plan.volumes);
        let work = self.context.ids.grant(uid, volumes, &self.context);
        self.step(self.remaining(), "giving the files to the ids of this run", work).await?.map_err(|error| {
            Halted::Failed(match error.volume() {
                Some(volume) => volume_failure(volume, error.to_string()),
                None => failure(Type::LoadStorage, error.to_string()),
            })
        })
    }

    async fn layers(&self, image: &RunImage, ids: &IdMap) -> Result<Layers, Halted> {
        let work = self.context.images.layers(image, ids);
        self.step(self.remaining(), "preparing the image's layers for the ids of this run", work)
            .await?
            .map_err(|error| {
                let message = format!("preparing the layers of image {}: {error}", image.reference);
                Halted::Failed(failure(Type::ImagePull, message))
            })
    }

    /// The volume whose mount a failed start tells of.
    fn blamed(&self, message: &str) -> Option<&VolumeMount> {
        let names = |volume: &VolumeMount| message.contains(&format!("{MOUNT_TARGET} {:?}:", volume.target));
        self.plan.volumes.iter().find(|volume| names(volume))
    }

    /// Starts the sandbox in a task of its own, which is waited for even when the start-up is cancelled.
    async fn sandbox(&self, layers: Layers, ids: IdMap) -> Result<Arc<dyn SandboxHandle>, Halted> {
        let plan = plan::sandbox_plan(&self.plan, layers, ids, &self.context);
        let runtime = self.context.runtime.clone();
        let mut start = tokio::spawn(async move { runtime.start(&plan).await });
        let limit = self.context.timeouts.runtime.min(self.remaining());
        let ended = tokio::select! {
            ended = timeout(limit, &mut start) => ended.ok(),
            () = self.cancel.cancelled() => timeout(ABANDON, &mut start).await.ok(),
        };
        let fail = |message: String| Halted::Failed(failure(Type::RunContainer, message));
        match ended {
            Some(Ok(Ok(sandbox))) => Ok(sandbox),
            Some(Ok(Err(error))) => {
                self.keep_keeper_log().await;
                let message = format!("starting the sandbox: {error}");
                Err(match self.blamed(&message) {
                    Some(volume) => Halted::Failed(volume_failure(&volume.name, message)),
                    None => fail(message),
                })
            }
            Some(Err(_)) => Err(fail("starting the sandbox: its task has panicked".to_owned())),
            None => {
                start.abort();
                let message = format!("starting the sandbox took more than {limit:?}");
                Err(Halted::Failed(failure(Type::StartupTimeoutExceeded, message)))
            }
        }
    }

    /// The keeper's own words go with its run directory: the workspace's log keeps the last of them.
    async fn keep_keeper_log(&self) {
        let path = self.context.dirs.sandbox(&self.plan.prepare.workspace_uid).join("keeper.log");
        let Ok(text) = tokio::fs::read_to_string(&path).await else { return };
        let lines: Vec<_> = text.lines().rev().take(KEEPER_LINES).collect();
        let lines = lines.into_iter().rev().map(|line| Line::text(LogSource::System, line)).collect();
        if let Err(error) = self.log.append(&self.plan.prepare.run_id, lines).await {
            tracing::warn!(%error, "writing to a workspace's log");
        }
    }

    /// Waits until the agent answers and tells it what to do.
    async fn prepare(
        &self,
        link: &AgentLink,
        request: cordium_proto::v1::PrepareRequest,
    ) -> Result<(), Halted> {
        let work = async {
            loop {
                match link.agent().prepare(request.clone()).await {
                    Ok(_) => return Ok(()),
                    // The agent knows the run and does nothing twice.
                    Err(status) if is_unanswered(&status) => {
                        tokio::time::sleep(AGENT_RETRY).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        };
        let limit = self.context.timeouts.agent;
        self.step(limit, "reaching the agent", work).await?.map_err(|status| {
            let message = format!("the agent refused to prepare: {}", status.message());
            Halted::Failed(failure(Type::RunContainer, message))
        })
    }

    async fn step<T>(
        &self,
        limit: Duration,
        doing: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Halted> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Halted::Cancelled),
            done = timeout(limit, work) => done.map_err(|_| {
                let message = format!("{doing} took more than {limit:?}");
                Halted::Failed(failure(Type::StartupTimeoutExceeded, message))
            }),
        }
    }
}
