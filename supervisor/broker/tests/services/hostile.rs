//! Clients and servers that do not keep to the protocol.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cordium_broker::{Place, Service};

use super::postgres::{PASSWORD, Server};
use super::{Served, UPSTREAM, bare, service};
use crate::support::{World, isolated};

/// The address of the first service.
const FIRST: (&str, u16) = ("100.127.255.65", 5432);
const PORT: u16 = 5433;
/// Far from how long a session may take to be set up.
const QUICK: Duration = Duration::from_secs(20);

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

/// What comes back until the end.
fn say(served: &Served, bytes: Vec<u8>) -> Vec<u8> {
    served.world.sandbox.run(move || {
        let mut stream = TcpStream::connect(FIRST).unwrap();
        stream.set_read_timeout(Some(QUICK)).unwrap();
        // The other side may have had enough before it has read all.
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it is left waiting"),
            _ => answer,
        }
    })
}

/// Asks for a session's query to be given up.
pub fn cancel(served: &Served, process: u32, key: [u8; 4]) {
    let answer = say(served, packet((1234 << 16) | 5678, &[process.to_be_bytes(), key].concat()));
    assert!(answer.is_empty(), "{answer:?}");
}

#[test]
fn clients_that_send_anything_are_refused_at_once() {
    isolated("services::hostile::clients_that_send_anything_are_refused_at_once", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let served = Served::new(world, vec![server.certificate.clone()], vec![service("db", "app")]);
        let two_gib = [&0x8000_0000_u32.to_be_bytes()[..], &[0; 100]].concat();
        for (what, bytes) in [
            ("2 GiB", two_gib),
            ("4 GiB", vec![0xff; 100]),
            ("no length", vec![0; 8]),
            ("TLS without a question", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec()),
            ("version 2", packet(2 << 16, b"user\0")),
            ("no end", packet(3 << 16, b"user\0app")),
            ("a name without a value", packet(3 << 16, b"user\0\0")),
            ("many", packet(3 << 16, &[b"a\0b\0".repeat(2000), vec![0]].concat())),
        ] {
            let answer = say(&served, bytes);
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                answer.first() == Some(&b'E') && text.contains("FATAL") && text.contains("cordium"),
                "{what}: {text}"
            );
        }
        let questions: Vec<u8> = (0..50).flat_map(|_| packet((1234 << 16) | 5679, &[])).collect();
        let answer = say(&served, questions);
        assert!(answer.starts_with(b"NNNE"), "{}", String::from_utf8_lossy(&answer));
        // A cancellation of nothing is told nothing, and reaches no server.
        cancel(&served, 1, [0; 4]);
        assert!(!server.log().contains("cancel"), "{}", server.log());
        assert_eq!(
            served.psql(&["--host=db.cordium.internal", "--command=select 1"]),
            (true, "1".to_owned())
        );
        served.is_not_logged();
    });
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn authentication(kind: u32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes()[..], body].concat())
}

/// A server that answers each packet with the next of these; what it was sent.
fn scripted(world: &World, answers: Vec<Vec<u8>>) -> crate::support::Work<Vec<u8>> {
    let listener = world.outside.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    world.outside.spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(QUICK)).unwrap();
        let (mut heard, mut buffer) = (Vec::new(), [0; 8192]);
        for answer in answers {
            let count = stream.read(&mut buffer).unwrap_or(0);
            heard.extend_from_slice(&buffer[..count]);
            let _ = stream.write_all(&answer);
        }
        let _ = stream.read_to_end(&mut heard);
        heard
    })
}

#[test]
fn servers_that_send_anything_are_left() {
    isolated("services::hostile::servers_that_send_anything_are_left", || {
        let there =
            |service: Service| Service { upstream: Place { host: UPSTREAM.into(), port: PORT }, ..service };
        let services = vec![there(bare("bare", "app")), there(service("tls", "app"))];
        let served = Served::new(World::new(), vec![], services);
        let sasl = authentication(10, b"SCRAM-SHA-256\0\0");
        let head = |length: u32| [&b"R"[..], &length.to_be_bytes()].concat();
        let challenge =
            |rounds: &str| authentication(11, format!("r=x,s=QSXCR+Q6sek8bf92,i={rounds}").as_bytes());
        for (name, answers, expected) in [
            ("bare", vec![head(0x8000_0000)], "before the session is there"),
            ("bare", vec![head(3)], "before the session is there"),
            ("bare", vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()], "before the session is there"),
            ("bare", vec![message(b'N', &[b'x'; 1000]).repeat(300)], "said too much"),
            ("bare", vec![message(b'T', b"")], "what does not belong there"),
            ("bare", vec![authentication(3, b"")], "shown to whoever listens"),
            ("bare", vec![authentication(5, b"salt")], "shown to whoever listens"),
            ("bare", vec![authentication(7, b"")], "another way to log in"),
            ("bare", vec![authentication(10, b"SCRAM-SHA-1\0\0")], "another way to log in"),
            ("bare", vec![sasl.clone(), challenge("4294967295")], "another way to log in"),
            ("bare", vec![sasl.clone(), challenge("99999999999")], "what does not belong there"),
            ("bare", vec![sasl.clone(), challenge("4096")], "what does not belong there"),
            // That we are in, before the server has proven that it knows the password.
            ("bare", vec![sasl.clone(), authentication(0, b"")], "what does not belong there"),
            ("bare", vec![authentication(12, b"v=x")], "what does not belong there"),
            ("tls", vec![b"N".to_vec()], "the server speaks no TLS"),
            ("tls", vec![message(b'E', b"SFATAL\0\0")], "the server speaks no TLS"),
            ("tls", vec![b"Sx".to_vec()], "speaking TLS with the server"),
        ] {
            let server = scripted(&served.world, answers);
            let start = Instant::now();
            let told = served.psql(&[
                &format!("--host={name}.cordium.internal"),
                "--dbname=shop",
                "--command=select 1",
            ]);
            assert!(!told.0 && told.1.contains(expected), "{expected}: {told:?}");
            assert!(start.elapsed() < QUICK, "{expected}");
            let heard = server.join();
            assert!(!heard.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{expected}");
        }
        served.is_not_logged();
    });
}
