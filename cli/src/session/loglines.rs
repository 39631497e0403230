//! Whole lines from the pieces of a workspace's log.

use std::collections::BTreeMap;

use cordium_proto::v1::{LogEntry, LogSource, LogStream};
use prost_types::Timestamp;

const MAX_LINE: usize = 16 << 10;
const MAX_OPEN: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub at: Option<Timestamp>,
    pub source: LogSource,
    /// The task's or the repository's name, or the source's when it has none.
    pub name: String,
    pub stderr: bool,
    pub text: String,
}

type Key = (i32, String, i32);

#[derive(Default)]
pub struct Assembler {
    open: BTreeMap<Key, (Option<Timestamp>, Vec<u8>)>,
}

impl Assembler {
    pub fn feed(&mut self, entry: &LogEntry) -> Vec<LogLine> {
        let key = (entry.source, entry.name.clone(), entry.stream);
        let mut lines = Vec::new();
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&key) {
            lines = self.flush();
        }
        let (at, mut buffer) = self.open.remove(&key).unwrap_or((entry.at, Vec::new()));
        let mut began = at;
        for &byte in entry.data.iter() {
            if byte == b'\n' || buffer.len() >= MAX_LINE {
                lines.push(line(&key, began, &buffer));
                buffer.clear();
                began = entry.at;
            }
            if byte != b'\n' {
                buffer.push(byte);
            }
        }
        if !buffer.is_empty() {
            self.open.insert(key, (began, buffer));
        }
        lines
    }

    /// The lines that have no end yet.
    pub fn flush(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.open).iter().map(|(key, (at, buffer))| line(key, *at, buffer)).collect()
    }
}

fn line((source, name, stream): &Key, at: Option<Timestamp>, bytes: &[u8]) -> LogLine {
    let source = LogSource::try_from(*source).unwrap_or(LogSource::Unset);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    // What a carriage return overwrites would not be seen on a terminal either.
    let shown = bytes.rsplit(|b| *b == b'\r').next().unwrap_or(bytes);
    let name = if name.is_empty() { source_word(source).to_owned() } else { name.clone() };
    LogLine {
        at,
        source,
        name,
        stderr: *stream == i32::from(LogStream::Stderr),
        text: String::from_utf8_lossy(shown).into_owned(),
    }
}

fn source_word(source: LogSource) -> &'static str {
    match source {
        LogSource::Image => "image",
        LogSource::Clone => "clone",
        LogSource::Task => "task",
        LogSource::Dotfiles => "dotfiles",
        LogSource::Main => "main",
        LogSource::System | LogSource::Unset => "system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, stream: LogStream, data: &str) -> LogEntry {
        LogEntry {
            source: LogSource::Task.into(),
            name: name.into(),
            stream: stream.into(),
            data: data.to_owned().into_bytes().into(),
            ..LogEntry::default()
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<(&str, &str)> {
        lines.iter().map(|l| (l.name.as_str(), l.text.as_str())).collect()
    }

    #[test]
    fn pieces_of_two_tasks_do_not_mix() {
        let mut a = Assembler::default();
        assert!(a.feed(&entry("x", LogStream::Stdout, "one ")).is_empty());
        assert!(a.feed(&entry("y", LogStream::Stdout, "two ")).is_empty());
        assert_eq!(texts(&a.feed(&entry("x", LogStream::Stdout, "more\nnext"))), [("x", "one more")]);
        assert_eq!(texts(&a.flush()), [("x", "next"), ("y", "two ")]);
        assert!(a.flush().is_empty());
    }

    #[test]
    fn ends_of_lines_and_progress() {
        let mut a = Assembler::default();
        let lines = a.feed(&entry("x", LogStream::Stderr, "a\r\n10%\r100%\n\n"));
        assert_eq!(texts(&lines), [("x", "a"), ("x", "100%"), ("x", "")]);
        assert!(lines[0].stderr);
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut a = Assembler::default();
        let lines = a.feed(&entry("", LogStream::Stdout, &"z".repeat(MAX_LINE * 2 + 5)));
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].name, "task");
        assert_eq!(a.flush()[0].text.len(), 5);
    }
}
