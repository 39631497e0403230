//! Shows phases: a spinner on a terminal, plain stable lines elsewhere. All of it on standard error, for standard
//! output belongs to the command that is run.

use std::time::Duration;

use console::style;
use cordium_proto::v1::{LogSource, WorkspaceState};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    output::{self, duration, text},
    session::loglines::LogLine,
};

pub enum View {
    Live(ProgressBar),
    Plain,
}

impl View {
    pub fn new() -> Self {
        if !console::user_attended_stderr() {
            return Self::Plain;
        }
        let style = ProgressStyle::with_template("{spinner:.cyan} {wide_msg} {elapsed:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::Live(bar)
    }

    pub fn now(&self, state: WorkspaceState, detail: &str) {
        if let Self::Live(bar) = self {
            bar.set_message(format!("{} {}", state.short_name(), text::one_line(detail)));
        }
    }

    pub fn done(&self, state: WorkspaceState, took: Duration, detail: &str) {
        let (name, took, detail) = (state.short_name(), duration::seconds(took), text::one_line(detail));
        match self {
            Self::Live(_) => self.say(&format!(
                "{} {name:<17} {took:>7}  {}",
                style("✓").for_stderr().green(),
                style(text::shorten(&detail, 90)).for_stderr().dim()
            )),
            Self::Plain => output::note(format!("phase {name} {took} {detail}").trim_end()),
        }
    }

    pub fn reached(&self, name: &str, state: WorkspaceState, total: Option<Duration>) {
        let total = total.map(duration::seconds).unwrap_or_default();
        match self {
            Self::Live(_) => {
                let took = if total.is_empty() { String::new() } else { format!(" in {total}") };
                self.say(&format!(
                    "{} {name} is {}{took}",
                    style("✓").for_stderr().green().bold(),
                    state.short_name()
                ));
            }
            Self::Plain => output::note(format!("phase {} {total}", state.short_name()).trim_end()),
        }
    }

    pub fn warning(&self, warning: &str) {
        self.aside(|| output::warning(warning));
    }

    pub fn log(&self, line: &LogLine) {
        let body = text::clean(&line.text, console::colors_enabled_stderr());
        match self {
            // The phase's detail tells the same.
            Self::Live(bar) if line.source == LogSource::Image => {
                bar.set_message(format!("PULLING_IMAGE {}", text::one_line(&body)));
            }
            _ => self.say(&format!(
                "{} {body}",
                style(format!("[{}]", text::clean_line(&line.name))).for_stderr().dim()
            )),
        }
    }

    pub fn say(&self, line: &str) {
        self.aside(|| output::note(line));
    }

    fn aside(&self, f: impl FnOnce()) {
        match self {
            Self::Live(bar) => bar.suspend(f),
            Self::Plain => f(),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}
