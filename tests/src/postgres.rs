//! A real server of PostgreSQL on the node's loopback.

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{process::Daemon, tls::Party, user::User};

/// The role that [`Postgres::start`] makes, and its database.
pub const ROLE: &str = "app";
pub const DATABASE: &str = "shop";
pub const PASSWORD: &str = "correct-horse-battery-staple";

pub struct Postgres {
    process: Daemon,
    port: u16,
}

impl Postgres {
    /// As this user, with TLS, in a fresh directory. Only [`ROLE`] may log in, with SCRAM and over TLS.
    pub fn start(dir: &Path, user: &User, party: &Party) -> Result<Self> {
        user.make_dir(dir)?;
        let data = dir.join("data");
        let mut command = user.command(binaries()?.join("initdb"));
        command.args([
            "--auth=reject",
            "--username=admin",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--pgdata",
        ]);
        crate::process::run(command.arg(&data))?;
        fs::write(
            data.join("pg_hba.conf"),
            format!("hostssl {DATABASE} {ROLE} 127.0.0.1/32 scram-sha-256\n"),
        )?;
        let mut single = user.command(binaries()?.join("postgres"));
        single.arg("--single").arg("-D").arg(&data).arg("postgres");
        let mut single = single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let roles = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE {DATABASE} OWNER {ROLE};\n"
        );
        single.stdin.take().context("the standard input of postgres")?.write_all(roles.as_bytes())?;
        let done = single.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success() && !said.contains("ERROR"), "making a role and a database: {said}");

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = user.command(binaries()?.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        let files = [("ssl_cert_file", &party.cert), ("ssl_key_file", &party.key)];
        let files = files.map(|(name, path)| format!("{name}={}", path.display()));
        let settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "ssl=on",
            "fsync=off",
            "shared_buffers=16MB",
        ];
        for setting in settings.into_iter().chain(files.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        let mut process = Daemon::spawn("postgres", &mut command, &dir.join("postgres.log"))?;
        process.wait_ready(Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(Self { process, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, whoever is connected.
        let _ = self.process.signal(nix::sys::signal::Signal::SIGINT);
        let _ = self.process.stop(Duration::from_secs(10));
    }
}

/// Of the newest version that Debian has installed.
fn binaries() -> Result<PathBuf> {
    let folder = Path::new("/usr/lib/postgresql");
    let versions = fs::read_dir(folder)
        .with_context(|| format!("reading {}: run `cargo xtask setup`", folder.display()))?;
    let versions =
        versions.filter_map(|version| version.ok()?.file_name().into_string().ok()?.parse::<u32>().ok());
    let newest = versions.max().context("no version of PostgreSQL is installed")?;
    Ok(folder.join(newest.to_string()).join("bin"))
}
