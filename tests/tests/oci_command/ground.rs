//! A root file system of one busybox, bundles on it, and the command line itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cordium_tests::{Result, ensure, json, paths};
use serde_json::Value;

/// No call takes longer, unless it hangs.
pub const LIMIT: &str = "60";

pub struct Shared {
    pub dir: PathBuf,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        let left: Vec<Value> = serde_json::from_str(&ok(self.oci(&["list"]))?)?;
        ensure!(left.is_empty(), "containers are left: {left:?}");
        for dir in cgroups_of("") {
            fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::remove_dir_all(&self.dir).context("removing the bundles")
    }
}

pub fn lay_out(rootfs: &Path) -> Result<()> {
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(name))?;
    }
    fs::copy("/bin/busybox", bin.join("busybox")).context("copying busybox")?;
    for applet in ["sh", "sleep", "cat", "id", "true", "tty", "mkdir", "env", "readlink", "grep"] {
        symlink("busybox", bin.join(applet))?;
    }
    Ok(())
}

impl Shared {
    pub fn program() -> Result<PathBuf> {
        Ok(paths::built_programs()?.join("cordium-oci"))
    }

    pub fn oci(&self, args: &[&str]) -> Result<Output> {
        self.oci_after(":", args)
    }

    /// The same, from a shell that has done this before.
    pub fn oci_after(&self, preparation: &str, args: &[&str]) -> Result<Output> {
        // Its init would hold our pipes: what it says goes to files.
        let out = tempfile::NamedTempFile::new()?;
        let err = tempfile::NamedTempFile::new()?;
        let status = Command::new("timeout")
            .args([LIMIT, "sh", "-c", &format!("{preparation}; exec \"$0\" \"$@\"")])
            .arg(Self::program()?)
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.reopen()?)
            .stderr(err.reopen()?)
            .status()?;
        Ok(Output { status, stdout: fs::read(out.path())?, stderr: fs::read(err.path())? })
    }

    /// A bundle with this change to a plain spec.
    pub fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let bundle = self.dir.join(name);
        fs::create_dir_all(&bundle)?;
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "root": {"path": self.dir.join("rootfs"), "readonly": false},
            "hostname": name,
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000"], "env": ["PATH=/bin"],
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
                "noNewPrivileges": true,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/cordium-oci-test/{name}"),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            },
        });
        change(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string())?;
        Ok(bundle)
    }

    /// A root file system of its own for a container.
    pub fn own_rootfs(&self, name: &str) -> Result<PathBuf> {
        let rootfs = self.dir.join(format!("rootfs-{name}"));
        lay_out(&rootfs)?;
        Ok(rootfs)
    }

    /// A file that describes a process for `exec --process`: the container's with these changes.
    pub fn process_file(&self, name: &str, changes: &Value) -> Result<PathBuf> {
        let config: Value =
            serde_json::from_str(&fs::read_to_string(self.dir.join(name).join("config.json"))?)?;
        let mut process = config["process"].clone();
        for (key, value) in changes.as_object().context("the changes are no object")? {
            process[key] = value.clone();
        }
        let file = self.dir.join(format!("{name}-process.json"));
        fs::write(&file, process.to_string())?;
        Ok(file)
    }

    /// A container of that name that runs.
    pub fn running(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<Running<'_>> {
        let bundle = self.bundle(name, change)?;
        ok(self.oci(&["create", "--bundle", text(&bundle)?, name]))?;
        let running = Running { shared: self, name: name.to_owned() };
        ok(self.oci(&["start", name]))?;
        Ok(running)
    }

    pub fn state(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&ok(self.oci(&["state", name]))?)?)
    }
}

/// Deleted by force when it goes out of scope.
pub struct Running<'a> {
    pub shared: &'a Shared,
    pub name: String,
}

impl Running<'_> {
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        self.shared.oci(&[&["exec", self.name.as_str()], args].concat())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.shared.oci(&["delete", "--force", &self.name]);
    }
}

pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

pub fn ok(output: Result<Output>) -> Result<String> {
    let output = output?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ended with {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

pub fn failure(output: Result<Output>) -> Result<String> {
    let output = output?;
    ensure!(!output.status.success(), "succeeded: {}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.code() != Some(124), "was not done in {LIMIT} s");
    Ok(String::from_utf8(output.stderr)?)
}

/// Where the kernel keeps what the tests' containers leave in any hierarchy.
pub fn cgroups_of(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
    let dirs = mounts.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(1));
    dirs.map(|mount| Path::new(mount).join("cordium-oci-test").join(name))
        .filter(|dir| dir.exists())
        .collect()
}

pub async fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..200 {
        if done()? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{what} did not happen in 10 s")
}
