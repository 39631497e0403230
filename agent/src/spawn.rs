//! Starts programs: the only module that may.
//!
//! Each program leads its own session, gets nothing but stdin, stdout and stderr, default signals, and the
//! credentials, directory and environment that it is told. Its name is looked up in *its* PATH, as its user.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cordium_proto::v1::TerminalSize;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::accounts::Credentials;
use crate::cgroups;
use crate::environment::Environment;
use crate::pty;
use crate::reaper::{Process, Reaper};
use crate::sys::{self, ChildSetup, ChildStep, Mounts, Place};
use crate::system_init::{self, SystemInit, SystemInitError};

/// What to run, and as whom.
pub struct Launch {
    pub argv: Vec<String>,
    pub environment: Environment,
    pub working_dir: PathBuf,
    pub credentials: Credentials,
    pub role: Role,
}

/// What a program is to the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Runs where its siblings do: beside the agent, or with the system init if there is one.
    #[default]
    Program,
    /// Becomes PID 1 of a pid namespace of its own.
    SystemInit,
}

/// What its standard streams are.
pub enum Streams {
    /// stdin is /dev/null or a pipe; stdout and stderr are pipes.
    Pipes { stdin: bool },
    /// All three are one new pseudo-terminal, which also becomes its controlling terminal.
    Pty(TerminalSize),
}

/// A started program and our ends of its streams.
pub struct Spawned {
    pub process: Process,
    pub stdin: Option<Sender>,
    pub stdout: Receiver,
    pub stderr: Option<Receiver>,
    /// The master of its terminal, for its size.
    pub terminal: Option<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("no command was given")]
    NoCommand,
    #[error("working directory `{}` cannot be used: {source}", path.display())]
    WorkingDir { path: PathBuf, source: io::Error },
    #[error("becoming uid {uid}, gid {gid}: {source}")]
    Credentials { uid: u32, gid: u32, source: io::Error },
    #[error("`{command}` was not found (or the interpreter that it names): {source}")]
    NotFound { command: String, source: io::Error },
    #[error("`{command}` cannot be executed: {source}")]
    NotExecutable { command: String, source: io::Error },
    #[error("working directory: {0}")]
    Nul(#[from] NulError),
    #[error("opening a pseudo-terminal: {0}")]
    Pty(io::Error),
    #[error("opening pipes: {0}")]
    Pipe(io::Error),
    #[error("starting `{command}`: {source}")]
    Start { command: String, source: io::Error },
    #[error("entering the namespaces of the system init: {0}")]
    Namespaces(io::Error),
    #[error("{0}")]
    Cgroup(#[from] cgroups::CgroupError),
    #[error(transparent)]
    SystemInit(#[from] SystemInitError),
}

impl SpawnError {
    /// What a shell would exit with.
    pub fn exit_code(&self) -> i32 {
        match self {
            SpawnError::NotFound { .. } | SpawnError::NoCommand => 127,
            _ => 126,
        }
    }
}

/// The limit of open files that children get, when ours is another.
static CHILD_OPEN_FILES: std::sync::OnceLock<(u64, u64)> = std::sync::OnceLock::new();

/// Raises our own soft limit of open files (each exec holds three), and remembers the old one for children.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(65_536);
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        let _ = CHILD_OPEN_FILES.set((soft, hard));
    }
}

/// Starts `launch`. Returns once the program executes, or with the reason why it does not.
pub fn spawn(reaper: &Reaper, launch: &Launch, streams: Streams) -> Result<Spawned, SpawnError> {
    let program = launch.argv.first().filter(|program| !program.is_empty()).ok_or(SpawnError::NoCommand)?;
    check_working_dir(&launch.working_dir)?;
    let mut command = Command::new(program);
    command.args(&launch.argv[1..]).env_clear().envs(launch.environment.iter());
    let ends = connect(&mut command, &streams, &launch.credentials)?;
    let init = (launch.role == Role::Program).then(system_init::current).flatten();
    sys::set_up_child(
        &mut command,
        ChildSetup {
            controlling_tty: matches!(streams, Streams::Pty(_)),
            open_files: CHILD_OPEN_FILES.get().copied(),
            uid: launch.credentials.uid,
            gid: launch.credentials.gid,
            groups: launch.credentials.groups.clone(),
            working_dir: CString::new(launch.working_dir.as_os_str().as_bytes())?,
            place: place(launch.role, init.as_ref())?,
        },
    );
    let started = reaper.start(|| match (launch.role, &init) {
        (Role::SystemInit, _) => system_init::in_new_namespace(|| command.spawn()),
        (Role::Program, Some(init)) => init.within(|| command.spawn()),
        (Role::Program, None) => command.spawn(),
    });
    let process = started.map_err(|error| explain(error, program, launch))?;
    if launch.role == Role::SystemInit {
        system_init::adopt(&process)?;
    }
    Ok(Spawned {
        process,
        stdin: ends.stdin,
        stdout: ends.stdout,
        stderr: ends.stderr,
        terminal: ends.terminal,
    })
}

fn place(role: Role, init: Option<&Arc<SystemInit>>) -> Result<Place, SpawnError> {
    Ok(match (role, init) {
        (Role::SystemInit, _) => Place { cgroup: cgroups::leaf("payload")?, mounts: Mounts::Own },
        (Role::Program, Some(init)) => Place { cgroup: None, mounts: Mounts::Of(Arc::clone(init)) },
        (Role::Program, None) => Place::default(),
    })
}

struct Ends {
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Option<Receiver>,
    terminal: Option<OwnedFd>,
}

fn connect(command: &mut Command, streams: &Streams, credentials: &Credentials) -> Result<Ends, SpawnError> {
    match streams {
        Streams::Pipes { stdin } => pipes(command, *stdin).map_err(SpawnError::Pipe),
        Streams::Pty(size) => terminal(command, *size, credentials).map_err(SpawnError::Pty),
    }
}

fn pipes(command: &mut Command, stdin: bool) -> io::Result<Ends> {
    let writer = if stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        command.stdin(read);
        Some(Sender::from_owned_fd(write)?)
    } else {
        command.stdin(Stdio::null());
        None
    };
    let (stdout, write) = pipe_with(PipeFlags::CLOEXEC)?;
    command.stdout(write);
    let (stderr, write) = pipe_with(PipeFlags::CLOEXEC)?;
    command.stderr(write);
    Ok(Ends {
        stdin: writer,
        stdout: Receiver::from_owned_fd(stdout)?,
        stderr: Some(Receiver::from_owned_fd(stderr)?),
        terminal: None,
    })
}

fn terminal(command: &mut Command, size: TerminalSize, credentials: &Credentials) -> io::Result<Ends> {
    let pair = pty::open(size, credentials.uid)?;
    command.stdin(pair.slave.try_clone()?).stdout(pair.slave.try_clone()?).stderr(pair.slave);
    Ok(Ends {
        stdin: Some(Sender::from_owned_fd_unchecked(pair.master.try_clone()?)?),
        stdout: Receiver::from_owned_fd_unchecked(pair.master.try_clone()?)?,
        stderr: None,
        terminal: Some(pair.master),
    })
}

/// The commonest mistake gets a clear answer before a process is made.
fn check_working_dir(path: &Path) -> Result<(), SpawnError> {
    let problem = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => io::Error::from(io::ErrorKind::NotADirectory),
        Err(error) => error,
    };
    Err(SpawnError::WorkingDir { path: path.to_path_buf(), source: problem })
}

fn explain(error: io::Error, program: &str, launch: &Launch) -> SpawnError {
    let command = program.to_owned();
    let (step, source) = sys::split_child_error(error);
    match step {
        Some(ChildStep::WorkingDir) => SpawnError::WorkingDir { path: launch.working_dir.clone(), source },
        Some(ChildStep::Credentials) => {
            SpawnError::Credentials { uid: launch.credentials.uid, gid: launch.credentials.gid, source }
        }
        Some(ChildStep::Namespaces) => SpawnError::Namespaces(source),
        Some(ChildStep::Session) => SpawnError::Start { command, source },
        None => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                SpawnError::NotFound { command, source }
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => SpawnError::Start { command, source },
            _ => SpawnError::NotExecutable { command, source },
        },
    }
}

/// What is left in the pipe or terminal of a process that has ended, past the event loop's own idea of readiness.
///
/// All that it wrote is there already. Descendants that keep the other end open are not waited for, and those that write
/// without end are not read without end.
pub struct Rest<'a> {
    stream: &'a Receiver,
    left: usize,
}

/// The most that a pipe holds.
const MAX_REST: usize = 1 << 20;

impl<'a> Rest<'a> {
    pub fn of(stream: &'a Receiver) -> Self {
        Self { stream, left: MAX_REST }
    }

    /// `None` means: nothing more at the moment, or ever.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        while self.left > 0 {
            match rustix::io::read(self.stream.as_fd(), &mut *buffer) {
                Ok(0) => return None,
                Ok(count) => {
                    self.left = self.left.saturating_sub(count);
                    return Some(count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        None
    }
}
