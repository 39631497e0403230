//! Which task began which session: processes stay in it when the task's own has ended.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The newest; a workspace has far fewer tasks.
const KEPT: usize = 256;

#[derive(Default)]
pub struct TaskSessions(Mutex<VecDeque<(i32, String)>>);

impl TaskSessions {
    /// A task has begun; its process leads a session.
    pub fn note(&self, leader: i32, task: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The number has come round.
        kept.retain(|(session, _)| *session != leader);
        kept.push_back((leader, task.to_owned()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    pub fn name(&self, session: i32) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(leader, _)| *leader == session).map(|(_, task)| task.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_a_number_is_of_the_last_who_had_it() {
        let sessions = TaskSessions::default();
        for leader in 0..300 {
            sessions.note(leader, &format!("task {leader}"));
        }
        sessions.note(299, "again");
        assert_eq!(sessions.name(10), None);
        assert_eq!(sessions.name(298).as_deref(), Some("task 298"));
        assert_eq!(sessions.name(299).as_deref(), Some("again"));
    }
}
