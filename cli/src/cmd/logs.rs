//! `cordium logs`.

use std::time::Duration;

use console::style;
use cordium_proto::v1::LogsRequest;
use tonic::Code;

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult},
    output::{self, duration::rfc3339, text},
    session::loglines::{Assembler, LogLine},
};

/// Each line begins with its task; what tasks wrote to standard error goes to ours, in red on a terminal.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    pub workspace: String,
    /// Go on with what comes, until the workspace stops
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Begin each line with its time
    #[arg(short = 't', long, visible_alias = "timestamps")]
    pub timestamp: bool,
    /// Without colours, also those that tasks print
    #[arg(long)]
    pub no_color: bool,
    /// Only this task or repository
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub task: String,
    /// Only the last N entries of what is there
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub tail: u32,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let show = Show {
        timestamp: args.timestamp,
        out: !args.no_color && console::colors_enabled(),
        err: !args.no_color && console::colors_enabled_stderr(),
    };
    let mut after_seq = 0;
    let mut run_id = String::new();
    let mut breaks = 0;
    let mut assembler = Assembler::default();
    loop {
        let request = LogsRequest {
            workspace: args.workspace.clone(),
            follow: args.follow,
            after_seq,
            task: args.task.clone(),
            tail: if after_seq == 0 { args.tail } else { 0 },
        };
        let broken = async {
            let mut stream = client.session().logs(request).await?.into_inner();
            while let Some(entry) = stream.message().await? {
                breaks = 0;
                after_seq = entry.seq;
                if run_id != entry.run_id {
                    assembler.flush().iter().for_each(|line| show.line(line));
                    run_id.clone_from(&entry.run_id);
                }
                assembler.feed(&entry).iter().for_each(|line| show.line(line));
            }
            Ok::<(), tonic::Status>(())
        }
        .await;
        match broken {
            // The supervisor was restarted, perhaps: go on after the last entry.
            Err(s) if args.follow && after_seq > 0 && breaks < 10 && retry(&s) => {
                breaks += 1;
                tokio::time::sleep(Duration::from_millis(100 * breaks)).await;
            }
            ended => {
                assembler.flush().iter().for_each(|line| show.line(line));
                return finish(ended, &args.workspace);
            }
        }
    }
}

fn retry(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal)
}

fn finish(ended: Result<(), tonic::Status>, workspace: &str) -> CliResult<u8> {
    ended
        .map(|()| 0)
        .map_err(|status| CliError::from_status(&format!("read the log of {workspace}"), &status))
}

struct Show {
    timestamp: bool,
    out: bool,
    err: bool,
}

impl Show {
    fn line(&self, line: &LogLine) {
        if line.stderr {
            let plain = self.format(line, false);
            let text = if self.err { style(plain).for_stderr().red().to_string() } else { plain };
            output::stderr_line(&text);
        } else {
            output::line(&self.format(line, self.out));
        }
    }

    fn format(&self, line: &LogLine, colours: bool) -> String {
        let time = match &line.at {
            Some(at) if self.timestamp => rfc3339(at) + " ",
            _ => String::new(),
        };
        format!("{time}[{}] {}", text::clean_line(&line.name), text::clean(&line.text, colours))
    }
}
