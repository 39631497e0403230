//! A node whose disk is nearly full ends what fills it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cordium_tests::node::{Node, Options};
use cordium_tests::user::User;
use cordium_tests::v1::failure::Type;
use cordium_tests::{
    Context, Fixture, Result, Workspace, ensure, ensure_eq, fixture, images, json, process, skip, spec,
};
use serde_json::Value;

use crate::observe::{NOTICE, Neighbour, begin, nothing_left};
use crate::storage::ended_for_storage;

/// A small file system in a file, mounted until this goes.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u64) -> Result<Self> {
        let image = at.with_extension("img");
        std::fs::create_dir_all(at)?;
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        process::run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        process::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, so that nothing that is left keeps the mount: the leak check looks for it.
        if let Err(error) = process::run(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

pub async fn a_full_node(f: Arc<Fixture>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return skip("mounting a small file system needs root");
    }
    let dir = fixture::fresh_dir("limits-disk")?;
    let small = match SmallDisk::mount(&dir.join("n"), 256) {
        Ok(small) => small,
        Err(error) => {
            fixture::remove_dir(&dir)?;
            return skip(format!("a small file system cannot be mounted here: {error:#}"));
        }
    };
    let result = full_node(&f, &small.0).await;
    drop(small);
    fixture::remove_dir(&dir)?;
    result
}

async fn full_node(f: &Fixture, dir: &Path) -> Result<()> {
    let user = User::for_tests()?;
    let programs = cordium_tests::paths::staged_programs()?;
    let options = Options { name: "small".to_owned(), ..Default::default() };
    // Below the mount: the node's own leak check would find that.
    let node = Node::start(&user, &programs, &dir.join("x"), options)?;
    let outcome = fill(f, &node).await;
    let torn_down = node.tear_down().await;
    outcome.and(torn_down)
}

async fn fill(f: &Fixture, node: &Node) -> Result<()> {
    let clients = node.clients().await?;
    let supervisor = node.pid();
    let small = |rest: Value| spec::with_image(&f.image(images::MUSL), rest);
    let calm = Workspace::run(&clients, "calm", &small(json!({}))).await?;
    let neighbour = Neighbour::watch(calm);
    let w = Workspace::run(&clients, "filler", &small(json!({}))).await?;
    let script =
        "while dd if=/dev/zero bs=1M count=1 >> /workspace/big 2>/dev/null; do sleep 0.2; done; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "the node's file system is nearly full").await?;
    filler.abort();
    neighbour.answers_now().await?;
    ensure_eq!(node.pid(), supervisor);
    // Nothing new begins on what is left, and what is left is enough to say so.
    let (_, refused) = Workspace::create(&clients, "late", &small(json!({}))).await?.start_to_end().await?;
    let failure = refused.status.and_then(|status| status.failure).context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::LoadStorage(_))), "{failure:?}");
    ensure!(failure.message.contains("nearly full"), "{}", failure.message);
    w.delete().await?;
    nothing_left(node, &w)?;
    // Blocks of removed files are free when the file system has written its journal.
    process::until("room on the small disk", NOTICE, || {
        let room = nix::sys::statvfs::statvfs(&node.dir).context("looking at the small disk")?;
        Ok((room.blocks_available() * room.fragment_size() > 32 << 20).then_some(()))
    })?;
    let again = Workspace::run(&clients, "again", &small(json!({}))).await?;
    again.delete().await?;
    neighbour.end().await
}
