//! What the demo did and how long it took, on one screen.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;

#[derive(Default)]
pub struct Summary {
    times: Vec<(String, Duration)>,
    facts: Vec<(String, String)>,
}

impl Summary {
    pub async fn timed<T>(&mut self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let done = work.await?;
        self.took(name, started.elapsed());
        Ok(done)
    }

    pub fn took(&mut self, name: &str, time: Duration) {
        self.times.push((name.to_owned(), time));
    }

    pub fn fact(&mut self, name: &str, what: impl Into<String>) {
        self.facts.push((name.to_owned(), what.into()));
    }

    pub fn print(&self) {
        print!("{}", self.render());
    }

    fn render(&self) -> String {
        let mut text = "\nsummary\n".to_owned();
        for (name, time) in &self.times {
            text.push_str(&format!("  {name:<32} {:>9.3} s\n", time.as_secs_f64()));
        }
        text.push('\n');
        for (name, what) in &self.facts {
            text.push_str(&format!("  {name:<14} {what}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_up_times_and_facts() {
        let mut summary = Summary::default();
        summary.took("start", Duration::from_millis(1234));
        summary.fact("user", "alice");
        assert_eq!(
            summary.render(),
            format!("\nsummary\n  {:<32}     1.234 s\n\n  user           alice\n", "start")
        );
    }
}
