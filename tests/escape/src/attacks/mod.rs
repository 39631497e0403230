//! The attacks, as a table. `SECURITY.md` has a row for each.

mod agent;
mod cgroups;
mod descriptors;
mod devices;
mod kernel;
mod mounts;
mod namespaces;
mod netlink;
mod network;
mod overlay;
mod processes;
mod settings;
mod terminal;

use crate::Probe;

pub use descriptors::listen_abstract;
pub use processes::confinement;

/// One attack.
pub struct Case {
    pub name: &'static str,
    /// What is tried.
    pub attack: &'static str,
    pub run: fn(&mut Probe),
    /// It works for root of the machine, outside every sandbox, and harms nothing there: the driver runs it so, to show
    /// that the case can fail.
    pub works_for_host_root: bool,
}

const fn case(name: &'static str, attack: &'static str, run: fn(&mut Probe)) -> Case {
    Case { name, attack, run, works_for_host_root: false }
}

/// As `case`; see `works_for_host_root`.
const fn control(name: &'static str, attack: &'static str, run: fn(&mut Probe)) -> Case {
    Case { name, attack, run, works_for_host_root: true }
}

pub const CASES: &[Case] = &[
    case(
        "agent_through_proc_exe",
        "write to the agent's binary through `/proc/PID/exe` (CVE-2019-5736)",
        agent::binary_through_proc_exe,
    ),
    case("agent_binary", "replace, write or hide the agent's binary", agent::binary),
    case("agent_memory", "ptrace PID 1, write `/proc/1/mem`, take its descriptors", agent::memory),
    case("agent_signals", "kill PID 1 with every signal but its own SIGTERM", agent::signals),
    control(
        "node_sockets",
        "connect to the supervisor's, keeper's, agent's or broker's socket",
        agent::sockets,
    ),
    control(
        "inherited_descriptors",
        "inherited descriptors and working directory (CVE-2024-21626)",
        descriptors::inherited,
    ),
    control(
        "abstract_sockets",
        "connect to abstract sockets of node and neighbour",
        descriptors::abstract_sockets,
    ),
    case("proc_covered", "mount over `/proc`, and a fresh procfs beside it", mounts::over_proc),
    case("locked_mounts", "make read-only mounts writable, unmount the root", mounts::locked),
    case(
        "out_of_the_root",
        "`chroot` and `fchdir`, `pivot_root`, `open_tree`, `move_mount`",
        mounts::out_of_the_root,
    ),
    control("host_file_systems", "mount file systems that belong to the machine", mounts::host_file_systems),
    case("idmapped_mounts", "map host ids with an idmapped mount of the volume", mounts::idmapped),
    case("overlay_attributes", "redirect and metacopy attributes on the upper layer", overlay::attributes),
    control("core_pattern", "have the kernel run a program at a crash", settings::core_pattern),
    control(
        "uevent_helper",
        "have the kernel run a program at a uevent, or load a module",
        settings::helpers,
    ),
    control("sysrq", "`/proc/sysrq-trigger`", settings::sysrq),
    case("kernel_settings", "write every file below `/proc/sys`", settings::all_of_proc_sys),
    case("sysfs", "mount sysfs writable and write every file in it", settings::all_of_sysfs),
    case("binfmt_misc", "register an interpreter for the machine's programs", settings::binfmt_misc),
    case("cgroups", "`release_agent`, own limits, another's cgroup", cgroups::escape),
    control("device_nodes", "make and open nodes of disks and memory", devices::nodes),
    control("kernel_memory", "read the kernel's memory, log and symbols", devices::kernel_memory),
    control("file_handles", "`open_by_handle_at` on files of the node", kernel::file_handles),
    control("keyrings", "read and add keys", kernel::keyrings),
    control("kernel_surface", "bpf, perf, io_uring, userfaultfd, fanotify", kernel::surface),
    control("kernel_control", "modules, kexec, reboot, swap, accounting, clocks", kernel::control),
    case("foreign_abis", "system calls by the 32-bit and x32 entries", kernel::foreign_abis),
    control(
        "other_workspaces",
        "signal and trace processes of node and neighbour",
        processes::across_workspaces,
    ),
    control("keeper_in_proc", "find the keeper in `/proc`", processes::keeper_in_proc),
    case(
        "confinement_is_inherited",
        "shed seccomp or bounds by exec, memfd, nesting or ptrace",
        processes::inherited,
    ),
    case("namespaces_outward", "`setns` and ioctls towards outer namespaces", namespaces::outward),
    case("netlink", "netlink across namespaces, the gateway's rules and routes", netlink::across_namespaces),
    control(
        "node_addresses",
        "reach the node by any of its addresses, over TCP and UDP",
        network::node_addresses,
    ),
    case("metadata_address", "reach the cloud's metadata service", network::metadata),
    case("spoofed_addresses", "send with another source address", network::spoofed),
    case("raw_packets", "raw and packet sockets towards node and neighbour, forged ARP", network::raw),
    case("ipv6", "leave by IPv6", network::ipv6),
    case("dns_elsewhere", "ask a name server of one's own choice", network::dns_elsewhere),
    case("socket_families", "vsock and other families that no namespace confines", network::families),
    case("terminal_input", "TIOCSTI and TIOCLINUX on terminals", terminal::input),
];

pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_security_md_has_a_row_for_each() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../SECURITY.md");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for case in CASES {
            assert_eq!(CASES.iter().filter(|other| other.name == case.name).count(), 1, "{}", case.name);
            assert!(
                text.contains(&format!("| `{}` |", case.name)),
                "SECURITY.md has no row for {}",
                case.name
            );
        }
    }
}
