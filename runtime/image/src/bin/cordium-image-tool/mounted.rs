//! What a workspace in a range would see: an overlay, mounted as a keeper mounts it, entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest, Sha256};

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// In a user namespace where 0 is the caller and 1 and on are the ids from `start` on.
pub fn show(start: &str, dir: &Path, layers: &[&str]) -> Result<(), String> {
    let mut child = Command::new(std::env::current_exe().map_err(text)?)
        .arg("mounted-inner")
        .arg(dir)
        .args(layers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    output.read_line(&mut String::new()).map_err(text)?;
    let ids = [("newuidmap", nix::unistd::getuid().as_raw()), ("newgidmap", nix::unistd::getgid().as_raw())];
    for (program, own) in ids {
        let arguments = [&child.id().to_string(), "0", &own.to_string(), "1", "1", start, "65536"];
        let status = Command::new(program).args(arguments).status().map_err(text)?;
        if !status.success() {
            return Err(format!("{program}: {status}"));
        }
    }
    // Its end is the sign to go on.
    drop(child.stdin.take());
    let mut listing = String::new();
    output.read_to_string(&mut listing).map_err(text)?;
    print!("{listing}");
    let status = child.wait().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("the listing ended with {status}")) }
}

/// `layers` bottom first; the last may be `::` and the data-only one.
pub fn inner(dir: &Path, layers: &[&str]) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(text)?;
    println!("unshared");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(text)?;
    let place = |name: &str| -> Result<String, String> {
        fs::create_dir_all(dir.join(name)).map_err(text)?;
        Ok(dir.join(name).display().to_string())
    };
    let (upper, work, merged) = (place("upper")?, place("work")?, place("merged")?);
    let (layers, data) = match layers.split_last() {
        Some((last, rest)) if last.starts_with("::") => (rest, *last),
        _ => (layers, ""),
    };
    let lower = layers.iter().rev().copied().collect::<Vec<_>>().join(":");
    let options = format!("userxattr,lowerdir={lower}{data},upperdir={upper},workdir={work}");
    mount(Some("overlay"), merged.as_str(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| format!("mounting {options}: {e}"))?;
    let mut first_names = BTreeMap::new();
    list(Path::new(&merged), Path::new(""), &mut first_names)?;
    write(Path::new(&merged))
}

fn list(root: &Path, path: &Path, first_names: &mut BTreeMap<u64, String>) -> Result<(), String> {
    let full = root.join(path);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let meta = fs::symlink_metadata(&full).map_err(failed)?;
    let name = path.display().to_string();
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        fs::read_link(&full).map_err(failed)?.display().to_string()
    } else if kind.is_file() {
        hex::encode(Sha256::digest(fs::read(&full).map_err(failed)?))
    } else if kind.is_fifo() {
        "fifo".into()
    } else {
        "directory".into()
    };
    let same = if kind.is_dir() || meta.nlink() < 2 {
        String::new()
    } else {
        first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
    };
    let size = if kind.is_dir() { 0 } else { meta.size() };
    let attributes = match kind.is_file() || kind.is_dir() {
        true => attributes(&File::open(&full).map_err(failed)?.into())?,
        false => String::new(),
    };
    println!(
        "{name:?} {:o} {}:{} {}.{:09} {size} {content} {attributes} {same:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
    );
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)
            .map_err(failed)?
            .map(|e| e.map(|e| e.file_name()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        names.sort();
        for name in names {
            list(root, &path.join(name), first_names)?;
        }
    }
    Ok(())
}

fn attributes(file: &OwnedFd) -> Result<String, String> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = vec![0; 65_536];
    let length = rustix::fs::flistxattr(file, &mut names[..]).map_err(text)?;
    let mut list = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..]).map_err(text)?;
        list.push(format!("{}={}", OsStr::from_bytes(name).display(), hex::encode(&value[..length])));
    }
    list.sort();
    Ok(format!("[{}]", list.join(",")))
}

/// A file of a lower layer must come up whole when it is written to.
fn write(root: &Path) -> Result<(), String> {
    let path = root.join("big");
    let Ok(before) = fs::read(&path) else { return Ok(()) };
    let mut file = File::options().append(true).open(&path).map_err(text)?;
    file.write_all(b"more").map_err(text)?;
    let after = fs::read(&path).map_err(text)?;
    println!("written {}", after == [before.as_slice(), b"more"].concat());
    Ok(())
}
