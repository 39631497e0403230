//! Which destinations were refused lately: a program that tries again and again is one line, not thousands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Destinations that are remembered.
const MOST: usize = 1024;
const LATELY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Recent(HashMap<SocketAddr, Instant>);

impl Recent {
    /// Whether this refusal is to be told: the first of its destination for a while. Where too many destinations are refused at
    /// once, the rest is not.
    pub(super) fn is_news(&mut self, destination: SocketAddr, now: Instant) -> bool {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= LATELY;
        match self.0.get_mut(&destination) {
            Some(at) if !old(at) => return false,
            Some(at) => *at = now,
            None => {
                if self.0.len() >= MOST {
                    self.0.retain(|_, at| !old(at));
                }
                if self.0.len() >= MOST {
                    return false;
                }
                self.0.insert(destination, now);
            }
        }
        true
    }

    /// A new policy may refuse for another reason.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_destination_is_told_once_in_a_while_and_memory_is_bounded() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        assert!(recent.is_news(at(1), start) && !recent.is_news(at(1), start + LATELY / 2));
        assert!(recent.is_news(at(1), start + LATELY));
        let told = (0..60_000).filter(|port| recent.is_news(at(*port), start + LATELY)).count();
        assert_eq!((told, recent.0.len()), (MOST - 1, MOST));
        assert!(recent.is_news(at(60_001), start + LATELY * 2) && recent.0.len() == 1);
        recent.forget();
        assert!(recent.is_news(at(60_001), start + LATELY * 2));
    }
}
