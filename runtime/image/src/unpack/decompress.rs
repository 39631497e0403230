//! From the compressed stream to tar bytes, in a thread of its own: decompresses (the format is recognised by
//! its first bytes), computes the diff id, and stops bombs.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::protocol::Fault;
use super::tar::Skip;
use crate::config::Limits;
use crate::digest::Digest;

const CHUNK: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 6;
/// 2^27 bytes is what the format's own tool accepts by default.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The decompressed layer.
pub(crate) struct Decompressed {
    chunks: Receiver<Result<Vec<u8>, Fault>>,
    current: Vec<u8>,
    offset: usize,
    fault: Option<Fault>,
    taken_in: Arc<AtomicU64>,
    thread: JoinHandle<Digest>,
}

impl Decompressed {
    pub(crate) fn start(input: impl Read + Send + 'static, limits: Limits) -> Result<Self, Fault> {
        let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
        let taken_in = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken_in);
        let thread = std::thread::Builder::new()
            .name("decompress".into())
            .spawn(move || run(input, &limits, &counter, &sender))
            .map_err(|e| Fault::Confine { reason: format!("starting a thread: {e}") })?;
        Ok(Self { chunks, current: Vec::new(), offset: 0, fault: None, taken_in, thread })
    }

    /// Bytes of the layer as it came, as far as they are decompressed.
    pub(crate) fn taken_in(&self) -> u64 {
        self.taken_in.load(Ordering::Relaxed)
    }

    /// What stopped the stream, more exact than the error that the reader got.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.clone()
    }

    /// Reads what follows the archive and answers the diff id of everything.
    pub(crate) fn finish(mut self) -> Result<Digest, Fault> {
        loop {
            self.current.clear();
            self.offset = 0;
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    return Err(self.fault.unwrap_or(Fault::Stream { reason: error.to_string() }));
                }
            }
        }
        self.thread.join().map_err(|_| Fault::Confine { reason: "decompression panicked".into() })
    }

    fn fill(&mut self) -> io::Result<bool> {
        while self.offset == self.current.len() {
            match self.chunks.recv() {
                Ok(Ok(chunk)) => (self.current, self.offset) = (chunk, 0),
                Ok(Err(fault)) => {
                    self.fault = Some(fault);
                    return Err(io::Error::other("decompression failed"));
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let count = buffer.len().min(self.current.len() - self.offset);
        buffer[..count].copy_from_slice(&self.current[self.offset..self.offset + count]);
        self.offset += count;
        Ok(count)
    }
}

impl Skip for Decompressed {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if !self.fill()? {
                return Err(io::Error::other("it ends within a file"));
            }
            let step = (self.current.len() - self.offset).min(usize::try_from(count).unwrap_or(usize::MAX));
            self.offset += step;
            count -= step as u64;
        }
        Ok(())
    }
}

fn run(
    input: impl Read,
    limits: &Limits,
    taken_in: &AtomicU64,
    sender: &SyncSender<Result<Vec<u8>, Fault>>,
) -> Digest {
    let counted = Counted { inner: BufReader::with_capacity(CHUNK, input), count: 0 };
    let mut hasher = Sha256::new();
    if let Err(fault) = pump(counted, limits, &mut hasher, taken_in, sender) {
        // If the reader is gone, it knows why.
        let _ = sender.send(Err(fault));
    }
    Digest::finish(hasher)
}

fn pump<R: Read>(
    mut input: Counted<R>,
    limits: &Limits,
    hasher: &mut Sha256,
    taken_in: &AtomicU64,
    sender: &SyncSender<Result<Vec<u8>, Fault>>,
) -> Result<(), Fault> {
    let mut decoder = Decoder::of(&mut input)?;
    // Headers and padding come on top of the files' own bytes.
    let most =
        limits.layer_bytes.saturating_add(limits.layer_entries.saturating_mul(2048)).saturating_add(1 << 20);
    let mut total: u64 = 0;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Stream { reason: format!("decompressing: {error}") }),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        total += filled as u64;
        let limit = |what: &str, limit| Fault::Limit { what: what.to_owned(), limit, entry: String::new() };
        if total > most {
            return Err(limit("decompressed size in bytes", most));
        }
        if total > limits.ratio_floor && total / decoder.consumed().max(1) >= limits.ratio {
            return Err(limit("compression ratio", limits.ratio));
        }
        taken_in.store(decoder.consumed(), Ordering::Relaxed);
        chunk.truncate(filled);
        hasher.update(&chunk);
        if sender.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

enum Decoder<'a, R: Read> {
    Plain(&'a mut Counted<R>),
    Gzip(Box<MultiGzDecoder<&'a mut Counted<R>>>),
    Zstd(zstd::Decoder<'static, &'a mut Counted<R>>),
}

impl<'a, R: Read> Decoder<'a, R> {
    fn of(input: &'a mut Counted<R>) -> Result<Self, Fault> {
        let unreadable = |e: io::Error| Fault::Stream { reason: format!("reading: {e}") };
        let start = input.fill_buf().map_err(unreadable)?;
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(unreadable)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(unreadable)?;
                Self::Zstd(decoder)
            }
            _ => Self::Plain(input),
        })
    }

    fn consumed(&self) -> u64 {
        match self {
            Self::Plain(input) => input.count,
            Self::Gzip(decoder) => decoder.get_ref().count,
            Self::Zstd(decoder) => decoder.get_ref().count,
        }
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

struct Counted<R> {
    inner: BufReader<R>,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }
    fn consume(&mut self, count: usize) {
        self.count += count as u64;
        self.inner.consume(count);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn all(bytes: Vec<u8>, limits: Limits) -> Result<(Vec<u8>, Digest), Fault> {
        let mut stream = Decompressed::start(io::Cursor::new(bytes), limits).unwrap();
        let mut out = Vec::new();
        match stream.read_to_end(&mut out) {
            Ok(_) => Ok((out, stream.finish()?)),
            Err(_) => Err(stream.fault().unwrap()),
        }
    }

    #[test]
    fn every_format_gives_the_same_bytes_and_diff_id() {
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let two_members = [gzip(&data[..400_000]), gzip(&data[400_000..])].concat();
        for bytes in [data.clone(), gzip(&data), two_members, zstd::encode_all(data.as_slice(), 3).unwrap()] {
            let (out, digest) = all(bytes, Limits::default()).unwrap();
            assert_eq!(digest, Digest::of(&data));
            assert!(out == data);
        }
    }

    #[test]
    fn bombs_and_broken_streams_stop() {
        let bomb = gzip(&vec![0; 256 << 20]);
        assert!(bomb.len() < 300_000);
        let fault = all(bomb.clone(), Limits::default()).unwrap_err();
        assert!(matches!(&fault, Fault::Limit { what, .. } if what == "compression ratio"), "{fault:?}");
        let limits = Limits { ratio: u64::MAX, layer_bytes: 1 << 20, layer_entries: 1, ..Limits::default() };
        let fault = all(bomb.clone(), limits).unwrap_err();
        assert!(
            matches!(&fault, Fault::Limit { what, .. } if what.starts_with("decompressed size")),
            "{fault:?}"
        );
        assert!(matches!(all(bomb[..1000].to_vec(), Limits::default()), Err(Fault::Stream { .. })));
    }
}
