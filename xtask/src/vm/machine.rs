//! The call of QEMU.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::system::{System, work};

const PROGRAM: &str = "qemu-system-x86_64";
const CPUS: usize = 2;
const MEMORY_MIB: usize = 4096;

/// The kernel's own messages go here, the tests' to standard output.
pub fn console() -> PathBuf {
    work().join("console.log")
}

/// The processor is imitated in software: what `/dev/kvm` promises within a virtual machine it does not always keep, and
/// a lane that runs the same everywhere is worth more than a fast one.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=512";

/// Boots `system` with a second disk. Both disks are as they were when it has ended, and there is no network card.
pub fn command(system: &System, payload: &Path) -> Command {
    let mut command = Command::new("setpriv");
    // A machine does not outlive the run that it belongs to, however that ends.
    command
        .args(["--pdeathsig", "KILL", PROGRAM])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"])
        .args(["-machine", "q35", "-accel", ACCELERATOR, "-cpu", "max"])
        .args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()])
        .arg("-kernel")
        .arg(&system.kernel)
        .arg("-initrd")
        .arg(&system.initramfs)
        .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off"])
        .arg("-drive")
        .arg(disk(&system.root))
        .arg("-drive")
        .arg(disk(payload))
        .arg("-serial")
        .arg(format!("file:{}", console().display()))
        .args(["-serial", "stdio"])
        .env("TMPDIR", work());
    command
}

fn disk(path: &Path) -> String {
    // A comma in an option's value is written twice.
    let path = path.to_string_lossy().replace(',', ",,");
    format!("file={path},format=raw,if=virtio,snapshot=on,cache=unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_left_as_they_were() {
        let disk = disk(Path::new("/a,b/root.ext4"));
        assert!(disk.starts_with("file=/a,,b/root.ext4,") && disk.contains("snapshot=on"), "{disk}");
    }

    #[test]
    fn the_machine_has_no_network() {
        let system = System { kernel: "k".into(), initramfs: "i".into(), root: "r".into() };
        let command = command(&system, Path::new("p"));
        let args: Vec<_> = command.as_std().get_args().map(|arg| arg.to_string_lossy()).collect();
        assert!(args.windows(2).any(|two| two[0] == "-nic" && two[1] == "none"), "{args:?}");
    }
}
