//! The real command line, as the unprivileged user.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{process, user::User};

#[derive(Clone, Debug)]
pub struct Cli {
    pub program: PathBuf,
    pub socket: PathBuf,
    pub user: User,
}

#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Cli {
    /// A command that is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.user.command(&self.program);
        command.args(args).env("CORDIUM_SOCKET", &self.socket).env("NO_COLOR", "1");
        command
    }

    /// Runs to the end, which must come within two minutes.
    pub async fn run(&self, args: &[&str]) -> Result<Answer> {
        self.run_with(self.command(args), b"").await
    }

    /// Runs a command that `command` made, with bytes on its standard input.
    pub async fn run_with(&self, mut command: Command, input: &[u8]) -> Result<Answer> {
        use tokio::io::AsyncWriteExt;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().context("starting cordium")?;
        let mut stdin = child.stdin.take().context("cordium has no standard input")?;
        // A command that does not read its input may be gone already.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let limit = Duration::from_secs(120);
        let output = tokio::time::timeout(limit, child.wait_with_output())
            .await
            .context("cordium took too long")??;
        Ok(Answer {
            code: process::code_of(output.status),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub async fn ok(&self, args: &[&str]) -> Result<String> {
        let answer = self.run(args).await?;
        ensure!(answer.code == 0, "cordium {}: {answer:#?}", args.join(" "));
        Ok(answer.out)
    }
}

/// Runs `cordium` as whoever we are, for the set-up.
pub fn own(program: &Path, args: &[&str]) -> Result<String> {
    process::run(Command::new(program).args(args))
}
