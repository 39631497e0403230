//! The commands, each one call into the runtime.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use cordium_runtime::container::{self, ContainerError, OpenContainer, Store, spec::Process};
use nix::{
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    args::{Args, Command, Create, Exec},
    resources,
};

pub fn run(args: Args) -> Result<ExitCode> {
    if args.systemd_cgroup {
        bail!("--systemd-cgroup is not supported: cgroups are managed directly");
    }
    let store = || Store::open(&root(args.root.as_deref())?).map_err(anyhow::Error::from);
    match &args.command {
        Command::Features => print(&serde_json::to_value(container::features()?)?)?,
        Command::List => print(&serde_json::to_value(store()?.list()?)?)?,
        Command::State { id } => print(&serde_json::to_value(store()?.load(id)?.state())?)?,
        Command::Create(create) => self::create(&store()?, create)?,
        Command::Start { id } => store()?.load(id)?.start()?,
        Command::Kill { id, signal, all } => store()?.load(id)?.kill(parse_signal(signal)?, *all)?,
        Command::Delete { id, force } => delete(&store()?, id, *force)?,
        Command::Pause { id } => store()?.load(id)?.pause()?,
        Command::Resume { id } => store()?.load(id)?.resume()?,
        Command::Update(update) => store()?.load(&update.id)?.update(&resources::of(update)?)?,
        Command::Exec(exec) => return self::exec(&store()?.load(&exec.id)?, exec),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(value: &Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn root(given: Option<&std::path::Path>) -> Result<PathBuf> {
    if let Some(root) = given {
        return Ok(root.to_owned());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/run/cordium-oci"));
    }
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set: give --root DIR")?;
    Ok(PathBuf::from(runtime).join("cordium-oci"))
}

fn create(store: &Store, args: &Create) -> Result<()> {
    container::create(
        store,
        &container::Create {
            id: &args.id,
            bundle: &args.bundle,
            pid_file: args.pid_file.as_deref(),
            console_socket: args.console_socket.as_deref(),
            preserve_fds: args.preserve_fds,
            no_pivot: args.no_pivot,
        },
    )?;
    Ok(())
}

fn delete(store: &Store, id: &str, force: bool) -> Result<()> {
    match store.load(id) {
        Err(ContainerError::Unknown(_)) if force => Ok(()),
        loaded => Ok(loaded?.delete(force)?),
    }
}

/// The exit code is the process's; 128 + the signal that ended it.
fn exec(open: &OpenContainer, args: &Exec) -> Result<ExitCode> {
    let process = process(open, args)?;
    let request = container::Exec {
        process: &process,
        console_socket: args.console_socket.as_deref(),
        pid_file: args.pid_file.as_deref(),
        preserve_fds: args.preserve_fds,
    };
    let executed = container::exec(open, &request)?;
    if args.detach { Ok(ExitCode::SUCCESS) } else { wait(executed.pid) }
}

fn wait(pid: Pid) -> Result<ExitCode> {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(255)));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the process"),
        }
    }
}

fn process(open: &OpenContainer, args: &Exec) -> Result<Process> {
    if let Some(path) = &args.process {
        if !args.command.is_empty() {
            bail!("give either --process FILE or a command");
        }
        return Ok(OpenContainer::read_process(path)?);
    }
    if args.command.is_empty() {
        bail!("no command: give one, or --process FILE");
    }
    overlay(serde_json::to_value(open.process()?)?, args)
}

/// The container's own process with what the flags change.
fn overlay(mut process: Value, args: &Exec) -> Result<Process> {
    process["args"] = json!(args.command);
    process["terminal"] = json!(args.tty);
    if let Some(cwd) = &args.cwd {
        process["cwd"] = json!(cwd);
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number =
            |text: &str| text.parse::<u32>().with_context(|| format!("--user {user:?}: ids are numbers"));
        process["user"] = json!({"uid": number(uid)?, "gid": number(gid)?});
    }
    if let Some(entry) = args.env.iter().find(|entry| !entry.contains('=')) {
        bail!("--env {entry:?}: it is NAME=VALUE");
    }
    let mut env: Vec<Value> = process["env"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = args.env.iter().filter_map(|entry| entry.split('=').next()).collect();
    env.retain(|old| {
        !names.iter().any(|name| old.as_str().is_some_and(|old| old.split('=').next() == Some(name)))
    });
    env.extend(args.env.iter().map(|entry| json!(entry)));
    process["env"] = json!(env);
    for capability in &args.cap {
        for set in ["bounding", "effective", "permitted"] {
            let list = process["capabilities"][set].as_array().cloned().unwrap_or_default();
            process["capabilities"][set] =
                json!(list.into_iter().chain([json!(capability)]).collect::<Vec<_>>());
        }
    }
    serde_json::from_value(process).context("the process of the exec")
}

fn parse_signal(text: &str) -> Result<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).with_context(|| format!("there is no signal {number}"));
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse().with_context(|| format!("there is no signal {text:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    fn exec(words: &[&str]) -> Exec {
        let all = ["cordium-oci", "exec"].iter().chain(words);
        match Args::parse_from(all).command {
            Command::Exec(exec) => exec,
            other => panic!("{other:?}"),
        }
    }

    fn base() -> Value {
        json!({"args": ["init"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin", "A=1"],
               "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}})
    }

    #[test]
    fn signals_go_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse_signal(text).unwrap(), Signal::SIGTERM);
        }
        assert!(parse_signal("NO").is_err() && parse_signal("99").is_err());
    }

    #[test]
    fn flags_change_the_containers_process() {
        let args = exec(&[
            "--user",
            "5:6",
            "-e",
            "A=2",
            "-e",
            "B=3",
            "--cap",
            "CAP_CHOWN",
            "--cwd",
            "/x",
            "c",
            "ls",
            "-l",
        ]);
        let process = overlay(base(), &args).unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["ls", "-l"]);
        assert_eq!((process.user().uid(), process.user().gid()), (5, 6));
        assert_eq!(process.env().as_deref().unwrap(), ["PATH=/bin", "A=2", "B=3"]);
        let bounding = process.capabilities().as_ref().unwrap().bounding().clone().unwrap();
        assert_eq!(bounding.len(), 2);
    }

    #[test]
    fn nonsense_is_refused_by_the_name_of_the_flag() {
        for (words, flag) in [(["--user", "root", "c", "ls"], "--user"), (["--env", "A", "c", "ls"], "--env")]
        {
            assert!(overlay(base(), &exec(&words)).unwrap_err().to_string().contains(flag));
        }
        assert!(overlay(base(), &exec(&["--cap", "CAP_NOTHING", "c", "ls"])).is_err());
    }
}
