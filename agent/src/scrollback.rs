//! The last bytes of a terminal, addressed by their offset in all that it ever wrote.

use std::collections::VecDeque;

use bytes::Bytes;

pub const CAPACITY: usize = 500_000;

#[derive(Default)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    end: u64,
}

impl Scrollback {
    pub fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(CAPACITY)..];
        let excess = (self.bytes.len() + data.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(data);
        self.end += data.len() as u64;
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// At most `max` bytes from `offset`, or from the start when those are gone; and the offset behind them.
    pub fn read(&self, offset: u64, max: usize) -> (Bytes, u64) {
        let offset = offset.clamp(self.start(), self.end);
        let skip = usize::try_from(offset - self.start()).unwrap_or(usize::MAX).min(self.bytes.len());
        let count = (self.bytes.len() - skip).min(max);
        let data: Vec<u8> = self.bytes.range(skip..skip + count).copied().collect();
        (Bytes::from(data), offset + count as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_replayed() {
        let mut ring = Scrollback::default();
        ring.push(b"hello ");
        ring.push(b"world");
        assert_eq!(ring.read(0, 100), (Bytes::from_static(b"hello world"), 11));
        assert_eq!(ring.read(6, 3), (Bytes::from_static(b"wor"), 9));
        assert_eq!(ring.read(99, 3), (Bytes::new(), 11));
    }

    #[test]
    fn a_slow_reader_is_moved_to_the_oldest_byte_that_is_there() {
        let mut ring = Scrollback::default();
        for n in 0..100u8 {
            ring.push(&[n; 10_000]);
        }
        assert_eq!(ring.end(), 1_000_000);
        assert_eq!(ring.start(), 500_000);
        let (data, next) = ring.read(0, 10);
        assert_eq!((data.as_ref(), next), ([50u8; 10].as_slice(), 500_010));
        ring.push(&vec![7; CAPACITY + 5]);
        assert_eq!(ring.bytes.len(), CAPACITY);
    }
}
