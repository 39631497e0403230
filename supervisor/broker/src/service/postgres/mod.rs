//! PostgreSQL: the broker hears the client's first packet, logs in to the server with a packet of its own, and passes the rest on.
//!
//! Towards the client no TLS is spoken and no password asked for: nobody else is on the link. Towards the server TLS with a verified
//! certificate is the default. What the client says of user and password never reaches the server.

mod binding;
mod keys;
mod login;
mod message;
mod startup;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cordium_egress::service::Upstream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use self::keys::Keys;
use self::keys::Session as Known;
use self::login::{Answer, Login, LoginError};
use self::startup::{Opening, Start};
use super::table::Ready;
use super::terms::Protocol;
use super::{Connection, Ended, Refusal, in_time};
use crate::end::End;
use crate::flow::{HALF_CLOSED_IDLE, IDLE, failed};
use crate::inspect::is_certificate;
use crate::splice::{Activity, copy};

/// Buffers of a session over TLS, each way.
const BUFFER: usize = 32 * 1024;
/// Questions that a client may ask before it says what it wants: one for TLS, one for GSSAPI.
const MAX_QUESTIONS: usize = 2;

/// What a session needs to begin.
struct Session {
    client: End,
    server: Server,
    address: SocketAddr,
    said: Vec<u8>,
    known: Option<Known>,
    ready: Vec<u8>,
}

/// The server's side.
enum Server {
    Plain(End),
    Tls(Box<TlsStream<End>>),
}

impl Connection<'_> {
    pub(super) async fn postgres(&self, mut client: End) -> Result<(), Ended> {
        let opening = match in_time(opening(&mut client)).await? {
            Ok(opening) => opening,
            Err(Unread::Io(error)) => return Err(error.into()),
            Err(Unread::Startup(error)) => {
                let refusal = Refusal { code: "08P01", ..Refusal::unreached(self.ready, &error.to_string()) };
                return tell(client, refusal).await;
            }
        };
        match opening {
            Opening::Cancel { process, key } => in_time(self.cancel(client, process, &key)).await?,
            Opening::Start(start) => {
                let begun = in_time(self.begin(client, &start)).await?;
                match begun? {
                    Some(session) => self.pass_on(session).await,
                    None => Ok(()),
                }
            }
            // `opening` has answered them.
            Opening::Tls | Opening::Gss => Ok(()),
        }
    }

    /// Logs in. Without a session, the client has been told why.
    async fn begin(&self, mut client: End, start: &Start) -> Result<Option<Session>, Ended> {
        let (server, address, answer) = match self.log_in(start).await {
            Ok(logged_in) => logged_in,
            Err(refusal) => return tell(client, refusal).await.map(|()| None),
        };
        match answer {
            Answer::Refused(said) => {
                client.write_all(&said).await?;
                client.shutdown().await?;
                Ok(None)
            }
            Answer::In(session) => {
                let said = [start.negotiation().unwrap_or_default(), session.said].concat();
                let known = session.key.map(|(process, key)| Known { server: address, process, key });
                Ok(Some(Session { client, server, address, said, known, ready: session.ready }))
            }
        }
    }

    async fn log_in(&self, start: &Start) -> Result<(Server, SocketAddr, Answer), Refusal> {
        let Protocol::Postgresql { user, database, .. } = &self.ready.protocol;
        let secret = self.ready.secret.as_ref().ok_or_else(|| Refusal::revoked(self.ready))?;
        let (end, address) = self.reach(self.ready).await?;
        let mut server = self.secure(end).await?;
        let login = Login {
            user,
            password: secret.expose(),
            encrypted: matches!(server, Server::Tls(_)),
            end_point: server.end_point(),
            hashing: &self.flows.services.hashing,
        };
        let answer = login.run(&mut server, &start.packet(user, database.as_deref())).await;
        Ok((server, address, answer.map_err(|error| not_in(self.ready, &error))?))
    }

    /// TLS, where the service has it: without it there is no session.
    async fn secure(&self, mut server: End) -> Result<Server, Refusal> {
        let ready = self.ready;
        let Protocol::Postgresql { tls: true, .. } = ready.protocol else { return Ok(Server::Plain(server)) };
        let lost =
            |error: io::Error| Refusal::unreached(ready, &format!("speaking with the server: {error}"));
        server.write_all(&startup::ask_tls()).await.map_err(lost)?;
        // One byte, and nothing that somebody could have put behind it.
        if server.read_u8().await.map_err(lost)? != b'S' {
            let next = "turn TLS on at the server, or say tls: DISABLE if nobody can listen in between";
            return Err(Refusal::mistrusted(ready, "the server speaks no TLS", next, "it was asked for it"));
        }
        let name = match &ready.upstream {
            Upstream::Node => ServerName::try_from(crate::HOST_NAME).ok(),
            Upstream::Name(host) => ServerName::try_from(host.to_string()).ok(),
            Upstream::Address(address) => Some(ServerName::from(*address)),
        };
        let name =
            name.ok_or_else(|| Refusal::unreached(ready, "the server's name cannot stand in a certificate"))?;
        match TlsConnector::from(Arc::clone(&ready.tls)).connect(name, server).await {
            Ok(stream) => Ok(Server::Tls(Box::new(stream))),
            Err(error) if is_certificate(&error) => {
                let reason = "the server's certificate is not valid for this name, or is of nobody whom the node trusts";
                let next = "check the server; a private authority is named in network.extraRoots";
                Err(Refusal::mistrusted(ready, reason, next, &error.to_string()))
            }
            Err(error) => Err(Refusal::unreached(ready, &format!("speaking TLS with the server: {error}"))),
        }
    }

    /// Tells the client that it is in, and copies both ways.
    async fn pass_on(&self, session: Session) -> Result<(), Ended> {
        let Session { mut client, server, address, said, known, ready } = session;
        let entry = known.and_then(|known| self.flows.services.keys.enter(self.ready, known));
        let key = entry.as_ref().map(keys::Entry::message).unwrap_or_default();
        client.write_all(&[said, key, ready].concat()).await?;
        let activity = Arc::new(Activity::new());
        tokio::select! {
            biased;
            ended = relay(client, server, &self.flows.pipes, &activity) => Ok(ended?),
            why = self.taken_away(address) => Err(Ended::Denied(why)),
            () = activity.idle(IDLE, HALF_CLOSED_IDLE) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Passes on that a session is to give up what it is doing, if it is one of this workspace and this service. The client is
    /// told nothing, whatever becomes of it.
    async fn cancel(&self, client: End, process: u32, key: &[u8]) -> Result<(), Ended> {
        let Some(known) = self.flows.services.keys.find(&self.ready.name, process, key) else {
            client.close();
            return Ok(());
        };
        if self.ready.secret.is_none() || self.allows(self.ready, known.server).is_err() {
            client.close();
            return Ok(());
        }
        let end = self.open(known.server).await?;
        if let Ok(mut server) = self.secure(end).await {
            server.write_all(&startup::cancel(known.process, &known.key)).await?;
            server.flush().await?;
            // It closes the connection when it has done so.
            let mut rest = [0; 64];
            while server.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        }
        client.close();
        Ok(())
    }
}

enum Unread {
    Io(io::Error),
    Startup(startup::StartupError),
}

/// Reads what the client wants, and says no to TLS and GSSAPI before.
async fn opening(client: &mut End) -> Result<Opening, Unread> {
    for _ in 0..=MAX_QUESTIONS {
        let mut length = [0; 4];
        client.read_exact(&mut length).await.map_err(Unread::Io)?;
        let mut packet = vec![0; startup::rest(length).map_err(Unread::Startup)?];
        client.read_exact(&mut packet).await.map_err(Unread::Io)?;
        match startup::parse(&packet).map_err(Unread::Startup)? {
            Opening::Tls | Opening::Gss => client.write_all(b"N").await.map_err(Unread::Io)?,
            wanted => return Ok(wanted),
        }
    }
    Err(Unread::Startup(startup::StartupError::Malformed))
}

/// Tells the client why there is no session.
async fn tell(mut client: End, refusal: Refusal) -> Result<(), Ended> {
    let Refusal { code, message, hint, why } = refusal;
    let said = async {
        client.write_all(&message::fatal(code, &message, hint)).await?;
        client.shutdown().await
    };
    let said = said.await;
    match why {
        Some(why) => Err(Ended::Denied(why)),
        None => Ok(said?),
    }
}

fn not_in(ready: &Ready, error: &LoginError) -> Refusal {
    let text = error.to_string();
    let mistrusted = |reason, next| Refusal::mistrusted(ready, reason, next, &text);
    match error {
        LoginError::Exposed => mistrusted(
            "the server would have the password shown to whoever listens",
            "let the server use scram-sha-256, or TLS",
        ),
        LoginError::Impostor => {
            mistrusted("the server could not prove that it knows the password", "check the server")
        }
        LoginError::Method | LoginError::Iterations(_) => {
            mistrusted("the server asks for another way to log in", "let the server use scram-sha-256")
        }
        LoginError::Io(_) | LoginError::Protocol | LoginError::TooMuch => Refusal::unreached(ready, &text),
    }
}

/// Copies both ways until both have ended: inside the kernel where there is no TLS.
async fn relay(
    client: End,
    server: Server,
    pipes: &crate::splice::Pipes,
    activity: &Arc<Activity>,
) -> io::Result<()> {
    match server {
        Server::Plain(server) => {
            let (near, far) = (&client.stream, &server.stream);
            let both = async {
                tokio::try_join!(copy(near, far, pipes, activity), copy(far, near, pipes, activity))
                    .map(|_| ())
            };
            let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
            tokio::select! {
                biased;
                ended = both => ended?,
                () = failed(near) => return Err(broken()),
                () = failed(far) => return Err(broken()),
            }
            client.close();
            server.close();
            Ok(())
        }
        Server::Tls(mut server) => {
            let mut client = client.noting(activity);
            // A client that is gone is noticed while the server is still at work.
            let ended = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
            match ended {
                Ok(_) => Ok(()),
                // Many servers end without TLS' own good-bye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    client.shutdown().await?;
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
    }
}

impl Server {
    fn end_point(&self) -> Option<Vec<u8>> {
        let Self::Tls(stream) = self else { return None };
        let certificates = stream.get_ref().1.peer_certificates()?;
        binding::end_point(certificates.first()?)
    }
}

impl AsyncRead for Server {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Server {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
