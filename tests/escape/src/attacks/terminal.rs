//! Pushing input into terminals.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
};

use nix::errno::Errno;

use crate::{Layer, Probe, sys};

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path)
}

/// Terminals of the sandbox other than the own one: somebody else types there.
pub fn input(probe: &mut Probe) {
    let console = open("/dev/console").or_else(|_| open("/dev/tty0")).or_else(|_| open("/dev/tty1"));
    match console {
        Ok(console) => {
            let denied = [Errno::EPERM, Errno::EIO, Errno::EACCES, Errno::ENOTTY];
            probe.refused(
                "TIOCSTI on the console",
                Layer::Kernel,
                &denied,
                sys::push_input(console.as_fd(), b' '),
            );
            let pasted = sys::paste_into_console(console.as_fd());
            probe.refused(
                "TIOCLINUX on the console",
                Layer::Kernel,
                &[Errno::EPERM, Errno::ENOTTY, Errno::EINVAL, Errno::EIO],
                pasted,
            );
        }
        Err(error) => probe.refused(
            "open the machine's console",
            Layer::NoSuchThing,
            &[Errno::ENOENT, Errno::ENXIO, Errno::EACCES, Errno::EPERM],
            Err::<(), _>(error),
        ),
    }
    let own = fs::read_link("/proc/self/fd/0").map(|path| path.display().to_string()).unwrap_or_default();
    let others: Vec<String> = fs::read_dir("/dev/pts")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name() != "ptmx")
        .map(|entry| entry.path().display().to_string())
        .filter(|path| *path != own)
        .collect();
    if others.is_empty() {
        probe.broken("other terminals", "the driver opened none");
    }
    for path in others {
        let pushed = open(&path).and_then(|terminal| sys::push_input(terminal.as_fd(), b'#'));
        // Not the controlling terminal, and no capability outside; or switched off for all.
        let denied = [Errno::EPERM, Errno::EIO];
        probe.refused(format!("TIOCSTI on {path}"), Layer::UserNamespace, &denied, pushed);
        let pasted = open(&path).and_then(|terminal| sys::paste_into_console(terminal.as_fd()));
        probe.refused(
            format!("TIOCLINUX on {path}"),
            Layer::Kernel,
            &[Errno::ENOTTY, Errno::EPERM, Errno::EINVAL, Errno::EIO],
            pasted,
        );
    }
}
