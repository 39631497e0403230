//! `cordium port-forward`, as a process of its own.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::cli::Cli;

/// For whatever is waited for.
pub const LIMIT: Duration = Duration::from_secs(60);

/// `cordium port-forward`, until it is dropped.
pub struct Forward {
    pub locals: Vec<SocketAddr>,
    stderr: BufReader<ChildStderr>,
    _child: Child,
}

impl Forward {
    pub async fn begin(cli: &Cli, workspace: &str, ports: &[&str]) -> Result<Self> {
        let args = [&["port-forward", workspace, "-o", "json"], ports].concat();
        let mut command = Command::from(cli.command(&args));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().context("starting cordium")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let mut locals = Vec::new();
        for _ in ports {
            let line = timeout(LIMIT, stdout.next_line()).await??.context("it ended early")?;
            let value: Value = serde_json::from_str(&line)?;
            locals.push(value["local"].as_str().context("no local address")?.parse()?);
        }
        Ok(Self { locals, stderr, _child: child })
    }

    pub async fn connect(&self) -> Result<TcpStream> {
        Ok(timeout(LIMIT, TcpStream::connect(self.locals[0])).await??)
    }

    /// What comes back for these bytes and an end of data.
    pub async fn ask(&self, question: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.connect().await?;
        stream.write_all(question).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("no end came")??;
        Ok(answer)
    }

    pub async fn warning(&mut self) -> Result<String> {
        let mut line = String::new();
        timeout(LIMIT, self.stderr.read_line(&mut line)).await.context("no warning came")??;
        Ok(line)
    }
}
