//! Repeated measurements of one thing.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Times in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The least that this many percent do not exceed, in milliseconds; 0 without samples.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, millis)
    }

    /// In milliseconds; 0 without samples.
    pub fn median(&self) -> f64 {
        median(self.0.iter().copied().map(millis).collect())
    }
}

/// 0 of nothing.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        even if even % 2 == 0 => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs a command to its end, silently, and returns the time that took.
pub fn time(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    let time = started.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(time)
}

/// Runs a command `rounds` times, once more before to warm up. `make` is told the round.
pub fn repeat(rounds: usize, mut make: impl FnMut(usize) -> Command) -> Result<Samples> {
    time(&mut make(0))?;
    let mut samples = Samples::default();
    for round in 1..=rounds {
        samples.push(time(&mut make(round))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples = Samples((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((samples.percentile(99), samples.percentile(50)), (198.0, 100.0));
        assert_eq!((Samples::default().percentile(99), samples.percentile(100)), (0.0, 200.0));
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let of = |times: &[u64]| Samples(times.iter().map(|t| Duration::from_millis(*t)).collect()).median();
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[9, 1, 5]), 5.0);
        assert_eq!(of(&[1, 2, 4, 100]), 3.0);
    }
}
