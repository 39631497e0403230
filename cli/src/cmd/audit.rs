//! `cordium audit`.

use std::path::PathBuf;

use console::style;
use cordium_audit::Head;
use cordium_proto::v1::{
    AuditFinding, AuditHead, AuditRecord, GetHeadRequest, ListRecordsRequest, VerifyAuditRequest,
    VerifyAuditResponse, audit_finding::Touch,
};
use serde_json::{Value, json};

use super::{Outcome, watch::JsonLines};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, CliResult, Doing as _},
    output::{self, duration::rfc3339, format::Structured, json::Object, text},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Show the records: who did what
    Log(Log),
    /// Go through the log and tell whether it was touched
    Verify(Verify),
    /// Print the newest record's number and hash, to be kept somewhere else
    Head,
}

#[derive(clap::Args, Debug)]
struct Log {
    /// Only what was done to this: a name, `KIND NAME`, or a uid
    object: Option<String>,
    /// Go on with what is recorded from now on
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only the newest so many; 0 shows all
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    last: u64,
    /// Only what comes after this record
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// One JSON object a line
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<JsonLines>,
}

#[derive(clap::Args, Debug)]
struct Verify {
    /// What `cordium audit head` printed some time ago; the log must have that record
    #[arg(long = "head", value_name = "NUMBER:HASH")]
    heads: Vec<Head>,
    /// A log's directory, to be looked at without a supervisor; give --head with it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Output format
    #[arg(short = 'o', long = "out", visible_alias = "output", value_name = "FORMAT")]
    out: Option<Structured>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    match args.what {
        What::Log(args) => log(global, args).await,
        What::Verify(args) => verify(global, args).await,
        What::Head => {
            let client = Client::connect(global, Start::Never).await?;
            let head = client.audit().get_head(GetHeadRequest {}).await.doing("get the head")?.into_inner();
            output::line(&from_proto(&head)?.to_string());
            Ok(0)
        }
    }
}

async fn log(global: &Global, args: Log) -> Outcome {
    let client = Client::connect(global, Start::Never).await?;
    let request = ListRecordsRequest {
        after: args.after,
        last: args.last,
        follow: args.follow,
        object: args.object.unwrap_or_default(),
    };
    let mut records = client.audit().list_records(request).await.doing("read the audit log")?.into_inner();
    while let Some(record) = records.message().await.doing("read the audit log")? {
        output::line(&match args.out {
            Some(JsonLines::Json) => as_json(&record).to_string(),
            None => describe(&record),
        });
    }
    Ok(0)
}

fn describe(record: &AuditRecord) -> String {
    let time = record.time.as_ref().map_or_else(|| "-".to_owned(), rfc3339);
    let action = match record.action.ends_with(".refused") {
        true => style(record.action.as_str()).red(),
        false => style(record.action.as_str()).bold(),
    };
    let mut line =
        format!("{time} {} {action} {}", text::one_line(&record.actor), text::one_line(&record.object));
    let mut detail: Vec<_> = record.detail.iter().collect();
    detail.sort();
    for (key, value) in detail {
        line.push_str(&format!(" {key}={}", text::one_line(value)));
    }
    line
}

fn as_json(record: &AuditRecord) -> Value {
    let mut detail: Vec<_> = record.detail.iter().collect();
    detail.sort();
    let detail: serde_json::Map<String, Value> =
        detail.into_iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    Object::default()
        .set("seq", record.seq)
        .time("time", record.time.as_ref())
        .set("actor", record.actor.as_str())
        .set("action", record.action.as_str())
        .set("object", record.object.as_str())
        .text("uid", &record.uid)
        .set("detail", detail)
        .done()
}

async fn verify(global: &Global, args: Verify) -> Outcome {
    let report = match &args.dir {
        Some(dir) => on_disk(dir.clone(), &args.heads)?,
        None => {
            let client = Client::connect(global, Start::Never).await?;
            let heads = args.heads.iter().map(to_proto).collect();
            let answer = client.audit().verify(VerifyAuditRequest { heads }).await;
            answer.doing("verify the audit log")?.into_inner()
        }
    };
    match args.out {
        Some(format) => output::print(&format.render(&report_json(&report)?)?),
        None => show(&report)?,
    }
    Ok(u8::from(!report.findings.is_empty()))
}

/// What is kept by a supervisor is not known here: only what was noted tells about the end.
fn on_disk(dir: PathBuf, heads: &[Head]) -> CliResult<VerifyAuditResponse> {
    if heads.is_empty() {
        output::warning("without --head nobody can tell whether the end was cut off or all was written anew");
    }
    let report = cordium_audit::verify(&dir, None, heads).map_err(|error| {
        CliError::new(error.to_string()).hint("name the directory `audit` of a state directory")
    })?;
    let findings = report.findings.into_iter().map(|finding| AuditFinding {
        touch: match finding.touch {
            cordium_audit::Touch::Changed => Touch::Changed,
            cordium_audit::Touch::Removed => Touch::Removed,
            cordium_audit::Touch::Reordered => Touch::Reordered,
            cordium_audit::Touch::Truncated => Touch::Truncated,
            cordium_audit::Touch::Unreadable => Touch::Unreadable,
        }
        .into(),
        file: finding.file,
        line: finding.line,
        message: finding.message,
    });
    Ok(VerifyAuditResponse {
        files: report.files,
        records: report.records,
        first: report.first,
        last: Some(to_proto(&report.last)),
        findings: findings.collect(),
    })
}

fn show(report: &VerifyAuditResponse) -> CliResult<()> {
    let last = from_proto(&report.last.clone().unwrap_or_default())?;
    output::line(&format!(
        "{} records in {} files, {} to {}",
        report.records, report.files, report.first, last.seq
    ));
    output::line(&format!("head {last}"));
    for finding in &report.findings {
        let at = match finding.file.as_str() {
            "" => String::new(),
            file => format!("{}:{}: ", text::one_line(file), finding.line),
        };
        output::error_line(
            &format!("{}:", touch(finding)),
            &format!("{at}{}", text::one_line(&finding.message)),
        );
    }
    match report.findings.is_empty() {
        true => output::line(&style("the log is as it was written").green().to_string()),
        false => output::error_line("error:", "the audit log was touched"),
    }
    Ok(())
}

fn report_json(report: &VerifyAuditResponse) -> CliResult<Value> {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({"touch": touch(finding), "file": finding.file, "line": finding.line, "message": finding.message})
        })
        .collect();
    Ok(json!({
        "sound": report.findings.is_empty(), "files": report.files, "records": report.records,
        "first": report.first, "head": from_proto(&report.last.clone().unwrap_or_default())?.to_string(),
        "findings": findings,
    }))
}

fn touch(finding: &AuditFinding) -> String {
    finding.touch().as_str_name().trim_start_matches("TOUCH_").to_lowercase()
}

fn to_proto(head: &Head) -> AuditHead {
    AuditHead { seq: head.seq, hash: head.hash.as_bytes().to_vec().into() }
}

fn from_proto(head: &AuditHead) -> CliResult<Head> {
    let hash: Result<[u8; 32], _> = head.hash.as_ref().try_into();
    let hash = hash.map_err(|_| CliError::new("the supervisor sent a hash that is none"))?;
    Ok(Head { seq: head.seq, hash: hash.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_it_holds() {
        console::set_colors_enabled(false);
        let record = AuditRecord {
            actor: "uid 1000 (pid 5)".into(),
            action: "workspace.exec".into(),
            object: "workspace dev".into(),
            detail: [
                ("command".to_owned(), "sh -c a\n\u{1b}[31mb".to_owned()),
                ("root".to_owned(), "true".to_owned()),
            ]
            .into(),
            ..AuditRecord::default()
        };
        let line = describe(&record);
        assert!(
            line.starts_with("- uid 1000 (pid 5) workspace.exec workspace dev command=sh -c a"),
            "{line}"
        );
        assert!(line.ends_with(" root=true") && !line.contains(['\n', '\u{1b}']), "{line:?}");
    }
}
