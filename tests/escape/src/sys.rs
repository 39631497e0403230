//! Every `unsafe` of this crate: system calls that no safe wrapper offers, each with the reason why it is sound here.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_long},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::unistd::{ForkResult, Pid, fork};

/// Forks a child that runs `work` and exits with its code. This program has one thread, always.
#[allow(clippy::disallowed_methods)]
pub fn fork_child(work: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: cordium-escape starts no thread, and the unit tests that come here hold no lock that a child would need:
    // it allocates, which glibc makes safe after fork, and ends with `_exit`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: takes no pointers; it skips the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

fn check(result: c_long) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the system call that was made returns a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

/// System calls that must not be there at all; each is made with arguments that harm nothing where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    Acct,
    AddKey,
    Bpf,
    ClockSettime,
    DeleteModule,
    FanotifyInit,
    FinitModule,
    InitModule,
    IoUringSetup,
    KexecFileLoad,
    KexecLoad,
    Keyctl,
    MovePages,
    PerfEventOpen,
    Quotactl,
    Reboot,
    RequestKey,
    Settimeofday,
    Swapoff,
    Swapon,
    Syslog,
    Userfaultfd,
    Vhangup,
}

pub fn forbidden(call: Forbidden) -> io::Result<i64> {
    use Forbidden as F;
    const GET_KEYRING_ID: usize = 0;
    const SESSION_KEYRING: usize = (-3_isize) as usize;
    const SYSLOG_SIZE_BUFFER: usize = 10;
    const BPF_PROG_GET_NEXT_ID: usize = 11;
    let mut buffer = [0_u64; 64];
    let memory = buffer.as_mut_ptr() as usize;
    let kind = c"user".as_ptr() as usize;
    let name = c"cordium-escape".as_ptr() as usize;
    let (number, a, b, c, d) = match call {
        F::Acct => (libc::SYS_acct, 0, 0, 0, 0),
        F::AddKey => (libc::SYS_add_key, kind, name, memory, 8),
        F::Bpf => (libc::SYS_bpf, BPF_PROG_GET_NEXT_ID, memory, 12, 0),
        F::ClockSettime => (libc::SYS_clock_settime, 0, 0, 0, 0),
        F::DeleteModule => (libc::SYS_delete_module, name, 0, 0, 0),
        F::FanotifyInit => (libc::SYS_fanotify_init, 0, 0, 0, 0),
        F::FinitModule => (libc::SYS_finit_module, usize::MAX, name, 0, 0),
        F::InitModule => (libc::SYS_init_module, 0, 0, name, 0),
        F::IoUringSetup => (libc::SYS_io_uring_setup, 1, memory, 0, 0),
        F::KexecFileLoad => (libc::SYS_kexec_file_load, usize::MAX, usize::MAX, 0, 0),
        F::KexecLoad => (libc::SYS_kexec_load, 0, 17, 0, 0),
        F::Keyctl => (libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0, 0),
        F::MovePages => (libc::SYS_move_pages, 1, 0, 0, 0),
        F::PerfEventOpen => (libc::SYS_perf_event_open, memory, 0, usize::MAX, usize::MAX),
        F::Quotactl => (libc::SYS_quotactl, 0, 0, 0, 0),
        F::Reboot => (libc::SYS_reboot, 0, 0, 0, 0),
        F::RequestKey => (libc::SYS_request_key, kind, name, 0, 0),
        F::Settimeofday => (libc::SYS_settimeofday, 0, 0, 0, 0),
        F::Swapoff => (libc::SYS_swapoff, 0, 0, 0, 0),
        F::Swapon => (libc::SYS_swapon, 0, 0, 0, 0),
        F::Syslog => (libc::SYS_syslog, SYSLOG_SIZE_BUFFER, 0, 0, 0),
        F::Userfaultfd => (libc::SYS_userfaultfd, 0, 0, 0, 0),
        F::Vhangup => (libc::SYS_vhangup, 0, 0, 0, 0),
    };
    // SAFETY: every pointer argument is null, a string literal, or `buffer`, whose 512 bytes outlive the call and are
    // more than any of these calls reads or writes with the sizes given. A descriptor that comes back ends with the process.
    check(unsafe { libc::syscall(number, a, b, c, d, 0_usize) })
}

/// A file handle, as `name_to_handle_at` fills it in.
#[repr(C)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

pub fn handle_of(path: &Path) -> io::Result<Handle> {
    let path = c_path(path)?;
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0_i32;
    // SAFETY: `handle` has room for the bytes that it says, `path` ends with a NUL, `mount` is an integer to write to.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    })?;
    Ok(handle)
}

pub fn open_handle(mount: BorrowedFd<'_>, handle: &Handle) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `handle`, which says its own size, and returns a new descriptor.
    owned(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            std::ptr::from_ref(handle),
            libc::O_RDONLY,
        )
    })
}

/// Requests on a namespace's or a process's descriptor that give another descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NsRequest {
    UserOwner,
    Parent,
    NextMounts,
    PreviousMounts,
    /// From a pidfd: 1 to 10, one for each kind.
    OfProcess(u8),
}

pub fn namespace_of(fd: BorrowedFd<'_>, request: NsRequest) -> io::Result<OwnedFd> {
    // struct mnt_ns_info: its size, a count, an id.
    let mut info = [16_u32, 0, 0, 0];
    const MOUNTS: u64 = 0x8010_b700;
    let (number, argument): (u64, usize) = match request {
        NsRequest::UserOwner => (0xb701, 0),
        NsRequest::Parent => (0xb702, 0),
        NsRequest::NextMounts => (MOUNTS | 11, info.as_mut_ptr() as usize),
        NsRequest::PreviousMounts => (MOUNTS | 12, info.as_mut_ptr() as usize),
        NsRequest::OfProcess(kind) => (0xff00 | u64::from(kind), 0),
    };
    // SAFETY: the argument is 0 or a buffer of the size that the request's number says; what comes back is a new descriptor.
    owned(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), number, argument) })
}

/// The number by which the kernel knows a mount namespace.
pub fn mount_namespace_id(namespace: BorrowedFd<'_>) -> io::Result<u64> {
    const NS_GET_MNTNS_ID: u64 = 0x8008_b705;
    let mut id = 0_u64;
    // SAFETY: the kernel writes one number of 64 bits.
    check(unsafe { libc::syscall(libc::SYS_ioctl, namespace.as_raw_fd(), NS_GET_MNTNS_ID, &raw mut id) })?;
    Ok(id)
}

/// How many mounts of a mount namespace can be listed.
pub fn list_mounts(namespace: u64) -> io::Result<i64> {
    const LISTMOUNT: c_long = 458;
    // struct mnt_id_req: size and spare, LSMT_ROOT, no parameter, the namespace.
    let request = [32_u64, u64::MAX, 0, namespace];
    let mut found = [0_u64; 4];
    // SAFETY: `request` has the size that it says and `found` room for the four ids that are asked for.
    check(unsafe { libc::syscall(LISTMOUNT, request.as_ptr(), found.as_mut_ptr(), 4, 0) })
}

/// Changes the attributes of a mount; with a user namespace, its id mapping.
pub fn change_mount(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let userns = userns.map_or(0, |fd| fd.as_raw_fd() as u64);
    // struct mount_attr.
    let attributes = [set, clear, 0, userns];
    // SAFETY: the path is a literal and empty, `attributes` has the size that is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// Pushes a byte into a terminal's input, as if it had been typed.
pub fn push_input(terminal: BorrowedFd<'_>, byte: u8) -> io::Result<()> {
    // SAFETY: the kernel reads one byte, which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSTI, &raw const byte) })
        .map(drop)
}

/// The console's clipboard, which pastes into its input.
pub fn paste_into_console(terminal: BorrowedFd<'_>) -> io::Result<()> {
    const TIOCLINUX: u64 = 0x541c;
    const TIOCL_PASTESEL: [u8; 8] = [3, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads the sub-code's byte.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), TIOCLINUX, TIOCL_PASTESEL.as_ptr()) })
        .map(drop)
}

/// Is it the same file? Works by looking at the other process's descriptor.
pub fn compare_descriptor(pid: i32, theirs: i32, ours: BorrowedFd<'_>) -> io::Result<i64> {
    const KCMP_FILE: i32 = 0;
    // SAFETY: takes numbers only.
    check(unsafe {
        libc::syscall(libc::SYS_kcmp, std::process::id(), pid, KCMP_FILE, ours.as_raw_fd(), theirs)
    })
}

pub fn attach(pid: i32) -> io::Result<()> {
    trace(libc::PTRACE_ATTACH, pid, 0)
}

pub fn seize(pid: i32) -> io::Result<()> {
    trace(libc::PTRACE_SEIZE, pid, 0)
}

/// Attaches with seccomp switched off for the traced process.
pub fn seize_without_seccomp(pid: i32) -> io::Result<()> {
    const PTRACE_O_SUSPEND_SECCOMP: usize = 1 << 21;
    trace(libc::PTRACE_SEIZE, pid, PTRACE_O_SUSPEND_SECCOMP)
}

pub fn detach(pid: i32) -> io::Result<()> {
    trace(libc::PTRACE_DETACH, pid, 0)
}

fn trace(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests that come here reads or writes this process's memory.
    check(unsafe { libc::ptrace(request, pid, 0_usize, data) }).map(drop)
}

/// Adds capabilities by number to the permitted and effective sets.
pub fn gain_capability(number: u32) -> io::Result<()> {
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: version 3 of the call fills in two sets of three words.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    let (word, bit) = ((number / 32 * 3) as usize, 1 << (number % 32));
    sets[word] |= bit;
    sets[word + 1] |= bit;
    // SAFETY: as above, and the kernel only reads them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }).map(drop)
}

/// Takes the seccomp filters off, or replaces them by the strict mode that would end every second program.
pub fn leave_seccomp() -> io::Result<()> {
    // SAFETY: takes numbers only; mode 0 is "none".
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_SECCOMP, 0, 0, 0, 0) }).map(drop)
}

/// Asks for a system call by the 32-bit entry, which a filter for 64 bits alone does not look at.
#[cfg(target_arch = "x86_64")]
pub fn call_by_int80(number: u32) -> i32 {
    let result: i32;
    // SAFETY: the call that is asked for takes no pointers; registers that the kernel may change are declared.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") number as i32 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// The x32 form of a call: the same numbers, one bit apart.
#[cfg(target_arch = "x86_64")]
pub fn call_by_x32(number: c_long) -> io::Result<i64> {
    const X32: c_long = 0x4000_0000;
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(X32 | number, 0, 0, 0, 0) })
}

/// Queues a signal to this very process, which has blocked it.
pub fn queue_signal(signal: i32) -> io::Result<()> {
    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    // SAFETY: the value is passed on, not looked at.
    let result = unsafe { libc::sigqueue(pid, signal, value) };
    check(result.into()).map(drop)
}

pub fn block_signal(signal: i32) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before it is used.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    check(result.into()).map(drop)
}

/// The first real-time signal that the C library leaves to programs.
pub fn real_time_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Makes a message queue that holds `bytes`.
pub fn message_queue(name: &CStr, bytes: i64) -> io::Result<OwnedFd> {
    // SAFETY: all fields of `mq_attr` are integers.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    attributes.mq_maxmsg = 8;
    attributes.mq_msgsize = bytes / 8;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
    // The kernel's own interface takes the name without its slash.
    // SAFETY: the name ends with a NUL and the attributes outlive the call, which returns a new descriptor.
    owned(unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o600, &raw const attributes) })
}

pub fn unlink_message_queue(name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a NUL.
    check(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) }).map(drop)
}

/// Locks one byte of a file for writing.
pub fn lock_byte(file: impl AsFd, at: i64) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the lock's description.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETLK, &raw const lock) };
    check(result.into()).map(drop)
}

/// Makes another process forget which signal its parent's death sends it, by having it call `prctl` itself: what a
/// hostile PID 1 would do.
#[cfg(target_arch = "x86_64")]
pub fn clear_parent_death_signal(pid: i32) -> io::Result<()> {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let target = Pid::from_raw(pid);
    let registers = || -> io::Result<libc::user_regs_struct> {
        let mut registers = std::mem::MaybeUninit::uninit();
        // SAFETY: the request fills in the whole structure, which is what the next line relies on.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0_usize, registers.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded.
        Ok(unsafe { registers.assume_init() })
    };
    let set = |registers: &libc::user_regs_struct| {
        // SAFETY: the kernel reads the structure.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0_usize, std::ptr::from_ref(registers)) })
            .map(drop)
    };
    attach(pid)?;
    waitpid(target, Some(WaitPidFlag::__WALL))?;
    let done = (|| {
        let before = registers()?;
        let mut call = before;
        // It waits in the kernel: right before its instruction pointer is the `syscall` that took it there.
        call.rip -= 2;
        call.rax = libc::SYS_prctl as u64;
        call.orig_rax = u64::MAX;
        call.rdi = libc::PR_SET_PDEATHSIG as u64;
        call.rsi = 0;
        set(&call)?;
        trace(libc::PTRACE_SINGLESTEP, pid, 0)?;
        waitpid(target, Some(WaitPidFlag::__WALL))?;
        let result = registers()?.rax;
        set(&before)?;
        if result == 0 { Ok(()) } else { Err(io::Error::other(format!("prctl answered {result:#x}"))) }
    })();
    detach(pid)?;
    done
}

#[cfg(not(target_arch = "x86_64"))]
pub fn clear_parent_death_signal(_pid: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A socket of any family and type, families that no library knows included.
pub fn make_socket(family: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only and returns a new descriptor.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())
}

/// As above, with more bits than a family has.
pub fn make_socket_wide(family: u64) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_socket, family, libc::SOCK_STREAM, 0) })
}

/// The address of a link from the bytes of a `sockaddr_ll`.
pub fn link_address(bytes: [u8; 20]) -> Option<nix::sys::socket::LinkAddr> {
    use nix::sys::socket::{LinkAddr, SockaddrLike};
    // SAFETY: every bit pattern is a valid `sockaddr_ll`, and the length is that of the whole.
    unsafe {
        let address: libc::sockaddr_ll = std::mem::transmute(bytes);
        LinkAddr::from_raw((&raw const address).cast(), Some(20))
    }
}
