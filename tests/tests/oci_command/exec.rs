//! `exec`: another process in a container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use cordium_tests::{Result, ensure, ensure_eq, json};

use crate::ground::{Shared, cgroups_of, failure, ok, text, wait_for};

pub async fn exec_runs_inside_with_what_it_is_given(s: Arc<Shared>) -> Result<()> {
    let c = s.running("exec", |_| {})?;
    ensure_eq!(ok(c.exec(&["cat", "/proc/sys/kernel/hostname"]))?.trim(), "exec");
    let status = ok(c.exec(&["grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|NSpid)", "/proc/self/status"]))?;
    for line in ["CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "NoNewPrivs:\t1"] {
        ensure!(status.contains(line), "{line} is not in {status}");
    }
    let flags = ["exec", "--user", "5:6", "--cwd", "/tmp", "--env", "A=b c", "exec", "sh", "-c"];
    let said = ok(s.oci(&[&flags[..], &["id -u; id -g; pwd; echo $A $PATH"]].concat()))?;
    ensure_eq!(said, "5\n6\n/tmp\nb c /bin\n");
    ensure_eq!(c.exec(&["sh", "-c", "exit 7"])?.status.code(), Some(7));
    ensure_eq!(c.exec(&["sh", "-c", "kill -9 $$"])?.status.code(), Some(137));
    ensure!(failure(c.exec(&["no-such-program"]))?.contains("not found in PATH"), "a program was found");
    // It is in the container's cgroups, where its limits are.
    let inside = ok(c.exec(&["cat", "/proc/self/cgroup"]))?;
    ensure!(inside.contains("/cordium-oci-test/exec"), "it is not in the container's cgroups: {inside}");
    Ok(())
}

pub async fn exec_gives_descriptors_only_when_asked(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("descriptors", |_| {})?;
    let open = "exec 3</etc 9</etc";
    let look = |given: &'static str, number: u8| {
        let link = format!("/proc/self/fd/{number}");
        s.oci_after(open, &["exec", "--preserve-fds", given, "descriptors", "readlink", &link])
    };
    ensure_eq!(ok(look("1", 3))?.trim(), "/etc");
    for (given, number) in [("0", 3), ("0", 9), ("1", 9)] {
        ensure_eq!(look(given, number)?.status.code(), Some(1));
    }
    for number in ["-3", "2147483647"] {
        let flag = format!("--preserve-fds={number}");
        ensure!(failure(s.oci(&["exec", &flag, "descriptors", "true"]))?.contains("descriptors"), "{number}");
        let bundle = s.bundle("descriptors-none", |_| {})?;
        let made = s.oci(&["create", &flag, "-b", text(&bundle)?, "descriptors-none"]);
        ensure!(failure(made)?.contains("descriptors"), "{number}");
    }
    Ok(())
}

/// As in CVE-2024-21626.
pub async fn exec_stays_in_the_root(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("cwd", |_| {})?;
    let outside = ["exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", "cwd", "cat", "passwd"];
    let said = failure(s.oci_after("exec 3</etc", &outside))?;
    ensure!(said.contains("outside the container's root"), "{said}");
    let bundle = s.bundle("cwd-init", |spec| spec["process"]["cwd"] = json!("/proc/self/fd/3"))?;
    let create = ["create", "--preserve-fds", "1", "-b", text(&bundle)?, "cwd-init"];
    failure(s.oci_after("exec 3</etc", &create))?;
    ensure!(failure(s.oci(&["state", "cwd-init"]))?.contains("does not exist"), "it is still there");
    Ok(())
}

pub async fn exec_enters_every_cgroup_or_does_not_run(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("cgroups", |_| {})?;
    let pid_file = s.dir.join("cgroups.pid");
    ok(s.oci(&["exec", "--detach", "--pid-file", text(&pid_file)?, "cgroups", "sleep", "1000"]))?;
    let cgroups = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let init = s.state("cgroups")?["pid"].to_string();
    ensure_eq!(cgroups(&fs::read_to_string(&pid_file)?)?, cgroups(&init)?);
    for dir in cgroups_of("cgroups") {
        let mount = dir.ancestors().nth(2).context("a cgroup has no hierarchy")?;
        let hide = format!(
            "exec unshare --mount sh -c 'mount -t tmpfs hides {} && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
            mount.display()
        );
        let said = failure(s.oci_after(&hide, &["exec", "cgroups", "true"]))?;
        ensure!(said.contains(&format!("entering {}", dir.display())), "{}: {said}", dir.display());
    }
    Ok(())
}

/// As in CVE-2025-52881: what lies at `/proc` in the container is the container's.
pub async fn exec_writes_nothing_through_the_containers_proc(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("proc")?;
    let _c = s.running("proc", |spec| {
        spec["root"]["path"] = json!(rootfs);
        spec["mounts"].as_array_mut().map(|mounts| mounts.remove(0));
    })?;
    let trap = rootfs.join("proc/self/oom_score_adj");
    fs::create_dir_all(rootfs.join("proc/self"))?;
    fs::write(&trap, "untouched")?;
    let process = s.process_file("proc", &json!({"args": ["sleep", "1000"], "oomScoreAdj": 321}))?;
    let pid_file = s.dir.join("proc.pid");
    let exec = ["exec", "--detach", "--pid-file", text(&pid_file)?, "--process", text(&process)?, "proc"];
    ok(s.oci(&exec))?;
    ensure_eq!(fs::read_to_string(&trap)?, "untouched");
    let pid = fs::read_to_string(&pid_file)?;
    ensure_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim(), "321");
    Ok(())
}

pub async fn exec_refuses_what_it_cannot_do(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("refuses", |_| {})?;
    let cases = [
        ("selinuxLabel", json!("system_u:system_r:container_t:s0")),
        ("apparmorProfile", json!("there-is-no-such-profile")),
        ("scheduler", json!({"policy": "SCHED_BATCH"})),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})),
        ("execCPUAffinity", json!({"initial": "0"})),
    ];
    for (key, value) in cases {
        let process = s.process_file("refuses", &json!({"args": ["true"], key: value}))?;
        let said = failure(s.oci(&["exec", "--process", text(&process)?, "refuses"]))?;
        ensure!(said.contains(key), "{key}: {said}");
    }
    Ok(())
}

pub async fn a_home_is_looked_up_without_waiting(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("home")?;
    let passwd = rootfs.join("etc/passwd");
    let users = rootfs.join("etc/users");
    fs::write(&users, "root:x:0:0::/home/root:/bin/sh\nfive:x:5:5::/srv:/bin/sh\n")?;
    let cases = [
        ("home-pipe", None, "HOME=/", "HOME=/"),
        ("home-endless", Some("/dev/zero"), "HOME=/", "HOME=/"),
        ("home-linked", Some("/etc/users"), "HOME=/home/root", "HOME=/srv"),
    ];
    for (name, link, of_init, of_five) in cases {
        match link {
            Some(target) => symlink(target, &passwd)?,
            None => drop(cordium_tests::process::sh("mkfifo", &[text(&passwd)?])?),
        }
        let c = s.running(name, |spec| spec["root"]["path"] = json!(rootfs))?;
        let has = |env: &str, home: &str| env.split(['\n', '\0']).any(|line| line == home);
        let environ = PathBuf::from(format!("/proc/{}/environ", s.state(name)?["pid"]));
        wait_for("its start", || Ok(fs::read_to_string(&environ)?.contains("PATH=/bin"))).await?;
        let env = fs::read_to_string(&environ)?;
        ensure!(has(&env, of_init), "{name}: {of_init} is not in {env:?}");
        let env = ok(s.oci(&["exec", "--user", "5:5", name, "env"]))?;
        ensure!(has(&env, of_five), "{name}: {of_five} is not in {env:?}");
        drop(c);
        fs::remove_file(&passwd)?;
    }
    Ok(())
}
