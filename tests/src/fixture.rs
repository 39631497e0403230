//! What most groups need: a registry with our images, a git server with our repositories, and one supervisor.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cli::Cli,
    client::Clients,
    git::GitServer,
    images,
    node::{Node, Options},
    paths, process,
    registry::{Registry, storage},
    spec,
    suite::TearDown,
    user::User,
    workspace::Workspace,
};

pub struct Fixture {
    pub clients: Clients,
    pub node: Node,
    pub git: GitServer,
    pub registry: Registry,
    pub dir: PathBuf,
}

impl Fixture {
    /// Starts everything in a fresh directory.
    pub async fn start(group: &str) -> Result<Self> {
        Self::start_with(group, |_| {}).await
    }

    /// As `start`, with the node's options changed before it starts.
    pub async fn start_with(group: &str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let user = User::for_tests()?;
        let programs = paths::staged_programs()?;
        let dir = fresh_dir(group)?;
        let git = repositories(&dir.join("git"))?;
        let registry = registry(&dir.join("registry"))?;
        let mut options =
            Options { name: "node-1".to_owned(), host_ports: vec![git.port()], ..Options::default() };
        change(&mut options);
        let node = Node::start(&user, &programs, &dir.join("n1"), options)?;
        let clients = node.clients().await?;
        Ok(Self { clients, node, git, registry, dir })
    }

    /// The reference of one of our images.
    pub fn image(&self, name: &str) -> String {
        self.registry.reference(name)
    }

    /// A spec on the base image.
    pub fn base(&self, rest: Value) -> Value {
        spec::with_image(&self.image(images::BASE), rest)
    }

    /// A spec on the small busybox image, for cases in which the image does not matter.
    pub fn small(&self, rest: Value) -> Value {
        spec::with_image(&self.image(images::MUSL), rest)
    }

    pub async fn create(&self, name: &str, spec: &Value) -> Result<Workspace> {
        Workspace::create(&self.clients, name, spec).await
    }

    /// Creates a workspace and waits for RUNNING.
    pub async fn run(&self, name: &str, spec: &Value) -> Result<Workspace> {
        Workspace::run(&self.clients, name, spec).await
    }

    pub fn cli(&self) -> Cli {
        self.node.cli()
    }

    /// The directory of a workspace's persistent state.
    pub fn storage_of(&self, workspace: &Workspace) -> PathBuf {
        self.node.state().join("workspaces").join(&workspace.uid)
    }
}

impl TearDown for Fixture {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        self.node.tear_down().await?;
        remove_dir(&self.dir)
    }
}

/// A directory that nobody else uses. Its name is short, for it becomes part of socket paths.
pub fn fresh_dir(group: &str) -> Result<PathBuf> {
    let scratch = paths::scratch();
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let prefix: String = group.chars().take(4).collect();
    let dir = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir_in(&scratch)?.keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Removes a fixture's directory. Image layers belong to subordinate ids: only root can remove them.
pub fn remove_dir(dir: &Path) -> Result<()> {
    // A helper of a supervisor that has just ended may still be removing a tree in it.
    let removed =
        process::until("end of removals", Duration::from_secs(10), || match fs::remove_dir_all(dir) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                Ok((!dir.exists()).then_some(Ok(())))
            }
            other => Ok(Some(other)),
        })?;
    match removed {
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("{} stays, for files of subordinate ids in it: {error}", dir.display());
            Ok(())
        }
        other => other.with_context(|| format!("removing {}", dir.display())),
    }
}

/// The repositories that tests clone.
pub fn repositories(root: &Path) -> Result<GitServer> {
    let git = GitServer::start(root)?;
    git.add(
        "demo",
        &[("README.md", "# Demo\n"), ("hello.sh", "#!/bin/sh\necho hello from the repository\n")],
    )?;
    git.add("library", &[("lib.txt", "library\n")])?;
    git.add("private", &[("SECRET", "only with a password\n")])?;
    git.add("dotfiles", &[("install.sh", "#!/bin/sh\necho installed > \"$HOME/.dotfiles-ran\"\n")])?;
    git.add_with_submodule("with-module", "library")?;
    Ok(git)
}

/// A registry that has our images.
pub fn registry(work: &Path) -> Result<Registry> {
    let images = images::all()?;
    let registry = Registry::start(&storage(), work)?;
    registry.push_all(&storage(), &images)?;
    Ok(registry)
}
