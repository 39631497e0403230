//! The log that is written.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::FallocateFlags;

use crate::{
    chain::{Head, Kept},
    error::AuditError,
    files::{self, Part, Text},
    record::{Entry, Line, Record},
};

/// How large the log becomes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in one file. So much is reserved for it ahead, for records about a disk that is full.
    pub file: u64,
    /// Files, the newest among them.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 4 << 20, files: 128 }
    }
}

/// Says in the log that it does not go on where it ended.
const DISCONTINUED: &str = "audit.discontinued";

/// The only writer of its directory.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    limits: Limits,
    path: PathBuf,
    file: File,
    size: u64,
    /// Of the newest record.
    head: Head,
    anchor: Head,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there. `kept` is what [`Self::sync`] returned last.
    ///
    /// What does not end with `kept` or after it was touched. Then the log goes on after `kept`, and its first record says
    /// what was found: so the gap can be seen for as long as the log goes back to it.
    pub fn open(dir: &Path, kept: &Kept, limits: Limits) -> Result<Self, AuditError> {
        files::make_dir(dir)?;
        let end = End::find(dir)?;
        let why = match &end {
            End::Record { head, .. } if head.seq > kept.head.seq || *head == kept.head => None,
            End::Nothing if kept.head.seq == 0 => None,
            End::Record { head, .. } if head.seq == kept.head.seq => {
                Some(format!("its record {} is not the one that was written", head.seq))
            }
            End::Record { head, .. } => Some(format!("it ended with record {}", head.seq)),
            End::Nothing => Some("there was none".to_owned()),
            End::Unreadable => Some("its last line is not a record".to_owned()),
        };
        let (head, part) = match (&why, end) {
            (None, End::Record { head, part, size }) => (head, Some((part, size))),
            (None, _) => (Head::default(), None),
            (Some(_), _) => (kept.head, None),
        };
        let mut log = match part {
            Some((part, size)) => {
                let file = files::open(&part.path, OpenOptions::new().append(true))?;
                // What follows the last end of a line was never told to be written.
                truncate(&file, size, &part.path)?;
                Self { dir: dir.to_owned(), limits, path: part.path, file, size, head, anchor: kept.anchor }
            }
            None => {
                let (file, path) = create(dir, head.seq, limits.file)?;
                Self { dir: dir.to_owned(), limits, path, file, size: 0, head, anchor: kept.anchor }
            }
        };
        if let Some(why) = why {
            let detail = [("found".to_owned(), why), ("expected".to_owned(), kept.head.to_string())].into();
            let action = DISCONTINUED.to_owned();
            log.append(Entry {
                actor: "audit".into(),
                action,
                object: "the audit log".into(),
                detail,
                ..Entry::default()
            })?;
        }
        Ok(log)
    }

    /// Writes a record, which then outlives this process; [`Self::sync`] makes it outlive the machine's power. With an error
    /// nothing of it remains.
    pub fn append(&mut self, entry: Entry) -> Result<Head, AuditError> {
        let record = Record::new(entry, self.head, Timestamp::now());
        let (line, hash) = record.line()?;
        if self.size > 0 && self.size + line.len() as u64 > self.limits.file {
            self.turn_over()?;
        }
        if let Err(source) = self.file.write_all(&line) {
            truncate(&self.file, self.size, &self.path)?;
            return Err(AuditError::Write { path: self.path.clone(), source });
        }
        self.size += line.len() as u64;
        self.head = Head { seq: record.seq, hash };
        Ok(self.head)
    }

    /// The old file is on disk before the new one has a record: none is missing in the midst after a power failure.
    fn turn_over(&mut self) -> Result<(), AuditError> {
        self.bring_to_disk()?;
        let (file, path) = create(&self.dir, self.head.seq, self.limits.file)?;
        (self.file, self.path, self.size) = (file, path, 0);
        Ok(())
    }

    fn bring_to_disk(&self) -> Result<(), AuditError> {
        self.file.sync_data().map_err(|source| AuditError::Sync { path: self.path.clone(), source })
    }

    /// Of the newest record, which may not be on disk yet.
    pub fn head(&self) -> Head {
        self.head
    }

    /// For [`Syncing::sync`], which takes its time, without the log.
    pub fn begin_sync(&self) -> Result<Syncing, AuditError> {
        let fail = |source| AuditError::Sync { path: self.path.clone(), source };
        let file = self.file.try_clone().map_err(fail)?;
        let Self { dir, path, head, anchor, .. } = self;
        Ok(Syncing {
            dir: dir.clone(),
            path: path.clone(),
            file,
            head: *head,
            anchor: *anchor,
            files: self.limits.files,
        })
    }

    /// Brings everything to disk and says what to keep.
    pub fn sync(&mut self) -> Result<Kept, AuditError> {
        let kept = self.begin_sync()?.sync()?;
        self.anchor = kept.anchor;
        Ok(kept)
    }

    /// Removes what is older than the anchor of `kept`, once that is stored.
    pub fn prune(&mut self, kept: &Kept) -> Result<(), AuditError> {
        self.anchor = kept.anchor;
        let parts = files::list(&self.dir)?;
        for pair in parts.windows(2) {
            let [old, next] = pair else { continue };
            if next.first <= kept.anchor.seq.saturating_add(1) && old.path != self.path {
                std::fs::remove_file(&old.path)
                    .map_err(|source| AuditError::Remove { path: old.path.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// What was written up to a point, on its way to disk.
#[derive(Debug)]
pub struct Syncing {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    head: Head,
    anchor: Head,
    files: usize,
}

impl Syncing {
    pub fn sync(self) -> Result<Kept, AuditError> {
        let fail = |source| AuditError::Sync { path: self.path.clone(), source };
        self.file.sync_data().map_err(fail)?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|source| AuditError::Sync { path: self.dir.clone(), source })?;
        let parts = files::list(&self.dir)?;
        let oldest =
            parts.len().checked_sub(self.files).filter(|extra| *extra > 0).and_then(|n| parts.get(n));
        let anchor = match oldest.map(before).transpose()?.flatten() {
            Some(anchor) if anchor.seq > self.anchor.seq => anchor,
            _ => self.anchor,
        };
        Ok(Kept { anchor, head: self.head })
    }
}

/// The record before the first one of a file, as that says.
fn before(part: &Part) -> Result<Option<Head>, AuditError> {
    let Some(Text::Whole(text)) = part.lines()?.next()? else { return Ok(None) };
    let line = Line::parse(&text).filter(|line| line.record.seq == part.first);
    Ok(line.map(|line| Head { seq: line.record.seq.saturating_sub(1), hash: line.record.prev }))
}

fn create(dir: &Path, after: u64, reserve: u64) -> Result<(File, PathBuf), AuditError> {
    let path = Part::new(dir, after.saturating_add(1)).path;
    // One that is empty may be there, from a start that wrote nothing. What else is there is not ours to go on with.
    match files::open(&path, OpenOptions::new().append(true).create_new(true)) {
        Err(AuditError::Open { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            set_aside(&path)?;
            let file = files::open(&path, OpenOptions::new().append(true).create_new(true))?;
            Ok((file, path))
        }
        file => {
            let file = file?;
            // Not every file system can; then the disk's last block is anybody's.
            let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, reserve);
            Ok((file, path))
        }
    }
}

/// A file in the place of the one to be written keeps what it has under another name.
fn set_aside(path: &Path) -> Result<(), AuditError> {
    let fail = |source| AuditError::Open { path: path.to_owned(), source };
    if std::fs::symlink_metadata(path).map_err(fail)?.len() == 0 {
        return std::fs::remove_file(path).map_err(fail);
    }
    let aside = path.with_extension(format!("{}.aside", Timestamp::now().as_microsecond()));
    std::fs::rename(path, aside).map_err(fail)
}

fn truncate(file: &File, size: u64, path: &Path) -> Result<(), AuditError> {
    let length = file.metadata().map(|found| found.len());
    let cut = length.and_then(|length| if length > size { file.set_len(size) } else { Ok(()) });
    cut.map_err(|source| AuditError::Write { path: path.to_owned(), source })
}

/// How a log on disk ends.
enum End {
    Nothing,
    Record { head: Head, part: Part, size: u64 },
    Unreadable,
}

impl End {
    fn find(dir: &Path) -> Result<Self, AuditError> {
        let mut unused: Option<Part> = None;
        for part in files::list(dir)?.into_iter().rev() {
            let mut lines = part.lines()?;
            let (mut last, mut size) = (None, 0);
            while let Some(text) = lines.next()? {
                match text {
                    Text::Whole(line) => {
                        size += line.len() as u64 + 1;
                        last = Some(line);
                    }
                    Text::Open(_) => break,
                    Text::TooLong => return Ok(Self::Unreadable),
                }
            }
            // A file whose first record was never finished: the one before has the end.
            let Some(last) = last else {
                unused = Some(part);
                continue;
            };
            let Some(head) = Line::parse(&last).filter(|line| line.genuine).map(|line| line.head()) else {
                return Ok(Self::Unreadable);
            };
            // The log goes on there: a file's name is the number of its first record.
            return Ok(match unused.filter(|next| next.first == head.seq.saturating_add(1)) {
                Some(next) => Self::Record { head, part: next, size: 0 },
                None => Self::Record { head, part, size },
            });
        }
        Ok(Self::Nothing)
    }
}
