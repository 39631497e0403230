//! What becomes of one query, without any input or output.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use cordium_egress::Host;

use crate::HOST_NAME;

/// Longest query heard.
pub(crate) const MAX_QUERY: usize = 4096;
/// Largest answer sent over UDP, and what upstreams are told they may send.
const MAX_UDP_ANSWER: u16 = 4096;
const UPSTREAM_PAYLOAD: u16 = 1232;
const TTL: u32 = 60;
const HEADER: usize = 12;

/// What to do about a packet.
#[derive(Debug)]
pub(crate) enum Action {
    /// Not a query: an answer would only invite a loop.
    Ignore,
    Reply(Vec<u8>),
    Forward(Question),
}

/// A query worth asking upstream.
#[derive(Debug)]
pub(crate) struct Question {
    message: Message,
    /// Largest answer that the client takes over UDP.
    pub udp_limit: usize,
}

/// Reads a query, answers what is local.
///
/// `service` tells the address of a name that is one of the workspace's services.
pub(crate) fn act(packet: &[u8], gateway: Ipv4Addr, service: impl Fn(&Host) -> Option<Ipv4Addr>) -> Action {
    if packet.len() < HEADER || packet[2] & 0x80 != 0 {
        return Action::Ignore;
    }
    let query = match (packet.len() <= MAX_QUERY).then(|| Message::from_vec(packet)) {
        Some(Ok(query)) => query,
        _ => {
            let id = u16::from_be_bytes([packet[0], packet[1]]);
            return encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
        }
    };
    let question =
        Question { udp_limit: usize::from(query.max_payload().min(MAX_UDP_ANSWER)), message: query };
    let message = &question.message;
    if message.metadata.op_code != OpCode::Query {
        return Action::Reply(question.refusal(ResponseCode::NotImp));
    }
    let [asked] = message.queries.as_slice() else {
        return Action::Reply(question.refusal(ResponseCode::FormErr));
    };
    if message.version() != 0 {
        return Action::Reply(question.refusal(ResponseCode::BADVERS));
    }
    if asked.query_class() != DNSClass::IN {
        return Action::Reply(question.refusal(ResponseCode::Refused));
    }
    if matches!(asked.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return Action::Reply(question.refusal(ResponseCode::Refused));
    }
    if let Some(answers) = local(asked, gateway, service) {
        let mut reply = question.reply(ResponseCode::NoError);
        reply.metadata.authoritative = true;
        reply.add_answers(answers);
        return encode(&reply);
    }
    Action::Forward(question)
}

fn encode(message: &Message) -> Action {
    message.to_vec().map_or(Action::Ignore, Action::Reply)
}

/// The records of a name that is answered here; none of the asked type is an empty answer.
fn local(
    asked: &Query,
    gateway: Ipv4Addr,
    service: impl Fn(&Host) -> Option<Ipv4Addr>,
) -> Option<Vec<Record>> {
    let name = asked.name().to_lowercase();
    let text = name.to_ascii();
    let text = text.trim_end_matches('.');
    let localhost = text == "localhost" || text.ends_with(".localhost");
    let host = match text == HOST_NAME {
        true => Some(gateway),
        false => Host::parse(text).ok().and_then(|name| service(&name)),
    };
    let data = match asked.query_type() {
        RecordType::A if host.is_some() => host.map(|address| RData::A(A(address))),
        RecordType::A if localhost => Some(RData::A(A(Ipv4Addr::LOCALHOST))),
        RecordType::AAAA if localhost => Some(RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 1))),
        RecordType::PTR if reverse_is(&name, gateway) => {
            Some(RData::PTR(PTR(Name::from_ascii(HOST_NAME).ok()?)))
        }
        RecordType::PTR if reverse_is(&name, Ipv4Addr::LOCALHOST) => {
            Some(RData::PTR(PTR(Name::from_ascii("localhost.").ok()?)))
        }
        _ if host.is_some() || localhost => None,
        _ => return None,
    };
    Some(data.map(|data| Record::from_rdata(asked.name().clone(), TTL, data)).into_iter().collect())
}

fn reverse_is(name: &Name, address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    name.to_ascii().trim_end_matches('.') == format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

impl Question {
    /// One of the broker's own.
    pub(crate) fn about(host: &Host, kind: RecordType) -> Option<Self> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(format!("{host}.")).ok()?, kind));
        Some(Self { udp_limit: usize::from(MAX_UDP_ANSWER), message })
    }

    pub(crate) fn name(&self) -> String {
        self.message.queries.first().map(|query| query.name().to_ascii()).unwrap_or_default()
    }

    pub(crate) fn is_for_ipv6(&self) -> bool {
        self.message.queries.first().is_some_and(|query| query.query_type() == RecordType::AAAA)
    }

    /// The query as it goes upstream: our own random id, the client's question and flags, none of its options.
    pub(crate) fn outgoing(&self) -> Option<(u16, Vec<u8>)> {
        let mut out = Message::query();
        let asked = &self.message.metadata;
        out.metadata.recursion_desired = asked.recursion_desired;
        out.metadata.authentic_data = asked.authentic_data;
        out.metadata.checking_disabled = asked.checking_disabled;
        out.add_queries(self.message.queries.iter().cloned());
        if let Some(edns) = &self.message.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(UPSTREAM_PAYLOAD).set_dnssec_ok(edns.flags().dnssec_ok);
            out.set_edns(ours);
        }
        Some((out.metadata.id, out.to_vec().ok()?))
    }

    /// Whether `packet` answers what was sent upstream under `id`.
    pub(crate) fn is_answered_by(&self, id: u16, packet: &[u8]) -> bool {
        if packet.len() < HEADER || packet[..2] != id.to_be_bytes() || packet[2] & 0x80 == 0 {
            return false;
        }
        let mut decoder = BinDecoder::new(packet);
        // A server that cannot read a query may answer with its header alone.
        if packet[4..6] == [0, 0] {
            return rcode(packet) != 0;
        }
        decoder.read_slice(HEADER).is_ok()
            && packet[4..6] == [0, 1]
            && Query::read(&mut decoder).is_ok_and(|query| Some(&query) == self.message.queries.first())
    }

    /// Gives an upstream's answer the client's id, and cuts it when it is longer than `limit`.
    pub(crate) fn incoming(&self, mut packet: Vec<u8>, limit: usize) -> Vec<u8> {
        packet[..2].copy_from_slice(&self.message.metadata.id.to_be_bytes());
        if packet.len() <= limit {
            return packet;
        }
        let mut cut = self.reply(ResponseCode::from_low(rcode(&packet)));
        cut.metadata.truncation = true;
        cut.to_vec().unwrap_or_else(|_| packet[..HEADER].to_vec())
    }

    pub(crate) fn refusal(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code).to_vec().unwrap_or_default()
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::new(asked.id, MessageType::Response, asked.op_code);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.checking_disabled = asked.checking_disabled;
        reply.metadata.response_code = code;
        reply.add_queries(self.message.queries.iter().take(1).cloned());
        if let Some(edns) = &self.message.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(MAX_UDP_ANSWER).set_dnssec_ok(edns.flags().dnssec_ok);
            ours.set_rcode_high(code.high());
            reply.set_edns(ours);
        }
        reply
    }
}

pub(crate) fn rcode(packet: &[u8]) -> u8 {
    packet.get(3).copied().unwrap_or(0) & 0x0f
}

pub(crate) fn is_truncated(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "message_tests.rs"]
mod tests;
