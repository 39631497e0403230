//! Starts a supervisor in the background when none answers.
//!
//! A lock in the run directory makes one of several callers start it; the others wait and connect.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    client,
    error::{CliError, CliResult, Doing as _},
    output,
    paths::{self, Paths},
    sys,
};

const SUPERVISOR: &str = "cordium-supervisor";
const START_LIMIT: Duration = Duration::from_secs(30);
const MAX_LOG: u64 = 8 << 20;
const SHOWN_LINES: usize = 12;

pub async fn start(paths: &Paths) -> CliResult {
    let began = Instant::now();
    private_dir(&paths.run_dir)?;
    private_dir(&paths.state_dir)?;
    let _lock = lock(&paths.run_dir, began).await?;
    if client::dial(paths).await.is_ok() {
        return Ok(());
    }
    let exe = paths::find_sibling(SUPERVISOR).ok_or_else(|| {
        CliError::new(format!("no supervisor answers, and {SUPERVISOR} was not found to start one"))
            .hint("put cordium-supervisor beside cordium or on PATH (`cargo build -p cordium-supervisor` builds it)")
    })?;
    let log_path = paths.supervisor_log();
    let (log, offset) = open_log(&log_path)?;
    let errors = log.try_clone().doing(format!("use {}", log_path.display()))?;
    let mut command = Command::new(&exe);
    command
        .arg("serve")
        .arg("--state-dir")
        .arg(&paths.state_dir)
        .arg("--run-dir")
        .arg(&paths.run_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let child = sys::detach(&mut command).spawn().doing(format!("start {}", exe.display()))?;
    output::note(&format!("supervisor starting (pid {}, log {})", child.id(), log_path.display()));
    wait(paths, child, began, &log_path, offset).await
}

async fn wait(paths: &Paths, mut child: Child, began: Instant, log: &Path, offset: u64) -> CliResult {
    let mut pause = Duration::from_millis(2);
    loop {
        if client::dial(paths).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait().doing("wait for the supervisor")? {
            return Err(CliError::new(format!("the supervisor ended while starting ({status})"))
                .detail(last_lines(log, offset))
                .hint(format!("`cordium doctor` checks this machine; the whole log is {}", log.display())));
        }
        if began.elapsed() > START_LIMIT {
            return Err(CliError::new(format!(
                "the supervisor (pid {}) does not answer after {} s",
                child.id(),
                START_LIMIT.as_secs()
            ))
            .detail(last_lines(log, offset))
            .hint(format!("see {}", log.display())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(40));
    }
}

/// Makes the directory with mode 0700, and refuses one that is somebody else's.
fn private_dir(dir: &Path) -> CliResult {
    let doing = || format!("make {}", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).doing(doing())?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.doing(doing())?,
    }
    let meta = fs::symlink_metadata(dir).doing(format!("look at {}", dir.display()))?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_dir() || meta.uid() != me {
        return Err(CliError::new(format!("{} is not a directory of yours", dir.display()))
            .hint("remove it, or choose others with --run-dir and --state-dir"));
    }
    Ok(())
}

async fn lock(run_dir: &Path, began: Instant) -> CliResult<Flock<File>> {
    let path = run_dir.join("start.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .doing(format!("open {}", path.display()))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if began.elapsed() < START_LIMIT => {
                file = back;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err((_, e)) => {
                return Err(CliError::new(format!("cannot lock {}: {}", path.display(), e.desc()))
                    .hint("another cordium is starting a supervisor; try again"));
            }
        }
    }
}

fn open_log(path: &Path) -> CliResult<(File, u64)> {
    if fs::metadata(path).is_ok_and(|m| m.len() > MAX_LOG) {
        fs::rename(path, path.with_extension("log.1")).doing(format!("rotate {}", path.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        // The supervisor reads what it keeps when it cuts a log that has grown long.
        .read(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .doing(format!("open {}", path.display()))?;
    let offset = file.metadata().doing(format!("look at {}", path.display()))?.len();
    Ok((file, offset))
}

/// The last lines that were written since `offset`.
fn last_lines(path: &Path, offset: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.max(end.saturating_sub(16 << 10))))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().map(|l| (*l).to_owned()).collect()
}
