//! System calls that reach beyond every namespace, or that are too large a surface.

use std::os::fd::AsFd;

use nix::{errno::Errno, sched::CloneFlags};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{
    Layer, Probe, places,
    probe::in_child,
    sys::{self, Forbidden},
};

/// Not in the allow-list; or, where the profile lets it through, not for one without rights outside.
const NOT_THERE: [Errno; 2] = [Errno::ENOSYS, Errno::EPERM];

pub fn file_handles(probe: &mut Probe) {
    let tries = |probe: &mut Probe| {
        let handle = match sys::handle_of("/".as_ref()).or_else(|_| sys::handle_of("/workspace".as_ref())) {
            Ok(handle) => handle,
            Err(error) => return probe.broken("asking for a handle", error),
        };
        for mount in ["/", "/workspace", "/proc", "/run/cordium"] {
            let Ok(mount_fd) = openat(CWD, mount, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else {
                continue;
            };
            let opened = sys::open_handle(mount_fd.as_fd(), &handle);
            probe.refused(format!("open a handle on {mount}"), Layer::Seccomp, &NOT_THERE, opened);
        }
    };
    tries(probe);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), tries);
}

fn forbid(probe: &mut Probe, calls: &[Forbidden]) {
    for call in calls {
        probe.refused(format!("{call:?}"), Layer::Seccomp, &NOT_THERE, sys::forbidden(*call));
    }
}

fn here_and_nested(probe: &mut Probe, calls: &'static [Forbidden]) {
    forbid(probe, calls);
    probe.child(
        "nested user namespace",
        || places::nested(CloneFlags::empty()),
        |probe| forbid(probe, calls),
    );
}

pub fn keyrings(probe: &mut Probe) {
    use Forbidden::{AddKey, Keyctl, RequestKey};
    here_and_nested(probe, &[Keyctl, AddKey, RequestKey]);
}

pub fn surface(probe: &mut Probe) {
    use Forbidden::{Bpf, FanotifyInit, IoUringSetup, MovePages, PerfEventOpen, Userfaultfd};
    here_and_nested(probe, &[Bpf, PerfEventOpen, IoUringSetup, Userfaultfd, FanotifyInit, MovePages]);
}

pub fn control(probe: &mut Probe) {
    use Forbidden as F;
    const CALLS: [Forbidden; 14] = [
        F::Syslog,
        F::InitModule,
        F::FinitModule,
        F::DeleteModule,
        F::KexecLoad,
        F::KexecFileLoad,
        F::Reboot,
        F::Swapon,
        F::Swapoff,
        F::Acct,
        F::Quotactl,
        F::ClockSettime,
        F::Settimeofday,
        F::Vhangup,
    ];
    here_and_nested(probe, &CALLS);
}

/// A filter made for one way into the kernel must not leave another open.
pub fn foreign_abis(probe: &mut Probe) {
    #[cfg(target_arch = "x86_64")]
    {
        const GETPID_32: u32 = 20;
        match in_child(|| sys::call_by_int80(GETPID_32).to_le_bytes().to_vec()) {
            Ok((bytes, end)) => {
                let answer = <[u8; 4]>::try_from(bytes.as_slice()).map(i32::from_le_bytes).ok();
                let seen = match answer {
                    // Killed by the filter, or by a kernel that has no such entry.
                    None => Ok(end),
                    Some(answer) if answer < 0 => Ok(format!("{:?}", Errno::from_raw(-answer))),
                    Some(pid) => Err(format!("the kernel answered {pid}")),
                };
                probe.confined("int 0x80", Layer::Seccomp, seen);
            }
            Err(error) => probe.broken("int 0x80", error),
        }
        for number in [libc::SYS_getpid, libc::SYS_keyctl, libc::SYS_bpf] {
            let outcome = in_child(|| {
                let code = match sys::call_by_x32(number) {
                    Ok(_) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(-1),
                };
                code.to_le_bytes().to_vec()
            });
            let result = outcome.and_then(|(bytes, _)| match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(code) if i32::from_le_bytes(code) == 0 => Ok(()),
                Ok(code) => Err(std::io::Error::from_raw_os_error(i32::from_le_bytes(code))),
                // Ended by the filter.
                Err(_) => Err(Errno::ENOSYS.into()),
            });
            probe.refused(format!("call {number} by the x32 entry"), Layer::Seccomp, &NOT_THERE, result);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = in_child;
        probe.unsupported(
            "other entries",
            "this processor has no other entry that a static program could use",
        );
    }
}
