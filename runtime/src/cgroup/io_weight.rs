//! A sandbox's share of a busy disk. The kernel takes a weight without complaint even where nothing divides by it, so the
//! disk's scheduler is asked first.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Sets the weight (1 to 10000, usually 100) in one of the forms that this kernel has.
pub(super) fn set(dir: &Path, v2: bool, weight: u64, volume: &Path) -> Result<(), String> {
    let (file, value) = form(v2, weight, |file| dir.join(file).exists())
        .ok_or_else(|| "this kernel has no weights for disks".to_owned())?;
    super::limits::write(dir, file, &value)?;
    match scheduler(volume) {
        Some(name) if divides(&name, file) => Ok(()),
        Some(name) => Err(format!("the disk's scheduler is {name}, which knows no weights (bfq does)")),
        None => Err("the disk's scheduler is not known, and it may know no weights".to_owned()),
    }
}

/// The file and what is written to it. Each form has its own range around its own usual weight.
fn form(v2: bool, weight: u64, exists: impl Fn(&str) -> bool) -> Option<(&'static str, String)> {
    let forms: &[(&str, u64, u64, u64)] = if v2 {
        &[("io.weight", 1, 10_000, 100), ("io.bfq.weight", 1, 1000, 100)]
    } else {
        &[("blkio.bfq.weight", 1, 1000, 100), ("blkio.weight", 10, 1000, 500)]
    };
    let (file, min, max, usual) = forms.iter().find(|(file, ..)| exists(file))?;
    let scaled = (weight.saturating_mul(*usual) / 100).clamp(*min, *max);
    Some((file, if *file == "io.weight" { format!("default {scaled}") } else { scaled.to_string() }))
}

/// `io.weight` also works through the kernel's cost model, which an administrator has to switch on for the disk.
fn divides(scheduler: &str, file: &str) -> bool {
    scheduler == "bfq"
        || (file == "io.weight"
            && fs::read_to_string("/sys/fs/cgroup/io.cost.qos").is_ok_and(|text| text.contains("enable=1")))
}

fn scheduler(volume: &Path) -> Option<String> {
    let device = rustix::fs::stat(volume).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let own = fs::canonicalize(PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))).ok()?;
    // A partition has its disk's.
    let text = [own.join("queue/scheduler"), own.parent()?.join("queue/scheduler")]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    chosen(&text)
}

/// `none [mq-deadline] bfq`: the one in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_own_scale() {
        let only = |name: &'static str| move |file: &str| file == name;
        let got = |v2, weight, name| form(v2, weight, only(name)).map(|(_, value)| value);
        assert_eq!(got(true, 10_000, "io.weight").as_deref(), Some("default 10000"));
        assert_eq!(got(true, 10_000, "io.bfq.weight").as_deref(), Some("1000"));
        assert_eq!(got(false, 100, "blkio.weight").as_deref(), Some("500"));
        assert_eq!(got(false, 1, "blkio.weight").as_deref(), Some("10"));
        assert_eq!(got(false, 50, "blkio.bfq.weight").as_deref(), Some("50"));
        assert_eq!(got(false, 50, "nothing"), None);
    }

    #[test]
    fn the_scheduler_in_use_is_the_one_in_brackets() {
        assert_eq!(chosen("none [mq-deadline] kyber bfq\n").as_deref(), Some("mq-deadline"));
        assert_eq!(chosen("none"), None);
        assert!(divides("bfq", "blkio.bfq.weight") && !divides("mq-deadline", "blkio.bfq.weight"));
    }
}
