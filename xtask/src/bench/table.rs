//! The table of a bench run, as Markdown.

use super::samples::Samples;

pub struct Table {
    pub rows: Vec<Row>,
    pub machine: String,
}

/// One thing measured: ours, its peers, and what was promised.
pub struct Row {
    pub what: String,
    pub ours: Value,
    /// A peer's name, its value (or why there is none), and the ratio that was promised.
    pub peers: Vec<(String, Result<Value, String>, Option<f64>)>,
    /// The greatest value that was promised, if one was; of a rate, the least.
    pub target: Option<f64>,
}

#[derive(Clone, Copy)]
pub struct Value {
    pub number: f64,
    pub unit: &'static str,
    pub rounds: usize,
}

impl From<&Samples> for Value {
    fn from(samples: &Samples) -> Self {
        Self { number: samples.median(), unit: "ms", rounds: samples.count() }
    }
}

impl Value {
    fn text(self) -> String {
        let digits = if self.number < 100.0 { 1 } else { 0 };
        format!("{:.digits$} {}", self.number, self.unit)
    }

    /// Of something in a second there should be more, of everything else less. The number is of this value's kind.
    fn verdict(self, number: f64, target: f64, shown: &str) -> String {
        let (sign, met) =
            if self.unit.ends_with("/s") { ("≥", number >= target) } else { ("≤", number <= target) };
        format!("{sign} {shown}: {}", if met { "met" } else { "**not met**" })
    }
}

impl Table {
    pub fn render(&self) -> String {
        let mut text =
            "| what | cordium | peer | peer's | ratio | target |\n|---|---|---|---|---|---|\n".to_owned();
        for row in &self.rows {
            let ours = format!("{} (n={})", row.ours.text(), row.ours.rounds);
            let target = |limit: f64| {
                let shown = Value { number: limit, ..row.ours }.text();
                row.ours.verdict(row.ours.number, limit, &shown)
            };
            if row.peers.is_empty() || row.target.is_some() {
                let target = row.target.map_or_else(String::new, target);
                text.push_str(&format!("| {} | {ours} | | | | {target} |\n", row.what));
            }
            for (name, value, limit) in &row.peers {
                let (theirs, ratio, target) = match value {
                    Err(reason) => (format!("not measured: {reason}"), String::new(), String::new()),
                    Ok(value) => {
                        let ratio = row.ours.number / value.number;
                        let judge = |limit| row.ours.verdict(ratio, limit, &format!("{limit} ×"));
                        let target = limit.map_or_else(String::new, judge);
                        (value.text(), format!("{ratio:.2} ×"), target)
                    }
                };
                text.push_str(&format!(
                    "| {} | {ours} | {name} | {theirs} | {ratio} | {target} |\n",
                    row.what
                ));
            }
        }
        format!("{text}\n{}\n", self.machine)
    }
}

/// The machine and the peers' versions, in a sentence.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_matches([' ', '\t', ':']));
    let version = |program: &str| {
        let output = cordium_tests::process::sh(program, &["--version"]).unwrap_or_default();
        output.lines().next().unwrap_or("absent").to_owned()
    };
    let peers = ["crun", "runc", "podman", "skopeo", "umoci", "slirp4netns", "pasta"].map(version).join(", ");
    format!(
        "Measured by `cargo xtask bench` in one run: release build, medians; {cpus} CPUs ({model}), Linux {}. Peers run \
         as root, cordium as an ordinary user. Peers: {peers}.",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_judged_and_absent_peers_named() {
        let value = |number| Value { number, unit: "ms", rounds: 3 };
        let row = Row {
            what: "start".into(),
            ours: value(20.0),
            peers: vec![
                ("crun".into(), Ok(value(10.0)), Some(3.0)),
                ("podman".into(), Ok(value(40.0)), Some(0.25)),
                ("runc".into(), Err("not installed".into()), None),
            ],
            target: None,
        };
        let text = Table { rows: vec![row], machine: "m".into() }.render();
        assert!(text.contains("| start | 20.0 ms (n=3) | crun | 10.0 ms | 2.00 × | ≤ 3 ×: met |"), "{text}");
        assert!(text.contains("| podman | 40.0 ms | 0.50 × | ≤ 0.25 ×: **not met** |"), "{text}");
        assert!(text.contains("| runc | not measured: not installed |"), "{text}");
    }
    #[test]
    fn of_a_rate_more_is_better() {
        let value = |number| Value { number, unit: "Gbit/s", rounds: 3 };
        let peers = vec![
            ("veth".into(), Ok(value(10.0)), Some(0.5)),
            ("slirp4netns".into(), Ok(value(2.0)), Some(4.0)),
        ];
        let row = Row { what: "tcp".into(), ours: value(6.0), peers, target: None };
        let text = Table { rows: vec![row], machine: "m".into() }.render();
        assert!(text.contains("| veth | 10.0 Gbit/s | 0.60 × | ≥ 0.5 ×: met |"), "{text}");
        assert!(text.contains("| slirp4netns | 2.0 Gbit/s | 3.00 × | ≥ 4 ×: **not met** |"), "{text}");
    }
}
