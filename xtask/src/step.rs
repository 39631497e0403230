//! One step of a task: a command with a time limit, its output shown or kept, its test results counted.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cordium_tests::{paths, process::last_lines};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Reads a line like `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for part in rest.split(';') {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse), words.next()) else {
                continue;
            };
            match what {
                "passed" => counts.passed = number,
                "failed" => counts.failed = number,
                "ignored" => counts.skipped = number,
                _ => {}
            }
        }
        Some(counts)
    }
}

pub struct Step<'a> {
    pub name: &'a str,
    pub limit: Duration,
    /// Shows the output while it comes, else only its end after a failure.
    pub show: bool,
}

pub struct Outcome {
    pub success: bool,
    pub counts: Counts,
    pub time: Duration,
    /// Where its output is.
    pub log: PathBuf,
}

/// Runs a command as a step. A failed command is an outcome; an error means that it could not be run.
pub async fn run(step: &Step<'_>, command: &mut Command) -> Result<Outcome> {
    println!("── {}", step.name);
    let started = Instant::now();
    let log = log_path(step.name)?;
    let mut file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("starting {}", step.name))?;
    let (sender, mut lines) = mpsc::channel(256);
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let (mut counts, mut kept) = (Counts::default(), String::new());
    let read = async {
        while let Some(line) = lines.recv().await {
            if let Some(found) = Counts::parse(&line) {
                counts.add(found);
            }
            if step.show {
                println!("{line}");
            } else {
                kept.push_str(&line);
                kept.push('\n');
            }
            let _ = writeln!(file, "{line}");
        }
    };
    let stopped = tokio::select! {
        () = read => None,
        () = tokio::time::sleep(step.limit) => Some(format!("took longer than {:?}", step.limit)),
        _ = tokio::signal::ctrl_c() => Some("interrupted".to_owned()),
    };
    let interrupted = stopped.as_deref() == Some("interrupted");
    if let Some(reason) = &stopped {
        println!("   {reason}");
        end_group(&mut child).await;
    }
    let status = child.wait().await.with_context(|| format!("waiting for {}", step.name))?;
    anyhow::ensure!(!interrupted, "interrupted");
    let success = status.success() && stopped.is_none();
    if !success && !step.show {
        println!("{}", last_lines(&kept, 60));
    }
    let time = started.elapsed();
    println!(
        "   {} in {:.1} s{}",
        if success { "done" } else { "FAILED" },
        time.as_secs_f64(),
        of_log(success, &log)
    );
    Ok(Outcome { success, counts, time, log })
}

fn of_log(success: bool, log: &std::path::Path) -> String {
    if success { String::new() } else { format!("; its output: {}", log.display()) }
}

/// SIGTERM to the whole group, SIGKILL a little later.
async fn end_group(child: &mut Child) {
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else { return };
    let _ = killpg(group, Signal::SIGTERM);
    if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
    }
}

fn forward(stream: Option<impl AsyncRead + Unpin + Send + 'static>, to: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if to.send(line).await.is_err() {
                break;
            }
        }
    });
}

fn log_path(name: &str) -> Result<PathBuf> {
    let dir = paths::target().join("test-logs");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir.join(format!("{}.log", name.replace([' ', '/', ':'], "-"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_results_of_a_test_run() {
        let line =
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        assert_eq!(Counts::parse(line), Some(Counts { passed: 5, failed: 0, skipped: 1 }));
        let line = "test result: FAILED. 0 passed; 1 failed; 0 ignored;";
        assert_eq!(Counts::parse(line), Some(Counts { passed: 0, failed: 1, skipped: 0 }));
        assert_eq!(Counts::parse("test lifecycle ... ok"), None);
    }
}
