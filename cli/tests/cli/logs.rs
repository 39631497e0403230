use cordium_proto::v1::{LogEntry, LogSource, LogStream};
use prost_types::Timestamp;

use crate::fake::stage;

fn entry(seq: u64, name: &str, stream: LogStream, data: &'static str) -> LogEntry {
    LogEntry {
        seq,
        at: Some(Timestamp { seconds: 0, nanos: 0 }),
        source: LogSource::Task.into(),
        name: name.into(),
        stream: stream.into(),
        data: data.as_bytes().into(),
        run_id: "run-1".into(),
    }
}

#[tokio::test]
async fn lines_have_their_task_and_errors_go_to_stderr() {
    let (_dir, fake, cordium) = stage().await;
    *fake.0.logs.lock().unwrap() = vec![
        entry(1, "one", LogStream::Stdout, "a\nb"),
        entry(2, "two", LogStream::Stderr, "oh \u{1b}[31mno\u{1b}[0m\u{1b}[2J\n"),
        entry(3, "one", LogStream::Stdout, "c\nno end"),
    ];
    let o = cordium.run(&["logs", "dev"]).await;
    assert_eq!(
        (o.code, o.out.as_str(), o.err.as_str()),
        (0, "[one] a\n[one] bc\n[one] no end\n", "[two] oh no\n")
    );
    let o = cordium.run(&["logs", "dev", "-t", "--task", "two"]).await;
    assert_eq!((o.out.as_str(), o.err.as_str()), ("", "1970-01-01T00:00:00.000Z [two] oh no\n"));
}
