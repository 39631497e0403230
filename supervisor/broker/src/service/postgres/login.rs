//! Logs in to a server of PostgreSQL: the one place where its password is used.

use std::io;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::message::{self, Message};

/// What a server may say before it is ready.
const MAX_MESSAGES: usize = 256;
const MAX_BYTES: usize = 256 * 1024;
/// Rounds of hashing that a server may ask for: a tenth of a second of a processor. PostgreSQL's default is 4,096.
const MAX_ITERATIONS: u32 = 200_000;

/// Who logs in, and how carefully.
pub(super) struct Login<'a> {
    pub user: &'a str,
    pub password: &'a [u8],
    /// Nobody listens: the password may be shown to a server whose certificate has been verified.
    pub encrypted: bool,
    /// The hash of the server's certificate, if it has one for this.
    pub end_point: Option<Vec<u8>>,
    /// One login of a workspace hashes at a time.
    pub hashing: &'a Semaphore,
}

/// How the server took it.
pub(super) enum Answer {
    In(Session),
    /// Its own words, for the client.
    Refused(Vec<u8>),
}

/// A session that is ready for its first query.
pub(super) struct Session {
    /// What the server has said since it let us in, for the client; without the key.
    pub said: Vec<u8>,
    /// By which the server knows the session when it is asked to give up what it is doing.
    pub key: Option<(u32, Vec<u8>)>,
    /// That it is ready, which the client hears last.
    pub ready: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("speaking with the server: {0}")]
    Io(#[from] io::Error),
    #[error("the server sent what does not belong there")]
    Protocol,
    #[error("the server said too much before the session was there")]
    TooMuch,
    #[error("the server asks for the password itself, or for its MD5 hash, over a connection without TLS")]
    Exposed,
    #[error("the server asks for a way to log in that is not spoken here")]
    Method,
    #[error("the server asks for {0} rounds of hashing; at most {MAX_ITERATIONS} are made")]
    Iterations(u32),
    #[error("the server does not know the password itself, or it is another server")]
    Impostor,
}

impl Login<'_> {
    /// Sends `start`, proves who we are, and hears the server until it is ready.
    pub(super) async fn run(
        self,
        server: &mut (impl AsyncRead + AsyncWrite + Unpin),
        start: &[u8],
    ) -> Result<Answer, LoginError> {
        server.write_all(start).await?;
        server.flush().await?;
        let mut heard = Heard::default();
        let mut scram: Option<Scram> = None;
        loop {
            let message = heard.next(server).await?;
            match message.tag {
                b'R' => {}
                b'E' => return Ok(Answer::Refused(message.encode())),
                // Notices, and that the server speaks an older version than was asked for: it was asked for 3.0.
                b'N' => {
                    heard.said.extend(message.encode());
                    continue;
                }
                _ => return Err(LoginError::Protocol),
            }
            let (kind, body) = message.body.split_first_chunk::<4>().ok_or(LoginError::Protocol)?;
            let answer = match (u32::from_be_bytes(*kind), scram.take()) {
                (0, None | Some(Scram::Done)) => {
                    heard.said.splice(0..0, message.encode());
                    break;
                }
                (3, None) if self.encrypted => {
                    let password = [self.password, b"\0"].concat();
                    Some(Zeroizing::new(password))
                }
                (5, None) if self.encrypted => {
                    let salt = <[u8; 4]>::try_from(body).map_err(|_| LoginError::Protocol)?;
                    let hash = md5_hash(self.user.as_bytes(), self.password, salt);
                    Some(Zeroizing::new([hash.as_bytes(), b"\0"].concat()))
                }
                (3 | 5, None) => return Err(LoginError::Exposed),
                (10, None) => {
                    let (state, first) = self.first(body)?;
                    scram = Some(state);
                    Some(Zeroizing::new(first))
                }
                (11, Some(Scram::First(state))) => {
                    let state = self.prove(state, body.to_vec()).await?;
                    let proof = state.message().to_vec();
                    scram = Some(Scram::Proven(state));
                    Some(Zeroizing::new(proof))
                }
                (12, Some(Scram::Proven(mut state))) => {
                    state.finish(body).map_err(|_| LoginError::Impostor)?;
                    scram = Some(Scram::Done);
                    None
                }
                (2 | 6 | 7 | 9, None) => return Err(LoginError::Method),
                _ => return Err(LoginError::Protocol),
            };
            if let Some(answer) = answer {
                server.write_all(&Zeroizing::new(message::encode(b'p', &answer))).await?;
                server.flush().await?;
            }
        }
        heard.ready(server).await
    }

    /// The first message of SCRAM, bound to TLS where both sides can.
    fn first(&self, mechanisms: &[u8]) -> Result<(Scram, Vec<u8>), LoginError> {
        let offers =
            |name: &str| mechanisms.split(|byte| *byte == 0).any(|offered| offered == name.as_bytes());
        let plus = offers(SCRAM_SHA_256_PLUS);
        let (mechanism, binding) = match &self.end_point {
            Some(hash) if plus => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())),
            // The server learns that it could have, so that nobody in between can have taken the offer away.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(LoginError::Method),
        };
        let state = ScramSha256::new(self.password, binding);
        let first = state.message();
        let length = u32::try_from(first.len()).map_err(|_| LoginError::Protocol)?;
        let body = [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), first].concat();
        Ok((Scram::First(state), body))
    }

    /// Hashes where it keeps nobody waiting.
    async fn prove(&self, mut state: ScramSha256, challenge: Vec<u8>) -> Result<ScramSha256, LoginError> {
        let rounds = iterations(&challenge).ok_or(LoginError::Protocol)?;
        if rounds > MAX_ITERATIONS {
            return Err(LoginError::Iterations(rounds));
        }
        let _turn = self.hashing.acquire().await.map_err(|_| LoginError::Protocol)?;
        let hashed = tokio::task::spawn_blocking(move || state.update(&challenge).map(|()| state));
        hashed.await.map_err(io::Error::other)?.map_err(|_| LoginError::Protocol)
    }
}

enum Scram {
    First(ScramSha256),
    Proven(ScramSha256),
    Done,
}

/// `r=…,s=…,i=4096`
fn iterations(challenge: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(challenge).ok()?;
    text.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

/// What a server has said so far, counted.
#[derive(Default)]
struct Heard {
    messages: usize,
    bytes: usize,
    said: Vec<u8>,
}

impl Heard {
    async fn next(&mut self, server: &mut (impl AsyncRead + Unpin)) -> Result<Message, LoginError> {
        let message = message::read(server).await?;
        self.messages += 1;
        self.bytes += message.body.len();
        if self.messages > MAX_MESSAGES || self.bytes > MAX_BYTES {
            return Err(LoginError::TooMuch);
        }
        Ok(message)
    }

    /// After the login: parameters, notices, the key, and that it is ready.
    async fn ready(mut self, server: &mut (impl AsyncRead + Unpin)) -> Result<Answer, LoginError> {
        let mut key = None;
        loop {
            let message = self.next(server).await?;
            match message.tag {
                b'K' => {
                    let (process, rest) =
                        message.body.split_first_chunk::<4>().ok_or(LoginError::Protocol)?;
                    key = Some((u32::from_be_bytes(*process), rest.to_vec()));
                }
                b'S' | b'N' => self.said.extend(message.encode()),
                b'E' => {
                    self.said.extend(message.encode());
                    return Ok(Answer::Refused(self.said));
                }
                b'Z' => {
                    return Ok(Answer::In(Session { said: self.said, key, ready: message.encode() }));
                }
                _ => return Err(LoginError::Protocol),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn first(end_point: Option<Vec<u8>>, offered: &str) -> Result<String, LoginError> {
        let hashing = Semaphore::new(1);
        let login =
            Login { user: "app", password: b"hunter2", encrypted: true, end_point, hashing: &hashing };
        let (_, body) = login.first(&[offered.replace(' ', "\0").as_bytes(), b"\0\0"].concat())?;
        Ok(String::from_utf8_lossy(&body).replace('\0', " "))
    }

    #[test]
    fn a_login_is_bound_to_tls_where_both_sides_can() {
        let (both, hash) = ("SCRAM-SHA-256-PLUS SCRAM-SHA-256", Some(vec![1; 32]));
        let bound = first(hash.clone(), both).unwrap();
        assert!(
            bound.starts_with("SCRAM-SHA-256-PLUS ") && bound.contains("p=tls-server-end-point,,"),
            "{bound}"
        );
        // The server is told that we could have: it knows if its offer was taken away.
        let stripped = first(hash, "SCRAM-SHA-256").unwrap();
        assert!(stripped.starts_with("SCRAM-SHA-256 ") && stripped.contains("y,,"), "{stripped}");
        let plain = first(None, both).unwrap();
        assert!(plain.starts_with("SCRAM-SHA-256 ") && plain.contains("n,,"), "{plain}");
        assert!(matches!(first(None, "SCRAM-SHA-256-PLUS"), Err(LoginError::Method)));
        assert!(matches!(first(None, "SCRAM-SHA-1"), Err(LoginError::Method)));
    }

    #[test]
    fn rounds_are_read_and_nothing_else() {
        assert_eq!(iterations(b"r=a,s=b,i=4096"), Some(4096));
        for text in [&b"r=a,s=b"[..], b"i=", b"i=-1", b"i=4294967296", b"\xff", b""] {
            assert_eq!(iterations(text), None, "{text:?}");
        }
    }
}
