//! Confinement: what the seccomp profile and the user namespace keep from root of a sandbox, one decision a case
//! (docs/decisions/0030-seccomp.md). Each names the defence.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{Fixture, Result, Suite, Workspace, ensure, ensure_eq, json};

struct Shared {
    f: Arc<Fixture>,
    w: Workspace,
    /// Its root has every capability that a workspace can ask for.
    powerful: Workspace,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

fn main() -> ExitCode {
    if !cfg!(target_arch = "x86_64") {
        println!(
            "\ntest result: ok. 0 passed; 0 failed; 1 ignored; (the cases know the call numbers of x86-64)"
        );
        return ExitCode::SUCCESS;
    }
    Suite::new("confinement")
        .case("keyrings", |s| refused(s, &[("add_key", 248), ("request_key", 249), ("keyctl", 250)]))
        .case("the_kernels_log", |s| refused(s, &[("syslog", 103)]))
        .case("perf", |s| refused(s, &[("perf_event_open", 298)]))
        .case("bpf", |s| refused(s, &[("bpf", 321)]))
        .case("kexec", |s| refused(s, &[("kexec_load", 246), ("kexec_file_load", 320)]))
        .case("modules", |s| {
            refused(s, &[("init_module", 175), ("delete_module", 176), ("finit_module", 313)])
        })
        .case("io_uring", |s| {
            refused(s, &[("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427)])
        })
        .case("userfaultfd", |s| refused(s, &[("userfaultfd", 323)]))
        .case("file_handles", |s| refused(s, &[("open_by_handle_at", 304)]))
        .case("clocks", |s| {
            refused(s, &[("settimeofday", 164), ("clock_settime", 227), ("clock_adjtime", 305)])
        })
        .case("swap_and_quotas_and_accounting", |s| {
            refused(
                s,
                &[("swapon", 167), ("swapoff", 168), ("quotactl", 179), ("quotactl_fd", 443), ("acct", 163)],
            )
        })
        .case("ports_and_segments", |s| refused(s, &[("iopl", 172), ("ioperm", 173), ("modify_ldt", 154)]))
        .case("fanotify", |s| refused(s, &[("fanotify_init", 300), ("fanotify_mark", 301)]))
        .case("calls_of_the_x32_interface", |s| refused(s, &[("x32 getpid", 0x4000_0000 + 39)]))
        .case("calls_of_the_32_bit_interface", calls_of_the_32_bit_interface)
        .case("reboot_needs_what_nobody_has", reboot_needs_what_nobody_has)
        .case("socket_families", socket_families)
        .case("words_in_a_terminals_mouth", words_in_a_terminals_mouth)
        .case("files_of_the_kernel", files_of_the_kernel)
        .case("a_nested_proc_can_be_mounted", a_nested_proc_can_be_mounted)
        .case("adding_capabilities_adds_no_calls", adding_capabilities_adds_no_calls)
        .run(set_up)
}

async fn set_up() -> Result<Shared> {
    let f = Arc::new(Fixture::start("confinement").await?);
    let w = f.run("plain", &f.base(json!({}))).await?;
    let add = ["SYS_PTRACE", "SYS_MODULE", "SYS_BOOT", "SYSLOG", "BPF", "PERFMON", "SYS_TIME", "SYS_RAWIO"];
    let powerful = f.run("power", &f.base(json!({"runtime": {"capabilities": {"add": add}}}))).await?;
    Ok(Shared { f, w, powerful })
}

/// The error numbers of calls without sensible arguments, as a Python program prints them.
async fn errors(w: &Workspace, calls: &[(&str, u32)]) -> Result<Vec<i32>> {
    let numbers: Vec<String> = calls.iter().map(|(_, number)| number.to_string()).collect();
    let script = format!(
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nfor n in ({},):\n    r = l.syscall(n, -1, 0, 0, 0, 0, 0); print(ctypes.get_errno() if r == -1 else 0)",
        numbers.join(", ")
    );
    let out = w.root_ok(&format!("python3 -c '{script}'")).await?;
    Ok(out.lines().filter_map(|line| line.parse().ok()).collect())
}

/// By the profile: as if the kernel did not have them.
async fn refused(s: Arc<Shared>, calls: &'static [(&'static str, u32)]) -> Result<()> {
    let found = errors(&s.w, calls).await?;
    ensure_eq!(found.len(), calls.len());
    for ((name, _), errno) in calls.iter().zip(found) {
        ensure!(errno == libc_enosys(), "{name} answered {errno}, not ENOSYS");
    }
    Ok(())
}

const fn libc_enosys() -> i32 {
    nix::errno::Errno::ENOSYS as i32
}

async fn adding_capabilities_adds_no_calls(s: Arc<Shared>) -> Result<()> {
    let calls =
        [("init_module", 175), ("kexec_load", 246), ("bpf", 321), ("perf_event_open", 298), ("syslog", 103)];
    ensure_eq!(errors(&s.powerful, &calls).await?, [libc_enosys(); 5]);
    Ok(())
}

/// `int 0x80`: by the profile's architecture check the process is killed, unless the kernel has no such interface.
async fn calls_of_the_32_bit_interface(s: Arc<Shared>) -> Result<()> {
    let script = "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes((0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3)))\n\
                  a = ctypes.addressof(ctypes.c_char.from_buffer(m)); print(ctypes.CFUNCTYPE(ctypes.c_int)(a)())";
    let output = s.w.root(&format!("python3 -c '{script}'")).await?;
    ensure!(matches!(output.code(), 159 | 139), "it answered {}: {}", output.code(), output.out());
    Ok(())
}

/// Allowed by the profile for a system init, so that the capability decides; with it a pid namespace is ended.
async fn reboot_needs_what_nobody_has(s: Arc<Shared>) -> Result<()> {
    let script = "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n\
                  for c in (0x4321fedc, 0x01234567, 0xcdef0123, 0x45584543, 0xd000fce2):\n    l.syscall(169, 0xfee1dead, 672274793, c, 0); print(ctypes.get_errno())";
    let out = s.w.root_ok(&format!("python3 -c '{script}'")).await?;
    ensure_eq!(out, ["1"; 5].join("\n"));
    ensure_eq!(s.w.ok("echo alive").await?, "alive");
    Ok(())
}

/// AF_VSOCK, AF_ALG, AF_BLUETOOTH, AF_CAN, AF_KEY, AF_TIPC, AF_XDP; then those that there are.
async fn socket_families(s: Arc<Shared>) -> Result<()> {
    let script = "import socket, errno\nfor f in (40, 38, 31, 29, 15, 30, 44, 1, 2, 10, 16, 17):\n    for k in (1, 2, 3):\n        try: socket.socket(f, k, 0); r = \"open\"; break\n        except OSError as e: r = errno.errorcode[e.errno]\n    print(f, r)";
    let out = s.w.root_ok(&format!("python3 -c '{script}'")).await?;
    for line in out.lines() {
        let (family, result) = line.split_once(' ').unwrap_or_default();
        let wanted = if ["1", "2", "10", "16", "17"].contains(&family) { "open" } else { "EAFNOSUPPORT" };
        ensure!(result == wanted, "family {family}: {result}, not {wanted}");
    }
    ensure_eq!(out.lines().count(), 12);
    Ok(())
}

async fn words_in_a_terminals_mouth(s: Arc<Shared>) -> Result<()> {
    let script = "import fcntl, os, pty, errno\npid, fd = pty.fork()\nif pid == 0:\n    for request in (0x5412, 0x541C):\n        try: fcntl.ioctl(0, request, b\"x\"); print(\"done\", flush=True)\n        except OSError as e: print(errno.errorcode[e.errno], flush=True)\n    os._exit(0)\nout = b\"\"\ntry:\n    while True: out += os.read(fd, 100)\nexcept OSError: pass\nprint(out.decode().split())";
    for w in [&s.w, &s.powerful] {
        ensure_eq!(w.root_ok(&format!("python3 -c '{script}'")).await?, "['EPERM', 'EPERM']");
    }
    Ok(())
}

/// Nothing is masked, so that a nested /proc can be mounted: the files belong to nobody that the sandbox knows.
async fn files_of_the_kernel(s: Arc<Shared>) -> Result<()> {
    for w in [&s.w, &s.powerful] {
        for file in [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/sysrq",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/fs/binfmt_misc/register",
            "/proc/irq/default_smp_affinity",
            "/proc/mtrr",
            "/sys/kernel/uevent_helper",
            "/sys/power/state",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        ] {
            let before = w.root(&format!("cat {file}")).await?.out();
            ensure!(w.root(&format!("echo 1 > {file}")).await?.code() != 0, "{file} could be written");
            ensure_eq!(w.root(&format!("cat {file}")).await?.out(), before);
        }
        for file in [
            "/proc/kcore",
            "/proc/kmsg",
            "/proc/vmallocinfo",
            "/proc/kpagecount",
            "/sys/firmware/dmi/tables/DMI",
            "/dev/mem",
            "/dev/kmsg",
        ] {
            let read = w.root(&format!("head -c 1 {file} | wc -c")).await?;
            ensure!(read.out() == "0", "{file} could be read: {}", read.out());
        }
        let addresses = w
            .root_ok("[ -r /proc/kallsyms ] && cut -d' ' -f1 /proc/kallsyms | sort -u | head -2 || true")
            .await?;
        ensure!(
            addresses.is_empty() || addresses == "0000000000000000",
            "the kernel's addresses show: {addresses}"
        );
        // Some facts (the map of the machine's memory, its power profile) are everybody's to read; tables are nobody's.
        let firmware = "find /sys/firmware/acpi/tables /sys/firmware/dmi/tables -type f -exec sh -c 'head -c 1 \"$1\" >/dev/null 2>&1 && echo \"$1\"' _ {} \\;";
        ensure_eq!(w.root(firmware).await?.out(), "");
        ensure_eq!(w.root("find /sys/firmware -type f -writable").await?.out(), "");
    }
    Ok(())
}

async fn a_nested_proc_can_be_mounted(s: Arc<Shared>) -> Result<()> {
    for script in [
        "unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'ls /proc | grep -c \"^[0-9]\"'",
    ] {
        for out in [s.w.root_ok(script).await?, s.w.ok(script).await?] {
            ensure!(out.parse::<u32>().is_ok_and(|seen| seen < 6), "{out} processes in a new pid namespace");
        }
    }
    s.w.root_ok(
        "unshare --mount --pid --fork sh -c 'mount -t proc proc /proc && [ \"$(cat /proc/1/comm)\" = sh ]'",
    )
    .await?;
    // A sysfs of one's own network namespace.
    s.w.root_ok(
        "unshare --mount --net sh -c 'mount -t sysfs sysfs /sys && [ \"$(ls /sys/class/net)\" = lo ]'",
    )
    .await?;
    Ok(())
}
