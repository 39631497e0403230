//! The form of an entry in a segment: its length in four bytes, then the message.

use std::io::{ErrorKind, Read};

use cordium_proto::v1::LogEntry;
use prost::Message as _;

/// The longest message that is believed; a longer one means a damaged file.
const MAX_FRAME: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    #[prost(message, optional, tag = "1")]
    pub entry: Option<LogEntry>,
    #[prost(uint64, tag = "2")]
    pub agent_seq: u64,
}

pub fn encode(stored: &Stored, out: &mut Vec<u8>) {
    let length = stored.encoded_len() as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&stored.encode_to_vec());
}

/// Reads one entry and the bytes that it took. Nothing at the end of the file, after a part of an entry, or
/// where the file is damaged.
pub fn read(reader: &mut impl Read) -> std::io::Result<Option<(Stored, u64)>> {
    let mut length = [0; 4];
    if !fill(reader, &mut length)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    if !fill(reader, &mut bytes)? {
        return Ok(None);
    }
    Ok(Stored::decode(bytes.as_slice()).ok().map(|stored| (stored, 4 + length as u64)))
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
