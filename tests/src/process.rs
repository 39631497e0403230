//! Child processes: run one to its end, or keep one as a daemon that ends with its guard.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Runs a command to its end and returns its standard output; a failure carries its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {line}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}: {}", output.status, last_lines(&errors, 15));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `run` for a program and its arguments.
pub fn sh(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args))
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Asks `ready` again and again until it answers, an error ends the wait, or time is up. For what the kernel and
/// foreign programs give no event for; phases are awaited on the watch stream.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("{what}: nothing after {limit:?}");
        }
        pause(Duration::from_millis(20));
    }
}

#[allow(clippy::disallowed_methods)] // the one place: a synchronous wait between two looks
fn pause(time: Duration) {
    thread::sleep(time);
}

/// A child in its own process group, its output in a log file. Dropping it ends the group.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", line_of(command)))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits until `ready` says so; fails as soon as the daemon ends instead.
    pub fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let name = self.name.clone();
        until(&format!("start of {name}"), limit, || {
            if let Some(status) = self.ended()? {
                bail!("{name} ended with {status} instead of starting:\n{}", self.log_tail());
            }
            Ok(ready().then_some(()))
        })
        .with_context(|| format!("its log ends with:\n{}", self.log_tail()))
    }

    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 << 10)..]), 30)
    }

    /// Sends a signal to the daemon itself, not to its children.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(self.group(), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// SIGTERM, then SIGKILL to the group when it takes longer than `grace`.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        match until(&format!("end of {}", self.name), grace, || self.ended()) {
            Ok(status) => Ok(status),
            Err(_) => self.kill(),
        }
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        killpg(self.group(), Signal::SIGKILL).with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Duration::from_secs(5)) {
            eprintln!("{error:#}");
        }
    }
}

/// Ends every process that has to do with `marker`, a path that only one fixture uses. A supervisor's keepers
/// and its broker outlive it by design, so that ending the supervisor does not end them.
pub fn end_by_marker(marker: &Path) -> Vec<String> {
    let found = mentioning(marker);
    for (pid, _) in &found {
        let _ = nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let gone = || Ok(mentioning(marker).is_empty().then_some(()));
    if let Err(error) = until("end of left-over processes", Duration::from_secs(10), gone) {
        eprintln!("{error:#}");
    }
    found.into_iter().map(|(_, line)| line).collect()
}

/// Processes that have to do with a path, this one excepted: their command line names it, or their standard output
/// goes to a file below it, as a keeper's does.
pub fn mentioning(marker: &Path) -> Vec<(i32, String)> {
    let text = marker.to_string_lossy();
    processes()
        .into_iter()
        .filter(|pid| u32::try_from(*pid).is_ok_and(|pid| pid != std::process::id()))
        .filter_map(|pid| Some((pid, command_line(pid)?)))
        .filter(|(pid, line)| {
            line.contains(&*text) || output_of(*pid).is_some_and(|file| file.starts_with(marker))
        })
        .collect()
}

/// Where a process's standard error goes.
pub fn output_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/2")).ok()
}

/// The ids of all processes.
pub fn processes() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process's command line, blanks between its arguments; `None` when it has none (a kernel thread, a zombie).
pub fn command_line(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// The code a shell would report.
pub fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
