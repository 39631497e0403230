//! What the client of a refused flow sees: an HTTP answer that says why where it speaks HTTP, else a reset at once.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Denial;
use crate::first;
use crate::peek::peek_until;

/// Where a client is given a moment to say that it speaks HTTP.
const HTTP_PORTS: [u16; 4] = [80, 8080, 8000, 3128];
const MOMENT: Duration = Duration::from_millis(500);
/// For the answer to be taken, and the rest of the request to be read past.
const CLOSING: Duration = Duration::from_secs(1);
const MOST_REST: usize = 256 * 1024;

#[derive(Serialize)]
struct Body<'a> {
    error: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    rule: &'a str,
    reason: &'a str,
    next: &'a str,
}

/// Tells the client. `true` when the connection came to a proper end, else it must be reset.
pub(crate) async fn refuse(client: &mut TcpStream, denial: &Denial, has_spoken: bool) -> bool {
    let wait = denial.port.is_some_and(|port| HTTP_PORTS.contains(&port));
    if !wait && !has_spoken {
        return false;
    }
    let deadline = Instant::now() + if wait { MOMENT } else { Duration::ZERO };
    let speaks_http = timeout_at(
        deadline,
        peek_until(client, |bytes, ended| {
            if first::is_http(bytes) {
                return Some(true);
            }
            let more_may_come = !ended && first::hear(bytes) == first::Heard::Incomplete;
            (!more_may_come).then_some(false)
        }),
    );
    if !matches!(speaks_http.await, Ok(Ok(true))) {
        return false;
    }
    matches!(timeout(CLOSING, answer(client, denial)).await, Ok(Ok(())))
}

/// Answers and ends as RFC 9112 §9.6 asks: a request that is not read would turn the end into a reset that takes the answer
/// with it.
async fn answer(client: &mut TcpStream, denial: &Denial) -> io::Result<()> {
    client.write_all(&forbidden(denial)).await?;
    client.shutdown().await?;
    let mut rest = MOST_REST;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        client.readable().await?;
        match client.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if count < rest => rest -= count,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a client of HTTP is told.
pub(crate) fn body(denial: &Denial) -> Vec<u8> {
    let body = Body {
        error: "egress denied",
        host: denial.names.first().map(String::as_str),
        address: denial.address.map(|address| address.to_string()),
        port: denial.port,
        method: denial.method.as_deref(),
        path: denial.path.as_deref(),
        rule: &denial.rule,
        reason: &denial.reason,
        next: &denial.next,
    };
    // Plain strings and numbers always serialize.
    let mut body = serde_json::to_vec(&body).unwrap_or_default();
    body.push(b'\n');
    body
}

fn forbidden(denial: &Denial) -> Vec<u8> {
    let body = body(denial);
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::super::{Protocol, What, Why};
    use super::*;

    fn denial(port: u16) -> Denial {
        let what = What {
            names: &[cordium_egress::Host::parse("a.example").unwrap()],
            destination: Some(([192, 0, 2, 1], port).into()),
            client: None,
            protocol: Protocol::Tcp,
            request: None,
        };
        Denial::new("w", &what, Why { rule: "no \"x\"".into(), reason: "because", next: "add a rule" })
    }

    async fn refused(port: u16, has_spoken: bool, says: &[u8]) -> (bool, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut far = listener.accept().await.unwrap().0;
        near.write_all(says).await.unwrap();
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            // A reset after the answer would be an error here.
            near.read_to_string(&mut text).await.map(|_| text).unwrap_or_else(|error| error.to_string())
        });
        let proper = refuse(&mut far, &denial(port), has_spoken).await;
        drop(far);
        (proper, reader.await.unwrap())
    }

    #[tokio::test]
    async fn a_client_that_speaks_http_is_told_why() {
        let request = b"POST /x HTTP/1.1\r\nHost: a.example\r\n\r\nbody that nobody wants";
        for (port, has_spoken) in [(80, false), (8080, false), (9999, true)] {
            let (proper, text) = refused(port, has_spoken, request).await;
            assert!(proper && text.starts_with("HTTP/1.1 403 "), "{port}: {text}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                body,
                serde_json::json!({
                    "error": "egress denied", "host": "a.example", "address": "192.0.2.1", "port": port,
                    "rule": "no \"x\"", "reason": "because", "next": "add a rule",
                })
            );
        }
    }

    #[tokio::test]
    async fn other_clients_are_not_made_to_wait() {
        for (port, has_spoken, says) in [
            (443, false, &b"GET / HTTP/1.1\r\n\r\n"[..]),
            (80, false, b"\x16\x03\x01\x00\x01\x02"),
            (80, false, b"\x00binary"),
            (80, false, b""),
            (9999, true, b"\x16\x03\x01\x00\x01\x02"),
        ] {
            let (proper, text) = refused(port, has_spoken, says).await;
            assert!(!proper && !text.starts_with("HTTP"), "{port} {says:?}: {text}");
        }
    }
}
