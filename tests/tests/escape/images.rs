//! Images, and volumes left behind, whose files are traps for whoever sets a sandbox up.

use std::{fs, path::Path, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Fixture, Result, Workspace, ensure, json,
    oci::{self, Compression, Config, LayerWriter, Layout},
    process,
    spec::with_image,
    v1::WorkspaceState as State,
    watch,
};

use crate::shared::Shared;

type Tar = tar::Builder<LayerWriter>;
/// Fills an image; `dir` is a directory of the node to which everybody may write.
type Fill = fn(&mut Tar, &str) -> Result<()>;

const END: Duration = Duration::from_secs(60);

/// A sandbox starts as if its traps were not there, or fails with a reason.
const TRAPS: [(&str, Fill); 19] = [
    ("passwd-link", |tar, dir| {
        oci::symlink(tar, "etc/passwd", &format!("{dir}/marker"))?;
        oci::symlink(tar, "etc/group", "/proc/1/environ")?;
        oci::symlink(tar, "etc/shadow", &format!("{dir}/shadow"))
    }),
    ("passwd-dir", |tar, _| oci::dir(tar, "etc/passwd", 0o755)),
    ("etc-link", |tar, dir| oci::symlink(tar, "etc", dir)),
    ("etc-files-link", |tar, dir| {
        for name in ["resolv.conf", "hosts", "hostname", "mtab"] {
            oci::symlink(tar, &format!("etc/{name}"), &format!("{dir}/{name}"))?;
        }
        Ok(())
    }),
    ("dev-link", |tar, dir| oci::symlink(tar, "dev", dir)),
    ("dev-file", |tar, _| oci::file(tar, "dev", 0o644, b"")),
    ("dev-entries", |tar, dir| {
        oci::symlink(tar, "dev/null", "/proc/sys/kernel/core_pattern")?;
        oci::symlink(tar, "dev/console", "/proc/sysrq-trigger")?;
        oci::symlink(tar, "dev/pts", dir)?;
        oci::symlink(tar, "dev/shm", dir)?;
        oci::symlink(tar, "dev/ptmx", &format!("{dir}/marker"))
    }),
    ("dev-nodes", |tar, _| {
        for (name, kind, major) in [
            ("sda", tar::EntryType::Block, 8),
            ("mem", tar::EntryType::Char, 1),
            ("vda", tar::EntryType::Block, 254),
        ] {
            let mut header = oci::header(kind, 0o666, 0);
            header.set_device_major(major)?;
            header.set_device_minor(1)?;
            tar.append_data(&mut header, format!("nodes/{name}"), std::io::empty())?;
        }
        Ok(())
    }),
    ("proc-link", |tar, dir| oci::symlink(tar, "proc", dir)),
    ("proc-file", |tar, _| oci::file(tar, "proc", 0o644, b"")),
    // CVE-2025-52881: labels are written by way of /proc.
    ("proc-entries", |tar, dir| {
        oci::symlink(tar, "proc/self", dir)?;
        oci::symlink(tar, "proc/thread-self", dir)?;
        oci::symlink(tar, "proc/sys", "/proc/sysrq-trigger")
    }),
    ("sys-link", |tar, dir| oci::symlink(tar, "sys", dir)),
    ("run-link", |tar, dir| oci::symlink(tar, "run", dir)),
    ("run-file", |tar, _| oci::file(tar, "run", 0o644, b"")),
    ("agent-link", |tar, _| {
        oci::dir(tar, "run/cordium/bin", 0o755)?;
        oci::symlink(tar, "run/cordium/bin/cordium-agent", "/proc/self/exe")
    }),
    ("workspace-link", |tar, dir| oci::symlink(tar, "workspace", dir)),
    ("workspace-file", |tar, _| oci::file(tar, "workspace", 0o644, b"")),
    ("containers-link", |tar, dir| {
        oci::symlink(tar, "var/lib/containers", &format!("{dir}/made"))?;
        oci::symlink(tar, "var/lib/docker", "../../../../../../../../proc/self/fd")
    }),
    ("tmp-and-home-link", |tar, dir| {
        oci::symlink(tar, "tmp", dir)?;
        oci::symlink(tar, "root", dir)?;
        oci::symlink(tar, "home", dir)
    }),
];

fn layout(f: &Fixture, name: &str, dir: &str, fill: Fill) -> Result<String> {
    let layout = Layout::create(&f.dir.join(format!("trap-{name}")))?;
    let program = fs::read("/bin/busybox").context("reading /bin/busybox")?;
    let layer = layout.tar_layer(Compression::Gzip, |tar| {
        oci::file(tar, "busybox", 0o755, &program)?;
        oci::symlink(tar, "bin/sh", "/busybox")?;
        fill(tar, dir)
    })?;
    // What runs by default is a trap as well: the program that executes, in a directory that somebody left open.
    let config = Config {
        entrypoint: vec!["/proc/self/exe".into(), "idle".into()],
        working_dir: "/proc/self/fd/8".into(),
        user: "root".into(),
        ..Config::default()
    };
    layout.image("image", &[layer], &config)?;
    process::sh("chmod", &["-R", "a+rX", &layout.dir().to_string_lossy()])?;
    Ok(format!("oci:{}:image", layout.dir().display()))
}

pub async fn traps(s: Arc<Shared>) -> Result<()> {
    let dir = s.open_dir.display().to_string();
    for (name, fill) in TRAPS {
        let reference = layout(&s.f, name, &dir, fill)?;
        let w = s.f.create(name, &with_image(&reference, json!({}))).await?;
        let end = run_to_a_state(&w).await.with_context(|| format!("the image {name}"))?;
        println!("image {name}: {end}");
        if end == "RUNNING" {
            inside(&s, &w, name).await?;
        }
        w.delete().await?;
        s.unharmed().await.with_context(|| format!("after the image {name}"))?;
    }
    Ok(())
}

/// A sandbox that runs in spite of its traps is as closed as any.
async fn inside(s: &Shared, w: &Workspace, name: &str) -> Result<()> {
    let marker = s.marker();
    let probe = format!(
        "/busybox cat {0} /passwd-link 2>/dev/null; /busybox grep -q ' /proc proc ' /proc/mounts && echo proc-is-there; \
         for node in /nodes/*; do (: < $node) 2>/dev/null && echo opened; done; /busybox head -c 1 /dev/zero | /busybox wc -c",
        marker.display()
    );
    let start = cordium_tests::v1::ExecStart {
        command: vec!["/busybox".into(), "sh".into(), "-c".into(), probe],
        run_as_root: true,
        working_dir: "/".into(),
        ..Default::default()
    };
    let output = w.exec_with(start, None).await?;
    let seen = output.out();
    println!("    inside: {seen:?} {}", output.exit.error);
    ensure!(!seen.contains("untouched"), "{name}: the node's file can be read");
    let opened_foreign = name == "dev-nodes" && seen.contains("opened") && !plain_files(w).await?;
    ensure!(!opened_foreign, "{name}: a device of the image can be opened");
    Ok(())
}

/// Whether the unpacker made something harmless of an image's device nodes.
async fn plain_files(w: &Workspace) -> Result<bool> {
    let script = "for node in /nodes/*; do [ -b $node ] || [ -c $node ] && echo device; done; exit 0";
    Ok(!w.exec(&["/busybox", "sh", "-c", script]).await?.out().contains("device"))
}

/// RUNNING, or the failure of the run.
async fn run_to_a_state(w: &Workspace) -> Result<String> {
    let mut watch = w.watch().await?;
    w.request_start(&[]).await?;
    let mut begun = false;
    let event = watch
        .until(END, |event| {
            let state = watch::state_of(event);
            let over = begun && matches!(state, State::Stopped | State::Running);
            begun |= state != State::Stopped;
            over
        })
        .await?;
    if watch::state_of(&event) == State::Running {
        return Ok("RUNNING".to_owned());
    }
    let failure = watch::failure_of(&event).context("the run has ended without a reason")?;
    // A keeper that dies of a trap could not say so.
    ensure!(!failure.message.contains("closed the connection"), "{}", failure.message);
    Ok(watch::describe(&failure))
}

/// What a tenant can leave on its volume for the next start: it lays bare what is below the mounts, and sets traps there.
const PLANTED: [&str; 4] = [
    "umount -l /dev/shm /dev/mqueue /dev/pts /dev; rm -rf /dev && ln -s DIR /dev",
    "mkdir -p /d && mount -t tmpfs t /d && umount -l /proc && rmdir /proc && ln -s DIR /proc",
    "umount -l /sys/fs/cgroup /sys; rmdir /sys; ln -s DIR /sys; rm -rf /var/lib && ln -s DIR /var/lib",
    "umount -l /run/cordium/bin/cordium-agent /run/cordium; rm -rf /run && ln -s /workspace /run; \
     mkdir -p /workspace/cordium/bin && printf '#!/proc/self/exe\\n' > /workspace/cordium/bin/cordium-agent; \
     chmod 755 /workspace/cordium/bin/cordium-agent; rm -rf /etc && ln -s DIR /etc",
];

pub async fn traps_before_a_restart(s: Arc<Shared>) -> Result<()> {
    let dir = s.open_dir.display().to_string();
    for (number, script) in PLANTED.iter().enumerate() {
        let w = s.f.run(&format!("planter-{number}"), &s.f.small(json!({}))).await?;
        let planted = w.root(&script.replace("DIR", &dir)).await?;
        println!("planting {number}: {} {}", planted.code(), planted.err());
        // A sandbox without its /dev or /etc may not stop in good order; it stops.
        w.stop().await?;
        let upper = s.f.storage_of(&w).join("volume/upper");
        let links = fs::read_dir(&upper)?.flatten().filter(|entry| is_link_to(&entry.path(), &dir)).count();
        ensure!(links > 0 || number == 3, "planting {number} has left no trap in {}", upper.display());
        let end = run_to_a_state(&w).await?;
        println!("    started again: {end}");
        w.delete().await?;
        s.unharmed().await.with_context(|| format!("after planting {number}"))?;
    }
    Ok(())
}

fn is_link_to(path: &Path, target: &str) -> bool {
    let link = |path: &Path| fs::read_link(path).is_ok_and(|link| link == Path::new(target));
    link(path) || link(&path.join("lib"))
}
