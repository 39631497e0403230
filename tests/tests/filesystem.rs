//! Filesystem: what is writable, by default and with a read-only root.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{Fixture, Result, Suite, Workspace, ensure, ensure_eq, json};

fn main() -> ExitCode {
    Suite::new("filesystem")
        .case("root_is_writable_by_default", root_is_writable_by_default)
        .case("packages_can_be_unpacked", packages_can_be_unpacked)
        .case("read_only_root", read_only_root)
        .case("read_only_root_survives_a_restart", read_only_root_survives_a_restart)
        .case("setuid_works", setuid_works)
        .run(|| Fixture::start("filesystem"))
}

const WRITABLE: &str =
    "for d in /tmp /var/tmp /workspace \"$HOME\"; do touch $d/x.$$ && rm $d/x.$$ || exit 1; done";

async fn root_option(w: &Workspace) -> Result<String> {
    w.ok("awk '$5 == \"/\" {print $6}' /proc/self/mountinfo | tail -1 | cut -d, -f1").await
}

async fn root_is_writable_by_default(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("rw", &f.base(json!({}))).await?;
    w.root_ok("touch /x /etc/x /usr/x").await?;
    w.ok(WRITABLE).await?;
    ensure_eq!(root_option(&w).await?, "rw");
    ensure_eq!(w.ok("stat -c %U /workspace \"$HOME\" | sort -u").await?, w.ok("id -un").await?);
    ensure_eq!(w.ok("stat -c %a /tmp").await?, "1777");
    w.delete().await
}

async fn packages_can_be_unpacked(f: Arc<Fixture>) -> Result<()> {
    // What a package manager does: renames over files of lower layers, hard links, ownership, modes, directories moved.
    let w = f.run("pkg", &f.base(json!({}))).await?;
    w.root_ok(
        "cp -a /bin/ls /bin/ls.new && mv /bin/ls.new /bin/ls && ls / >/dev/null \
         && ln /etc/passwd /etc/passwd.link && chown daemon:mail /etc/hosts.new 2>/dev/null; \
         touch /f && chown 1234:2345 /f && chmod 4755 /f && [ \"$(stat -c %u:%g:%a /f)\" = 1234:2345:4755 ] \
         && mv /usr/share/perl5 /usr/share/perl5.moved && ls /usr/share/perl5.moved >/dev/null && rm -rf /usr/share/perl5.moved",
    )
    .await?;
    w.root_ok("useradd --create-home bob && su bob -c 'id -un' | grep -qx bob").await?;
    w.delete().await
}

async fn read_only_root(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("ro", &f.base(json!({"runtime": {"filesystem": {"readOnly": true}}}))).await?;
    for path in ["/x", "/etc/x", "/usr/bin/x"] {
        ensure!(w.root(&format!("touch {path}")).await?.code() != 0, "{path} could be written");
    }
    w.ok(WRITABLE).await?;
    ensure_eq!(root_option(&w).await?, "ro");
    ensure_eq!(w.ok("sudo -n id -u").await?, "0");
    w.delete().await
}

async fn read_only_root_survives_a_restart(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("ro2", &f.base(json!({"runtime": {"filesystem": {"readOnly": true}}}))).await?;
    w.ok("echo kept > ~/f").await?;
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("cat ~/f").await?, "kept");
    ensure_eq!(root_option(&w).await?, "ro");
    w.delete().await
}

async fn setuid_works(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("suid", &f.base(json!({}))).await?;
    ensure_eq!(w.ok("stat -c %a:%u /usr/bin/sudo").await?, "4755:0");
    ensure_eq!(w.ok("sudo -n id -un").await?, "root");
    w.delete().await
}
