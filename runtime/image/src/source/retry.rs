//! Which failures of a registry are worth another attempt, and how long to wait. Pure, but for the waiting.

use std::time::Duration;

use crate::config::Timeouts;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Another attempt may succeed.
    Transient(String),
    /// Nothing came for the given time.
    Silent(Duration),
    Unauthorized(u16),
    NotFound,
    /// Another attempt will fail the same way.
    Permanent(String),
}

impl Failure {
    pub(crate) fn of_status(status: u16, words: &str) -> Self {
        let words: String = words.chars().filter(|c| !c.is_control()).take(300).collect();
        let reason = format!("it answered {status} {words}").trim_end().to_owned();
        match status {
            401 | 403 => Self::Unauthorized(status),
            404 => Self::NotFound,
            408 | 429 | 500..=599 => Self::Transient(reason),
            _ => Self::Permanent(reason),
        }
    }

    /// `idle` is how long the client waits for a registry that says nothing.
    pub(crate) fn of_http(error: &reqwest::Error, idle: Duration) -> Self {
        match error.status() {
            Some(status) => Self::of_status(status.as_u16(), ""),
            None if error.is_builder() || error.is_redirect() => Self::Permanent(chain(error)),
            None if error.is_timeout() && !error.is_connect() => Self::Silent(idle),
            None => Self::Transient(chain(error)),
        }
    }

    pub(crate) fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Silent(_))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transient(reason) | Self::Permanent(reason) => f.write_str(reason),
            Self::Silent(time) => write!(f, "nothing came for {} s", time.as_secs_f32()),
            Self::Unauthorized(status) => write!(f, "it answered {status}"),
            Self::NotFound => f.write_str("it answered 404"),
        }
    }
}

/// An error with its causes: the HTTP client keeps the useful part in the last of them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = without_url(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = without_url(&error.to_string());
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// The HTTP client names the URL, which is the image once more in another spelling. On one line, and not without end.
fn without_url(text: &str) -> String {
    let kept = match text.split_once(" for url (") {
        Some((before, after)) => format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest)),
        None => text.to_owned(),
    };
    kept.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// How long to wait after the given number of failed attempts in a row, at least one.
pub(crate) fn backoff(timeouts: &Timeouts, failures: u32) -> Duration {
    timeouts.backoff.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [500, 502, 503, 429, 408] {
            assert!(Failure::of_status(status, "").is_worth_a_retry(), "{status}");
        }
        for status in [400, 401, 403, 404, 410] {
            assert!(!Failure::of_status(status, "").is_worth_a_retry(), "{status}");
        }
    }

    #[test]
    fn errors_of_the_client_do_not_repeat_the_image() {
        let text = "error sending request for url (http://h:1/v2/a/manifests/b): refused";
        assert_eq!(without_url(text), "error sending request: refused");
        assert_eq!(without_url("two\nlines"), "two lines");
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let timeouts = Timeouts::default();
        assert_eq!(backoff(&timeouts, 1), Duration::from_millis(250));
        assert_eq!(backoff(&timeouts, 3), Duration::from_secs(1));
        assert_eq!(backoff(&timeouts, 400), Duration::from_secs(10));
    }
}
