//! Messages of PostgreSQL's protocol, one at a time, while a session is being set up.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest message that a server may send before the session is there.
const MAX_MESSAGE: usize = 64 * 1024;

/// A message of a server.
pub(super) struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// As it came.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self.tag, &self.body)
    }
}

/// Reads one message and not a byte more.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let [tag, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(4..=MAX_MESSAGE).contains(&length) {
        let text = format!("a message of {length} bytes before the session is there");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(Message { tag, body })
}

pub(super) fn encode(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// An error after which the connection ends, as a client shows it.
pub(super) fn fatal(code: &str, message: &str, hint: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message), (b'H', hint)] {
        body.push(field);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    encode(b'E', &body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lengths_are_bounded_and_nothing_is_read_ahead() {
        let bytes = [encode(b'R', b"abcd"), encode(b'Z', b"I")].concat();
        let mut rest = &bytes[..];
        let first = read(&mut rest).await.unwrap();
        assert_eq!((first.tag, first.body.as_slice(), rest), (b'R', &b"abcd"[..], &encode(b'Z', b"I")[..]));
        for length in [0_u32, 3, 1 << 31, u32::MAX, 64 * 1024 + 1] {
            let bytes = [&b"R"[..], &length.to_be_bytes(), &[0; 10]].concat();
            assert_eq!(
                read(&mut &bytes[..]).await.err().unwrap().kind(),
                io::ErrorKind::InvalidData,
                "{length}"
            );
        }
        assert!(read(&mut &b"R\0\0\0\x08a"[..]).await.is_err());
    }
}
