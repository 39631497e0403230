//! How many decisions the policy makes in a second, and how long one takes: what the policy's own example measures.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    bench::table::{Row, Value},
    cargo::cargo,
    step::{self, Step},
};

/// At the most rules, in microseconds.
const TARGET: f64 = 10.0;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    rules: u64,
    decisions: usize,
    per_second: f64,
    p99_nanoseconds: f64,
}

pub async fn rows() -> Result<Vec<Row>> {
    let args = ["run", "--release", "--locked", "--package", "cordium-egress", "--example", "decisions"];
    let step = Step { name: "measure decisions", limit: Duration::from_secs(20 * 60), show: false };
    let outcome = step::run(&step, cargo(&args).args(["--", "--json"])).await?;
    ensure!(outcome.success, "decisions could not be measured");
    let said =
        fs::read_to_string(&outcome.log).with_context(|| format!("reading {}", outcome.log.display()))?;
    let measured = parse(&said);
    let most = measured.iter().map(|one| one.rules).max().context("the example measured nothing")?;
    Ok(measured.iter().flat_map(|one| of(one, most)).collect())
}

/// One measurement a line, among cargo's own lines.
fn parse(said: &str) -> Vec<Measured> {
    said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of(one: &Measured, most: u64) -> [Row; 2] {
    let plural = if one.rules == 1 { "" } else { "s" };
    let row = |what: &str, number, unit, target| Row {
        what: format!("(i) {what} at {} rule{plural}", one.rules),
        ours: Value { number, unit, rounds: one.decisions },
        peers: Vec::new(),
        target,
    };
    let target = (one.rules == most).then_some(TARGET);
    [
        row("decisions of a policy", one.per_second / 1e6, "million/s", None),
        row("p99 of a decision", one.p99_nanoseconds / 1e3, "µs", target),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_for_the_most_rules() {
        let said = "   Compiling x\n\
            {\"rules\":1,\"decisions\":9,\"perSecond\":2000000.0,\"p99Nanoseconds\":250}\n\
            {\"rules\":100,\"decisions\":9,\"perSecond\":1000000.0,\"p99Nanoseconds\":1500}\n";
        let rows: Vec<Row> = parse(said).iter().flat_map(|one| of(one, 100)).collect();
        let shown: Vec<_> = rows.iter().map(|row| (row.what.as_str(), row.ours.number, row.target)).collect();
        let expected = [
            ("(i) decisions of a policy at 1 rule", 2.0, None),
            ("(i) p99 of a decision at 1 rule", 0.25, None),
            ("(i) decisions of a policy at 100 rules", 1.0, None),
            ("(i) p99 of a decision at 100 rules", 1.5, Some(TARGET)),
        ];
        assert_eq!(shown, expected);
    }
}
