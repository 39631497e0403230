//! The volumes of this node: `volumes/<uid>/data`, and which workspaces use them.
//!
//! A volume is a directory, so there is nothing that could be half made: making it again finds what is there. To
//! delete one it is first renamed, which is the moment at which it is gone, and then removed; what a crash leaves of
//! that is removed at the next start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    context::Context,
    request_error::RequestError,
    runtime::{RuntimeFailure, SandboxRuntime},
};

/// A volume as one run mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume.
    pub uid: String,
    /// Its name, for people.
    pub name: String,
    /// No other workspace may use it at the same time.
    pub exclusive: bool,
    /// Where it appears.
    pub target: PathBuf,
    /// It cannot be written.
    pub read_only: bool,
}

/// The names of directories on their way out; no uid begins like this.
const GONE: &str = ".gone-";

/// The node's volumes.
pub struct Volumes {
    root: PathBuf,
    runtime: Arc<dyn SandboxRuntime>,
    /// The workspaces that use each volume.
    users: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// One removal at a time; whoever asks again waits for it.
    removal: tokio::sync::Mutex<()>,
}

impl Volumes {
    /// Those below `root`, which need not be there yet.
    pub fn new(root: PathBuf, runtime: Arc<dyn SandboxRuntime>) -> Self {
        Self { root, runtime, users: Mutex::default(), removal: tokio::sync::Mutex::default() }
    }

    /// All of a volume; no tenant sees this directory itself.
    pub fn tree(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// Where the data of a volume lies.
    pub fn data(&self, uid: &str) -> PathBuf {
        self.tree(uid).join("data")
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of them for a workspace, or none. The scheduler refuses the same before; this is what holds when it
    /// has lost sight of a run.
    pub fn claim(&self, workspace: &str, mounts: &[VolumeMount]) -> Result<(), RequestError> {
        let mut users = self.users();
        for mount in mounts.iter().filter(|mount| mount.exclusive) {
            let others = users.get(&mount.uid).into_iter().flatten().find(|user| *user != workspace);
            if let Some(other) = others {
                return Err(RequestError::wrong_state(
                    format!("volume {:?} is exclusive and in use by workspace {other}", mount.name),
                    "stop that workspace, or use a volume that is shared",
                ));
            }
        }
        for mount in mounts {
            users.entry(mount.uid.clone()).or_default().insert(workspace.to_owned());
        }
        Ok(())
    }

    /// Notes what a run that was under way before this process uses.
    pub fn adopt(&self, workspace: &str, volumes: impl IntoIterator<Item = String>) {
        let mut users = self.users();
        for uid in volumes {
            users.entry(uid).or_default().insert(workspace.to_owned());
        }
    }

    /// The workspace uses none any more.
    pub fn release(&self, workspace: &str) {
        self.users().retain(|_, users| {
            users.remove(workspace);
            !users.is_empty()
        });
    }

    /// Those that use it besides this workspace.
    pub fn others(&self, uid: &str, workspace: &str) -> Vec<String> {
        let users = self.users();
        users.get(uid).into_iter().flatten().filter(|user| *user != workspace).cloned().collect()
    }

    /// Makes a volume's directory if it is not there. It is the supervisor's until the keeper of the first run gives it
    /// to the sandbox's root; every user inside may write to it, for images differ in who that is.
    pub fn make(&self, uid: &str) -> io::Result<()> {
        let data = self.data(uid);
        if fs::symlink_metadata(&data).is_ok() {
            return Ok(());
        }
        // Made elsewhere and moved here, or a crash could leave it closed to those users.
        let new = self.root.join(uid).join("new");
        Context::make_dir(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o777))?;
        fs::rename(&new, &data)
    }

    /// Deletes a volume. One that is not there is fine.
    pub async fn delete(&self, uid: &str) -> Result<(), RequestError> {
        {
            let users = self.users();
            if let Some(user) = users.get(uid).and_then(|users| users.first()) {
                return Err(RequestError::wrong_state(
                    format!("volume {uid} is in use by workspace {user}"),
                    "stop that workspace first",
                ));
            }
            // Under the lock: nobody takes it between the look and this.
            match fs::rename(self.root.join(uid), self.gone(uid)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RequestError::Internal(format!("deleting volume {uid}: {error}")));
                }
                _ => {}
            }
        }
        let internal =
            |error: RuntimeFailure| RequestError::Internal(format!("deleting volume {uid}: {error}"));
        let _one = self.removal.lock().await;
        self.runtime.remove_tree(&self.gone(uid)).await.map_err(internal)
    }

    fn gone(&self, uid: &str) -> PathBuf {
        self.root.join(format!("{GONE}{uid}"))
    }

    /// Removes what an earlier process was deleting.
    pub async fn sweep(&self) {
        let _one = self.removal.lock().await;
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(GONE) {
                continue;
            }
            let path: &Path = &entry.path();
            match self.runtime.remove_tree(path).await {
                Ok(()) => tracing::info!(path = %path.display(), "removed what was left of a deleted volume"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "removing a deleted volume"),
            }
        }
    }
}

/// The volumes that a resolved spec mounts, by uid.
pub fn named_in(spec_json: &str) -> Vec<String> {
    let spec = serde_json::from_str::<serde_json::Value>(spec_json).unwrap_or_default();
    let mounts = spec["runtime"]["volumeMounts"].as_array().cloned().unwrap_or_default();
    mounts.iter().filter_map(|mount| mount["volumeRef"]["uid"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cordium_runtime::{IdMap, SandboxPlan, cgroup::CgroupPlan};
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::runtime::SandboxHandle;

    /// Removes what the supervisor's own user can.
    struct Plain;

    impl SandboxRuntime for Plain {
        fn cgroup(&self, _: &str) -> Option<CgroupPlan> {
            unreachable!("no sandbox is made")
        }
        fn give_tree<'a>(&'a self, _: &'a Path, _: &'a IdMap) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
            unreachable!("no sandbox is made")
        }
        fn warnings(&self) -> Vec<String> {
            Vec::new()
        }
        fn remove_tree<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
            async move {
                match fs::remove_dir_all(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RuntimeFailure(e.to_string())),
                    _ => Ok(()),
                }
            }
            .boxed()
        }
        fn start<'a>(
            &'a self,
            _: &'a SandboxPlan,
        ) -> BoxFuture<'a, Result<Arc<dyn SandboxHandle>, RuntimeFailure>> {
            unreachable!("no sandbox is made")
        }
        fn adopt<'a>(
            &'a self,
            _: &'a str,
            _: &'a Path,
        ) -> BoxFuture<'a, Result<Option<Arc<dyn SandboxHandle>>, RuntimeFailure>> {
            unreachable!("no sandbox is made")
        }
    }

    fn volumes(dir: &Path) -> Volumes {
        Volumes::new(dir.join("volumes"), Arc::new(Plain))
    }

    fn mount(uid: &str, exclusive: bool) -> VolumeMount {
        VolumeMount {
            uid: uid.into(),
            name: format!("{uid}-name"),
            exclusive,
            target: "/data".into(),
            read_only: false,
        }
    }

    #[test]
    fn an_exclusive_volume_has_one_user_and_a_shared_one_many() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path());
        volumes.claim("a", &[mount("x", true), mount("s", false)]).unwrap();
        volumes.claim("a", &[mount("x", true)]).unwrap();
        let error = volumes.claim("b", &[mount("s", false), mount("x", true)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"x-name\"") && text.contains("workspace a"), "{text}");
        // All or none.
        volumes.release("a");
        assert!(volumes.users().is_empty());
        volumes.claim("b", &[mount("s", false), mount("x", true)]).unwrap();
        volumes.claim("c", &[mount("s", false)]).unwrap();
        assert!(volumes.claim("c", &[mount("x", true)]).is_err());
    }

    #[tokio::test]
    async fn data_is_made_once_open_to_all_inside_and_deleted_when_unused() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path());
        volumes.make("v").unwrap();
        let data = volumes.data("v");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(data.parent().unwrap())), (0o777, 0o700));
        fs::write(data.join("f"), "x").unwrap();
        volumes.make("v").unwrap();
        assert!(data.join("f").exists());

        volumes.adopt("w", ["v".to_owned()]);
        assert!(matches!(volumes.delete("v").await, Err(RequestError::WrongState { .. })));
        assert!(data.join("f").exists());
        volumes.release("w");
        volumes.delete("v").await.unwrap();
        volumes.delete("v").await.unwrap();
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_crash_leaves_nothing_half() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path());
        // While it was made: before its mode was set.
        fs::create_dir_all(dir.path().join("volumes/v/new")).unwrap();
        volumes.make("v").unwrap();
        assert_eq!(fs::metadata(volumes.data("v")).unwrap().permissions().mode() & 0o777, 0o777);
        // While one was deleted: between the renaming and the end of the removal.
        fs::create_dir_all(dir.path().join("volumes/.gone-u/data/deep")).unwrap();
        volumes.sweep().await;
        let left: Vec<_> =
            fs::read_dir(dir.path().join("volumes")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["v"]);
    }

    #[test]
    fn volumes_of_a_spec() {
        let spec = r#"{"runtime":{"volumeMounts":[{"volumeRef":{"uid":"u1","name":"n"},"mountPath":"/a"},
                      {"volumeRef":{"uid":"u2"},"mountPath":"/b"}]}}"#;
        assert_eq!(named_in(spec), ["u1", "u2"]);
        assert!(named_in("{}").is_empty() && named_in("").is_empty());
    }
}
