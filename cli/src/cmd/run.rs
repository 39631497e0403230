//! `cordium run`: create, start, and be in the workspace.
//!
//! find or create → start if stopped → phases and output until RUNNING → command, terminal or summary → delete with
//! `--rm`. Ctrl-C before RUNNING asks the start to end; a second one leaves at once.

use cordium_proto::v1::{DeleteResourceRequest, ExecStart, Kind as Proto, Resource, WorkspaceState};
use serde_json::Value;

use super::{
    Outcome,
    create::{self, Place},
    resource::{self, Change},
    terminal,
};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult, Doing as _, EXIT_INTERRUPTED},
    interrupt::Interrupt,
    names,
    output::{self, text},
    session::{
        self,
        detach::{self, Keys},
    },
    spec::{Kind, build, file::Doc, flags::SpecFlags},
    startup::{self, Follow, Goal},
    tty,
};

/// The workspace stays when the command or the terminal ends, unless --rm is given.
#[derive(clap::Args, Debug)]
#[command(override_usage = "cordium run [NAME] [OPTIONS] [-- <COMMAND>...]")]
pub struct Args {
    /// The workspace's name [default: that of the file, else one is made up]
    pub name: Option<String>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub spec: SpecFlags,
    /// Delete the workspace and its storage at the end
    #[arg(long)]
    pub rm: bool,
    /// Run the command as root
    #[arg(long)]
    pub root: bool,
    /// Working directory of the command [default: the user's home]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Give the command an empty standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Only start it: no terminal
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Keys that leave the terminal without ending it (`none` for no such keys)
    #[arg(long, value_name = "KEYS", default_value = terminal::DETACH_KEYS, value_parser = detach::parse)]
    pub detach_keys: Keys,
    /// A command to run, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub async fn run(global: &Global, mut args: Args) -> Outcome {
    let mut interrupt = Interrupt::arm()?;
    // What the user wrote is checked before anything is started.
    let mut doc = create::document(Kind::Workspace, args.name.take(), &args.spec, false)?;
    if doc.name.is_empty() {
        doc.name = names::generate();
    }
    let client = Client::connect(global, Start::IfNeeded).await?;
    let (workspace, created) = prepare(&client, &doc, &args).await?;
    let ended = live(&client, &workspace, &args, created, &mut interrupt).await;
    if args.rm {
        drop(interrupt);
        if let Err(error) = remove(&client, &workspace).await {
            error.print();
            return ended.and(Err(CliError::silent(1)));
        }
    }
    ended
}

/// The workspace with the spec that was asked for, and whether it is new.
async fn prepare(client: &Client, doc: &Doc, args: &Args) -> CliResult<(Resource, bool)> {
    let space = &args.place.space;
    let Some(there) = resource::find(client, Kind::Workspace, &doc.name, space).await? else {
        let made = resource::create(client, doc, space, &args.place.template, false).await?;
        output::note(&format!("workspace {} created", doc.name));
        return Ok((made, true));
    };
    if !args.spec.describe_something() {
        return Ok((there, false));
    }
    let mut wanted = doc.clone();
    if args.spec.file.is_none() {
        // Flags change what they name and leave the rest as it is.
        let has = serde_json::from_str(&there.spec_json).unwrap_or_default();
        wanted.spec = build::with_flags(has, &args.spec, false)?;
        wanted = wanted.checked()?;
    }
    let (there, change) = resource::update(client, there, &wanted, space).await?;
    if change == Change::Updated {
        output::note(&format!("workspace {} updated", doc.name));
    }
    Ok((there, false))
}

/// Brings the workspace to RUNNING, does in it what was asked, and says how that ended.
async fn live(
    client: &Client,
    workspace: &Resource,
    args: &Args,
    created: bool,
    interrupt: &mut Interrupt,
) -> CliResult<u8> {
    let auto_stop = spec_says_auto_stop(workspace);
    let follow_to_end = auto_stop && args.command.is_empty() && !args.detach;
    let goal = if follow_to_end { Goal::Stopped } else { Goal::Running };
    let mut ours = created;
    if resource::state(workspace) != WorkspaceState::Running || follow_to_end {
        let result = bring_up(client, workspace, args, goal, &mut ours, interrupt).await?;
        if result == startup::Outcome::Interrupted {
            return Err(interrupted(client, workspace, args, ours).await);
        }
    } else if !args.spec.vars.is_empty() {
        output::warning("the workspace runs already: --var takes effect at the next start");
    }
    if follow_to_end {
        return Ok(0);
    }
    interrupt.disarm();
    let (name, uid) = (resource::name(workspace), resource::uid(workspace));
    if !args.command.is_empty() {
        let start = ExecStart {
            workspace: uid.to_owned(),
            command: args.command.clone(),
            working_dir: args.workdir.clone().unwrap_or_default(),
            env: args.spec.env.iter().cloned().collect(),
            run_as_root: args.root,
            stdin: !args.no_stdin,
            tty: args.tty.then(tty::size),
        };
        return session::exec::exec(client, start, name).await;
    }
    if tty::is_interactive() && !args.detach {
        let code = terminal::open(client, uid, name, None, args.root, args.detach_keys.clone()).await?;
        if !args.rm {
            output::note(&format!(
                "workspace {name} goes on running; `cordium run {name}` comes back, `cordium stop {name}` stops it"
            ));
        }
        return Ok(code);
    }
    if args.rm {
        return Ok(0);
    }
    let now = resource::workspace(client, uid, "").await?;
    output::print(&summary(&now));
    Ok(0)
}

/// Starts the workspace if it is stopped, after a stop that is under way, and shows its phases up to the goal.
async fn bring_up(
    client: &Client,
    workspace: &Resource,
    args: &Args,
    goal: Goal,
    ours: &mut bool,
    interrupt: &mut Interrupt,
) -> CliResult<startup::Outcome> {
    let mut state = resource::state(workspace);
    if matches!(state, WorkspaceState::StoppingRequest | WorkspaceState::Stopping) {
        output::note(&format!(
            "workspace {} is stopping; it is started after that",
            resource::name(workspace)
        ));
        let follow = Follow::begin(client, workspace, false).await?;
        match follow.until(Goal::Stopped, &resource::run_id(workspace), interrupt).await {
            // How the run before ended does not matter here.
            Ok(startup::Outcome::Reached) | Err(_) => {}
            Ok(startup::Outcome::Interrupted) => return Ok(startup::Outcome::Interrupted),
        }
        state = WorkspaceState::Stopped;
    }
    let follow = Follow::begin(client, workspace, true).await?;
    let run_id = if matches!(state, WorkspaceState::Stopped | WorkspaceState::Unknown) {
        let started = resource::start(client, workspace, &args.spec.vars, "").await?;
        *ours = true;
        resource::run_id(&started)
    } else {
        resource::run_id(workspace)
    };
    follow.until(goal, &run_id, interrupt).await
}

/// After the first Ctrl-C: what we started is stopped again. A second Ctrl-C ends the process in [`Interrupt`].
async fn interrupted(client: &Client, workspace: &Resource, args: &Args, ours: bool) -> CliError {
    let name = resource::name(workspace);
    if !ours {
        return CliError::new(format!("interrupted; workspace {name} goes on, for others started it"))
            .hint(format!("`cordium stop {name}` stops it"))
            .code(EXIT_INTERRUPTED);
    }
    output::note(&format!("interrupted: stopping {name} (Ctrl-C again leaves at once)"));
    let stopped = async {
        let follow = Follow::begin(client, workspace, false).await?;
        resource::stop(client, workspace, false).await?;
        // Waits for the end of whichever run there is; only a new signal, which ends the process, comes before.
        let mut never = Interrupt::arm()?;
        follow.until(Goal::Stopped, "", &mut never).await.map(drop)
    };
    let error = match stopped.await {
        Err(e) if e.status().is_some_and(|code| code != tonic::Code::FailedPrecondition) => {
            e.print();
            CliError::new("interrupted")
        }
        _ => CliError::new(format!("interrupted; workspace {name} is stopped")),
    };
    let error = error.code(EXIT_INTERRUPTED);
    if args.rm {
        error
    } else {
        error.hint(format!("`cordium run {name}` starts it again, `cordium delete ws {name}` removes it"))
    }
}

async fn remove(client: &Client, workspace: &Resource) -> CliResult {
    let name = resource::name(workspace);
    let mut interrupt = Interrupt::arm()?;
    // A graceful stop first, for PRE_STOP tasks.
    let now = resource::find(client, Kind::Workspace, resource::uid(workspace), "").await?;
    let Some(now) = now else { return Ok(()) };
    if resource::state(&now) == WorkspaceState::Running {
        let follow = Follow::begin(client, &now, false).await?;
        if resource::stop(client, &now, false).await.is_ok() {
            // A failed end is shown by the run itself; the workspace goes all the same.
            let _ = follow.until(Goal::Stopped, &resource::run_id(&now), &mut interrupt).await;
        }
    }
    let request = DeleteResourceRequest {
        kind: Proto::Workspace.into(),
        r#ref: resource::uid(workspace).to_owned(),
        ..DeleteResourceRequest::default()
    };
    client.control().delete(request).await.doing(format!("delete workspace {name}"))?;
    output::note(&format!("workspace {name} deleted"));
    Ok(())
}

fn spec_says_auto_stop(workspace: &Resource) -> bool {
    let spec: Value = serde_json::from_str(&workspace.spec_json).unwrap_or_default();
    spec["runtime"]["autoStop"].as_bool().unwrap_or(false)
}

fn summary(workspace: &Resource) -> String {
    let name = resource::name(workspace);
    let spec: Value = serde_json::from_str(&workspace.spec_json).unwrap_or_default();
    let status = workspace.status.clone().unwrap_or_default();
    let mut out = format!("workspace {name} is {}\n", status.state().short_name());
    let mut row = |label: &str, value: &str| {
        // What a run's variables made of it is not part of the spec.
        if !value.is_empty() && !value.contains("${{") {
            out.push_str(&format!("  {label:<11}{}\n", text::one_line(value)));
        }
    };
    row("image", spec["image"]["registry"]["url"].as_str().unwrap_or_default());
    row("repository", spec["repository"]["url"].as_str().unwrap_or_default());
    row("node", &status.node);
    if let Some(l) = &status.limit {
        row(
            "limits",
            &format!("cpu {}m, memory {} MiB, storage {} MiB", l.cpu_millicores, l.memory_mib, l.storage_mib),
        );
    }
    for warning in &status.warnings {
        row("warning", warning);
    }
    row("next", &format!("cordium exec {name} -- COMMAND | cordium terminal {name} | cordium stop {name}"));
    out
}
