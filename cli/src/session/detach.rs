//! Finds the detach sequence in what is typed.

/// A sequence of keys such as `ctrl-],d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

pub fn parse(text: &str) -> Result<Keys, String> {
    if text.is_empty() || text == "none" {
        return Ok(Keys(Vec::new()));
    }
    text.split(',')
        .map(|key| {
            let bad =
                || format!("key {key:?} is unknown; allowed: one character, or ctrl- with a-z @ [ \\ ] ^ _");
            match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([c @ b'a'..=b'z']) => Ok(c - b'a' + 1),
                Some([c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => Ok(c - b'@'),
                Some(_) => Err(bad()),
                None => match key.as_bytes() {
                    [c] if c.is_ascii_graphic() => Ok(*c),
                    _ => Err(bad()),
                },
            }
        })
        .collect::<Result<Vec<u8>, String>>()
        .map(Keys)
}

pub struct Matcher {
    keys: Keys,
    matched: usize,
}

pub enum Typed {
    Send(Vec<u8>),
    Detach,
}

impl Matcher {
    pub fn new(keys: Keys) -> Self {
        Self { keys, matched: 0 }
    }

    /// Passes on what cannot be part of the sequence; a part that is held back is passed on once it proves to be none.
    pub fn feed(&mut self, data: &[u8]) -> Typed {
        let keys = &self.keys.0;
        if keys.is_empty() {
            return Typed::Send(data.to_vec());
        }
        let mut out = Vec::with_capacity(data.len() + self.matched);
        for &byte in data {
            if byte == keys[self.matched] {
                self.matched += 1;
                if self.matched == keys.len() {
                    return Typed::Detach;
                }
                continue;
            }
            out.extend_from_slice(&keys[..self.matched]);
            self.matched = 0;
            if byte == keys[0] {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        Typed::Send(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn send(m: &mut Matcher, data: &[u8]) -> Option<Vec<u8>> {
        match m.feed(data) {
            Typed::Send(out) => Some(out),
            Typed::Detach => None,
        }
    }

    #[test]
    fn keys() {
        assert_eq!(parse("ctrl-],d").unwrap(), Keys(vec![0x1d, b'd']));
        assert_eq!(parse("ctrl-p,ctrl-q").unwrap(), Keys(vec![16, 17]));
        assert_eq!(parse("none").unwrap(), Keys(vec![]));
        assert!(parse("ctrl-1").is_err() && parse("ctrl-p,").is_err() && parse("é").is_err());
    }

    #[test]
    fn found_across_reads_and_nothing_is_lost() {
        let mut m = Matcher::new(parse("ctrl-],d").unwrap());
        assert_eq!(send(&mut m, b"ab\x1d").unwrap(), b"ab");
        assert_eq!(send(&mut m, b"x").unwrap(), b"\x1dx");
        assert_eq!(send(&mut m, b"\x1d\x1dq").unwrap(), b"\x1d\x1dq");
        assert_eq!(send(&mut m, b"\x1d").unwrap(), b"");
        assert!(send(&mut m, b"d").is_none());
    }
}
