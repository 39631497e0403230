//! `create`: a bundle becomes a container whose init waits to be started.

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    error::LibcontainerError,
    syscall::syscall::SyscallType,
};
use oci_spec::runtime::Spec;

use super::{
    adapt::{Adapted, adapt},
    cgroups::below_root,
    error::{ContainerError, chain},
    executor::ProgramExecutor,
    identity, late_hooks, seccomp,
    store::{OpenContainer, Store},
};

/// The largest `config.json` that is read.
const MAX_CONFIG: u64 = 8 << 20;

/// How many descriptors a program may be given beside the standard ones.
pub(super) const PRESERVED: RangeInclusive<i32> = 0..=1024;

/// What `create` is asked for.
#[derive(Debug)]
pub struct Create<'a> {
    pub id: &'a str,
    /// A directory with `config.json`.
    pub bundle: &'a Path,
    pub pid_file: Option<&'a Path>,
    /// Where the terminal's descriptor is sent, if the spec asks for a terminal.
    pub console_socket: Option<&'a Path>,
    /// Descriptors after standard error that the program is given.
    pub preserve_fds: i32,
    pub no_pivot: bool,
}

/// Creates the container. One that fails leaves nothing behind.
pub fn create(store: &Store, request: &Create<'_>) -> Result<OpenContainer, ContainerError> {
    let dir = store.dir(request.id)?;
    let bundle = fs::canonicalize(request.bundle)
        .map_err(|e| ContainerError::Config { path: request.bundle.to_owned(), reason: e.to_string() })?;
    let config = bundle.join("config.json");
    let adapted = adapt(read_config(&config)?, request.id, &bundle);
    check(&adapted.spec, &config)?;
    if !PRESERVED.contains(&request.preserve_fds) {
        let reason = "the number of descriptors to preserve is not in 0 to 1024".to_owned();
        return Err(ContainerError::Create { id: request.id.to_owned(), reason });
    }
    if dir.exists() {
        return Err(ContainerError::Exists(request.id.to_owned()));
    }
    let filters = match adapted.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => seccomp::compile(profile)?,
        None => vec![],
    };
    let executor =
        ProgramExecutor { filters, borrowed: adapted.borrowed.clone(), without_home: adapted.without_home };
    let changed = adapted.changed.then(|| ChangedBundle::write(store, request.id, &adapted)).transpose()?;
    let given = changed.as_ref().map_or(bundle.as_path(), |changed| &changed.0);
    let built = build(store, request, given, executor);
    drop(changed);
    match built {
        Ok(mut container) => {
            container.state.bundle = bundle;
            let init = container.pid().map(|pid| nix::unistd::Pid::from_raw(pid.as_raw()));
            let recorded = init.map_or(Ok(()), |init| identity::record(&dir, init));
            let saved = recorded
                .map_err(LibcontainerError::OtherIO)
                .and_then(|()| late_hooks::keep(&dir))
                .and_then(|()| container.save());
            if let Err(source) = saved {
                discard(&dir);
                return Err(ContainerError::State { id: request.id.to_owned(), source });
            }
            Ok(OpenContainer { inner: container })
        }
        Err(error) => {
            discard(&dir);
            Err(ContainerError::Create { id: request.id.to_owned(), reason: chain(&error) })
        }
    }
}

fn build(
    store: &Store,
    request: &Create<'_>,
    bundle: &Path,
    executor: ProgramExecutor,
) -> Result<Container, LibcontainerError> {
    ContainerBuilder::new(request.id.to_owned(), SyscallType::default())
        .with_root_path(store.root())?
        .with_pid_file(request.pid_file)?
        .with_console_socket(request.console_socket)
        .with_preserved_fds(request.preserve_fds)
        .with_executor(executor)
        .validate_id()?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .with_no_pivot(request.no_pivot)
        .build()
}

/// What a create that failed half way left: a process, a cgroup, the state.
fn discard(dir: &Path) {
    let deleted = Container::load(dir.to_owned()).and_then(|mut container| container.delete(true));
    if let Err(error) = deleted {
        tracing::debug!("removing what is left of {}: {}", dir.display(), chain(&error));
        let _ = fs::remove_dir_all(dir);
    }
}

pub(super) fn read_config(path: &Path) -> Result<Spec, ContainerError> {
    let fail = |reason: String| ContainerError::Config { path: path.to_owned(), reason };
    let text = read_bounded(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}

pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_CONFIG + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_CONFIG >> 20)));
    }
    Ok(text)
}

/// What the specification asks for and this runtime cannot do is refused, never left out in silence.
fn check(spec: &Spec, config: &Path) -> Result<(), ContainerError> {
    let refuse = |reason: &str| {
        Err(ContainerError::Unsupported { path: config.to_owned(), reason: reason.to_owned() })
    };
    let Some(process) = spec.process() else { return refuse("process: is needed") };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return refuse("process.args: at least one is needed");
    }
    if spec.root().is_none() {
        return refuse("root: is needed");
    }
    let Some(linux) = spec.linux() else {
        return refuse("linux: is needed; containers of other systems are not supported");
    };
    // Whoever is in a container's cgroups is killed with it.
    if linux.cgroups_path().as_ref().is_some_and(|path| below_root(path).is_none()) {
        return refuse("linux.cgroupsPath: must name a cgroup below the root, without `..`");
    }
    if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return refuse("process.selinuxLabel: is not supported");
    }
    if !process.cwd().is_absolute() {
        return refuse("process.cwd: must be absolute");
    }
    Ok(())
}

/// The changed spec in a directory of its own, for as long as libcontainer reads it.
struct ChangedBundle(PathBuf);

impl ChangedBundle {
    fn write(store: &Store, id: &str, adapted: &Adapted) -> Result<Self, ContainerError> {
        // An id cannot hold a comma.
        let dir = store.root().join(format!("{id},{}", std::process::id()));
        let fail =
            |path: &Path, source: io::Error| ContainerError::StateDir { path: path.to_owned(), source };
        fs::create_dir(&dir).map_err(|e| fail(&dir, e))?;
        let bundle = Self(dir);
        let file = bundle.0.join("config.json");
        let text = serde_json::to_vec(&adapted.spec).map_err(|e| fail(&file, e.into()))?;
        fs::write(&file, text).map_err(|e| fail(&file, e))?;
        Ok(bundle)
    }
}

impl Drop for ChangedBundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
