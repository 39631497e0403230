//! The sandbox's seccomp filters, compiled by `build.rs` from the profile in `profiles/`.
//!
//! What is not listed answers ENOSYS, as if the kernel did not have it, so that programs fall back. Left out are the
//! calls that reach beyond namespaces (modules, kexec, clocks, swap, quotas, keyrings, the kernel's log,
//! `open_by_handle_at`) and the largest attack surfaces (bpf, perf, io_uring, userfaultfd). The reasons are in the profile
//! and in docs/decisions/0030-seccomp.md. Nested engines load further filters on top.

use seccompiler::{BpfProgram, sock_filter};

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// All of them are to be loaded; the strictest answer counts.
pub fn filters() -> Vec<BpfProgram> {
    FILTERS.iter().map(|filter| filter.to_vec()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

    use super::*;

    fn profile(text: &str) -> LinuxSeccomp {
        serde_json::from_str(text).unwrap()
    }

    fn allowed() -> Vec<String> {
        let profile = profile(include_str!("../../profiles/sandbox.json"));
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        profile.syscalls().clone().unwrap().iter().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn the_profile_is_compiled_into_this_program() {
        let lengths: Vec<_> = filters().iter().map(Vec::len).collect();
        assert!(matches!(lengths[..], [8..100, 8..100, 300..4096]), "{lengths:?}");
    }

    #[test]
    fn what_reaches_beyond_namespaces_is_not_in_the_profile() {
        let allowed: BTreeSet<_> = allowed().into_iter().collect();
        let denied = "acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module \
            init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load kexec_load \
            keyctl lookup_dcookie modify_ldt nfsservctl open_by_handle_at perf_event_open quotactl quotactl_fd \
            request_key settimeofday swapoff swapon sysfs syslog uselib userfaultfd ustat vhangup";
        for name in denied.split_whitespace() {
            assert!(!allowed.contains(name), "{name}");
        }
        for name in ["mount", "unshare", "clone3", "openat2", "ptrace", "fsopen", "execve", "reboot"] {
            assert!(allowed.contains(name), "{name}");
        }
    }

    #[test]
    fn each_call_is_listed_once_and_each_group_says_why() {
        let names = allowed();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let text: serde_json::Value =
            serde_json::from_str(include_str!("../../profiles/sandbox.json")).unwrap();
        for rule in text["syscalls"].as_array().unwrap() {
            assert!(rule["comment"].as_str().is_some_and(|why| why.len() > 4), "{rule}");
        }
    }
}
