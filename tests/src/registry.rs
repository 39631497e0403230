//! Image registries on loopback: Debian's `docker-registry`, and one of our own that misbehaves.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    http::{Handler, Reply, Request, Server},
    images::Image,
    oci::Layout,
    process::{Daemon, run, sh},
};

/// A `docker-registry` process.
pub struct Registry {
    // Ends when dropped.
    _daemon: Daemon,
    port: u16,
    login: Option<(String, String)>,
}

impl Registry {
    /// Serves `storage`, which may be shared with other registries that only read.
    pub fn start(storage: &Path, work: &Path) -> Result<Self> {
        Self::launch(storage, work, None)
    }

    /// As `start`, but asks for a user name and a password.
    pub fn start_private(storage: &Path, work: &Path, username: &str, password: &str) -> Result<Self> {
        Self::launch(storage, work, Some((username.to_owned(), password.to_owned())))
    }

    fn launch(storage: &Path, work: &Path, login: Option<(String, String)>) -> Result<Self> {
        for dir in [storage, work] {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let port = free_port()?;
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": true}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        if let Some((username, password)) = &login {
            let file = work.join("htpasswd");
            fs::write(&file, sh("htpasswd", &["-Bbn", username, password])?).context("writing htpasswd")?;
            config["auth"] = json!({"htpasswd": {"realm": "registry", "path": file}});
        }
        // JSON is YAML.
        let path = work.join(format!("registry-{port}.yml"));
        fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).env_clear().env("PATH", "/usr/bin:/bin");
        let mut daemon = Daemon::spawn("docker-registry", &mut command, &work.join("registry.log"))?;
        daemon.wait_ready(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(Self { _daemon: daemon, port, login })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The full reference of an image.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Pushes the image of a layout under a name.
    pub fn push(&self, layout: &Layout, tag: &str, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        if let Some((username, password)) = &self.login {
            command.args(["--dest-creds", &format!("{username}:{password}")]);
        }
        command.arg(format!("oci:{}:{tag}", layout.dir().display()));
        command.arg(format!("docker://{}", self.reference(name)));
        run(&mut command).with_context(|| format!("pushing {name}")).map(drop)
    }

    /// Pushes cached images that this storage does not have yet.
    pub fn push_all(&self, storage: &Path, images: &[Image]) -> Result<()> {
        for image in images {
            let marker =
                storage.join(format!(".pushed-{}-{}", image.name.replace(['/', ':'], "_"), image.key));
            if !marker.exists() {
                self.push(&image.layout, "image", image.name)?;
                fs::write(&marker, "").with_context(|| format!("writing {}", marker.display()))?;
            }
        }
        Ok(())
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Where the registry of demo and tests keeps its data.
pub fn storage() -> PathBuf {
    crate::paths::target().join("registry")
}

/// How a `FaultyRegistry` serves blobs that are layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All is well.
    None,
    /// Every request is answered with 500.
    ServerError,
    /// No request is ever answered.
    Silence,
    /// Layers end half way, every time.
    CutOff,
    /// Layers have one bit flipped.
    Corrupt,
    /// Layers are shorter than the manifest says, and their answers complete.
    Truncate,
    /// Layers are longer than the manifest says.
    TooLong,
    /// No request for a layer is ever answered.
    SilentLayers,
    /// The image is not there.
    Missing,
}

/// A registry that serves one layout under any name, with a fault.
pub struct FaultyRegistry {
    server: Server,
    fault: Arc<Mutex<Fault>>,
}

impl FaultyRegistry {
    pub fn start(layout: &Layout, fault: Fault) -> Result<Self> {
        let index: serde_json::Value = serde_json::from_slice(
            &fs::read(layout.dir().join("index.json")).context("reading index.json")?,
        )?;
        let Some(manifest) = index["manifests"][0]["digest"].as_str() else {
            bail!("layout has no manifest")
        };
        let (manifest, blobs) = (manifest.to_owned(), layout.blobs()?);
        let layers =
            crate::images::layers_of(layout)?.into_iter().map(|layer| layer.digest).collect::<Vec<_>>();
        let fault = Arc::new(Mutex::new(fault));
        let current = Arc::clone(&fault);
        let handler: Arc<Handler> = Arc::new(move |request: &Request| {
            let fault = *current.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(answer(&blobs, &manifest, &layers, fault, request))
        });
        Ok(Self { server: Server::start(handler)?, fault })
    }

    /// From the next request on.
    pub fn behave(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }
}

fn answer(
    blobs: &BTreeMap<String, Vec<u8>>,
    manifest: &str,
    layers: &[String],
    fault: Fault,
    request: &Request,
) -> Reply {
    match fault {
        Fault::ServerError => return Reply::status(500, "internal error\n"),
        Fault::Silence => return Reply::Silence,
        Fault::Missing if request.path != "/v2/" => return Reply::status(404, "not found\n"),
        _ => {}
    }
    if request.path == "/v2/" {
        return Reply::status(200, "{}");
    }
    let parts: Vec<&str> = request.path.rsplitn(3, '/').collect();
    let (digest, kind) = match parts.as_slice() {
        [last, "manifests", _] if !last.starts_with("sha256:") => {
            (manifest, "application/vnd.oci.image.manifest.v1+json")
        }
        [last, "manifests", _] => (*last, "application/vnd.oci.image.manifest.v1+json"),
        [last, "blobs", _] => (*last, "application/octet-stream"),
        _ => return Reply::status(404, "not found\n"),
    };
    let Some(blob) = blobs.get(digest) else { return Reply::status(404, "not found\n") };
    let mut body = blob.clone();
    if layers.iter().any(|layer| layer == digest) {
        match fault {
            Fault::CutOff => {
                body.truncate(blob.len() / 2);
                return Reply::CutOff { length: blob.len(), body };
            }
            Fault::SilentLayers => return Reply::Silence,
            Fault::Truncate => body.truncate(blob.len() / 2),
            Fault::TooLong => body.extend_from_slice(b"more"),
            Fault::Corrupt => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            _ => {}
        }
    }
    let header = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let headers = vec![header("Content-Type", kind), header("Docker-Content-Digest", digest)];
    Reply::Answer { status: 200, headers, body }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::oci::{self, Compression, Config};

    #[test]
    fn a_faulty_registry_corrupts_layers_only() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let layer = layout.tar_layer(Compression::Gzip, |tar| oci::file(tar, "a", 0o644, b"x")).unwrap();
        let manifest = layout.image("image", std::slice::from_ref(&layer), &Config::default()).unwrap();
        let blobs = layout.blobs().unwrap();
        let layers = [layer.digest.clone()];
        let get = |path: String, fault| {
            let request = Request::get(&path);
            answer(&blobs, &manifest, &layers, fault, &request)
        };
        let body =
            |reply| if let Reply::Answer { status: 200, body, .. } = reply { Some(body) } else { None };
        assert_eq!(body(get("/v2/x/manifests/latest".into(), Fault::Corrupt)).unwrap(), blobs[&manifest]);
        let layer_path = format!("/v2/x/y/blobs/{}", layer.digest);
        assert_eq!(body(get(layer_path.clone(), Fault::None)).unwrap(), blobs[&layer.digest]);
        assert_ne!(body(get(layer_path.clone(), Fault::Corrupt)).unwrap(), blobs[&layer.digest]);
        assert!(matches!(get(layer_path, Fault::CutOff), Reply::CutOff { .. }));
        assert!(matches!(
            get("/v2/x/blobs/sha256:no".into(), Fault::None),
            Reply::Answer { status: 404, .. }
        ));
    }
}
