//! Running from a sealed copy in memory: inside a container `/proc/<pid>/exe` leads to the program that entered it, and root of a
//! container without a user namespace could write there (CVE-2019-5736).

use std::{
    ffi::CString,
    fs::File,
    io::{self, Seek},
    os::{fd::AsFd, unix::ffi::OsStringExt},
};

use anyhow::{Context, Result};
use nix::unistd::fexecve;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Starts this program again from a sealed copy, unless it runs from one.
pub fn ensure() -> Result<()> {
    let mut exe = File::open("/proc/self/exe").context("opening this program")?;
    if fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy: File = memfd_create("cordium-oci", flags).context("making a copy of this program")?.into();
    io::copy(&mut exe, &mut copy).context("making a copy of this program")?;
    copy.rewind().context("making a copy of this program")?;
    fcntl_add_seals(&copy, SEALS).context("sealing the copy of this program")?;
    let words = |words: Vec<Vec<u8>>| words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let args = words(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let env = std::env::vars_os().map(|(key, value)| [key.into_vec(), value.into_vec()].join(&b'='));
    let Err(error) = fexecve(copy.as_fd(), &args, &words(env.collect())?);
    Err(error).context("running the sealed copy of this program")
}
