//! The confined helpers of a test's store, as the kernel shows them.

use std::time::{Duration, Instant};

/// Waits for a helper that has confined itself, which must have one of the user ids `ids` and little else.
pub async fn assert_confined(ids: &[u32]) {
    let end = Instant::now() + Duration::from_secs(10);
    let status = loop {
        // Once the filter is in force, everything before it is done.
        match helpers().into_iter().find(|(_, status)| field(status, "Seccomp") == "2") {
            Some((_, status)) => break status,
            None => assert!(Instant::now() < end, "no confined helper"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let uids: Vec<u32> = field(&status, "Uid").split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert!(uids.len() == 4 && ids.iter().any(|id| uids == [*id; 4]), "{uids:?}");
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    let caps = |name| u64::from_str_radix(field(&status, name), 16).unwrap();
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETFCAP.
    let kept = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 31;
    assert_eq!((caps("CapEff"), caps("CapPrm"), caps("CapBnd"), caps("CapInh")), (kept, kept, kept, 0));
}

/// The unpackers of this process: process id and status.
pub fn helpers() -> Vec<(String, String)> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (field(&status, "PPid") == own && command.ends_with("\0unpack\0"))
                .then(|| (entry.file_name().to_string_lossy().into_owned(), status))
        })
        .collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}
