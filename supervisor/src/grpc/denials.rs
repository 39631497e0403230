//! What workspaces were refused outside, and what was put on their requests, as the egress broker tells it.

use std::time::{Duration, UNIX_EPOCH};

use cordium_broker::{Denial, Denials, Happened, Owner, Protocol, Record, Records, Use, WatchError};
use cordium_proto::v1::{self, egress_record};
use futures::{StreamExt as _, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::shutting_down;
use crate::{request_error::RequestError, runtime::chain};

/// Passes denials on until there are no more, or the supervisor ends.
pub(super) fn pass(
    denials: Denials,
    shutdown: CancellationToken,
) -> BoxStream<'static, Result<v1::Denial, Status>> {
    let state = Some((denials, shutdown));
    let passed = futures::stream::unfold(state, |state| async move {
        let (mut denials, shutdown) = state?;
        tokio::select! {
            biased;
            denial = denials.next() => match denial {
                Ok(denial) => Some((Ok(message(denial?)), Some((denials, shutdown)))),
                Err(error) => Some((Err(of_broker(&error)), None)),
            },
            () = shutdown.cancelled() => Some((Err(shutting_down()), None)),
        }
    });
    passed.boxed()
}

/// Passes records on until the broker or the supervisor ends.
pub(super) fn pass_records(
    records: Records,
    shutdown: CancellationToken,
) -> BoxStream<'static, Result<v1::EgressRecord, Status>> {
    let state = Some((records, shutdown));
    let passed = futures::stream::unfold(state, |state| async move {
        let (mut records, shutdown) = state?;
        tokio::select! {
            biased;
            record = records.next() => match record {
                Ok(record) => Some((Ok(record_message(record?)), Some((records, shutdown)))),
                Err(error) => Some((Err(of_broker(&error)), None)),
            },
            () = shutdown.cancelled() => Some((Err(shutting_down()), None)),
        }
    });
    passed.boxed()
}

/// A broker that was restarted, and does not know the workspace yet, will soon.
pub(super) fn of_broker(error: &WatchError) -> Status {
    RequestError::Unavailable(chain(error)).into()
}

fn at(millis: u64) -> Option<prost_types::Timestamp> {
    Some((UNIX_EPOCH + Duration::from_millis(millis)).into())
}

fn record_message(record: Record) -> v1::EgressRecord {
    let what = match record.what {
        Happened::Denied(denial) => egress_record::What::Denial(message(denial)),
        Happened::Used(used) => egress_record::What::Use(use_message(used)),
        Happened::DenialsLeftOut => egress_record::What::LeftOut(egress_record::LeftOut::Denials.into()),
        Happened::UsesLeftOut => egress_record::What::LeftOut(egress_record::LeftOut::Uses.into()),
    };
    v1::EgressRecord {
        epoch: record.epoch,
        number: record.number,
        before: record.before,
        count: record.count,
        workspace_uid: record.workspace,
        run_id: record.run,
        first_at: at(record.first_millis),
        last_at: at(record.last_millis),
        what: Some(what),
    }
}

fn use_message(used: Use) -> v1::CredentialUse {
    let Use { credential, secret, host, port, requests, more } = used;
    v1::CredentialUse { credential, secret, host, port: port.into(), requests, more }
}

fn message(denial: Denial) -> v1::Denial {
    let Owner { pid, program, task } = denial.owner.unwrap_or_default();
    v1::Denial {
        number: denial.number,
        at: at(denial.time_millis),
        names: denial.names,
        address: denial.address.map(|address| address.to_string()).unwrap_or_default(),
        port: denial.port.map(u32::from).unwrap_or_default(),
        protocol: match denial.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Dns => "dns",
        }
        .to_owned(),
        rule: denial.rule,
        reason: denial.reason,
        next: denial.next,
        pid,
        program,
        task,
        method: denial.method.unwrap_or_default(),
        path: denial.path.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_passed_on_whole() {
        let denial = Denial {
            number: 7,
            time_millis: 1_500,
            workspace: "w".into(),
            names: vec!["a.example".into()],
            address: Some([192, 0, 2, 1].into()),
            port: Some(443),
            protocol: Protocol::Tcp,
            method: Some("PUT".into()),
            path: Some("/x".into()),
            rule: "rules[0]".into(),
            reason: "because".into(),
            next: "do".into(),
            owner: Some(Owner { pid: 7, program: "/bin/x".into(), task: "t".into() }),
        };
        let passed = message(denial);
        assert_eq!(passed.at, Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(
            (passed.address.as_str(), passed.port, passed.protocol.as_str()),
            ("192.0.2.1", 443, "tcp")
        );
        assert_eq!((passed.pid, passed.program.as_str(), passed.task.as_str()), (7, "/bin/x", "t"));
        assert_eq!((passed.method.as_str(), passed.path.as_str()), ("PUT", "/x"));
        assert_eq!((passed.number, passed.rule.as_str(), passed.next.as_str()), (7, "rules[0]", "do"));
    }
}
