//! crun, runc and podman, each in its own corner, on the same root file system as ours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow};
use cordium_tests::{
    hybrid,
    process::{run, sh},
};
use serde_json::{Value, json};

pub struct Peers {
    dir: PathBuf,
    /// Why podman cannot be measured.
    podman: Result<(), String>,
    runtimes: Vec<(&'static str, Result<(), String>)>,
}

impl Peers {
    pub fn prepare(dir: &Path, reference: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        hybrid::mount_hugetlb();
        let mut peers = Self { dir: dir.to_owned(), podman: Ok(()), runtimes: Vec::new() };
        peers.podman = peers.prepare_podman(reference).map_err(|error| one_line(&format!("{error:#}")));
        let ready = peers.unpack().and_then(|()| peers.configure());
        for name in ["crun", "runc"] {
            let ready = ready.as_ref().map(drop).map_err(|error| format!("{error:#}"));
            let tried = ready.and_then(|()| {
                run(&mut peers.run_true(name, 0)).map(drop).map_err(|error| format!("{error:#}"))
            });
            peers.runtimes.push((name, tried));
        }
        Ok(peers)
    }

    fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// The root file system as podman has unpacked it.
    fn unpack(&self) -> Result<()> {
        self.podman
            .clone()
            .map_err(|error| anyhow!("podman, which unpacks the image for the others: {error}"))?;
        let rootfs = self.bundle().join("rootfs");
        fs::create_dir_all(&rootfs)?;
        let archive = self.dir.join("rootfs.tar");
        run(self.podman().args(["create", "--name", "unpack", "localhost/bench", "/bin/true"]))?;
        run(self.podman().args(["export", "--output"]).arg(&archive).arg("unpack"))?;
        run(self.podman().args(["rm", "unpack"]))?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&rootfs))?;
        Ok(fs::remove_file(&archive)?)
    }

    /// A spec as the runtime itself suggests it, but with `/bin/true` and without a terminal.
    fn configure(&self) -> Result<()> {
        let path = self.bundle().join("config.json");
        let _ = fs::remove_file(&path);
        run(Command::new("runc").arg("spec").current_dir(self.bundle()))?;
        let mut spec: Value = serde_json::from_slice(&fs::read(&path)?).context("parsing runc's spec")?;
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["process"]["rlimits"] = json!([]);
        fs::write(&path, spec.to_string())?;
        spec["process"]["args"] = json!(["/bin/sleep", "infinity"]);
        let sleeper = self.dir.join("sleeper");
        fs::create_dir_all(&sleeper)?;
        spec["root"]["path"] = json!(self.bundle().join("rootfs"));
        fs::write(sleeper.join("config.json"), spec.to_string())?;
        Ok(())
    }

    fn prepare_podman(&self, reference: &str) -> Result<()> {
        // Without CAP_SYS_RESOURCE the default limits cannot be set.
        let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        fs::write(self.dir.join("containers.conf"), conf)?;
        run(self.podman().args(["pull", "--quiet", "--tls-verify=false", reference]))?;
        run(self.podman().args(["tag", reference, "localhost/bench"]))?;
        run(&mut self.podman_true())?;
        Ok(())
    }

    /// `podman` with a store and a run directory of its own.
    pub fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.arg("--root").arg(self.dir.join("podman")).arg("--runroot").arg(self.dir.join("podman-run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }

    pub fn podman_true(&self) -> Command {
        let mut command = self.podman();
        command.args(["run", "--rm", "--pull=never", "localhost/bench", "/bin/true"]);
        command
    }

    /// Why podman cannot be measured, if so.
    pub fn has_podman(&self) -> Result<(), String> {
        self.podman.clone()
    }

    /// The low-level runtimes, with the reason when one cannot be measured.
    pub fn runtimes(&self) -> &[(&'static str, Result<(), String>)] {
        &self.runtimes
    }

    fn runtime(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("--root").arg(self.dir.join(format!("{name}-state")));
        command
    }

    pub fn run_true(&self, name: &str, round: usize) -> Command {
        let mut command = self.runtime(name);
        command.args(["run", "--bundle"]).arg(self.bundle()).arg(format!("bench-{round}"));
        command
    }

    /// Starts a container that sleeps.
    pub fn sleeper(&self, name: &str) -> Result<Sleeper<'_>> {
        run(self
            .runtime(name)
            .args(["run", "--detach", "--bundle"])
            .arg(self.dir.join("sleeper"))
            .arg("sleeper")
            // It would keep our end of a pipe open for as long as it sleeps.
            .stdout(Stdio::null())
            .stderr(Stdio::null()))?;
        Ok(Sleeper { peers: self, name: name.to_owned() })
    }

    /// Removes what podman still has; the rest is files.
    pub fn remove(&self) {
        if self.podman.is_ok() {
            let _ = run(self.podman().args(["rm", "--force", "--all", "--time", "0"]));
            let _ = run(self.podman().args(["rmi", "--force", "--all"]));
        }
        // podman leaves its overlay directory mounted on itself.
        let _ = sh("umount", &[&self.dir.join("podman/overlay").to_string_lossy()]);
    }
}

/// A sleeping container of crun or runc.
pub struct Sleeper<'a> {
    peers: &'a Peers,
    name: String,
}

impl Sleeper<'_> {
    pub fn exec_true(&self) -> Command {
        let mut command = self.peers.runtime(&self.name);
        command.args(["exec", "sleeper", "/bin/true"]);
        command
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(self.peers.runtime(&self.name).args(["delete", "--force", "sleeper"])) {
            eprintln!("{error:#}");
        }
    }
}

pub fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    if text.chars().count() > 120 { text.chars().take(119).collect::<String>() + "…" } else { text }
}
