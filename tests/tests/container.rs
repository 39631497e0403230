//! Container: entrypoint, command and capabilities of the spec against those of the image.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{Fixture, Result, Suite, Workspace, ensure, ensure_eq, images, json, spec::with_image};

fn main() -> ExitCode {
    Suite::new("container")
        .case("image_entrypoint_runs_by_default", image_entrypoint_runs_by_default)
        .case("cmd_replaces_the_images", cmd_replaces_the_images)
        .case("entrypoint_replaces_the_images", entrypoint_replaces_the_images)
        .case("image_environment_and_directory_apply", image_environment_and_directory_apply)
        .case("capabilities_are_added_and_dropped", capabilities_are_added_and_dropped)
        .case("disable_init_runs_no_main_process", disable_init_runs_no_main_process)
        .case("a_main_process_that_ends_leaves_the_workspace_running", main_process_that_ends)
        .run(|| Fixture::start("container"))
}

/// Whether a process with this command line comes to run. The pattern's last letter is put in brackets, so that it does
/// not match the command line of the search.
async fn running(w: &Workspace, pattern: &str) -> Result<bool> {
    let (rest, last) = pattern.split_at(pattern.len() - 1);
    let script =
        format!("for i in $(seq 50); do pgrep -f '{rest}[{last}]' && exit 0; sleep 0.1; done; exit 1");
    Ok(w.sh(&script).await?.code() == 0)
}

async fn image_entrypoint_runs_by_default(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("entry", &with_image(&f.image(images::TINI), json!({}))).await?;
    // The image's own command would end, or compete with ours: its entrypoint is given a command that idles.
    ensure!(running(&w, "^/usr/bin/tini -- .*cordium-agent idle").await?, "tini does not run");
    ensure_eq!(w.ok("cat /proc/1/comm").await?, "cordium-agent");
    w.delete().await
}

async fn cmd_replaces_the_images(f: Arc<Fixture>) -> Result<()> {
    let w = f
        .run(
            "cmd",
            &with_image(
                &f.image(images::TINI),
                json!({"runtime": {"cmd": "sh -c 'echo ran > /tmp/marker; exec sleep 777'"}}),
            ),
        )
        .await?;
    w.ok("for i in $(seq 50); do [ -e /tmp/marker ] && exit 0; sleep 0.1; done; exit 1").await?;
    ensure!(
        running(&w, "^/usr/bin/tini -- sh -c").await? || running(&w, "sleep 777").await?,
        "the command does not run"
    );
    w.delete().await
}

async fn entrypoint_replaces_the_images(f: Arc<Fixture>) -> Result<()> {
    let w = f
        .run(
            "ep",
            &with_image(
                &f.image(images::TINI),
                json!({"runtime": {"entrypoint": "/usr/bin/env", "cmd": "sleep 778"}}),
            ),
        )
        .await?;
    ensure!(running(&w, "sleep 778").await?, "the command does not run");
    ensure_eq!(w.ok("pgrep -c tini || true").await?, "0");
    w.delete().await
}

async fn image_environment_and_directory_apply(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("imgenv", &with_image(&f.image(images::TINI), json!({}))).await?;
    ensure_eq!(w.ok("echo $FROM_IMAGE").await?, "tini");
    let main = w.root_ok("readlink /proc/$(pgrep -o tini)/cwd").await?;
    ensure_eq!(main, "/srv");
    w.delete().await
}

async fn capabilities_are_added_and_dropped(f: Arc<Fixture>) -> Result<()> {
    let spec = f.base(json!({"runtime": {"capabilities": {"add": ["SYS_PTRACE"], "drop": ["SYS_CHROOT"]}}}));
    let w = f.run("caps", &spec).await?;
    let effective = w.root_ok("grep CapEff /proc/self/status").await?;
    let bits = u64::from_str_radix(effective.rsplit('\t').next().unwrap_or_default(), 16)?;
    for (name, bit, wanted) in [("SYS_PTRACE", 19, true), ("SYS_CHROOT", 18, false), ("NET_ADMIN", 12, true)]
    {
        ensure!((bits >> bit & 1 == 1) == wanted, "{name} should be {wanted} in {bits:x}");
    }
    w.delete().await
}

async fn disable_init_runs_no_main_process(f: Arc<Fixture>) -> Result<()> {
    let w = f
        .run("noinit", &with_image(&f.image(images::TINI), json!({"runtime": {"disableInit": true}})))
        .await?;
    ensure_eq!(w.ok("cat /proc/1/comm").await?, "cordium-agent");
    w.delete().await
}

async fn main_process_that_ends(f: Arc<Fixture>) -> Result<()> {
    let w =
        f.run("mainend", &with_image(&f.image(images::TINI), json!({"runtime": {"cmd": "false"}}))).await?;
    w.ok("for i in $(seq 50); do pgrep tini >/dev/null || exit 0; sleep 0.1; done; exit 1").await?;
    ensure_eq!(w.ok("echo alive").await?, "alive");
    w.delete().await
}
