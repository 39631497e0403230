//! Turns phase events into what is to be shown: which phase took how long, and how it ended.

use std::time::{Duration, Instant};

use cordium_proto::v1::{Failure, PhaseEvent, WorkspaceState};
use prost_types::Timestamp;

use crate::output::duration;

#[derive(Debug, PartialEq)]
pub enum Step {
    /// A phase is over.
    Done {
        state: WorkspaceState,
        took: Duration,
        detail: String,
    },
    /// What goes on now.
    Now {
        state: WorkspaceState,
        detail: String,
    },
    Warning(String),
    Running,
    Stopped {
        failure: Option<Box<Failure>>,
        failed_in: WorkspaceState,
    },
}

struct Phase {
    state: WorkspaceState,
    at: Option<Timestamp>,
    seen: Instant,
    detail: String,
}

#[derive(Default)]
pub struct Tracker {
    current: Option<Phase>,
    warnings: Vec<String>,
    failure: Option<Box<Failure>>,
    failed_in: Option<WorkspaceState>,
}

impl Tracker {
    /// Those that have not been told.
    pub fn new_warnings(&mut self, warnings: &[String]) -> Vec<String> {
        let mut new = Vec::new();
        for warning in warnings {
            if !self.warnings.contains(warning) && self.warnings.len() < 64 {
                self.warnings.push(warning.clone());
                new.push(warning.clone());
            }
        }
        new
    }

    /// `moved` says that a STOPPED is the end of this run, not the state before it.
    pub fn feed(&mut self, event: &PhaseEvent, now: Instant, moved: bool) -> Vec<Step> {
        let state = event.state();
        let mut steps = Vec::new();
        if state == WorkspaceState::Stopped && !moved && self.current.is_none() {
            return steps;
        }
        steps.extend(self.new_warnings(&event.warnings).into_iter().map(Step::Warning));
        if let Some(failure) = &event.failure
            && self.failure.is_none()
        {
            self.failed_in = Some(self.current.as_ref().map_or(state, |p| p.state));
            self.failure = Some(Box::new(failure.clone()));
        }
        match &mut self.current {
            Some(phase) if phase.state == state => {
                if !event.detail.is_empty() && phase.detail.is_empty() {
                    phase.detail.clone_from(&event.detail);
                }
            }
            _ => {
                if let Some(over) = self.current.take() {
                    let by_node =
                        over.at.as_ref().zip(event.at.as_ref()).and_then(|(a, b)| duration::between(a, b));
                    let took = by_node.unwrap_or_else(|| now.duration_since(over.seen));
                    if !matches!(over.state, WorkspaceState::Running | WorkspaceState::Stopped) {
                        steps.push(Step::Done { state: over.state, took, detail: over.detail });
                    }
                }
                self.current = Some(Phase { state, at: event.at, seen: now, detail: event.detail.clone() });
            }
        }
        steps.push(match state {
            WorkspaceState::Running => Step::Running,
            WorkspaceState::Stopped => Step::Stopped {
                failure: self.failure.clone(),
                failed_in: self.failed_in.unwrap_or(WorkspaceState::Unknown),
            },
            _ => Step::Now { state, detail: event.detail.clone() },
        });
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: WorkspaceState, millis: i64) -> PhaseEvent {
        PhaseEvent {
            state: state.into(),
            at: Some(Timestamp { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 }),
            ..PhaseEvent::default()
        }
    }

    #[test]
    fn durations_are_the_node_s() {
        let mut t = Tracker::default();
        let now = Instant::now();
        assert!(t.feed(&event(WorkspaceState::Stopped, 0), now, false).is_empty());
        t.feed(&event(WorkspaceState::PullingImage, 1000), now, true);
        let mut again = event(WorkspaceState::PullingImage, 1100);
        again.detail = "50 %".into();
        assert_eq!(
            t.feed(&again, now, true),
            [Step::Now { state: WorkspaceState::PullingImage, detail: "50 %".into() }]
        );
        assert_eq!(
            t.feed(&event(WorkspaceState::Running, 1250), now, true),
            [
                Step::Done {
                    state: WorkspaceState::PullingImage,
                    took: Duration::from_millis(250),
                    detail: "50 %".into()
                },
                Step::Running
            ]
        );
    }

    #[test]
    fn a_failure_is_kept_until_stopped_with_the_phase_it_happened_in() {
        let mut t = Tracker::default();
        let now = Instant::now();
        t.feed(&event(WorkspaceState::Preparing, 0), now, true);
        let mut stopping = event(WorkspaceState::StoppingRequest, 10);
        stopping.failure = Some(Failure { message: "exit 13".into(), r#type: None });
        t.feed(&stopping, now, true);
        let steps = t.feed(&event(WorkspaceState::Stopped, 20), now, true);
        let Some(Step::Stopped { failure: Some(f), failed_in }) = steps.last() else { panic!("{steps:?}") };
        assert_eq!((f.message.as_str(), *failed_in), ("exit 13", WorkspaceState::Preparing));
    }

    #[test]
    fn a_warning_is_told_once() {
        let mut t = Tracker::default();
        let mut e = event(WorkspaceState::Initializing, 0);
        e.warnings = vec!["no storage limit".into()];
        let count = |steps: Vec<Step>| steps.iter().filter(|s| matches!(s, Step::Warning(_))).count();
        assert_eq!(count(t.feed(&e, Instant::now(), true)), 1);
        assert_eq!(count(t.feed(&e, Instant::now(), true)), 0);
    }
}
