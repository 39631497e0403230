//! What the machine has.

use std::path::Path;

use cordium_proto::v1::Limit;

/// Processors, memory, the file system of the state directory, and process ids.
pub fn of_node(state_dir: &Path) -> Limit {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let storage =
        rustix::fs::statvfs(state_dir).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize) >> 20);
    Limit {
        cpu_millicores: cores * 1000,
        memory_mib: total_memory_mib(&meminfo),
        storage_mib: storage,
        pids: pid_max.trim().parse().unwrap_or(0),
        ..Limit::default()
    }
}

fn total_memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(total_memory_mib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), 24_000);
        assert_eq!(total_memory_mib("nothing"), 0);
    }

    #[test]
    fn this_machine_has_something_of_everything() {
        let limit = of_node(Path::new("/"));
        assert!(limit.cpu_millicores > 0 && limit.memory_mib > 0 && limit.storage_mib > 0 && limit.pids > 0);
    }
}
