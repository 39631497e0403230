//! Answers the egress broker: whose connection is it that is being refused? The workspace's agent knows.
//!
//! What an agent says is a tenant's claim: it is bounded, shown, and nothing is decided by it.

use std::{sync::Arc, time::Duration};

use cordium_broker::{Owner, Question, Questions};
use cordium_proto::v1::FindOwnerRequest;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::workspaces::Workspaces;

/// The broker waits no longer.
const ANSWER: Duration = Duration::from_millis(250);
/// Questions that are being answered; more are not.
const AT_A_TIME: usize = 32;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
const MAX_PROGRAM: usize = 256;
const MAX_TASK: usize = 128;

/// Answers whichever broker runs, until `shutdown`.
pub async fn serve(workspaces: Arc<Workspaces>, shutdown: CancellationToken) {
    let mut retry = FIRST_RETRY;
    loop {
        let served = async {
            match cordium_broker::questions(workspaces.broker_socket()).await {
                Ok(questions) => {
                    retry = FIRST_RETRY;
                    answer_all(questions, &workspaces).await;
                }
                Err(error) => tracing::debug!(%error, "nobody asks whose connections are refused"),
            }
        };
        tokio::select! {
            () = served => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
            () = shutdown.cancelled() => return,
        }
    }
}

async fn answer_all(mut questions: Questions, workspaces: &Arc<Workspaces>) {
    let (answers, mut answered) = mpsc::channel(AT_A_TIME);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.next() => match question {
                Ok(Some(question)) if open.len() < AT_A_TIME => {
                    let (answers, workspaces) = (answers.clone(), Arc::clone(workspaces));
                    open.spawn(async move {
                        let id = question.id;
                        let owner = tokio::time::timeout(ANSWER, find(&workspaces, question)).await;
                        // The receiver outlives this.
                        let _ = answers.send((id, owner.ok().flatten().unwrap_or_default())).await;
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "the egress broker asks no more"),
            },
            Some((id, owner)) = answered.recv() => {
                if let Err(error) = questions.answer(id, owner).await {
                    return tracing::debug!(%error, "the egress broker takes no answer");
                }
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn find(workspaces: &Workspaces, question: Question) -> Option<Owner> {
    let Question { workspace, udp, local, remote, .. } = question;
    let agent = workspaces.find(&workspace)?.view().agent?;
    let request = FindOwnerRequest {
        protocol: if udp { "udp" } else { "tcp" }.to_owned(),
        local: local.to_string(),
        remote: remote.map(|remote| remote.to_string()).unwrap_or_default(),
    };
    let found = agent.agent().find_owner(request).await;
    let found =
        found.inspect_err(|status| tracing::debug!(workspace, %status, "whose connection it is")).ok()?;
    let response = found.into_inner();
    Some(Owner {
        pid: if i32::try_from(response.pid).is_ok() { response.pid } else { 0 },
        program: plain(&response.program, MAX_PROGRAM),
        task: plain(&response.task, MAX_TASK),
    })
}

/// Nothing that a terminal or a log would take for more than text.
fn plain(text: &str, most: usize) -> String {
    let kept = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_bounded_and_plain() {
        assert_eq!(plain("/usr/bin/curl", 256), "/usr/bin/curl");
        assert_eq!(plain("a\u{1b}[31m\nb", 256), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(plain(&"\u{fc}".repeat(200), 127).len(), 126);
    }
}
