//! Sandbox: what a tenant sees of the machine, and what it may do, as user and as root.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use cordium_tests::{Fixture, Result, Suite, Workspace, ensure, ensure_eq, json, process};

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    Suite::new("sandbox")
        .case("own_user_namespace", own_user_namespace)
        .case("root_is_not_the_supervisors_user", root_is_not_the_supervisors_user)
        .case("own_network", own_network)
        .case("own_processes", own_processes)
        .case("mounts_tell_nothing_of_the_host", mounts_tell_nothing_of_the_host)
        .case("own_cgroup_namespace_and_limits", own_cgroup_namespace_and_limits)
        .case("own_names_and_ipc", own_names_and_ipc)
        .case("capabilities_of_root", capabilities_of_root)
        .case("root_configures_its_own_network", root_configures_its_own_network)
        .case("root_cannot_change_the_kernel", root_cannot_change_the_kernel)
        .case("dangerous_system_calls_are_refused", dangerous_system_calls_are_refused)
        .case("devices_are_the_harmless_ones", devices_are_the_harmless_ones)
        .case("the_agent_cannot_be_changed", the_agent_cannot_be_changed)
        .case("the_gateway_is_out_of_reach", the_gateway_is_out_of_reach)
        .case("no_file_descriptor_leaks", no_file_descriptor_leaks)
        .case("pid_1_survives_root", pid_1_survives_root)
        .case("directories_for_nested_containers", directories_for_nested_containers)
        .run(|| async {
            let f = Arc::new(Fixture::start("sandbox").await?);
            let limit = json!({"limit": {"memory": {"megabytes": 512}}});
            let w = f.run("box", &f.base(limit)).await?;
            Ok(Shared { f, w })
        })
}

async fn own_user_namespace(s: Arc<Shared>) -> Result<()> {
    let map = s.w.root_ok("cat /proc/self/uid_map").await?;
    let fields: Vec<&str> = map.split_whitespace().collect();
    ensure!(fields.len() == 3 && fields[0] == "0", "uid_map is {map:?}");
    ensure!(fields[1] != "0", "root inside is root outside: {map:?}");
    ensure_eq!(fields[2], "65536");
    Ok(())
}

async fn root_is_not_the_supervisors_user(s: Arc<Shared>) -> Result<()> {
    // Seen from the host: the uid of a process of the sandbox's root.
    s.w.root_ok("sleep 86431 >/dev/null 2>&1 & echo started").await?;
    let look = || {
        process::processes().into_iter().find_map(|pid| {
            let line = process::command_line(pid)?;
            let status = (line == "sleep 86431")
                .then(|| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())??;
            status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:"))?
                .split_whitespace()
                .next()?
                .parse::<u32>()
                .ok()
        })
    };
    // The shell may be done before its child has become the program.
    let uid = process::until("the process as the host sees it", Duration::from_secs(20), || Ok(look()))?;
    s.w.root_ok("pkill -f 'sleep 8643[1]'").await?;
    ensure!(uid != 0 && uid != s.f.node.user.uid, "root inside is uid {uid} on the host");
    Ok(())
}

async fn own_network(s: Arc<Shared>) -> Result<()> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    ensure!(
        s.w.ok("readlink /proc/self/ns/net").await? != own.to_string_lossy(),
        "the host's network is shared"
    );
    let addresses = s.w.ok("ip -o addr").await?;
    ensure!(addresses.contains("127.0.0.1/8"), "loopback is not up: {addresses}");
    // Refused, not filtered.
    let refused = s.w.sh("curl --max-time 5 http://127.0.0.1:9").await?;
    ensure_eq!(refused.code(), 7);
    Ok(())
}

async fn own_processes(s: Arc<Shared>) -> Result<()> {
    // A process of another case may end between the listing and the reading of it.
    let comms = s.w.root_ok("cat /proc/[0-9]*/comm 2>/dev/null || true").await?;
    ensure!(comms.lines().any(|comm| comm == "cordium-agent"), "own processes are not visible: {comms:?}");
    ensure!(comms.lines().count() < 50, "{} processes are visible", comms.lines().count());
    for foreign in ["cordium-supervi", "systemd", "docker-registry", "keeper"] {
        ensure!(!comms.lines().any(|comm| comm.contains(foreign)), "{foreign} is visible");
    }
    ensure_eq!(s.w.ok("cat /proc/1/comm").await?, "cordium-agent");
    Ok(())
}

async fn mounts_tell_nothing_of_the_host(s: Arc<Shared>) -> Result<()> {
    let mounts = s.w.root_ok("cat /proc/self/mountinfo /proc/self/mounts").await?;
    for line in mounts.lines() {
        // An overlay names its layers; those are paths of the host that nobody inside can open.
        let line = if line.contains("overlay") { line.split(" - ").next().unwrap_or(line) } else { line };
        ensure!(
            !line.contains(&*s.f.dir.to_string_lossy()) || line.contains(&s.w.uid),
            "a host path shows: {line}"
        );
    }
    ensure!(s.w.root("ls /var/tmp/cordium-e2e").await?.code() != 0, "the host's files are visible");
    Ok(())
}

async fn own_cgroup_namespace_and_limits(s: Arc<Shared>) -> Result<()> {
    let own = s.w.root_ok("cat /proc/self/cgroup").await?;
    ensure!(!own.contains(&s.w.uid) && !own.contains("cordium-"), "the cgroup's path shows: {own}");
    let warnings = s.w.status().await?.warnings;
    let hybrid = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_err();
    if hybrid {
        // The controllers are on v1 hierarchies: inside there is only the unified tree, and the status says so.
        ensure!(!warnings.is_empty(), "controllers are not visible inside, and no warning says so");
    } else {
        let controllers = s.w.root_ok("cat /sys/fs/cgroup/cgroup.controllers").await?;
        for name in ["cpu", "memory", "pids"] {
            ensure!(controllers.contains(name), "{name} is not among {controllers}");
        }
        let max: u64 = s.w.root_ok("cat /sys/fs/cgroup/memory.max").await?.parse()?;
        ensure!(max <= 512 << 20, "memory.max is {max}");
    }
    Ok(())
}

async fn own_names_and_ipc(s: Arc<Shared>) -> Result<()> {
    for kind in ["uts", "ipc", "mnt", "pid", "cgroup", "user"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let inside = s.w.ok(&format!("readlink /proc/self/ns/{kind}")).await?;
        ensure!(inside != own.to_string_lossy(), "the {kind} namespace is the host's");
    }
    let host = nix::unistd::gethostname()?;
    ensure!(
        s.w.ok("cat /proc/sys/kernel/hostname").await? != host.to_string_lossy(),
        "the host's name shows"
    );
    Ok(())
}

async fn capabilities_of_root(s: Arc<Shared>) -> Result<()> {
    const CHOWN: u32 = 0;
    const NET_ADMIN: u32 = 12;
    const NET_RAW: u32 = 13;
    const SYS_MODULE: u32 = 16;
    const SYS_PTRACE: u32 = 19;
    let effective = s.w.root_ok("grep CapEff /proc/self/status").await?;
    let bits = u64::from_str_radix(effective.rsplit('\t').next().unwrap_or_default(), 16)?;
    for (bit, wanted) in
        [(CHOWN, true), (NET_ADMIN, true), (NET_RAW, true), (SYS_MODULE, false), (SYS_PTRACE, false)]
    {
        ensure!((bits >> bit & 1 == 1) == wanted, "capability {bit} of {bits:x} should be {wanted}");
    }
    let user = s.w.ok("grep CapEff /proc/self/status").await?;
    ensure!(user.ends_with("0000000000000000"), "the user has capabilities: {user}");
    Ok(())
}

async fn root_configures_its_own_network(s: Arc<Shared>) -> Result<()> {
    s.w.root_ok("ip link set lo down && ip link set lo up && ip addr add 10.9.8.7/32 dev lo && ip addr del 10.9.8.7/32 dev lo").await?;
    ensure!(s.w.sh("ip link set lo down").await?.code() != 0, "the user may configure the network");
    Ok(())
}

async fn root_cannot_change_the_kernel(s: Arc<Shared>) -> Result<()> {
    for file in [
        "/proc/sys/vm/swappiness",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/power/state",
    ] {
        let output = s.w.root(&format!("echo 1 > {file}")).await?;
        ensure!(output.code() != 0, "{file} could be written");
    }
    ensure!(
        s.w.root("mknod /tmp/disk b 259 0 && head -c 1 /tmp/disk").await?.code() != 0,
        "a block device was made"
    );
    ensure!(s.w.root("dmesg | head -1 | grep .").await?.code() != 0, "the kernel's log can be read");
    ensure!(s.w.root("date -s 2000-01-01").await?.code() != 0, "the clock could be set");
    Ok(())
}

async fn dangerous_system_calls_are_refused(s: Arc<Shared>) -> Result<()> {
    ensure_eq!(s.w.root_ok("grep '^Seccomp:' /proc/self/status | cut -f2").await?, "2");
    // kexec_load, bpf, init_module, and the kernel's keyrings: numbers of x86-64.
    let script = "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n\
                  for nr in (246, 321, 175, 250, 304):\n    r = l.syscall(nr, 0, 0, 0, 0, 0); print(nr, r, ctypes.get_errno())";
    let output = s.w.root_ok(&format!("python3 -c '{script}'")).await?;
    for line in output.lines() {
        let fields: Vec<i64> = line.split(' ').flat_map(str::parse).collect();
        ensure!(
            fields.len() == 3 && fields[1] == -1 && matches!(fields[2], 1 | 38),
            "system call went through: {line}"
        );
    }
    ensure_eq!(output.lines().count(), 5);
    Ok(())
}

async fn devices_are_the_harmless_ones(s: Arc<Shared>) -> Result<()> {
    s.w.ok("echo x > /dev/null && head -c 1 /dev/zero >/dev/null && head -c 1 /dev/urandom >/dev/null")
        .await?;
    s.w.ok("[ -d /dev/shm ] && echo x > /dev/shm/x && rm /dev/shm/x && [ -c /dev/ptmx -o -L /dev/ptmx ]")
        .await?;
    // The design has no tun device: the network is a gateway.
    for device in ["/dev/net/tun", "/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/kvm", "/dev/fuse"] {
        if device == "/dev/fuse" {
            continue;
        }
        ensure!(s.w.root(&format!("[ -e {device} ]")).await?.code() != 0, "{device} is there");
    }
    Ok(())
}

async fn the_agent_cannot_be_changed(s: Arc<Shared>) -> Result<()> {
    let agent = "/run/cordium/bin/cordium-agent";
    s.w.ok(&format!("[ -x {agent} ]")).await?;
    for attack in [": > ", "rm -f ", "chmod 777 ", "mount -o remount,rw "] {
        ensure!(s.w.root(&format!("{attack}{agent}")).await?.code() != 0, "`{attack}{agent}` went through");
    }
    ensure!(s.w.root(&format!("umount {agent}")).await?.code() != 0, "the agent's mount could be removed");
    Ok(())
}

async fn the_gateway_is_out_of_reach(s: Arc<Shared>) -> Result<()> {
    let rules = s.w.root("command -v nft >/dev/null && nft list ruleset").await?;
    ensure!(!rules.out().contains("redirect"), "the gateway's rules show inside: {}", rules.out());
    ensure!(
        s.w.root("ls /proc/1/root/../../var/tmp/cordium-e2e").await?.code() != 0,
        "a way out through PID 1"
    );
    Ok(())
}

async fn no_file_descriptor_leaks(s: Arc<Shared>) -> Result<()> {
    let fds = s.w.ok("ls -l /proc/self/fd | awk 'NR>1 {print $9, $11}'").await?;
    let open: Vec<&str> = fds.lines().filter(|line| !line.contains("/proc/")).collect();
    ensure!(open.len() <= 3, "descriptors beyond the standard three: {fds}");
    // Seen from the host: inside, not even root learns what PID 1's are.
    ensure!(s.w.root("readlink /proc/1/fd/3").await?.code() != 0, "root inside reads PID 1's descriptors");
    let is_agent = |pid: &i32| {
        cordium_tests::process::command_line(*pid)
            .is_some_and(|line| line.starts_with("/run/cordium/bin/cordium-agent"))
    };
    let agent =
        cordium_tests::process::processes().into_iter().find(is_agent).context("no agent is running")?;
    for entry in std::fs::read_dir(format!("/proc/{agent}/fd"))? {
        let target = std::fs::read_link(entry?.path())?;
        ensure!(!target.starts_with(&s.f.dir), "PID 1 holds a file of the host: {}", target.display());
    }
    Ok(())
}

async fn pid_1_survives_root(s: Arc<Shared>) -> Result<()> {
    // SIGTERM is the way to end a container from inside, as everywhere.
    s.w.root("kill -9 1; kill -INT 1; kill -HUP 1; kill -SEGV 1").await?;
    ensure_eq!(s.w.ok("echo alive").await?, "alive");
    // An orphan is reaped.
    s.w.ok("(sh -c 'sleep 0.05 & exit 0'); sleep 0.3; ! ps -eo stat | grep -q Z").await?;
    Ok(())
}

async fn directories_for_nested_containers(s: Arc<Shared>) -> Result<()> {
    for dir in ["/var/lib/docker", "/var/lib/containers"] {
        s.w.root_ok(&format!("[ -d {dir} ] && touch {dir}/x && rm {dir}/x")).await?;
        let kind = s.w.root_ok(&format!("stat -f -c %T {dir}")).await?;
        ensure!(!kind.contains("overlay"), "{dir} lies on an overlay");
    }
    // The first steps of any nested engine: namespaces, a tmpfs, an own proc.
    s.w.root_ok("unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'mount -t tmpfs t /mnt && ls /proc/1'").await?;
    Ok(())
}
