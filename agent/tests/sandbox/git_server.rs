//! `git http-backend` behind a small HTTP server on loopback, with basic authentication where a test wants it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

const BACKEND: &str = "/usr/lib/git-core/git-http-backend";
/// `me:s3cret`
const AUTHORIZED: &str = "Basic bWU6czNjcmV0";

/// The path of each request, and its Authorization header.
type Requests = Arc<Mutex<Vec<(String, Option<String>)>>>;

pub struct GitServer {
    dir: TempDir,
    pub port: u16,
    pub seen: Requests,
}

impl GitServer {
    /// Repositories whose path begins with `private` want `me` and `s3cret`; `hang` never answers.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Requests::default();
        let (root, log) = (dir.path().to_path_buf(), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, log) = (root.clone(), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &root, &log));
            }
        });
        Self { dir, port, seen }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// A repository with `script` run in its working tree by a shell; it must commit.
    pub fn repository(&self, name: &str, script: &str) -> PathBuf {
        let (work, bare) = (self.dir.path().join(format!("{name}.work")), self.dir.path().join(name));
        let all = format!(
            "set -e; git init -q -b main '{work}'; cd '{work}'; git config user.email t@t; git config user.name t; \
             git config protocol.file.allow always; commit() {{ git add -A; git commit -q -m \"$1\"; }}; {script}\n\
             git clone -q --bare '{work}' '{bare}'; git -C '{bare}' config uploadpack.allowReachableSHA1InWant true",
            work = work.display(),
            bare = bare.display(),
        );
        let done = Command::new("sh").args(["-c", &all]).env("HOME", self.dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        bare
    }
}

fn serve(stream: TcpStream, root: &Path, log: &Requests) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let authorization = header("authorization");
    log.lock().unwrap().push((path.to_owned(), authorization.clone()));
    let mut out = stream;
    if path.starts_with("/hang") {
        std::thread::sleep(std::time::Duration::from_secs(120));
        return None;
    }
    if path.starts_with("/private") && authorization.as_deref() != Some(AUTHORIZED) {
        let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return out.write_all(answer.as_bytes()).ok();
    }
    let body = match (header("content-length"), header("transfer-encoding")) {
        (Some(length), _) => {
            let mut body = vec![0; length.parse().ok()?];
            reader.read_exact(&mut body).ok()?;
            body
        }
        (None, Some(_)) => chunks(&mut reader)?,
        (None, None) => Vec::new(),
    };
    let mut child = Command::new(BACKEND)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    std::thread::spawn(move || stdin.write_all(&body));
    let answer = child.wait_with_output().ok()?.stdout;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let kept: Vec<&str> = head.lines().filter(|line| !line.starts_with("Status: ")).collect();
    let content = &answer[end + 4..];
    let head = format!(
        "HTTP/1.1 {status}\r\n{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        kept.join("\r\n"),
        content.len()
    );
    out.write_all(head.as_bytes()).ok()?;
    out.write_all(content).ok()
}

fn chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..]).ok()?;
        reader.read_line(&mut String::new()).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}
