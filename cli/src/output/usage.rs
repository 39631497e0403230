//! What workspaces use, as a table for people.

use cordium_proto::v1::{Limit, Pressure, Resource, Usage};

use super::{duration, table};

const HEADER: [&str; 8] =
    ["WORKSPACE", "CPU TIME", "MEMORY", "PIDS", "STORAGE", "FILES", "PRESSURE CPU/MEM/IO", "OOM KILLS"];

/// One line for each workspace whose use is known; empty when there is none.
pub fn table(items: &[Resource]) -> String {
    let rows: Vec<Vec<String>> = items
        .iter()
        .filter_map(|item| {
            let status = item.status.as_ref()?;
            let name = item.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
            Some(row(name, status.usage.as_ref()?, &status.limit.unwrap_or_default()))
        })
        .collect();
    if rows.is_empty() { String::new() } else { table::render(&HEADER, &rows) }
}

fn row(name: &str, usage: &Usage, limit: &Limit) -> Vec<String> {
    let measured = usage.storage_measured_at.is_some();
    vec![
        name.to_owned(),
        format!("{}.{:01}s", usage.cpu_usec / 1_000_000, usage.cpu_usec % 1_000_000 / 100_000),
        memory(usage, limit),
        of(usage.pids.to_string(), limit.pids, limit.pids.to_string()),
        storage(usage, limit),
        if measured {
            of(usage.inodes.to_string(), limit.inodes, limit.inodes.to_string())
        } else {
            "-".into()
        },
        [&usage.cpu_pressure, &usage.memory_pressure, &usage.io_pressure].map(percent).join("/"),
        oom(usage),
    ]
}

/// Used of the limit.
pub fn memory(usage: &Usage, limit: &Limit) -> String {
    let limit = limit.memory_mib << 20;
    of(duration::bytes(usage.memory_bytes), limit, duration::bytes(limit))
}

/// Likewise, as of the last measurement.
pub fn storage(usage: &Usage, limit: &Limit) -> String {
    if usage.storage_measured_at.is_none() {
        return "-".to_owned();
    }
    let limit = limit.storage_mib << 20;
    of(duration::bytes(usage.storage_bytes), limit, duration::bytes(limit))
}

fn of(used: String, limit: u64, limit_text: String) -> String {
    if limit == 0 { used } else { format!("{used} of {limit_text}") }
}

/// The share of the last ten seconds in which something waited; `-` where the kernel does not say.
fn percent(pressure: &Option<Pressure>) -> String {
    pressure.as_ref().map_or_else(|| "-".to_owned(), |pressure| format!("{:.0}%", pressure.some_avg10))
}

fn oom(usage: &Usage) -> String {
    match (usage.oom_kills, usage.last_oom_victim.as_str()) {
        (0, _) => "0".to_owned(),
        (kills, "") => kills.to_string(),
        (kills, victim) => format!("{kills}, last {}", super::text::one_line(victim)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_used_of_what() {
        let usage = Usage {
            cpu_usec: 1_540_000,
            memory_bytes: 3 << 20,
            pids: 7,
            oom_kills: 2,
            last_oom_victim: "hog (pid 9)".into(),
            cpu_pressure: Some(Pressure { some_avg10: 12.4, full_avg10: 0.0 }),
            ..Usage::default()
        };
        let limit = Limit { memory_mib: 64, pids: 100, ..Limit::default() };
        assert_eq!(
            row("dev", &usage, &limit),
            ["dev", "1.5s", "3.0 MiB of 64.0 MiB", "7 of 100", "-", "-", "12%/-/-", "2, last hog (pid 9)"]
        );
        assert_eq!(table(&[Resource::default()]), "");
    }
}
