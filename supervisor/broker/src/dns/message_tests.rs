use super::*;
use crate::GATEWAY_V4;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn service(name: &Host) -> Option<Ipv4Addr> {
    (name.as_str() == "db.cordium.internal").then_some(Ipv4Addr::new(100, 127, 255, 65))
}

fn reply(message: &Message) -> Message {
    match act(&message.to_vec().unwrap(), GATEWAY_V4, service) {
        Action::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn question(message: &Message) -> Question {
    match act(&message.to_vec().unwrap(), GATEWAY_V4, service) {
        Action::Forward(question) => question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn local_names_are_answered_here() {
    for (name, kind, expected) in [
        ("host.cordium.internal.", RecordType::A, Some("100.127.255.253")),
        ("HOST.Cordium.Internal.", RecordType::A, Some("100.127.255.253")),
        ("host.cordium.internal.", RecordType::AAAA, None),
        ("DB.cordium.internal.", RecordType::A, Some("100.127.255.65")),
        ("db.cordium.internal.", RecordType::AAAA, None),
        ("localhost.", RecordType::A, Some("127.0.0.1")),
        ("a.localhost.", RecordType::AAAA, Some("::1")),
        ("localhost.", RecordType::MX, None),
        ("253.255.127.100.in-addr.arpa.", RecordType::PTR, Some("host.cordium.internal")),
    ] {
        let asked = query(name, kind);
        let answer = reply(&asked);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert_eq!(answer.queries, asked.queries);
        let data: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(data.first().map(|text| text.trim_end_matches('.')), expected, "{name} {kind}");
    }
}

#[test]
fn other_names_are_forwarded() {
    for name in
        ["example.com.", "xlocalhost.", "host.cordium.internal.example.com.", "1.0.0.10.in-addr.arpa."]
    {
        let asked = query(name, RecordType::PTR);
        assert_eq!(question(&asked).name(), name);
    }
}

#[test]
fn malformed_and_unusual_packets_are_answered_or_ignored() {
    assert!(matches!(act(&[0; 11], GATEWAY_V4, service), Action::Ignore));
    let mut answer = query("example.com.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert!(matches!(act(&answer.to_vec().unwrap(), GATEWAY_V4, service), Action::Ignore));

    let mut broken = query("example.com.", RecordType::A).to_vec().unwrap();
    broken.truncate(20);
    let Action::Reply(bytes) = act(&broken, GATEWAY_V4, service) else { panic!() };
    assert_eq!((rcode(&bytes), &bytes[..2]), (1, &broken[..2]));

    let mut two = query("a.example.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
    assert_eq!(reply(&two).metadata.response_code, ResponseCode::FormErr);
    assert_eq!(reply(&query("example.com.", RecordType::AXFR)).metadata.response_code, ResponseCode::Refused);

    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(reply(&chaos).metadata.response_code, ResponseCode::Refused);

    let mut newer = query("example.com.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(u16::from(reply(&newer).metadata.response_code), u16::from(ResponseCode::BADVERS));
}

#[test]
fn a_pointer_loop_does_not_hang() {
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend([0xc0, 12, 0, 1, 0, 1]);
    let Action::Reply(bytes) = act(&packet, GATEWAY_V4, service) else { panic!() };
    assert_eq!(rcode(&bytes), 1);
}

#[test]
fn only_the_answer_to_our_question_is_taken() {
    let question = question(&query("example.com.", RecordType::A));
    let (id, sent) = question.outgoing().unwrap();
    let mut answer = Message::from_vec(&sent).unwrap().into_response();
    let good = answer.to_vec().unwrap();
    assert!(question.is_answered_by(id, &good));
    assert!(!question.is_answered_by(id.wrapping_add(1), &good), "another id");
    assert!(!question.is_answered_by(id, &sent), "a query");
    assert!(!question.is_answered_by(id, &good[..14]), "cut off");
    answer.queries[0].set_query_type(RecordType::AAAA);
    assert!(!question.is_answered_by(id, &answer.to_vec().unwrap()), "another type");
}

#[test]
fn a_long_answer_is_cut_to_what_the_client_takes() {
    let mut asked = query("example.com.", RecordType::TXT);
    assert_eq!(question(&asked).udp_limit, 512);
    let mut edns = Edns::new();
    edns.set_max_payload(65535);
    asked.set_edns(edns);
    let question = question(&asked);
    assert_eq!(question.udp_limit, 4096);

    let mut long = vec![0; 5000];
    long[3] = 3;
    let cut = Message::from_vec(&question.incoming(long.clone(), question.udp_limit)).unwrap();
    assert!(cut.metadata.truncation && cut.edns.is_some());
    assert_eq!(cut.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(cut.metadata.id, asked.metadata.id);
    assert_eq!(question.incoming(long, 65535).len(), 5000);
}

#[test]
fn options_of_the_client_do_not_go_upstream() {
    let plain = question(&query("example.com.", RecordType::A));
    assert!(Message::from_vec(&plain.outgoing().unwrap().1).unwrap().edns.is_none());
}
