//! Tries what a sandbox needs, in namespaces of its own, in a process of its own.
//!
//! A kernel's version and settings tell little about what a container, a security module or a filesystem allows:
//! so the real calls are made. The process is this executable again, started with a hidden argument, because only a
//! process with one thread may enter a new user namespace. It leaves nothing behind: its mounts and links are gone
//! with its namespaces.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};

use crate::paths;

const ARGUMENT: &str = "__probe-namespaces";
const PROC_ARGUMENT: &str = "__probe-proc";
const LIMIT: Duration = Duration::from_secs(15);

/// What was tried, with the error where it did not work.
pub type Findings = BTreeMap<String, Result<(), String>>;

/// In `main`, before anything else: the probe's side.
pub fn run_if_asked() -> Option<i32> {
    let args: Vec<_> = std::env::args_os().take(4).collect();
    let word = args.get(1)?.to_str()?;
    let dir = PathBuf::from(args.get(2)?);
    match word {
        ARGUMENT => {
            probe(&dir);
            Some(0)
        }
        PROC_ARGUMENT => Some(match mount_proc(&dir) {
            Ok(()) => 0,
            Err(e) => {
                eprint!("{e}");
                1
            }
        }),
        _ => None,
    }
}

/// The caller's side: runs the probe with `near` as the filesystem to try an overlay on.
pub fn findings(near: &Path) -> Result<Findings, String> {
    let base = near.ancestors().find(|p| p.is_dir() && writable(p)).unwrap_or(Path::new("/tmp"));
    let dir = nix::unistd::mkdtemp(&base.join(".cordium-probe-XXXXXX"))
        .map_err(|e| format!("cannot make a directory in {}: {}", base.display(), e.desc()))?;
    let result = run(&dir);
    // The overlay's work directory belongs to us, but has mode 000 inside.
    let _ = fs::set_permissions(dir.join("work/work"), std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let removed = fs::remove_dir_all(&dir);
    let findings = result?;
    removed.map_err(|e| format!("cannot remove {}: {e}", dir.display()))?;
    Ok(findings)
}

fn writable(dir: &Path) -> bool {
    nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok()
}

fn run(dir: &Path) -> Result<Findings, String> {
    let exe = std::env::current_exe().map_err(|e| format!("cannot find this executable: {e}"))?;
    let mut child = Command::new(exe)
        .arg(ARGUMENT)
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the probe: {e}"))?;
    let mut output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(out) = output.as_mut() {
            let _ = out.take(64 << 10).read_to_string(&mut text);
        }
        text
    });
    let began = Instant::now();
    while let Ok(None) = child.try_wait() {
        if began.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the probe did not end within {} s", LIMIT.as_secs()));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(parse(&reader.join().unwrap_or_default()))
}

fn parse(text: &str) -> Findings {
    text.lines()
        .filter_map(|line| {
            let (name, result) = line.split_once('\t')?;
            let result = if result == "ok" { Ok(()) } else { Err(result.to_owned()) };
            Some((name.to_owned(), result))
        })
        .collect()
}

fn tell(name: &str, result: &Result<(), String>) {
    let text = match result {
        Ok(()) => "ok".to_owned(),
        Err(e) => e.replace(['\n', '\t'], " "),
    };
    println!("{name}\t{text}");
    let _ = std::io::stdout().flush();
}

fn probe(dir: &Path) {
    let entered = user_namespace();
    tell("userns", &entered);
    if entered.is_err() {
        return;
    }
    for (name, flag) in [
        ("mntns", CloneFlags::CLONE_NEWNS),
        ("netns", CloneFlags::CLONE_NEWNET),
        ("utsns", CloneFlags::CLONE_NEWUTS),
        ("ipcns", CloneFlags::CLONE_NEWIPC),
        ("cgroupns", CloneFlags::CLONE_NEWCGROUP),
    ] {
        tell(name, &unshare(flag).map_err(|e| e.desc().to_owned()));
    }
    tell("overlay", &overlay(dir));
    tell("veth", &veth());
    tell("nft", &nft());
    tell("proc", &proc(dir));
}

fn user_namespace() -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("unshare: {}", e.desc()))?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("write {file}: {e}"))?;
    }
    Ok(())
}

fn overlay(dir: &Path) -> Result<(), String> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("make mounts private: {}", e.desc()))?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(dir.join(name)).map_err(|e| format!("mkdir {name}: {e}"))?;
    }
    fs::write(dir.join("lower/file"), "x").map_err(|e| format!("write: {e}"))?;
    let at = |name: &str| dir.join(name).display().to_string();
    let options =
        format!("userxattr,lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let merged = dir.join("merged");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("mount overlay at {}: {}", dir.display(), e.desc()))?;
    // A whiteout is what needs the filesystem's help.
    fs::remove_file(merged.join("file")).map_err(|e| format!("remove a file of a lower layer: {e}"))?;
    nix::mount::umount(&merged).map_err(|e| format!("unmount: {}", e.desc()))
}

/// Asks for a veth pair with a hand-made RTM_NEWLINK; the kernel names both ends.
fn veth() -> Result<(), String> {
    let failed = |e: nix::errno::Errno| e.desc().to_owned();
    let fd = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .map_err(failed)?;
    socket::sendto(fd.as_raw_fd(), &newlink_veth(), &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .map_err(failed)?;
    let mut answer = [0_u8; 1024];
    let n = socket::recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(failed)?;
    // After the 16 bytes of header: the negative error number, 0 for an acknowledgement.
    let code = answer.get(16..20).filter(|_| n >= 20).and_then(|b| <[u8; 4]>::try_from(b).ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(nix::errno::Errno::from_raw(-error).desc().to_owned()),
        None => Err("the kernel's answer was too short".to_owned()),
    }
}

fn newlink_veth() -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_ACK_EXCL_CREATE: u16 = 0x605;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    let mut kind = Vec::new();
    kind.extend(8_u16.to_ne_bytes());
    kind.extend(IFLA_INFO_KIND.to_ne_bytes());
    kind.extend(b"veth");
    let mut body = vec![0; 16];
    body.extend((kind.len() as u16 + 4).to_ne_bytes());
    body.extend(IFLA_LINKINFO.to_ne_bytes());
    body.extend(kind);
    let mut message = Vec::new();
    message.extend((body.len() as u32 + 16).to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_ACK_EXCL_CREATE.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The kind of rule that the gateway needs.
fn nft() -> Result<(), String> {
    const RULES: &str = "table inet probe {\n chain c {\n  type nat hook prerouting priority -100;\n  meta l4proto tcp \
                         redirect to :1\n }\n}\n";
    let path = paths::find_on_path("nft").ok_or("nft was not found")?;
    let mut child = Command::new(path)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start nft: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(RULES.as_bytes()).map_err(|e| format!("write to nft: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("wait for nft: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next().unwrap_or("nft failed").to_owned())
}

/// A new proc needs a new pid namespace, which only a child is in.
fn proc(dir: &Path) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| format!("unshare: {}", e.desc()))?;
    let exe = std::env::current_exe().map_err(|e| format!("cannot find this executable: {e}"))?;
    let output = Command::new(exe)
        .arg(PROC_ARGUMENT)
        .arg(dir.join("merged"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("start: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn mount_proc(at: &Path) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), at, Some("proc"), flags, None::<&str>)
        .map_err(|e| format!("mount proc: {}", e.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_findings() {
        let found = parse("userns\tok\noverlay\tmount overlay: bad\nbroken\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found["userns"], Ok(()));
        assert_eq!(found["overlay"], Err("mount overlay: bad".to_owned()));
    }

    #[test]
    fn the_netlink_message_is_as_long_as_it_says() {
        let message = newlink_veth();
        assert_eq!(message.len(), 44);
        assert_eq!(message[..4], 44_u32.to_ne_bytes());
        assert_eq!(&message[40..], b"veth");
    }
}
