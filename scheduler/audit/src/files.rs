//! The log's files: named after the number of their first record, so that their names give the order.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{error::AuditError, record::MAX_LINE};

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    /// The number of the first record in it.
    pub first: u64,
    pub path: PathBuf,
}

impl Part {
    pub(crate) fn new(dir: &Path, first: u64) -> Self {
        Self { first, path: dir.join(format!("audit-{first:020}.jsonl")) }
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn lines(&self) -> Result<Lines, AuditError> {
        let file = open(&self.path, OpenOptions::new().read(true))?;
        Ok(Lines { file: BufReader::new(file), path: self.path.clone() })
    }
}

/// Nothing but a regular file in its own place is opened.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> Result<File, AuditError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let fail = |source| AuditError::Open { path: path.to_owned(), source };
    let file = options.custom_flags(flags.cast_signed()).mode(0o600).open(path).map_err(fail)?;
    match file.metadata().map_err(fail)?.is_file() {
        true => Ok(file),
        false => Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))),
    }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), AuditError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| AuditError::MakeDirectory { path: path.to_owned(), source })
}

/// All files of the log, oldest first. Others in the directory are left alone.
pub(crate) fn list(dir: &Path) -> Result<Vec<Part>, AuditError> {
    let fail = |source| AuditError::List { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        let first = name.to_str().and_then(|name| {
            let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
            digits.parse().ok().filter(|_| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        });
        parts.extend(first.map(|first| Part::new(dir, first)));
    }
    parts.sort();
    Ok(parts)
}

/// The lines of a file, each of bounded length.
pub(crate) struct Lines {
    file: BufReader<File>,
    path: PathBuf,
}

/// One line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Whole(Vec<u8>),
    /// The last one, whose end is missing: being written, or cut off.
    Open(Vec<u8>),
    TooLong,
}

impl Lines {
    pub(crate) fn next(&mut self) -> Result<Option<Text>, AuditError> {
        let fail = |source| AuditError::Read { path: self.path.clone(), source };
        let mut line = Vec::new();
        let most = MAX_LINE as u64 + 1;
        (&mut self.file).take(most).read_until(b'\n', &mut line).map_err(fail)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(Text::Whole(line))),
            Some(last) if line.len() < MAX_LINE => {
                line.push(last);
                Ok(Some(Text::Open(line)))
            }
            Some(_) => {
                self.file.skip_until(b'\n').map_err(fail)?;
                Ok(Some(Text::TooLong))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let part = Part::new(dir.path(), 1);
        let long = vec![b'x'; 3 * MAX_LINE];
        std::fs::write(&part.path, [b"one\n", long.as_slice(), b"\n\ntwo"].concat()).unwrap();
        let mut lines = part.lines().unwrap();
        let mut next = || lines.next().unwrap();
        assert_eq!(next(), Some(Text::Whole(b"one".to_vec())));
        assert_eq!(next(), Some(Text::TooLong));
        assert_eq!(next(), Some(Text::Whole(Vec::new())));
        assert_eq!(next(), Some(Text::Open(b"two".to_vec())));
        assert_eq!(next(), None);
    }

    #[test]
    fn only_files_of_the_log_are_listed_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["audit-1.jsonl", "audit-0000000000000000000x.jsonl", "audit-00000000000000000007.jsonl.bak"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let (one, two) = (Part::new(dir.path(), 12), Part::new(dir.path(), 3));
        std::fs::write(&one.path, "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &two.path).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [two.clone(), one]);
        assert!(matches!(two.lines(), Err(AuditError::Open { .. })));
        assert!(list(&dir.path().join("none")).unwrap().is_empty());
    }
}
