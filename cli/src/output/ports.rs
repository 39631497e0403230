//! Ports that listen in a workspace, for people and for programs. Names of programs are a tenant's text.

use cordium_proto::v1::{ListeningPort, ListeningPorts};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    duration,
    json::Object,
    table,
    text::{one_line, shorten},
};

const HEADER: [&str; 7] = ["PORT", "PROTOCOL", "ADDRESS", "APPLICATION", "PROGRAM", "PID", "SINCE"];

/// One line for each port; `-` where nothing is known.
pub fn table(list: &ListeningPorts, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = list.items.iter().map(|port| row(port, now)).collect();
    table::render(&HEADER, &rows)
}

fn row(port: &ListeningPort, now: Timestamp) -> Vec<String> {
    vec![
        port.port.to_string(),
        port.protocol.clone(),
        port.address.clone(),
        or_dash(&port.application),
        program(port),
        if port.pid == 0 { "-".to_owned() } else { port.pid.to_string() },
        port.since.as_ref().map_or_else(|| "-".to_owned(), |since| duration::age(since, now)),
    ]
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn program(port: &ListeningPort) -> String {
    or_dash(&shorten(&one_line(&port.program), 40))
}

/// What came or went, in one line.
pub fn describe(open: bool, port: &ListeningPort) -> String {
    let address =
        if port.address.contains(':') { format!("[{}]", port.address) } else { port.address.clone() };
    let mut line =
        format!("{} {address}:{}/{}", if open { "open" } else { "closed" }, port.port, port.protocol);
    if !port.application.is_empty() {
        line.push_str(&format!(" {}", port.application));
    }
    if port.pid != 0 {
        line.push_str(&format!(" ({}, pid {})", program(port), port.pid));
    }
    line
}

/// In the published form.
pub fn object(port: &ListeningPort) -> Object {
    let address = port.address.parse::<std::net::IpAddr>().ok();
    let scope = address.map_or("", |address| match address {
        address if address.is_unspecified() => "ALL",
        address if address.is_loopback() => "LOOPBACK",
        _ => "ADDRESS",
    });
    let family = address.map_or("", |address| if address.is_ipv4() { "IPV4" } else { "IPV6" });
    Object::default()
        .set("port", port.port)
        .text("protocol", &port.protocol)
        .text("address", &port.address)
        .text("family", family)
        .text("scope", scope)
        .text("application", &port.application)
        .text("program", &port.program)
        .number("pid", port.pid.into())
        .time("since", port.since.as_ref())
}

pub fn list(list: &ListeningPorts) -> Value {
    json!({
        "ports": list.items.iter().map(|port| object(port).done()).collect::<Vec<_>>(),
        "leftOut": list.left_out,
    })
}

/// What begins to listen and what no longer does. A socket made anew for the same address is both.
pub fn changes(before: &[ListeningPort], now: &[ListeningPort]) -> Vec<(bool, ListeningPort)> {
    let same = |a: &ListeningPort, b: &ListeningPort| {
        (a.port, &a.protocol, &a.address, &a.since) == (b.port, &b.protocol, &b.address, &b.since)
    };
    let gone = before.iter().filter(|port| !now.iter().any(|other| same(port, other)));
    let come = now.iter().filter(|port| !before.iter().any(|other| same(port, other)));
    gone.map(|port| (false, port.clone())).chain(come.map(|port| (true, port.clone()))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn port(number: u32, address: &str, since: i64) -> ListeningPort {
        ListeningPort {
            port: number,
            protocol: "tcp".into(),
            address: address.into(),
            program: "no\u{1b}[2Jde\n".into(),
            pid: 12,
            since: Some(prost_types::Timestamp { seconds: since, nanos: 0 }),
            application: "web".into(),
        }
    }

    #[test]
    fn a_line_and_an_object() {
        let bare =
            ListeningPort { port: 1, protocol: "tcp".into(), address: "::".into(), ..Default::default() };
        assert_eq!(describe(true, &port(3000, "127.0.0.1", 0)), "open 127.0.0.1:3000/tcp web (node, pid 12)");
        assert_eq!(describe(false, &bare), "closed [::]:1/tcp");
        let object = object(&port(3000, "127.0.0.1", 0)).done();
        assert_eq!(
            (&object["scope"], &object["family"], &object["pid"]),
            (&json!("LOOPBACK"), &json!("IPV4"), &json!(12))
        );
        assert_eq!(
            super::object(&bare).done(),
            json!({"port": 1, "protocol": "tcp", "address": "::", "family": "IPV6", "scope": "ALL"})
        );
        let text = table(
            &ListeningPorts { items: vec![port(3000, "127.0.0.1", 0), bare], left_out: 0 },
            Timestamp::from_second(5).unwrap(),
        );
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["3000", "tcp", "127.0.0.1", "web", "node", "12", "5s"]);
        assert_eq!(rows[2], ["1", "tcp", "::", "-", "-", "-", "-"]);
    }

    #[test]
    fn changes_are_by_address_and_socket() {
        let told = |before: &[ListeningPort], now: &[ListeningPort]| -> Vec<(bool, u32)> {
            changes(before, now).into_iter().map(|(open, port)| (open, port.port)).collect()
        };
        let one = [port(80, "127.0.0.1", 1)];
        assert_eq!(told(&[], &one), [(true, 80)]);
        assert_eq!(told(&one, &one), []);
        assert_eq!(told(&one, &[port(80, "127.0.0.1", 2)]), [(false, 80), (true, 80)]);
        let other = ListeningPort { program: "other".into(), pid: 13, ..port(80, "127.0.0.1", 1) };
        assert_eq!(told(&one, &[other, port(81, "::", 1)]), [(true, 81)]);
    }
}
