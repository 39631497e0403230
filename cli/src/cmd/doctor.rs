//! `cordium doctor`.

use console::style;
use serde_json::json;

use super::{Outcome, setup};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult},
    host::{
        cgroup,
        check::{Check, Level},
        ids, kernel, tools,
        users::{self, User},
    },
    output::{self, format::Structured, text},
    paths::Paths,
};

/// Tries what a sandbox needs and prints the fix for what is missing. Exit code 1 if workspaces cannot run.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The user that will run the supervisor [default: you]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Run `cordium setup` for the user first (as root)
    #[arg(long)]
    pub fix: bool,
    /// Output format
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    pub out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let user = find_user(args.user.as_deref())?;
    if args.fix {
        setup::run(&setup::Args { user: Some(user.name.clone()), dry_run: false, enter: None })?;
    }
    let paths = Paths::resolve(global);
    let mut checks = kernel::checks(&paths.state_dir);
    if user.uid == 0 {
        checks.push(Check::warn(
            "user",
            "root, which has no subordinate ids: the supervisor is meant to run as an ordinary user",
            "check for that user with `cordium doctor --user NAME`",
        ));
    } else {
        checks.push(ids::check("subordinate uids", "/etc/subuid".as_ref(), &user));
        checks.push(ids::check("subordinate gids", "/etc/subgid".as_ref(), &user));
        checks.extend(cgroup::checks(&user));
    }
    checks.extend(tools::id_map_helpers());
    checks.extend(tools::programs());
    checks.push(tools::disk(&paths.state_dir));
    checks.push(supervisor(global).await);
    let failed = checks.iter().filter(|c| c.level == Level::Fail).count();
    match args.out {
        Some(format) => {
            let all: Vec<_> = checks.iter().map(Check::json).collect();
            output::print(&format.render(&json!({ "ok": failed == 0, "user": user.name, "checks": all }))?);
        }
        None => output::print(&report(&checks)),
    }
    if failed > 0 { Err(CliError::silent(1)) } else { Ok(0) }
}

fn find_user(name: Option<&str>) -> CliResult<User> {
    match name {
        None => Ok(users::current()),
        Some(name) => users::by_name(name).ok_or_else(|| {
            CliError::usage(format!("user {name} is not in /etc/passwd"))
                .hint(format!("sudo useradd -m {name}"))
        }),
    }
}

async fn supervisor(global: &Global) -> Check {
    const NAME: &str = "supervisor";
    match Client::connect(global, Start::Never).await {
        Ok(client) => Check::ok(NAME, format!("answers on {}", client.paths.socket.display())),
        Err(e) => Check::warn(NAME, e.to_string(), "`cordium run` starts one when it is needed"),
    }
}

fn report(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let mark = match check.level {
            Level::Ok => style("✓").green(),
            Level::Warn => style("!").yellow(),
            Level::Fail => style("✗").red(),
        };
        out.push_str(&format!("{mark} {:width$}  {}\n", check.name, text::one_line(&check.found)));
        if let Some(fix) = &check.fix {
            out.push_str(&format!("  {:width$}  {} {fix}\n", "", style("fix:").cyan()));
        }
    }
    let count = |level| checks.iter().filter(|c| c.level == level).count();
    let (warned, failed) = (count(Level::Warn), count(Level::Fail));
    out.push_str(&match (failed, warned) {
        (0, 0) => "\neverything is there\n".to_owned(),
        (0, n) => format!("\nworkspaces can run; {n} warning{}\n", if n == 1 { "" } else { "s" }),
        (n, _) => format!("\nworkspaces cannot run: {n} check{} failed\n", if n == 1 { "" } else { "s" }),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fix_stands_below_what_it_fixes() {
        console::set_colors_enabled(false);
        let text = report(&[
            Check::ok("kernel", "6.1"),
            Check::fail("nft", "not found", "sudo apt-get install nftables"),
        ]);
        assert_eq!(
            text,
            "✓ kernel  6.1\n✗ nft     not found\n          fix: sudo apt-get install nftables\n\nworkspaces cannot run: 1 \
             check failed\n"
        );
    }
}
