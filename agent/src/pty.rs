//! Pseudo-terminals of the sandbox's own devpts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cordium_proto::v1::TerminalSize;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const MAX_SIDE: u32 = 10_000;

pub struct Pair {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// A new terminal whose slave belongs to `uid`.
pub fn open(size: TerminalSize, uid: u32) -> io::Result<Pair> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    // The group stays devpts' `tty`. A file system that refuses still leaves a usable terminal.
    if fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).is_ok() {
        let _ = fchmod(&slave, Mode::from_raw_mode(0o620));
    }
    resize(&master, size)?;
    Ok(Pair { master, slave })
}

pub fn resize(master: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = sane(size);
    let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let window = Winsize { ws_row: side(size.rows), ws_col: side(size.cols), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, window)?)
}

/// Nothing given means 80×24; nothing is larger than a program can stand.
pub fn sane(size: TerminalSize) -> TerminalSize {
    let pick = |value: u32, default: u32| if value == 0 { default } else { value.min(MAX_SIDE) };
    TerminalSize { cols: pick(size.cols, 80), rows: pick(size.rows, 24) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_defaults_and_a_ceiling() {
        let size = sane(TerminalSize { cols: 0, rows: 1_000_000 });
        assert_eq!((size.cols, size.rows), (80, 10_000));
    }
}
