//! A git server: the real `git http-backend` behind our HTTP server, with repositories made for the occasion.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::ServerConfig;

use crate::{
    http::{Reply, Request, Server},
    process::run,
};

/// What `/private.git` asks for.
pub const USERNAME: &str = "alice";
pub const PASSWORD: &str = "correct horse battery staple";

pub struct GitServer {
    server: Server,
    root: PathBuf,
}

impl GitServer {
    /// Serves every repository below `root`. `/private.git` needs a password, `/hang.git` never answers.
    pub fn start(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let dir = root.to_owned();
        let server = Server::start(Arc::new(move |request: &Request| serve(&dir, request)))?;
        Ok(Self { server, root: root.to_owned() })
    }

    /// The same repositories over TLS.
    pub fn over_tls(&self, config: Arc<ServerConfig>) -> Result<Server> {
        let dir = self.root.clone();
        Server::start_tls(Arc::new(move |request: &Request| serve(&dir, request)), config)
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The URL of a repository as a sandbox sees it.
    pub fn url(&self, name: &str) -> String {
        format!("http://host.cordium.internal:{}/{name}.git", self.port())
    }

    /// Makes a bare repository with one commit of `files` on `main`, and a branch `feature` with one file more.
    pub fn add(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let work = tempfile::tempdir().context("creating a directory for a repository")?;
        let git = |args: &[&str]| git(work.path(), args);
        git(&["init", "--quiet", "--initial-branch=main"])?;
        for (path, content) in files {
            let path = work.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(work.path()))?;
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--allow-empty", "--message", "first"])?;
        git(&["commit", "--quiet", "--allow-empty", "--message", "second"])?;
        git(&["tag", "v1"])?;
        git(&["checkout", "--quiet", "-b", "feature"])?;
        fs::write(work.path().join("FEATURE"), "on the branch\n")?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", "feature"])?;
        git(&["checkout", "--quiet", "main"])?;
        self.publish(name, work.path())
    }

    /// Makes a repository whose `module/` is a submodule that points to another one of this server.
    pub fn add_with_submodule(&self, name: &str, module: &str) -> Result<()> {
        let work = tempfile::tempdir().context("creating a directory for a repository")?;
        let git = |args: &[&str]| git(work.path(), args);
        git(&["init", "--quiet", "--initial-branch=main"])?;
        let from = self.root.join(format!("{module}.git"));
        let from = from.to_str().context("path is not UTF-8")?;
        git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", from, "module"])?;
        git(&["config", "-f", ".gitmodules", "submodule.module.url", &format!("../{module}.git")])?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", "with a submodule"])?;
        self.publish(name, work.path())
    }

    fn publish(&self, name: &str, work: &Path) -> Result<()> {
        let bare = self.root.join(format!("{name}.git"));
        let bare = bare.to_str().context("path is not UTF-8")?;
        git(work, &["clone", "--quiet", "--bare", ".", bare])?;
        Ok(())
    }
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    run(Command::new("git")
        .args([
            "-c",
            "user.name=Cordium",
            "-c",
            "user.email=tests@cordium.invalid",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(dir))
}

fn serve(root: &Path, request: &Request) -> Result<Reply> {
    if request.path.starts_with("/hang.git/") {
        return Ok(Reply::Silence);
    }
    if request.path.starts_with("/private.git/") && !authorized(request) {
        let challenge = ("WWW-Authenticate".to_owned(), "Basic realm=\"git\"".to_owned());
        return Ok(Reply::Answer { status: 401, headers: vec![challenge], body: Vec::new() });
    }
    backend(root, request)
}

fn authorized(request: &Request) -> bool {
    let expected = BASE64_STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
    request.header("authorization").and_then(|value| value.strip_prefix("Basic ")) == Some(&expected)
}

/// Speaks CGI with `git http-backend`.
fn backend(root: &Path, request: &Request) -> Result<Reply> {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding").unwrap_or_default())
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting git http-backend")?;
    let mut input = child.stdin.take().context("git http-backend has no standard input")?;
    let body = request.body.clone();
    let writer = std::thread::spawn(move || input.write_all(&body));
    let output = child.wait_with_output().context("waiting for git http-backend")?;
    let _ = writer.join();
    parse_cgi(&output.stdout)
}

fn parse_cgi(output: &[u8]) -> Result<Reply> {
    let Some(end) = output.windows(4).position(|four| four == b"\r\n\r\n") else {
        bail!("git http-backend answered without a head");
    };
    let head = String::from_utf8_lossy(&output[..end]);
    let mut reply = (200, Vec::new());
    for line in head.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if key.eq_ignore_ascii_case("status") {
            reply.0 =
                value.split(' ').next().unwrap_or("500").parse().context("status of git http-backend")?;
        } else {
            reply.1.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(Reply::Answer { status: reply.0, headers: reply.1, body: output[end + 4..].to_vec() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_real_git_clones_with_and_without_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let server = GitServer::start(&dir.path().join("srv")).unwrap();
        server.add("demo", &[("README", "hello\n"), ("sub/file", "x")]).unwrap();
        server.add("private", &[("SECRET", "s\n")]).unwrap();
        server.add_with_submodule("with-module", "demo").unwrap();
        let base = format!("http://127.0.0.1:{}", server.port());
        let clone = |url: &str, to: &str| {
            run(Command::new("git")
                .args(["clone", "--quiet", "--recurse-submodules", url])
                .arg(dir.path().join(to))
                .env("GIT_TERMINAL_PROMPT", "0")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_GLOBAL", "/dev/null"))
        };
        clone(&format!("{base}/demo.git"), "demo").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("demo/README")).unwrap(), "hello\n");
        clone(&format!("{base}/with-module.git"), "with-module").unwrap();
        assert!(dir.path().join("with-module/module/README").exists());
        assert!(clone(&format!("{base}/private.git"), "refused").is_err());
        let open = format!("http://{USERNAME}:{}@127.0.0.1:{}", PASSWORD.replace(' ', "%20"), server.port());
        clone(&format!("{open}/private.git"), "private").unwrap();
        assert!(clone(&format!("{base}/missing.git"), "missing").is_err());
    }
}
