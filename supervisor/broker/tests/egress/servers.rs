//! What stands outside, and how the sandbox talks to it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{NODE, OUTSIDE, PUBLIC, PUBLIC_V6, UPSTREAM, World};

/// The names there are. `evil.example` shares an address with `one.example`, as behind a content network.
const NAMES: [(&str, &str); 13] = [
    ("one.example", PUBLIC[0]),
    ("evil.example", PUBLIC[0]),
    ("a.wild.example", PUBLIC[0]),
    ("two.example", PUBLIC[1]),
    ("private.example", OUTSIDE),
    ("node.example", NODE),
    ("metadata.example", "169.254.169.254"),
    ("gateway.example", "100.127.255.253"),
    ("one.example", PUBLIC_V6),
    ("six.example", PUBLIC_V6),
    ("evil-six.example", PUBLIC_V6),
    // There is no way to it.
    ("lost.example", "2a00:1450::99"),
    ("lost.example", PUBLIC[0]),
];

/// A name server on the node; how many questions it was asked.
pub fn name_server() -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let socket = UdpSocket::bind(UPSTREAM).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(socket.send_to(&answer(&packet[..length]), client));
        }
    });
    asked
}

fn answer(question: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut at = 12;
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap().to_lowercase());
        at = end;
    }
    let name = name.join(".");
    let mut reply = question[..at + 5].to_vec();
    (reply[2], reply[3], reply[11]) = (0x81, 0x80, 0);
    let known: Vec<IpAddr> = NAMES
        .iter()
        .filter(|(known, _)| *known == name)
        .map(|(_, address)| address.parse().unwrap())
        .collect();
    if known.is_empty() {
        reply[3] |= 3;
    }
    for address in known {
        let (kind, octets) = match address {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (28, v6.octets().to_vec()),
        };
        if kind == question[at + 2] {
            reply[7] += 1;
            reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(octets.len()).unwrap()]);
            reply.extend(octets);
        }
    }
    reply
}

/// The address that the gateway's resolver gives for a name, or its response code. To be called in the sandbox.
pub fn resolve(name: &str) -> Result<String, u8> {
    let packet = crate::ask(name, 1);
    match packet[3] & 15 {
        0 if packet[7] > 0 => {
            Ok(packet[packet.len() - 4..].iter().map(u8::to_string).collect::<Vec<_>>().join("."))
        }
        code => Err(code),
    }
}

/// The same for an IPv6 address; `Err(0)` if there is none.
pub fn resolve_v6(name: &str) -> Result<String, u8> {
    let packet = crate::ask(name, 28);
    match packet[3] & 15 {
        0 if packet[7] > 0 => {
            let octets: [u8; 16] = packet[packet.len() - 16..].try_into().unwrap();
            Ok(IpAddr::from(octets).to_string())
        }
        code => Err(code),
    }
}

/// Serves every connection to a port of the server outside in a thread of its own.
pub fn serve(world: &World, port: u16, serve: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = crate::listen(world, port);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// Answers each connection's first request with `200` and its Host.
pub fn http_server(world: &World, port: u16) {
    serve(world, port, |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let host = head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or("none").to_owned();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nserved {host}");
    });
}

/// Everything that comes back until the end, or the error that ends it. To be called in the sandbox.
pub fn say(address: &str, port: u16, bytes: &[u8]) -> Result<String, std::io::ErrorKind> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(bytes)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    talk().map_err(|error: std::io::Error| error.kind())
}

pub fn get(address: &str, port: u16, host: &str) -> Result<String, std::io::ErrorKind> {
    say(address, port, format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
}

/// The JSON of a 403 answer.
pub fn denial(answer: Result<String, std::io::ErrorKind>) -> serde_json::Value {
    let text = answer.unwrap();
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Nobody has connected.
pub fn is_untouched(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nothing left");
}
