//! One workspace, driven over gRPC.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, ExecExit, ExecRequest, ExecStart, GetRequest, Kind, LogEntry,
    LogsRequest, Resource, StartWorkspaceRequest, StdinEof, StopWorkspaceRequest, WorkspaceStatus,
    exec_request::Message as Ask, exec_response::Message as Told,
};
use futures::stream;

use crate::{client::Clients, watch::Watch};

/// From the request to RUNNING.
pub const START: Duration = Duration::from_secs(180);
/// From the request to STOPPED.
pub const STOP: Duration = Duration::from_secs(90);
/// One command.
pub const EXEC: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Workspace {
    pub clients: Clients,
    pub name: String,
    pub uid: String,
}

/// What a command did.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: ExecExit,
}

impl Output {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
    pub fn code(&self) -> i32 {
        self.exit.code
    }
}

impl Workspace {
    /// Creates a workspace and leaves it stopped.
    pub async fn create(clients: &Clients, name: &str, spec: &serde_json::Value) -> Result<Self> {
        Self::create_with(
            clients,
            CreateRequest { name: name.to_owned(), spec_json: spec.to_string(), ..Default::default() },
        )
        .await
    }

    pub async fn create_with(clients: &Clients, mut request: CreateRequest) -> Result<Self> {
        request.set_kind(Kind::Workspace);
        let name = request.name.clone();
        let made = clients.control.clone().create(request).await;
        let made = made.with_context(|| format!("creating workspace {name}"))?.into_inner();
        let metadata = made.metadata.context("workspace has no metadata")?;
        Ok(Self { clients: clients.clone(), name: metadata.name, uid: metadata.uid })
    }

    /// Creates, starts and waits for RUNNING.
    pub async fn run(clients: &Clients, name: &str, spec: &serde_json::Value) -> Result<Self> {
        let workspace = Self::create(clients, name, spec).await?;
        workspace.start().await.with_context(|| format!("running {name}"))?;
        Ok(workspace)
    }

    /// Asks for a start with these vars, and returns at once.
    pub async fn request_start(&self, vars: &[(&str, &str)]) -> Result<Resource> {
        let vars = vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = StartWorkspaceRequest { r#ref: self.uid.clone(), vars, ..Default::default() };
        let answer = self.clients.control.clone().start_workspace(request).await;
        Ok(answer.with_context(|| format!("starting {}", self.name))?.into_inner())
    }

    /// Starts, waits for RUNNING, and returns the watch with what it saw.
    pub async fn start(&self) -> Result<Watch> {
        let mut watch = self.watch().await?;
        self.request_start(&[]).await?;
        watch.running(START).await?;
        Ok(watch)
    }

    /// Starts a run that is expected to fail, and returns the workspace as it is then.
    pub async fn start_to_end(&self) -> Result<(Watch, Resource)> {
        let mut watch = self.watch().await?;
        self.request_start(&[]).await?;
        let event = watch.stopped(START).await?;
        Ok((watch, event.workspace.context("event carries no workspace")?))
    }

    /// A watch whose snapshot has been taken in.
    pub async fn watch(&self) -> Result<Watch> {
        Watch::open(&self.clients, &self.uid).await
    }

    pub async fn request_stop(&self, force: bool) -> Result<()> {
        let request = StopWorkspaceRequest { r#ref: self.uid.clone(), force, ..Default::default() };
        let answer = self.clients.control.clone().stop_workspace(request).await;
        answer.with_context(|| format!("stopping {}", self.name)).map(drop)
    }

    /// Stops, waits for STOPPED, and returns the watch with what it saw.
    pub async fn stop(&self) -> Result<Watch> {
        let mut watch = self.watch().await?;
        watch.next(STOP).await?;
        self.request_stop(false).await?;
        watch.stopped(STOP).await?;
        Ok(watch)
    }

    /// Deletes it, in whatever state it is, and waits until it is gone.
    pub async fn delete(&self) -> Result<()> {
        let mut request = DeleteResourceRequest { r#ref: self.uid.clone(), ..Default::default() };
        request.set_kind(Kind::Workspace);
        let answer = self.clients.control.clone().delete(request).await;
        answer.with_context(|| format!("deleting {}", self.name)).map(drop)
    }

    pub async fn get(&self) -> Result<Resource> {
        let mut request = GetRequest { r#ref: self.uid.clone(), ..Default::default() };
        request.set_kind(Kind::Workspace);
        Ok(self.clients.control.clone().get(request).await.context("getting a workspace")?.into_inner())
    }

    pub async fn status(&self) -> Result<WorkspaceStatus> {
        self.get().await?.status.context("workspace has no status")
    }

    /// Runs a program.
    pub async fn exec(&self, argv: &[&str]) -> Result<Output> {
        self.exec_with(ExecStart { command: owned(argv), ..Default::default() }, None).await
    }

    /// Runs a shell script as the workspace user.
    pub async fn sh(&self, script: &str) -> Result<Output> {
        self.exec(&["sh", "-c", script]).await
    }

    /// Runs a shell script as root.
    pub async fn root(&self, script: &str) -> Result<Output> {
        let command = owned(&["sh", "-c", script]);
        self.exec_with(ExecStart { command, run_as_root: true, ..Default::default() }, None).await
    }

    /// The output of a script that must succeed.
    pub async fn ok(&self, script: &str) -> Result<String> {
        success(script, self.sh(script).await?)
    }

    /// The output of a script of root's that must succeed.
    pub async fn root_ok(&self, script: &str) -> Result<String> {
        success(script, self.root(script).await?)
    }

    /// Runs a command with everything it may be given; `stdin` ends after its bytes.
    pub async fn exec_with(&self, mut start: ExecStart, stdin: Option<&[u8]>) -> Result<Output> {
        start.workspace = self.uid.clone();
        start.stdin = stdin.is_some();
        let command = start.command.join(" ");
        let mut asks = vec![Ask::Start(start)];
        if let Some(bytes) = stdin {
            asks.extend(bytes.chunks(32 << 10).map(|chunk| Ask::Stdin(chunk.to_vec().into())));
            asks.push(Ask::StdinEof(StdinEof {}));
        }
        let asks: Vec<ExecRequest> =
            asks.into_iter().map(|message| ExecRequest { message: Some(message) }).collect();
        tokio::time::timeout(EXEC, self.talk(asks))
            .await
            .with_context(|| format!("command took too long: {command}"))?
    }

    async fn talk(&self, asks: Vec<ExecRequest>) -> Result<Output> {
        // The request stream stays open: closing it would mean that the client has gone.
        let asks = futures::StreamExt::chain(stream::iter(asks), stream::pending());
        let mut told =
            self.clients.session.clone().exec(asks).await.context("starting a command")?.into_inner();
        let mut output = Output::default();
        while let Some(response) = told.message().await.context("running a command")? {
            match response.message {
                Some(Told::Stdout(bytes)) => output.stdout.extend_from_slice(&bytes),
                Some(Told::Stderr(bytes)) => output.stderr.extend_from_slice(&bytes),
                Some(Told::Exit(exit)) => {
                    output.exit = exit;
                    return Ok(output);
                }
                None => {}
            }
        }
        bail!("the exec stream ended without an exit code")
    }

    /// The log as it is now.
    pub async fn log(&self) -> Result<Vec<LogEntry>> {
        let request = LogsRequest { workspace: self.uid.clone(), ..Default::default() };
        let mut stream =
            self.clients.session.clone().logs(request).await.context("reading the log")?.into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.context("reading the log")? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The text of the log, of one source (a task's name) or of all.
    pub async fn log_text(&self, name: Option<&str>) -> Result<String> {
        let entries = self.log().await?;
        let wanted = entries.iter().filter(|entry| name.is_none_or(|name| entry.name == name));
        let bytes: Vec<u8> = wanted.flat_map(|entry| entry.data.iter().copied()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Creates a secret in the default space, or gives it a new value.
pub async fn put_secret(clients: &Clients, name: &str, value: &str) -> Result<()> {
    let mut request = CreateRequest {
        name: name.to_owned(),
        secret_data: value.as_bytes().to_vec().into(),
        ..Default::default()
    };
    request.set_kind(Kind::Secret);
    clients.control.clone().create(request).await.with_context(|| format!("creating secret {name}")).map(drop)
}

/// Creates a template in the default space.
pub async fn put_template(clients: &Clients, name: &str, spec: &serde_json::Value) -> Result<()> {
    let mut request =
        CreateRequest { name: name.to_owned(), spec_json: spec.to_string(), ..Default::default() };
    request.set_kind(Kind::Template);
    clients
        .control
        .clone()
        .create(request)
        .await
        .with_context(|| format!("creating template {name}"))
        .map(drop)
}

pub fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|arg| (*arg).to_owned()).collect()
}

fn success(script: &str, output: Output) -> Result<String> {
    let (code, out, err) = (output.code(), output.out(), output.err());
    ensure!(code == 0, "`{script}` ended with {code} {}\nstdout: {out}\nstderr: {err}", output.exit.error);
    Ok(out)
}
