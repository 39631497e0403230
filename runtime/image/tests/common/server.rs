//! Servers: Debian's real registry, and one that misbehaves on purpose.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::image::{Image, MANIFEST, sha256};

/// `docker-registry` on a loopback port.
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Registry {
    /// `extra` goes into the configuration below `http:` and beside it.
    pub fn start(dir: &Path, http: &str, extra: &str) -> Self {
        std::fs::create_dir_all(dir.join("data")).unwrap();
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n{http}{extra}",
                dir.join("data").display()
            );
            let file = dir.join("registry.yml");
            std::fs::write(&file, config).unwrap();
            let mut child = Command::new("docker-registry")
                .args(["serve".as_ref(), file.as_os_str()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry (Debian package docker-registry)");
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end && child.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, port };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    /// Pushes an OCI layout with skopeo; answers the reference.
    pub fn push(&self, layout: &str, name: &str, more: &[&str]) -> String {
        let reference = format!("127.0.0.1:{}/{name}", self.port);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false", "--quiet"])
            .args(more)
            .args([layout, &format!("docker://{reference}")])
            .output()
            .expect("skopeo (Debian package skopeo)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the hostile registry treats a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    None,
    /// Closes in the middle of every first connection to a blob; honours ranges.
    CloseHalfWay,
    /// The same, but sends the whole blob again.
    CloseAndIgnoreRange,
    /// Always closes at the same place.
    AlwaysClose,
    /// Declares and sends less than the manifest says.
    Truncate,
    Answer500,
    /// 503 twice, then all is well.
    Recover,
    NeverAnswer,
    /// Sends half, then nothing more, and keeps the connection.
    Stall,
    /// Other content under the right digest.
    WrongContent,
    /// More than the manifest declares.
    TooLong,
    ManifestNeverAnswers,
    ManifestEndless,
    ManifestOther,
    Manifest404,
    Manifest401,
    /// Everything needs a token, and each token is good for two requests.
    Tokens,
    /// The token service never stops talking.
    EndlessToken,
    /// Layers are refused with words that never end.
    EndlessRefusal,
}

struct State {
    trick: Mutex<Trick>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifest: Mutex<Vec<u8>>,
    layers: Mutex<Vec<String>>,
    seen: Mutex<HashMap<String, usize>>,
    requests: AtomicUsize,
    /// Of `Tokens`: how many were given, and how often the last was used.
    tokens: Mutex<(usize, usize)>,
}

pub struct Hostile {
    pub port: u16,
    state: Arc<State>,
}

impl Hostile {
    pub async fn start(image: &Image, trick: Trick) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut blobs = HashMap::from([(sha256(&image.config), image.config.clone())]);
        blobs.extend(image.layers.iter().map(|l| (sha256(&l.blob), l.blob.clone())));
        let state = Arc::new(State {
            trick: Mutex::new(trick),
            blobs: Mutex::new(blobs),
            manifest: Mutex::new(image.manifest.clone()),
            layers: Mutex::new(image.layers.iter().map(|l| sha256(&l.blob)).collect()),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            tokens: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve(stream, state).await;
                });
            }
        });
        Self { port, state }
    }

    pub fn reference(&self) -> String {
        format!("127.0.0.1:{}/test/image:t", self.port)
    }

    pub fn behave(&self, trick: Trick) {
        *self.state.trick.lock().unwrap() = trick;
    }

    pub fn tokens(&self) -> usize {
        self.state.tokens.lock().unwrap().0
    }

    pub fn layer_requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut path = String::new();
    let (mut range, mut bearer) = (None, String::new());
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    path.push_str(line.split(' ').nth(1).unwrap_or(""));
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = value.trim().trim_end_matches('-').parse::<usize>().ok();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization: bearer ") {
            bearer = value.trim().to_owned();
        }
    }
    let trick = *state.trick.lock().unwrap();
    let out = stream.get_mut();
    if matches!(trick, Trick::Tokens | Trick::EndlessToken)
        && !admitted(out, trick, &path, &bearer, &state).await?
    {
        return Ok(());
    }
    if path.contains("/manifests/") {
        return manifest(out, trick, &state).await;
    }
    let Some((_, digest)) = path.rsplit_once("/blobs/") else {
        return answer(out, "200 OK", "", b"{}").await;
    };
    let blob = state.blobs.lock().unwrap().get(digest).cloned();
    let Some(blob) = blob else { return answer(out, "404 Not Found", "", b"").await };
    if !state.layers.lock().unwrap().iter().any(|layer| layer == digest) {
        return answer(out, "200 OK", "", &blob).await;
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    let times = {
        let mut seen = state.seen.lock().unwrap();
        let count = seen.entry(digest.to_owned()).or_default();
        *count += 1;
        *count
    };
    let half = blob.len() / 2;
    let from = range.filter(|_| trick != Trick::CloseAndIgnoreRange).unwrap_or(0).min(blob.len());
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    match trick {
        Trick::CloseHalfWay | Trick::CloseAndIgnoreRange if times == 1 => partial(out, &blob, half).await,
        Trick::AlwaysClose if from < half => partial(out, &blob, half).await,
        Trick::AlwaysClose => Ok(()),
        Trick::Truncate => answer(out, status, "", &blob[from.min(half)..half]).await,
        Trick::EndlessRefusal => endless(out, "500 Internal Server Error", "").await,
        Trick::Answer500 => answer(out, "500 Internal Server Error", "", b"out of order").await,
        Trick::Recover if times <= 2 => answer(out, "503 Service Unavailable", "", b"").await,
        Trick::NeverAnswer => forever().await,
        Trick::Stall => {
            partial(out, &blob, half).await?;
            forever().await
        }
        Trick::WrongContent => {
            let mut other = blob.clone();
            let last = other.len() - 1;
            other[last] ^= 0xff;
            other[0] ^= 0xff;
            answer(out, "200 OK", "", &other).await
        }
        Trick::TooLong => answer(out, "200 OK", "", &[blob.as_slice(), b"more"].concat()).await,
        _ => answer(out, status, "", &blob[from..]).await,
    }
}

async fn endless(out: &mut TcpStream, status: &str, headers: &str) -> std::io::Result<()> {
    out.write_all(format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n").as_bytes()).await?;
    loop {
        out.write_all(&[b' '; 65_536]).await?;
    }
}

/// Whether the request may go on; else it is answered.
async fn admitted(
    out: &mut TcpStream,
    trick: Trick,
    path: &str,
    bearer: &str,
    state: &State,
) -> std::io::Result<bool> {
    if path.starts_with("/token?service=test&scope=repository%3Atest%2Fimage%3Apull") {
        if trick == Trick::EndlessToken {
            endless(out, "200 OK", "").await?;
        }
        let given = {
            let mut tokens = state.tokens.lock().unwrap();
            *tokens = (tokens.0 + 1, 0);
            tokens.0
        };
        answer(out, "200 OK", "", format!("{{\"token\":\"t{given}\"}}").as_bytes()).await?;
        return Ok(false);
    }
    let good = {
        let mut tokens = state.tokens.lock().unwrap();
        let good = bearer == format!("t{}", tokens.0) && tokens.1 < 2;
        tokens.1 += usize::from(good);
        good
    };
    if !good {
        let port = out.local_addr()?.port();
        let challenge =
            format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"test\"\r\n");
        answer(out, "401 Unauthorized", &challenge, b"{}").await?;
    }
    Ok(good)
}

async fn manifest(out: &mut TcpStream, trick: Trick, state: &State) -> std::io::Result<()> {
    let kind = format!("Content-Type: {MANIFEST}\r\n");
    let body = state.manifest.lock().unwrap().clone();
    match trick {
        Trick::ManifestNeverAnswers => forever().await,
        Trick::Manifest404 => answer(out, "404 Not Found", "", b"{}").await,
        Trick::Manifest401 => answer(out, "401 Unauthorized", "", b"{}").await,
        Trick::ManifestOther => answer(out, "200 OK", &kind, &[body.as_slice(), b" "].concat()).await,
        Trick::ManifestEndless => endless(out, "200 OK", &kind).await,
        _ => answer(out, "200 OK", &kind, &body).await,
    }
}

async fn forever() -> std::io::Result<()> {
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}

async fn partial(out: &mut TcpStream, blob: &[u8], end: usize) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", blob.len());
    out.write_all(head.as_bytes()).await?;
    out.write_all(&blob[..end]).await?;
    out.flush().await
}

async fn answer(out: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    out.write_all(head.as_bytes()).await?;
    out.write_all(body).await?;
    out.flush().await
}
