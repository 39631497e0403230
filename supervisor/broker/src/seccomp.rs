//! The broker's system calls: a list of what it may do, an error for the rest.
//!
//! An error and not a kill: a call that a future C library adds must not take every workspace's network with it.

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCmpOp as Op, SeccompFilter, apply_filter};

use crate::system_calls::{argument, compile, plain};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("this machine's architecture is not known to the filter compiler: {0}")]
    Architecture(BackendError),
    #[error("compiling: {0}")]
    Compile(#[from] BackendError),
    #[error("applying: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Allowed whatever their arguments.
const PLAIN: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Its flags lie in memory, out of a filter's sight: it is told to be absent, and the C library uses clone.
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls that newer architectures lack.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_stat, libc::SYS_open, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Loads both filters for this thread and those that it will start.
pub(crate) fn load() -> Result<(), SeccompError> {
    for program in programs()? {
        apply_filter(&program)?;
    }
    Ok(())
}

fn programs() -> Result<[BpfProgram; 2], SeccompError> {
    let mut rules = plain(PLAIN.iter().chain(OLD));
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![argument(0, Op::MaskedEq(thread), thread)?]);
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
    let families = families.iter().map(|family| argument(0, Op::Eq, u64::from(family.unsigned_abs())));
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_ioctl, vec![argument(1, Op::Eq, libc::FIONBIO)?]);
    // Thread names, and names of memory areas.
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA];
    let names = names.iter().map(|option| argument(0, Op::Eq, u64::from(option.unsigned_abs())));
    rules.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);

    let architecture = std::env::consts::ARCH.try_into().map_err(SeccompError::Architecture)?;
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let absent =
        SeccompFilter::new(plain(&[libc::SYS_clone3]), SeccompAction::Allow, no_such_call, architecture)?;
    // The list comes last: it does not allow loading another filter.
    Ok([absent.try_into()?, compile(rules)?])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Loaded in a thread of its own, which is all that it binds.
    #[test]
    fn network_and_threads_work_and_programs_namespaces_and_raw_sockets_do_not() {
        let confined = std::thread::spawn(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            load().unwrap();
            assert!(TcpListener::bind("127.0.0.1:0").is_err(), "no new listeners");
            let address = listener.local_addr().unwrap();
            let client =
                std::thread::spawn(move || TcpStream::connect(address).unwrap().write_all(b"x").unwrap());
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            client.join().unwrap();
            assert!(std::process::Command::new("/bin/true").status().is_err());
            let netns = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            assert_eq!(netns, Err(nix::errno::Errno::EPERM));
            let user = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
            assert_eq!(user, Err(nix::errno::Errno::EPERM));
            use rustix::net::{AddressFamily, SocketType, socket};
            let packet = socket(AddressFamily::PACKET, SocketType::RAW, None);
            assert_eq!(packet.unwrap_err(), rustix::io::Errno::PERM);
        });
        confined.join().unwrap();
    }
}
