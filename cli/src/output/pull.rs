//! A pull as it goes on: one bar for each layer on a terminal, one line for each step elsewhere.

use std::collections::BTreeMap;

use cordium_proto::v1::{PullProgress, pull_progress::Step};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{duration, note};
use crate::cmd::image::step_word;

const MAX_BARS: usize = 256;

pub struct PullView {
    live: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
    steps: BTreeMap<String, Step>,
}

impl PullView {
    pub fn new() -> Self {
        let live = console::user_attended_stderr().then(MultiProgress::new);
        Self { live, bars: BTreeMap::new(), steps: BTreeMap::new() }
    }

    pub fn show(&mut self, progress: &PullProgress) {
        match &self.live {
            Some(multi) => {
                if self.bars.len() >= MAX_BARS && !self.bars.contains_key(&progress.layer) {
                    return;
                }
                let bar = self
                    .bars
                    .entry(progress.layer.clone())
                    .or_insert_with(|| multi.add(bar(&progress.layer)));
                draw(bar, progress);
            }
            None => {
                let step = progress.step();
                if self.steps.len() < MAX_BARS
                    && self.steps.insert(progress.layer.clone(), step) != Some(step)
                {
                    note(&plain(progress));
                }
            }
        }
    }
}

impl Drop for PullView {
    fn drop(&mut self) {
        if let Some(multi) = &self.live {
            // A closed terminal is no reason to fail.
            let _ = multi.clear();
        }
    }
}

fn short(layer: &str) -> &str {
    let hex = layer.split_once(':').map_or(layer, |(_, hex)| hex);
    if hex.is_empty() { "image" } else { hex.get(..12).unwrap_or(hex) }
}

fn bar(layer: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:12} {msg:11} {bar:30.cyan/dim} {bytes:>10}/{total_bytes:10}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸ ");
    ProgressBar::new(0).with_style(style).with_prefix(short(layer).to_owned())
}

fn draw(bar: &ProgressBar, progress: &PullProgress) {
    bar.set_message(step_word(progress));
    if progress.total_bytes > 0 {
        bar.set_length(progress.total_bytes);
    }
    bar.set_position(progress.done_bytes);
    if matches!(progress.step(), Step::Done | Step::Cached) {
        if let Some(length) = bar.length() {
            bar.set_position(length);
        }
        bar.abandon();
    }
}

fn plain(progress: &PullProgress) -> String {
    let mut line = format!("pull {} {}", short(&progress.layer), step_word(progress));
    if progress.total_bytes > 0 {
        line.push_str(&format!(" {}", duration::bytes(progress.total_bytes)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines() {
        let p = PullProgress {
            layer: "sha256:0123456789abcdef".into(),
            step: Step::Downloading.into(),
            total_bytes: 2048,
            ..PullProgress::default()
        };
        assert_eq!(plain(&p), "pull 0123456789ab downloading 2.0 KiB");
        assert_eq!(
            plain(&PullProgress { step: Step::Resolving.into(), ..PullProgress::default() }),
            "pull image resolving"
        );
    }
}
