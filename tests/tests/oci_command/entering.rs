//! `exec` into namespaces and onto terminals.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cordium_tests::{Result, ensure, ensure_eq, json};

use crate::ground::{Shared, failure, ok, text};

pub async fn exec_joins_a_user_namespace(s: Arc<Shared>) -> Result<()> {
    let c = s.running("userns", |spec| {
        let all = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        spec["linux"]["uidMappings"] = all.clone();
        spec["linux"]["gidMappings"] = all;
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.push(json!({"type": "user"}));
        }
    })?;
    let map = ok(c.exec(&["cat", "/proc/self/uid_map"]))?;
    ensure_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
    let pid = s.state("userns")?["pid"].to_string();
    let namespace =
        |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).map(|link| link.display().to_string());
    let inside = ok(c.exec(&["readlink", "/proc/self/ns/user"]))?;
    ensure_eq!(inside.trim(), namespace(&pid)?);
    ensure!(inside.trim() != namespace("self")?, "it is the machine's");
    Ok(())
}

pub async fn exec_hands_over_a_terminal(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("tty", |_| {})?;
    let path = s.dir.join("console");
    let listener = UnixListener::bind(&path)?;
    let receiver = tokio::task::spawn_blocking(move || receive_descriptor(&listener));
    let args = ["exec", "--tty", "--detach", "--console-socket", text(&path)?, "tty", "sh", "-c", "tty; cat"];
    ok(s.oci(&args))?;
    let mut terminal = tokio::time::timeout(Duration::from_secs(20), receiver).await???;
    let said = tokio::task::spawn_blocking(move || -> Result<String> {
        terminal.write_all(b"hello\n")?;
        let mut said = String::new();
        let mut chunk = [0; 256];
        // Echoed by the terminal, then said by cat.
        while said.matches("hello").count() < 2 {
            let count = terminal.read(&mut chunk)?;
            ensure!(count > 0, "the terminal was closed after {said:?}");
            said.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        Ok(said)
    });
    let said = tokio::time::timeout(Duration::from_secs(20), said).await???;
    ensure!(said.contains("/dev/pts/"), "no terminal of the container: {said:?}");
    let refused = failure(s.oci(&["exec", "--tty", "tty", "true"]))?;
    ensure!(refused.contains("console socket"), "{refused}");
    Ok(())
}

fn receive_descriptor(listener: &UnixListener) -> Result<fs::File> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept()?;
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next().context("no descriptor came")?.into());
        }
    }
    anyhow::bail!("no descriptor came")
}
