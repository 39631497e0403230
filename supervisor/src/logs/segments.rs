//! The files of a log, and the one place that writes them.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cordium_proto::v1::LogEntry;

use super::{Line, LogError, frame, stored};

/// How many segments are kept.
const KEPT: usize = 2;
/// The most entries that are believed to be missing at once: the numbers of an agent may be nonsense.
const MAX_GAP: u64 = 1 << 32;

pub struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// The numbers of the segments' first entries, oldest first.
    firsts: Vec<u64>,
    current: Option<(File, u64)>,
    newest: u64,
    agent: (String, u64),
}

/// The file of the segment that begins with entry `first`.
pub fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

/// The first entries of the segments in `dir`, oldest first.
pub fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let fail = |source| LogError::File { doing: "listing", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut firsts = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        if let Some(first) = name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse().ok()) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

impl Segments {
    pub fn open(dir: &Path, segment_bytes: u64) -> Result<Self, LogError> {
        let firsts = list(dir)?;
        let mut segments = Self {
            dir: dir.to_owned(),
            segment_bytes,
            newest: firsts.last().map_or(0, |first| first - 1),
            firsts,
            current: None,
            agent: Default::default(),
        };
        for first in segments.firsts.clone() {
            segments.scan(first)?;
        }
        Ok(segments)
    }

    /// Finds where the segment's whole entries end, and cuts off what a crash left behind them.
    fn scan(&mut self, first: u64) -> Result<(), LogError> {
        let path = path_of(&self.dir, first);
        let fail = |doing| {
            let path = path.clone();
            move |source| LogError::File { doing, path, source }
        };
        let file = OpenOptions::new().read(true).append(true).open(&path).map_err(fail("opening"))?;
        let mut reader = BufReader::new(&file);
        let mut size = 0;
        while let Some((stored, length)) = frame::read(&mut reader).map_err(fail("reading"))? {
            size += length;
            if let Some(entry) = stored.entry {
                self.newest = entry.seq;
                if stored.agent_seq > 0 {
                    self.agent = (entry.run_id, stored.agent_seq);
                }
            }
        }
        file.set_len(size).map_err(fail("cutting"))?;
        self.current = Some((file, size));
        Ok(())
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn agent_cursor(&self, run_id: &str) -> u64 {
        if self.agent.0 == run_id { self.agent.1 } else { 0 }
    }

    /// Appends the lines and returns the number of the last.
    pub fn append(&mut self, run_id: &str, lines: Vec<Line>, most: usize) -> Result<u64, LogError> {
        let mut buffer = Vec::new();
        for mut line in lines {
            if line.agent_seq > 0 {
                let last = self.agent_cursor(run_id);
                if line.agent_seq <= last {
                    continue;
                }
                // What the agent had to drop is missing here too, visibly.
                self.newest += (line.agent_seq - last - 1).min(MAX_GAP);
                self.agent = (run_id.to_owned(), line.agent_seq);
            }
            let at = line.at.unwrap_or_else(|| SystemTime::now().into());
            loop {
                let rest = line.data.split_off(line.data.len().min(most));
                self.newest += 1;
                let entry = LogEntry {
                    seq: self.newest,
                    at: Some(at),
                    source: line.source.into(),
                    name: line.name.clone(),
                    stream: line.stream.into(),
                    data: std::mem::replace(&mut line.data, rest),
                    run_id: run_id.to_owned(),
                };
                if self.is_full(buffer.len()) {
                    self.write(&mut buffer)?;
                    self.rotate(entry.seq)?;
                }
                frame::encode(&stored(entry, line.agent_seq), &mut buffer);
                if line.data.is_empty() {
                    break;
                }
            }
        }
        self.write(&mut buffer)?;
        Ok(self.newest)
    }

    fn is_full(&self, buffered: usize) -> bool {
        self.current.as_ref().is_none_or(|(_, size)| size + buffered as u64 >= self.segment_bytes)
    }

    fn write(&mut self, buffer: &mut Vec<u8>) -> Result<(), LogError> {
        if let (Some((file, size)), Some(first)) = (self.current.as_mut(), self.firsts.last())
            && !buffer.is_empty()
        {
            let path = path_of(&self.dir, *first);
            if let Err(source) = file.write_all(buffer) {
                // A part of an entry must not stay in the middle of the file.
                let _ = file.set_len(*size);
                return Err(LogError::File { doing: "writing", path, source });
            }
            *size += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }

    /// Begins a segment and drops the oldest ones.
    fn rotate(&mut self, first: u64) -> Result<(), LogError> {
        let fail = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| LogError::File { doing, path, source }
        };
        fs::create_dir_all(&self.dir).map_err(fail("making the directory of", &self.dir))?;
        let path = path_of(&self.dir, first);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail("creating", &path))?;
        self.current = Some((file, 0));
        self.firsts.push(first);
        let surplus = self.firsts.len().saturating_sub(KEPT);
        for old in self.firsts.drain(..surplus) {
            let path = path_of(&self.dir, old);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "removing an old log segment");
            }
        }
        Ok(())
    }
}
