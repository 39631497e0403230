//! Who runs as whom: read from /proc on the host, while the workspace runs.

use std::fs;

use anyhow::{Context, Result, ensure};
use cordium_tests::{cli::Cli, node::Node, process};

use super::{heading, summary::Summary};

/// A marker that is easy to find from outside.
const MARKER: &str = "sleep 31415";

pub async fn show(node: &Node, cli: &Cli, summary: &mut Summary) -> Result<()> {
    heading("ps, on the host");
    let background = format!("{MARKER} >/dev/null 2>&1 & echo $!");
    cli.ok(&["exec", "demo", "--no-stdin", "--root", "--", "sh", "-c", &background]).await?;
    println!("     UID      PID  COMMAND");
    let (mut supervisor, mut keeper, mut root_inside) = (None, None, None);
    let ours = process::processes().into_iter().filter_map(|pid| {
        let line = process::command_line(pid)?;
        let inside = line == MARKER || line.ends_with("cordium-agent");
        let ours = process::output_of(pid).is_some_and(|file| file.starts_with(&node.dir));
        (inside || ours || line.contains(&*node.dir.to_string_lossy())).then_some((pid, line))
    });
    for (pid, line) in ours {
        let Some(uid) = uid_of(pid) else { continue };
        println!("{uid:>8} {pid:>8}  {}", shortened(&line));
        if line == MARKER {
            root_inside = Some(uid);
        } else if line.contains(" keeper") {
            keeper = Some(uid);
        } else if line.contains(" serve ") {
            supervisor = Some(uid);
        }
    }
    cli.ok(&["exec", "demo", "--no-stdin", "--root", "--", "pkill", "-f", "sleep 3141[5]"]).await?;
    let supervisor = supervisor.context("the supervisor is not to be seen")?;
    let keeper = keeper.context("the keeper is not to be seen")?;
    let root = root_inside.context("the process of the sandbox's root is not to be seen")?;
    let user = &node.user;
    ensure!(
        supervisor == user.uid && keeper == user.uid,
        "supervisor {supervisor} and keeper {keeper} are not {user:?}"
    );
    ensure!(root != user.uid && root != 0, "the sandbox's root is uid {root} on the host");
    summary.fact("supervisor", format!("uid {supervisor} ({})", user.name));
    summary.fact("keeper", format!("uid {keeper} ({})", user.name));
    summary.fact("root inside", format!("uid {root} on the host, a subordinate id of {}", user.name));
    Ok(())
}

/// The real uid of a process, as its `status` says.
fn uid_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

fn shortened(line: &str) -> String {
    if line.chars().count() > 100 {
        line.chars().take(99).collect::<String>() + "…"
    } else {
        line.to_owned()
    }
}
