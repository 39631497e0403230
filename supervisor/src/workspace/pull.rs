//! Gets the image of a run: progress as words on the phase and as lines in the workspace's log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cordium_proto::v1::{LogSource, failure::Type, pull_progress::Step};
use tokio_util::sync::CancellationToken;

use super::{Event, Halted, Report};
use crate::{
    context::Context,
    failure::failure,
    images::{Progress, RunImage},
    logs::{Line, Log},
    plan::RunPlan,
};

/// How often a pull in progress is told of.
const TICK: Duration = Duration::from_secs(1);
/// How many layers are kept track of.
const LAYERS: usize = 256;

pub struct Pull<'a> {
    pub context: &'a Context,
    pub plan: &'a RunPlan,
    pub report: &'a Report,
    pub log: &'a Arc<Log>,
    pub cancel: &'a CancellationToken,
}

impl Pull<'_> {
    pub async fn run(&self) -> Result<Arc<RunImage>, Halted> {
        let reference = &self.plan.image;
        self.write(vec![format!("pulling {reference}")]).await;
        let tracker = Arc::new(Mutex::new(Tracker::default()));
        let sink = {
            let tracker = tracker.clone();
            Arc::new(move |progress| lock(&tracker).update(progress))
        };
        let pull = self.context.images.ensure(reference, self.plan.login.clone(), sink);
        tokio::pin!(pull);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
        let result = loop {
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Halted::Cancelled),
                result = &mut pull => break result,
                _ = tick.tick() => {
                    let (lines, detail) = { let mut tracker = lock(&tracker); (tracker.lines(), tracker.detail()) };
                    self.write(lines).await;
                    if let Some(detail) = detail {
                        self.report.try_send(Event::Detail(format!("pulling {reference}: {detail}")));
                    }
                }
            }
        };
        let mut lines = lock(&tracker).lines();
        let result = result.map_err(|error| {
            // It names the image.
            let message = error.to_string();
            lines.push(message.clone());
            Halted::Failed(failure(Type::ImagePull, message))
        });
        if let Ok(image) = &result {
            lines.push(format!("image {reference} is ready: {}", image.digest));
        }
        self.write(lines).await;
        result
    }

    async fn write(&self, lines: Vec<String>) {
        let lines = lines.into_iter().map(|text| Line::text(LogSource::Image, text)).collect();
        if let Err(error) = self.log.append(&self.plan.prepare.run_id, lines).await {
            let uid = &self.plan.prepare.workspace_uid;
            tracing::warn!(workspace = uid, %error, "writing to the workspace's log");
        }
    }
}

fn lock(tracker: &Mutex<Tracker>) -> std::sync::MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of the layers of one pull.
#[derive(Default)]
struct Tracker {
    layers: BTreeMap<String, Progress>,
    lines: Vec<String>,
}

impl Tracker {
    fn update(&mut self, progress: Progress) {
        if progress.layer.is_empty() {
            return;
        }
        let known = self.layers.get(&progress.layer).map(|before| before.step);
        if known != Some(progress.step) {
            let layer = short(&progress.layer);
            match progress.step {
                Step::Downloading => {
                    self.lines.push(format!("layer {layer}: downloading {}", bytes(progress.total)));
                }
                Step::Done => self.lines.push(format!("layer {layer}: done")),
                Step::Cached => self.lines.push(format!("layer {layer}: is here already")),
                Step::Unset | Step::Resolving | Step::Waiting => {}
            }
        }
        if known.is_some() || self.layers.len() < LAYERS {
            self.layers.insert(progress.layer.clone(), progress);
        }
    }

    fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The sum over the layers; nothing before a layer is known.
    fn detail(&self) -> Option<String> {
        let (mut complete, mut done, mut total) = (0, 0, 0);
        for progress in self.layers.values() {
            complete += u32::from(matches!(progress.step, Step::Done | Step::Cached));
            done += progress.done;
            total += progress.total;
        }
        let layers = self.layers.len();
        (layers > 0).then(|| format!("{complete} of {layers} layers, {} of {}", bytes(done), bytes(total)))
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

fn bytes(count: u64) -> String {
    format!("{:.1} MiB", count as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn progress(layer: &str, step: Step, done: u64, total: u64) -> Progress {
        Progress { layer: layer.into(), step, done, total }
    }

    #[test]
    fn each_step_of_a_layer_is_one_line() {
        let mut tracker = Tracker::default();
        let layer = "sha256:0123456789abcdef";
        for done in 0..50 {
            tracker.update(progress(layer, Step::Downloading, done, 50));
        }
        tracker.update(progress(layer, Step::Done, 50, 50));
        tracker.update(progress("sha256:ff", Step::Cached, 0, 0));
        assert_eq!(
            tracker.lines(),
            [
                "layer 0123456789ab: downloading 0.0 MiB",
                "layer 0123456789ab: done",
                "layer ff: is here already"
            ]
        );
        assert!(tracker.lines().is_empty());
        assert_eq!(tracker.detail().unwrap(), "2 of 2 layers, 0.0 MiB of 0.0 MiB");
    }
}
