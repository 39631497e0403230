//! `cordium setup`: what only root can do, once.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use nix::fcntl::{Flock, FlockArg};

use super::Outcome;
use crate::{
    error::{CliError, CliResult, Doing as _},
    host::{
        cgroup, delegate,
        ids::{self, Range},
        users::{self, User},
    },
    output, paths,
};

/// Gives the user subordinate ids, a range for each of 64 workspaces, and a cgroup subtree. May be run again: what is there stays. The subtree is gone
/// at reboot.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The user that will run the supervisor [default: who called sudo]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Move this process into the cgroup-v2 subtree, from where its children may use it
    #[arg(long, value_name = "PID")]
    pub enter: Option<u32>,
}

const FILES: [(&str, &str); 2] = [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")];

pub fn run(args: &Args) -> Outcome {
    let name = args
        .user
        .clone()
        .or_else(|| std::env::var("SUDO_USER").ok())
        .unwrap_or_else(|| users::current().name);
    let user = users::by_name(&name).ok_or_else(|| {
        CliError::usage(format!("user {name} is not in /etc/passwd")).hint(format!("sudo useradd -m {name}"))
    })?;
    if user.uid == 0 {
        return Err(CliError::usage("the supervisor is meant to run as an ordinary user, not as root")
            .hint("name one: cordium setup --user NAME"));
    }
    if !rustix::process::geteuid().is_root() && !args.dry_run {
        let exe = std::env::current_exe().unwrap_or_else(|_| "cordium".into());
        return Err(
            CliError::new("this needs root").hint(format!("sudo {} setup --user {name}", exe.display()))
        );
    }
    let mut done = 0;
    for (file, flag) in FILES {
        done += usize::from(subordinate(Path::new(file), flag, &user, args.dry_run)?);
    }
    done += delegate_cgroups(&user, args)?;
    for (tool, package) in [("newuidmap", "uidmap"), ("newgidmap", "uidmap"), ("nft", "nftables")] {
        if paths::find_on_path(tool).is_none() {
            output::warning(&format!("{tool} is missing: apt-get install {package}"));
        }
    }
    output::line(&match (done, args.dry_run) {
        (0, _) => format!("nothing to do: {name} is set up"),
        (n, true) => format!("{n} steps would be done for {name}"),
        (_, false) => format!("done: {name} can run workspaces; `cordium doctor --user {name}` checks it"),
    });
    Ok(0)
}

/// Adds a line if the user has fewer ranges than are wanted; true if it did. What is there stays as it is.
fn subordinate(file: &Path, flag: &str, user: &User, dry_run: bool) -> CliResult<bool> {
    let name = file.display();
    let lines = ids::read(file);
    // Uids and gids of different users must not meet either.
    let all = FILES.iter().flat_map(|(path, _)| ids::read(Path::new(path)));
    let others: Vec<Range> = all.filter(|r| r.owner != user.name).collect();
    let plan = ids::plan(&lines, &others, user);
    let Some((start, count)) = plan.add else {
        if plan.has == 0 {
            return Err(CliError::new(format!(
                "{name} has no room for {} ids for {}",
                ids::NEEDED,
                user.name
            ))
            .hint("remove a line that is not used from it"));
        }
        output::line(&format!("ok    {name} has {} for {}", ranges(plan.has), user.name));
        warn_if_shared(file, plan.has);
        return Ok(false);
    };
    let entry = format!("{}:{start}:{count}", user.name);
    let mut has = plan.has + usize::try_from(count / ids::NEEDED).unwrap_or(usize::MAX);
    let verb = if dry_run { "would add" } else { "add " };
    output::line(&format!("{verb}  {entry} to {name}, which then has {}", ranges(has)));
    if !dry_run {
        if !with_usermod(flag, start, count, user) {
            append(file, &entry)?;
        }
        has = ids::plan(&ids::read(file), &others, user).has;
        if has <= plan.has {
            return Err(CliError::new(format!("{name} still lacks a range for {}", user.name))
                .hint(format!("add the line {entry} to it")));
        }
    }
    warn_if_shared(file, has);
    Ok(true)
}

fn ranges(count: usize) -> String {
    format!("{count} {} of {} ids", if count == 1 { "range" } else { "ranges" }, ids::NEEDED)
}

fn warn_if_shared(file: &Path, has: usize) {
    if has == 1 {
        output::warning(&format!(
            "{} has room for one range only: all workspaces will share its ids",
            file.display()
        ));
    }
}

fn with_usermod(flag: &str, start: u64, count: u64, user: &User) -> bool {
    let Some(usermod) = paths::find_on_path("usermod") else { return false };
    let range = format!("{start}-{}", start + count - 1);
    let ran = Command::new(usermod)
        .args([flag, &range, &user.name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}

/// One more line at the end, under a lock, on a line of its own.
fn append(file: &Path, entry: &str) -> CliResult {
    let doing = || format!("add a line to {}", file.display());
    let opened = OpenOptions::new().create(true).read(true).append(true).open(file).doing(doing())?;
    let mut locked = Flock::lock(opened, FlockArg::LockExclusive)
        .map_err(|(_, e)| CliError::new(format!("cannot lock {}: {}", file.display(), e.desc())))?;
    let mut text = String::new();
    locked.read_to_string(&mut text).doing(doing())?;
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    locked.write_all(format!("{separator}{entry}\n").as_bytes()).doing(doing())?;
    locked.sync_all().doing(doing())
}

fn delegate_cgroups(user: &User, args: &Args) -> CliResult<usize> {
    let found = cgroup::hierarchies();
    if found.is_empty() {
        output::warning("no cgroup hierarchy is mounted: limits cannot be enforced");
        return Ok(0);
    }
    let mut done = 0;
    for step in delegate::plan(&found, user, args.enter) {
        if args.dry_run && step.is_done() {
            continue;
        }
        if args.dry_run {
            output::line(&format!("would {step}"));
            done += 1;
            continue;
        }
        match delegate::run(&step) {
            Ok(false) => {}
            Ok(true) => {
                output::line(&format!("did   {step}"));
                done += 1;
            }
            Err(e) if step.is_optional() => output::warning(&format!("cannot {step}: {e}")),
            Err(e) => {
                return Err(CliError::new(format!("cannot {step}: {e}"))
                    .hint("is /sys/fs/cgroup writable here? In a container it must be mounted read-write"));
            }
        }
    }
    if done == 0 {
        let dirs =
            found.iter().filter_map(|h| h.delegated(user.uid)).filter(|d| fs::metadata(d).is_ok()).count();
        output::line(&format!("ok    cgroup subtrees for {} in {dirs} hierarchies", user.name));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_is_added_on_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("subuid");
        append(&file, "ann:1:2").unwrap();
        append(&file, "bob:3:4").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "ann:1:2\nbob:3:4\n");
        fs::write(&file, "no end").unwrap();
        append(&file, "eve:5:6").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "no end\neve:5:6\n");
    }
}
