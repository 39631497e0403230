//! TLS under host rules: real handshakes, untouched, if the name is right.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::hosts;
use super::servers::{name_server, resolve, serve};
use crate::support::{PUBLIC, World, isolated};
use crate::try_connect;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server for both names that says back what it hears; its certificate.
fn tls_server(world: &World, port: u16) -> CertificateDer<'static> {
    let names = ["one.example".to_owned(), "evil.example".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    serve(world, port, move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut word = [0; 4];
        if stream.read_exact(&mut word).is_ok() {
            drop(stream.write_all(&word));
        }
    });
    certificate
}

/// What a client that asks for `name` gets back for a word.
fn talk(
    certificate: CertificateDer<'static>,
    address: &str,
    name: &str,
    sni: bool,
    first: &[u8],
) -> Result<String, ErrorKind> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_sni = sni;
    let client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    // One that is refused may be reset before the client has seen that it stands.
    let mut socket = try_connect(address, 443).map_err(|error| error.kind())?;
    socket.write_all(first).map_err(|error| error.kind())?;
    let mut stream = StreamOwned::new(client, socket);
    let mut word = [0; 4];
    stream.write_all(b"word").and_then(|()| stream.read_exact(&mut word)).map_err(|error| error.kind())?;
    Ok(String::from_utf8(word.to_vec()).unwrap())
}

#[test]
fn tls_passes_with_the_name_that_led_there_and_not_with_another_or_with_none() {
    isolated(
        "egress::tls::tls_passes_with_the_name_that_led_there_and_not_with_another_or_with_none",
        || {
            let world = World::new();
            name_server();
            let certificate = tls_server(&world, 443);
            let _registered = world.register(hosts("one.example two.example"), vec![]);
            world.sandbox.run(move || {
                let talk = |address, name, sni, first| talk(certificate.clone(), address, name, sni, first);
                let reset = Err(ErrorKind::ConnectionReset);
                assert_eq!(talk(PUBLIC[0], "one.example", true, b""), reset, "not resolved yet");
                assert_eq!(resolve("one.example").as_deref(), Ok(PUBLIC[0]));
                assert_eq!(talk(PUBLIC[0], "one.example", true, b"").as_deref(), Ok("word"));
                assert_eq!(talk(PUBLIC[0], "evil.example", true, b""), reset, "a name that is not allowed");
                assert_eq!(talk(PUBLIC[0], "two.example", true, b""), reset, "allowed, but it led elsewhere");
                assert_eq!(talk(PUBLIC[0], "one.example", false, b""), reset, "no SNI");
                assert_eq!(
                    talk(PUBLIC[0], "one.example", true, b"\x15\x03\x03\x00\x02\x01\x00"),
                    reset,
                    "an alert first"
                );
            });
        },
    );
}
