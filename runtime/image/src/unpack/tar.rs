//! Framing of tar archives: headers, PAX records, GNU long names and sparse maps, each of bounded size.
//!
//! The `tar` crate decodes header fields; its own iterator reads extension records of any size into memory
//! and so cannot be used on what strangers send.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::protocol::Fault;

const BLOCK: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Fifo,
    Device,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Bytes of content in the archive.
    pub size: u64,
    /// Bytes of the file: more than `size` if it is sparse.
    pub length: u64,
    /// Offset and length of each piece of content, if sparse.
    pub pieces: Option<Vec<(u64, u64)>>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, u32),
    pub xattrs: Vec<Record>,
}

/// A reader that can pass over bytes more cheaply than reading them.
pub(crate) trait Skip: Read {
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

pub(crate) struct TarReader<R> {
    inner: R,
    extension_limit: u64,
    /// Content of the current entry that is still to come, and the padding after it.
    remaining: u64,
    padding: u64,
    position: u64,
}

/// A key and its value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Vec<Record>,
}

impl<R: Skip> TarReader<R> {
    pub(crate) fn new(inner: R, extension_limit: usize) -> Self {
        Self { inner, extension_limit: extension_limit as u64, remaining: 0, padding: 0, position: 0 }
    }

    /// Where the content of the current entry starts, or what is left of it.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extensions = Extensions::default();
        let mut records = 0;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size =
                header.entry_size().map_err(|e| stream(format!("a size field is not a number: {e}")))?;
            let kind = header.entry_type();
            if matches!(
                kind,
                EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            ) {
                records += 1;
                if records > 16 {
                    return Err(stream("more than 16 extension headers before one entry"));
                }
                let data = self.extension(size)?;
                match kind {
                    EntryType::GNULongName => extensions.long_name = Some(until_nul(data)),
                    EntryType::GNULongLink => extensions.long_link = Some(until_nul(data)),
                    EntryType::XHeader => extensions.pax = pax_records(&data)?,
                    // Defaults for all entries: nobody writes anything there but comments.
                    _ => {}
                }
                continue;
            }
            return self.entry(&header, size, extensions).map(Some);
        }
    }

    /// Reads content of the current entry.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = read_retrying(&mut self.inner, &mut buffer[..want]).map_err(broken)?;
        if got == 0 {
            return Err(stream("it ends within a file"));
        }
        self.remaining -= got as u64;
        self.position += got as u64;
        Ok(got)
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        let count = self.remaining + self.padding;
        if count > 0 {
            self.inner.skip(count).map_err(broken)?;
        }
        self.position += count;
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match read_retrying(&mut self.inner, &mut block[filled..]).map_err(broken)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(stream("it ends within a tar header")),
                got => filled += got,
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// The next header; none at the end of the archive, marked or not.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(stream("a tar header has a wrong checksum (is it a tar archive?)"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > self.extension_limit {
            let limit = self.extension_limit;
            return Err(Fault::Limit {
                what: "size of an extension header".into(),
                limit,
                entry: String::new(),
            });
        }
        self.begin(size)?;
        let mut data = Vec::new();
        let mut buffer = [0; 4096];
        while self.remaining > 0 {
            let got = self.read_data(&mut buffer)?;
            data.extend_from_slice(&buffer[..got]);
        }
        Ok(data)
    }

    fn begin(&mut self, size: u64) -> Result<(), Fault> {
        if size > i64::MAX as u64 {
            return Err(stream("a size field is beyond 2^63"));
        }
        self.remaining = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, Fault> {
        let path = extensions.long_name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .long_link
            .unwrap_or_else(|| header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default());
        let number = |field: io::Result<u64>, what: &str| {
            field.map_err(|_| Fault::entry(&path, format!("its {what} is not a number")))
        };
        let mut entry = Entry {
            kind: kind_of(header.entry_type(), &path)?,
            size,
            length: size,
            pieces: None,
            mode: header.mode().map_err(|_| Fault::entry(&path, "its mode is not a number"))? & 0o7777,
            uid: number(header.uid(), "user id")?,
            gid: number(header.gid(), "group id")?,
            mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
            xattrs: Vec::new(),
            path,
            link,
        };
        apply_pax(&mut entry, extensions.pax)?;
        let regular = kind_of(header.entry_type(), b"")? == Kind::File;
        if !regular {
            // Some writers put the size of the link's target there; no content follows.
            (entry.size, entry.length) = (0, 0);
        }
        if header.entry_type() == EntryType::GNUSparse {
            self.sparse_map(header, &mut entry)?;
        }
        self.begin(entry.size)?;
        Ok(entry)
    }

    /// The map of the old GNU format: four pieces in the header, the others in blocks that follow it.
    fn sparse_map(&mut self, header: &Header, entry: &mut Entry) -> Result<(), Fault> {
        let bad = |path: &[u8]| Fault::entry(path, "its sparse map is damaged");
        let gnu = header.as_gnu().ok_or_else(|| bad(&entry.path))?;
        let mut pieces = Vec::new();
        let mut add = |piece: &tar::GnuSparseHeader| -> Result<(), Fault> {
            if !piece.is_empty() {
                let offset = piece.offset().map_err(|_| bad(&entry.path))?;
                let length = piece.length().map_err(|_| bad(&entry.path))?;
                pieces.push((offset, length));
            }
            Ok(())
        };
        for piece in &gnu.sparse {
            add(piece)?;
        }
        let mut extended = gnu.is_extended();
        let mut blocks = 0;
        while extended {
            blocks += 1;
            let mut more = tar::GnuExtSparseHeader::new();
            let block = self.block()?.ok_or_else(|| stream("it ends within a sparse map"))?;
            if blocks > 4096 {
                return Err(bad(&entry.path));
            }
            more.as_mut_bytes().copy_from_slice(&block);
            for piece in more.sparse() {
                add(piece)?;
            }
            extended = more.is_extended();
        }
        entry.length = gnu.real_size().map_err(|_| bad(&entry.path))?;
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= entry.length);
            end = next.ok_or_else(|| bad(&entry.path))?;
            sum += length;
        }
        if sum != entry.size {
            return Err(bad(&entry.path));
        }
        entry.pieces = Some(pieces);
        Ok(())
    }
}

fn kind_of(kind: EntryType, path: &[u8]) -> Result<Kind, Fault> {
    Ok(match kind {
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::Hardlink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        other => {
            let reason = format!("tar entries of type {:?} are not supported", char::from(other.as_byte()));
            return Err(Fault::entry(path, reason));
        }
    })
}

fn apply_pax(entry: &mut Entry, records: Vec<Record>) -> Result<(), Fault> {
    fn number(entry: &Entry, key: &str, value: &[u8]) -> Result<u64, Fault> {
        std::str::from_utf8(value)
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Fault::entry(&entry.path, format!("its PAX record {key} is not a number")))
    }
    for (key, value) in records {
        match key.as_slice() {
            b"path" => entry.path = value,
            b"linkpath" => entry.link = value,
            b"size" => {
                entry.size = number(entry, "size", &value)?;
                entry.length = entry.size;
            }
            b"uid" => entry.uid = number(entry, "uid", &value)?,
            b"gid" => entry.gid = number(entry, "gid", &value)?,
            b"mtime" => entry.mtime = pax_time(&value).unwrap_or(entry.mtime),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    entry.xattrs.push((name.to_vec(), value));
                } else if key.starts_with(b"GNU.sparse.") {
                    return Err(Fault::entry(
                        &entry.path,
                        "sparse files in the PAX format are not supported",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// `LENGTH KEY=VALUE\n`, the length counting itself; values may hold any byte.
fn pax_records(mut data: &[u8]) -> Result<Vec<Record>, Fault> {
    let bad = || stream("a PAX header is damaged");
    let mut records = Vec::new();
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().take(12).position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&data[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    Ok(records)
}

fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

fn read_retrying(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn stream(reason: impl Into<String>) -> Fault {
    Fault::Stream { reason: reason.into() }
}

fn broken(error: io::Error) -> Fault {
    stream(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tar_tests.rs"]
mod tests;
