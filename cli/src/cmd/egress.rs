//! `cordium egress`: what workspaces were refused outside.

use std::time::Duration;

use cordium_proto::v1::{Denial, WatchDenialsRequest};
use serde_json::json;
use tonic::Code;

use super::{Outcome, watch::JsonLines};
use crate::{
    args::Global,
    client::{Client, Start},
    error::CliError,
    output::{self, duration::rfc3339, text},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Show the connections and names that a running workspace was refused, with the rule and what helps
    Log(Log),
}

#[derive(clap::Args, Debug)]
struct Log {
    /// The workspace's name or uid
    workspace: String,
    /// Go on with what comes, until the workspace stops
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only what comes after the denial of this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// One JSON object on each line
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<JsonLines>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    match args.what {
        What::Log(args) => log(global, args).await,
    }
}

async fn log(global: &Global, args: Log) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let (mut after, mut breaks, mut seen) = (args.after, 0, false);
    loop {
        let request = WatchDenialsRequest { workspace: args.workspace.clone(), follow: args.follow, after };
        let ended = async {
            let mut stream = client.session().watch_denials(request).await?.into_inner();
            while let Some(denial) = stream.message().await? {
                (after, breaks, seen) = (denial.number, 0, true);
                output::line(&match args.out {
                    Some(JsonLines::Json) => object(&denial).to_string(),
                    None => describe(&denial),
                });
            }
            Ok::<(), tonic::Status>(())
        }
        .await;
        match ended {
            Ok(()) => return Ok(0),
            // The broker or the supervisor was restarted, perhaps: go on after the last one.
            Err(status) if args.follow && seen && breaks < 10 && retry(&status) => {
                breaks += 1;
                tokio::time::sleep(Duration::from_millis(100 * breaks)).await;
            }
            Err(status) => {
                let doing = format!("read the denials of {}", args.workspace);
                return Err(CliError::from_status(&doing, &status));
            }
        }
    }
}

fn retry(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal)
}

/// Addresses come from the kernel; names and rules are a tenant's or an owner's text.
fn describe(denial: &Denial) -> String {
    let at = denial.at.as_ref().map_or_else(|| "-".to_owned(), rfc3339);
    let names = denial.names.join(",");
    let place = match (denial.address.as_str(), denial.port) {
        ("", _) => String::new(),
        (address, port) if address.contains(':') => format!("[{address}]:{port}"),
        (address, port) => format!("{address}:{port}"),
    };
    let what = match (names.as_str(), place.as_str()) {
        ("", "") => "-".to_owned(),
        ("", place) => place.to_owned(),
        (names, "") => names.to_owned(),
        (names, place) => format!("{names} ({place})"),
    };
    let Denial { protocol, method, path, rule, reason, next, .. } = denial;
    let request = if method.is_empty() { String::new() } else { format!(" {method} {path}") };
    let who = who(denial);
    text::one_line(&format!("{at} {protocol} {what}{request}{who} denied by {rule}: {reason}; {next}"))
}

/// As the workspace says.
fn who(denial: &Denial) -> String {
    let Denial { pid, program, task, .. } = denial;
    match (*pid, program.as_str(), task.as_str()) {
        (0, ..) => String::new(),
        (pid, "", "") => format!(" of pid {pid}"),
        (pid, program, "") => format!(" of {program} (pid {pid})"),
        (pid, "", task) => format!(" of pid {pid} in task {task}"),
        (pid, program, task) => format!(" of {program} (pid {pid}) in task {task}"),
    }
}

fn object(denial: &Denial) -> serde_json::Value {
    json!({
        "number": denial.number,
        "at": denial.at.as_ref().map(rfc3339),
        "protocol": denial.protocol,
        "names": denial.names,
        "address": Some(&denial.address).filter(|address| !address.is_empty()),
        "port": Some(denial.port).filter(|port| *port > 0),
        "method": Some(&denial.method).filter(|method| !method.is_empty()),
        "path": Some(&denial.path).filter(|path| !path.is_empty()),
        "rule": denial.rule,
        "reason": denial.reason,
        "next": denial.next,
        "pid": Some(denial.pid).filter(|pid| *pid > 0),
        "program": Some(&denial.program).filter(|program| !program.is_empty()),
        "task": Some(&denial.task).filter(|task| !task.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(names: &[&str], address: &str, port: u32) -> Denial {
        Denial {
            number: 7,
            at: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            address: address.to_owned(),
            port,
            protocol: "tcp".to_owned(),
            rule: "default".to_owned(),
            reason: "because".to_owned(),
            next: "do this".to_owned(),
            ..Denial::default()
        }
    }

    #[test]
    fn a_denial_is_one_line() {
        for (denial, expected) in [
            (
                denial(&["a.example"], "192.0.2.1", 443),
                "- tcp a.example (192.0.2.1:443) denied by default: because; do this",
            ),
            (denial(&[], "2001:db8::1", 22), "- tcp [2001:db8::1]:22 denied by default: because; do this"),
            (denial(&["a", "b"], "", 0), "- tcp a,b denied by default: because; do this"),
            (
                Denial { method: "PUT".into(), path: "/x".into(), ..denial(&["a"], "192.0.2.1", 80) },
                "- tcp a (192.0.2.1:80) PUT /x denied by default: because; do this",
            ),
            (denial(&[], "", 0), "- tcp - denied by default: because; do this"),
        ] {
            assert_eq!(describe(&denial), expected);
        }
        let by = |program: &str, task: &str| {
            let (program, task) = (program.to_owned(), task.to_owned());
            describe(&Denial { pid: 7, program, task, ..denial(&["a"], "", 0) })
        };
        assert_eq!(by("/bin/x", ""), "- tcp a of /bin/x (pid 7) denied by default: because; do this");
        assert_eq!(
            by("/bin/x", "t"),
            "- tcp a of /bin/x (pid 7) in task t denied by default: because; do this"
        );
        assert_eq!(by("", ""), "- tcp a of pid 7 denied by default: because; do this");
        assert!(!by("\u{1b}[2J", "\n").contains(['\u{1b}', '\n']));
        let object_of = |denial| (object(&denial)["pid"].clone(), object(&denial)["program"].clone());
        assert_eq!(object_of(denial(&[], "", 0)), (serde_json::Value::Null, serde_json::Value::Null));
        assert_eq!(object(&denial(&[], "", 0))["address"], serde_json::Value::Null);
        assert_eq!(object(&denial(&[], "192.0.2.1", 22))["port"], 22);
    }
}
