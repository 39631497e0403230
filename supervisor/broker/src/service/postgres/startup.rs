//! The first packets of a client of PostgreSQL, as bytes: pure, bounded, and never what the server is sent.

/// The longest first packet, as PostgreSQL itself has it.
const MAX_PACKET: usize = 10_000;
const MAX_PARAMETERS: usize = 128;
const TLS: u32 = (1234 << 16) | 5679;
const GSS: u32 = (1234 << 16) | 5680;
const CANCEL: u32 = (1234 << 16) | 5678;
const MAJOR: u32 = 3;
/// A key of a session is four bytes since ever, and up to 256 since version 3.2 of the protocol.
const KEYS: std::ops::RangeInclusive<usize> = 4..=256;
/// Options of the protocol itself have names that begin so.
const EXTENSION: &[u8] = b"_pq_.";

/// What a client may begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It asks whether TLS is spoken here.
    Tls,
    /// It asks whether GSSAPI is spoken here.
    Gss,
    /// It wants what another session is doing to be given up.
    Cancel {
        process: u32,
        key: Vec<u8>,
    },
    Start(Start),
}

/// A name and a value, without a NUL in either.
type Parameter = (Vec<u8>, Vec<u8>);

/// A session that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// 3.0 is spoken, whatever newer one is asked for.
    pub minor: u16,
    pub parameters: Vec<Parameter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StartupError {
    #[error("the first packet says that it is {0} bytes long; allowed: 8 to {MAX_PACKET}")]
    Length(u32),
    #[error("the client speaks version {0} of the protocol; spoken here: 3")]
    Version(u32),
    #[error("the first packet is not understood")]
    Malformed,
}

/// How much follows a length.
pub(super) fn rest(length: [u8; 4]) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(length);
    let whole = usize::try_from(length).unwrap_or(usize::MAX);
    if (8..=MAX_PACKET).contains(&whole) { Ok(whole - 4) } else { Err(StartupError::Length(length)) }
}

/// Reads what follows the length.
pub(super) fn parse(packet: &[u8]) -> Result<Opening, StartupError> {
    let (code, body) = packet.split_first_chunk::<4>().ok_or(StartupError::Malformed)?;
    match u32::from_be_bytes(*code) {
        TLS if body.is_empty() => Ok(Opening::Tls),
        GSS if body.is_empty() => Ok(Opening::Gss),
        CANCEL => {
            let (process, key) = body.split_first_chunk::<4>().ok_or(StartupError::Malformed)?;
            let process = u32::from_be_bytes(*process);
            let fits = KEYS.contains(&key.len());
            fits.then(|| Opening::Cancel { process, key: key.to_vec() }).ok_or(StartupError::Malformed)
        }
        version if version >> 16 == MAJOR => {
            let minor = u16::try_from(version & 0xffff).map_err(|_| StartupError::Malformed)?;
            Ok(Opening::Start(Start { minor, parameters: parameters(body)? }))
        }
        TLS | GSS => Err(StartupError::Malformed),
        other => Err(StartupError::Version(other >> 16)),
    }
}

/// Pairs of texts that end with NUL, and a NUL at the end of all.
fn parameters(body: &[u8]) -> Result<Vec<Parameter>, StartupError> {
    let texts = body.strip_suffix(b"\0").ok_or(StartupError::Malformed)?;
    let Some(texts) = texts.strip_suffix(b"\0") else {
        return if texts.is_empty() { Ok(Vec::new()) } else { Err(StartupError::Malformed) };
    };
    let mut texts = texts.split(|byte| *byte == 0);
    let mut parameters = Vec::new();
    while let Some(name) = texts.next() {
        let value = texts.next().ok_or(StartupError::Malformed)?;
        if name.is_empty() || parameters.len() == MAX_PARAMETERS {
            return Err(StartupError::Malformed);
        }
        parameters.push((name.to_vec(), value.to_vec()));
    }
    Ok(parameters)
}

impl Start {
    /// The packet that asks the server for this session: as `user`, and in `database` if one is given.
    pub(super) fn packet(&self, user: &str, database: Option<&str>) -> Vec<u8> {
        let mut body = (MAJOR << 16).to_be_bytes().to_vec();
        let mut put = |name: &[u8], value: &[u8]| {
            for text in [name, value] {
                body.extend_from_slice(text);
                body.push(0);
            }
        };
        put(b"user", user.as_bytes());
        if let Some(database) = database {
            put(b"database", database.as_bytes());
        }
        for (name, value) in &self.parameters {
            let ours =
                name == b"user" || (name == b"database" && database.is_some()) || name.starts_with(EXTENSION);
            if !ours {
                put(name, value);
            }
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &body].concat()
    }

    /// What a client is told that asks for more than version 3.0, if it does.
    pub(super) fn negotiation(&self) -> Option<Vec<u8>> {
        let unknown: Vec<&[u8]> = self
            .parameters
            .iter()
            .map(|(name, _)| name.as_slice())
            .filter(|name| name.starts_with(EXTENSION))
            .collect();
        if self.minor == 0 && unknown.is_empty() {
            return None;
        }
        let mut body = (MAJOR << 16).to_be_bytes().to_vec();
        body.extend(u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
        for name in unknown {
            body.extend_from_slice(name);
            body.push(0);
        }
        Some(super::message::encode(b'v', &body))
    }
}

/// Asks a server for TLS.
pub(super) fn ask_tls() -> [u8; 8] {
    request(TLS)
}

fn request(code: u32) -> [u8; 8] {
    let mut packet = [0; 8];
    packet[..4].copy_from_slice(&8_u32.to_be_bytes());
    packet[4..].copy_from_slice(&code.to_be_bytes());
    packet
}

/// Asks a server to give up what a session is doing.
pub(super) fn cancel(process: u32, key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(key.len() + 12).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &CANCEL.to_be_bytes(), &process.to_be_bytes(), key].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start(text: &str) -> Vec<u8> {
        [&[0, 3, 0, 0][..], text.replace(' ', "\0").as_bytes(), b"\0\0"].concat()
    }

    fn parsed(packet: &[u8]) -> Start {
        match parse(packet).unwrap() {
            Opening::Start(start) => start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        for length in [0, 4, 7, 10_001, 1 << 31, u32::MAX] {
            assert_eq!(rest(length.to_be_bytes()), Err(StartupError::Length(length)));
        }
        assert_eq!(rest(8_u32.to_be_bytes()), Ok(4));
        assert_eq!(rest(10_000_u32.to_be_bytes()), Ok(9_996));
        // What TLS without a question begins with.
        assert!(rest([0x16, 3, 1, 2]).is_err());
        assert!(rest(*b"GET ").is_err());
    }

    #[test]
    fn questions_and_cancellations_are_told_apart() {
        assert_eq!(parse(&ask_tls()[4..]), Ok(Opening::Tls));
        assert_eq!(parse(&request(GSS)[4..]), Ok(Opening::Gss));
        let key = vec![9, 8, 7, 6];
        assert_eq!(parse(&cancel(77, &key)[4..]), Ok(Opening::Cancel { process: 77, key }));
        assert_eq!(parse(&[&TLS.to_be_bytes()[..], b"x"].concat()), Err(StartupError::Malformed));
        assert_eq!(parse(&cancel(77, &[1, 2, 3])[4..]), Err(StartupError::Malformed));
        assert_eq!(parse(&cancel(77, &[0; 257])[4..]), Err(StartupError::Malformed));
        assert_eq!(parse(&[0, 2, 0, 0]), Err(StartupError::Version(2)));
        assert_eq!(parse(&[0, 3]), Err(StartupError::Malformed));
    }

    #[test]
    fn user_and_database_are_replaced_and_the_rest_goes_on() {
        let asked = parsed(&start("user postgres database template1 application_name psql user root"));
        let sent = asked.packet("app", Some("shop"));
        let again = parsed(&sent[4..]);
        let pairs: Vec<(&str, &str)> = again
            .parameters
            .iter()
            .map(|(name, value)| (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(pairs, [("user", "app"), ("database", "shop"), ("application_name", "psql")]);
        let kept = parsed(&asked.packet("app", None)[4..]);
        assert!(kept.parameters.contains(&(b"database".to_vec(), b"template1".to_vec())));
        assert_eq!(asked.negotiation(), None);
    }

    #[test]
    fn newer_versions_are_told_that_three_is_spoken() {
        let mut packet = start("user a _pq_.command_tag on");
        packet[3] = 2;
        let asked = parsed(&packet);
        assert_eq!(asked.minor, 2);
        let told = asked.negotiation().unwrap();
        assert_eq!(told[0], b'v');
        assert!(told.ends_with(b"_pq_.command_tag\0"));
        assert!(!asked.packet("a", None).windows(5).any(|window| window == b"_pq_."));
    }

    #[test]
    fn odd_lists_of_parameters_are_refused() {
        for body in [&b""[..], b"user", b"user\0a", b"user\0a\0", b"user\0\0", b"\0a\0\0", b"a\0b\0c\0\0"] {
            let packet = [&[0, 3, 0, 0][..], body].concat();
            assert_eq!(parse(&packet), Err(StartupError::Malformed), "{body:?}");
        }
        assert_eq!(parsed(&[0, 3, 0, 0, 0]).parameters, []);
        let many = format!("a {}", "b c ".repeat(200)).replace(' ', "\0");
        assert_eq!(
            parse(&[&[0, 3, 0, 0][..], many.as_bytes(), b"d\0\0"].concat()),
            Err(StartupError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_as_one_user_and_reads_again(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let packet = [&[0, 3, 0, 0][..], &body].concat();
            if let Ok(Opening::Start(start)) = parse(&packet) {
                let sent = start.packet("app", Some("shop"));
                prop_assert_eq!(rest(sent[..4].try_into().unwrap()), Ok(sent.len() - 4));
                let again = parsed(&sent[4..]);
                let users: Vec<_> = again.parameters.iter().filter(|(name, _)| name == b"user").collect();
                prop_assert_eq!(users, [&(b"user".to_vec(), b"app".to_vec())]);
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }
    }
}
