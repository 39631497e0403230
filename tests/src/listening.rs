//! `cordium ports --follow` and programs that are started for it, as processes of their own.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{cli::Cli, forward::LIMIT};

/// A command of the command line that runs until this is dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn begin(cli: &Cli, args: &[&str]) -> Result<Self> {
        let mut command = Command::from(cli.command(args));
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().context("starting cordium")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, lines })
    }

    /// Follows what listens.
    pub fn follow(cli: &Cli, workspace: &str) -> Result<Self> {
        Self::begin(cli, &["ports", workspace, "--follow", "-o", "json"])
    }

    /// The next change of this port.
    pub async fn change(&mut self, port: u16) -> Result<Value> {
        let next = async {
            loop {
                let line = self.lines.next_line().await?.context("it ended early")?;
                let event: Value =
                    serde_json::from_str(&line).with_context(|| format!("reading {line:?}"))?;
                if event["port"] == port {
                    return Ok(event);
                }
            }
        };
        timeout(LIMIT, next).await.with_context(|| format!("nothing was told of port {port}"))?
    }

    /// Waits for its end, and returns its code.
    pub async fn ended(mut self) -> Result<i32> {
        let status = timeout(LIMIT, self.child.wait()).await.context("it goes on")??;
        Ok(crate::process::code_of(status))
    }
}
