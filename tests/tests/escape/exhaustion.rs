//! One workspace takes all it gets of a kernel object; the neighbour works on, and another workspace starts.

use std::{process::Command, sync::Arc, time::Duration};

use cordium_escape::exhaust::Kind;
use cordium_tests::{
    Context, Result, Workspace, bail, ensure, json, process, skip,
    v1::{
        ExecRequest, ExecResponse, ExecStart, StdinEof, exec_request::Message as Ask,
        exec_response::Message as Told,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    node,
    shared::{PROGRAM, Shared},
};

/// A command that holds what it took until it is released.
struct Holder {
    say: mpsc::Sender<ExecRequest>,
    told: tonic::Streaming<ExecResponse>,
}

impl Holder {
    /// Starts `hold` and returns when it says that it has all it gets.
    async fn start(w: &Workspace, kind: &Kind) -> Result<(Self, String)> {
        let command = [PROGRAM, "hold", kind.name].map(str::to_owned).to_vec();
        let workspace = w.uid.clone();
        let start = ExecStart { workspace, command, run_as_root: true, stdin: true, ..Default::default() };
        let (say, asks) = mpsc::channel(2);
        say.send(ExecRequest { message: Some(Ask::Start(start)) }).await?;
        let told = w.clients.session.clone().exec(ReceiverStream::new(asks)).await?.into_inner();
        let mut holder = Self { say, told };
        let said = holder.hear(|said| said.ends_with('\n')).await?;
        Ok((holder, said.trim().to_owned()))
    }

    /// Listens until what was said is enough, or the command has ended.
    async fn hear(&mut self, enough: impl Fn(&str) -> bool) -> Result<String> {
        let mut said = String::new();
        let wait = async {
            while !enough(&said) {
                let message = self.told.message().await?.context("its stream ended")?;
                match message.message {
                    Some(Told::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
                    Some(Told::Stderr(bytes)) => eprint!("{}", String::from_utf8_lossy(&bytes)),
                    Some(Told::Exit(exit)) => {
                        ensure!(exit.code == 0, "it ended with {} {}", exit.code, exit.error);
                        return Ok(());
                    }
                    None => {}
                }
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(40), wait).await.context("it took too long")??;
        Ok(said)
    }

    /// Lets go of everything.
    async fn release(mut self) -> Result<()> {
        self.say.send(ExecRequest { message: Some(Ask::StdinEof(StdinEof {})) }).await?;
        self.hear(|_| false).await.map(drop)
    }
}

pub async fn exhaust(s: Arc<Shared>, kind: &'static Kind) -> Result<()> {
    let held = Holder::start(&s.attacker, kind).await;
    let (holder, said) = held.with_context(|| format!("holding {}", kind.name))?;
    println!("{}: {said}", kind.name);
    let needed = s.neighbour.exec_with(
        ExecStart {
            command: [PROGRAM, "need", kind.name].map(str::to_owned).to_vec(),
            run_as_root: true,
            ..Default::default()
        },
        None,
    );
    let needed = needed.await.context("a command in the neighbour")?;
    let started = s.f.run("bystander", &s.f.small(json!({}))).await.context("starting another workspace");
    let own = process::run(&mut Command::new("true"));
    holder.release().await.with_context(|| format!("letting go of {}", kind.name))?;
    started?.delete().await?;
    own.context("a process of the node")?;
    recover(&s.attacker).await?;
    if needed.code() != 0 {
        not_for_each_workspace(&s, kind)?;
        bail!("the neighbour suffers: {} {}", needed.err(), needed.exit.error);
    }
    s.unharmed().await
}

/// What the kernel counts for the machine, or for a host id, cannot be divided between workspaces that share it.
fn not_for_each_workspace(s: &Shared, kind: &Kind) -> Result<()> {
    match kind.name {
        "descriptors-in-flight"
            if node::first_id(s.attacker_pids.init)? == node::first_id(s.neighbour_pids.init)? =>
        {
            skip("both workspaces have one range of host ids, and the kernel counts these for each id")
        }
        "terminals" => {
            skip("the kernel counts these for the whole machine; see SECURITY.md, \"Not defended\"")
        }
        _ => Ok(()),
    }
}

/// The end of what was held takes the kernel a moment.
async fn recover(w: &Workspace) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match w.ok("echo alive").await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() > end => {
                return Err(error.context("the attacker does not recover"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What cannot be taken to the end in a moment is at least bounded below what the node has.
pub async fn shares(s: Arc<Shared>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can look into the keeper's user namespace");
    }
    let user = format!("--user=/proc/{}/ns/user", s.attacker_pids.keeper);
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        let file = format!("/proc/sys/user/max_{name}_namespaces");
        check_share(&user, &file, 4)?;
    }
    for name in ["max_inotify_instances", "max_inotify_watches"] {
        check_share(&user, &format!("/proc/sys/user/{name}"), 2)?;
    }
    Ok(())
}

fn check_share(user: &str, file: &str, share: u64) -> Result<()> {
    let node: u64 = std::fs::read_to_string(file)?.trim().parse()?;
    let own: u64 = process::run(Command::new("nsenter").args([user, "cat", file]))?.trim().parse()?;
    ensure!(own <= node / share, "{file} is {own} for one workspace, of {node}");
    Ok(())
}
