//! A real server of PostgreSQL outside, as a user of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{OUTSIDE, World};

pub const PASSWORD: &str = "correct-horse-battery";
pub const PORT: u16 = 5432;
const NOBODY: u32 = 65534;
/// `app` logs in with SCRAM, `old` with MD5, `plain` in clear text: whatever the connection is, so that it is the broker that refuses.
const ROLES: &str = "\
    SET password_encryption = 'scram-sha-256';\n\
    CREATE ROLE app LOGIN PASSWORD 'correct-horse-battery';\n\
    CREATE ROLE plain LOGIN PASSWORD 'correct-horse-battery';\n\
    SET password_encryption = 'md5';\n\
    CREATE ROLE old LOGIN PASSWORD 'correct-horse-battery';\n\
    CREATE DATABASE shop OWNER app;\n";
const ACCESS: &str = "\
    host all old 0.0.0.0/0 md5\n\
    host all plain 0.0.0.0/0 password\n\
    host all app 0.0.0.0/0 scram-sha-256\n";

pub struct Server {
    process: Child,
    /// What it is known by, and whoever connects must trust.
    pub certificate: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// On all addresses outside, with a certificate for this name.
    pub fn start(world: &World, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        for (file, text) in [("server.pem", certificate.as_str()), ("server.key", &key.serialize_pem())] {
            std::fs::write(home.join(file), text).unwrap();
            std::fs::set_permissions(home.join(file), Permissions::from_mode(0o600)).unwrap();
        }
        own(&home);
        let data = home.join("data");
        let done = as_other(&binaries().join("initdb"))
            .args(["--auth=scram-sha-256", "--username=admin", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(home.join("server.pem"))
            .output()
            .unwrap();
        assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        std::fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
        single(&data);
        let (log, start) = (folder.path().join("log"), Instant::now());
        let process = world.outside.run({
            let home = home.clone();
            move || {
                as_other(&binaries().join("postgres"))
                    .arg("-D")
                    .arg(home.join("data"))
                    .args(["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off"])
                    .args(["-c", "ssl=on", "-c", "log_connections=on", "-c", "shared_buffers=16MB"])
                    .args(["-c", &format!("ssl_cert_file={}", home.join("server.pem").display())])
                    .args(["-c", &format!("ssl_key_file={}", home.join("server.key").display())])
                    .stderr(std::fs::File::create(log).unwrap())
                    .spawn()
                    .unwrap()
            }
        });
        let server = Self { process, certificate, folder };
        while world.outside.run(|| std::net::TcpStream::connect((OUTSIDE, PORT)).is_err()) {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Of the newest version that Debian has installed.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("the package postgresql is installed");
    let newest = versions
        .filter_map(|version| version.ok()?.file_name().into_string().ok()?.parse::<u32>().ok())
        .max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.unwrap()))
}

/// PostgreSQL does not run as root. Where there is one user only, another number is given to that.
fn as_other(program: &Path) -> Command {
    let mut command = match is_mapped() {
        true => Command::new("unshare"),
        false => Command::new("setpriv"),
    };
    if is_mapped() {
        command.args(["--user", "--map-user=1000", "--map-group=1000", "--"]);
    } else {
        command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}"));
        command.args(["--clear-groups", "--"]);
    }
    command.arg(program).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
    command.stdout(Stdio::null());
    command
}

/// Whether root here is somebody else outside.
fn is_mapped() -> bool {
    !std::fs::read_to_string("/proc/self/uid_map").unwrap().trim_end().ends_with("4294967295")
}

fn own(folder: &Path) {
    if is_mapped() {
        return;
    }
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    for path in files.chain([folder.to_owned()]) {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Makes the roles, without a network.
fn single(data: &Path) {
    use std::io::Write;
    let mut command = as_other(&binaries().join("postgres"));
    command.arg("--single").arg("-D").arg(data).arg("postgres").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(ROLES.as_bytes()).unwrap();
    let done = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("ERROR"), "{said}");
}
