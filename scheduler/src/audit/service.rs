//! The Audit service.

use std::{pin::Pin, sync::Arc};

use cordium_audit::{Finding, Record, Report, Touch};
use cordium_proto::v1::{
    AuditFinding, AuditHead, AuditRecord, GetHeadRequest, ListRecordsRequest, VerifyAuditRequest,
    VerifyAuditResponse, audit_finding, audit_server,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Audit;
use crate::{clock, core::Core, error::ApiError, service::ControlService, store};

/// Records that are read at a time.
const PAGE: usize = 256;
const MAX_HEADS: usize = 64;

type Records = Pin<Box<dyn Stream<Item = Result<AuditRecord, Status>> + Send>>;

#[tonic::async_trait]
impl audit_server::Audit for ControlService {
    type ListRecordsStream = Records;

    async fn list_records(&self, request: Request<ListRecordsRequest>) -> Result<Response<Records>, Status> {
        let (sender, receiver) = mpsc::channel(PAGE);
        let (core, request) = (self.open()?.clone(), request.into_inner());
        self.core.tasks.spawn(async move {
            if let Err(error) = list(&core, request, &sender).await {
                // Nobody listens any more, or hears why it ends.
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_head(&self, _: Request<GetHeadRequest>) -> Result<Response<AuditHead>, Status> {
        Ok(Response::new(head(self.open()?.audit.head())))
    }

    async fn verify(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let core = self.open()?;
        let heads = request.into_inner().heads;
        if heads.len() > MAX_HEADS {
            return Err(Status::invalid_argument(format!(
                "heads: were {}; allowed: at most {MAX_HEADS}",
                heads.len()
            )));
        }
        let mut points = Vec::new();
        for head in heads {
            let hash: [u8; 32] = head.hash.as_ref().try_into().map_err(|_| {
                Status::invalid_argument(format!("heads: a hash had {} bytes; allowed: 32", head.hash.len()))
            })?;
            points.push(cordium_audit::Head { seq: head.seq, hash: hash.into() });
        }
        points.push(core.audit.head());
        let kept = core.store.read(store::audit::kept).await?;
        let dir = core.audit.dir.clone();
        let report = blocking(move || cordium_audit::verify(&dir, Some(&kept), &points)).await?;
        Ok(Response::new(response(report)))
    }
}

/// Sends pages of records until there are no more, or the reader has gone.
async fn list(
    core: &Arc<Core>,
    request: ListRecordsRequest,
    sender: &mpsc::Sender<Result<AuditRecord, Status>>,
) -> Result<(), ApiError> {
    let audit: &Audit = &core.audit;
    let mut newest = audit.newest.subscribe();
    let end = *newest.borrow_and_update();
    let mut after = request.after;
    // Of those that were asked for; with a name, all have to be looked at.
    if request.last > 0 && request.object.is_empty() {
        after = after.max(end.saturating_sub(request.last));
    }
    let mut tail = (request.last > 0 && !request.object.is_empty()).then(Vec::new);
    loop {
        let dir = audit.dir.clone();
        let page = blocking(move || cordium_audit::read(&dir, after, PAGE)).await?;
        let whole = page.len() == PAGE;
        for record in page {
            after = record.seq;
            if !is_about(&record, &request.object) {
                continue;
            }
            match &mut tail {
                Some(tail) => tail.push(record),
                None if sender.send(Ok(to_proto(record))).await.is_err() => return Ok(()),
                None => {}
            }
        }
        if let Some(tail) = &mut tail {
            let most = usize::try_from(request.last).unwrap_or(usize::MAX);
            tail.drain(..tail.len().saturating_sub(most));
        }
        if whole {
            continue;
        }
        for record in tail.take().unwrap_or_default() {
            if sender.send(Ok(to_proto(record))).await.is_err() {
                return Ok(());
            }
        }
        if !request.follow {
            return Ok(());
        }
        tokio::select! {
            changed = newest.changed() => changed.map_err(|_| ApiError::ShuttingDown)?,
            () = core.shutdown.cancelled() => return Err(ApiError::ShuttingDown),
            () = sender.closed() => return Ok(()),
        }
    }
}

/// `reference` is a uid, or a name with or without its space, with or without its kind.
fn is_about(record: &Record, reference: &str) -> bool {
    let name = record.object.split_once(' ').map_or(record.object.as_str(), |(_, name)| name);
    reference.is_empty() || [record.uid.as_str(), record.object.as_str(), name].contains(&reference)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, cordium_audit::AuditError> + Send + 'static,
) -> Result<T, ApiError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::ShuttingDown)??)
}

fn head(head: cordium_audit::Head) -> AuditHead {
    AuditHead { seq: head.seq, hash: head.hash.as_bytes().to_vec().into() }
}

fn to_proto(record: Record) -> AuditRecord {
    AuditRecord {
        seq: record.seq,
        time: Some(clock::timestamp(record.time.as_microsecond())),
        actor: record.actor,
        action: record.action,
        object: record.object,
        uid: record.uid,
        detail: record.detail.into_iter().collect(),
        prev: record.prev.as_bytes().to_vec().into(),
    }
}

fn response(report: Report) -> VerifyAuditResponse {
    let finding = |Finding { touch, file, line, message }| AuditFinding {
        touch: match touch {
            Touch::Changed => audit_finding::Touch::Changed,
            Touch::Removed => audit_finding::Touch::Removed,
            Touch::Reordered => audit_finding::Touch::Reordered,
            Touch::Truncated => audit_finding::Touch::Truncated,
            Touch::Unreadable => audit_finding::Touch::Unreadable,
        }
        .into(),
        file,
        line,
        message,
    };
    VerifyAuditResponse {
        files: report.files,
        records: report.records,
        first: report.first,
        last: Some(head(report.last)),
        findings: report.findings.into_iter().map(finding).collect(),
    }
}
