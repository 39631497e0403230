//! Which addresses an answer gives to the name that was asked for.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{Name, RData};

/// Addresses of one answer that are taken note of.
const MOST: usize = 256;
/// Aliases that are followed.
const ALIASES: usize = 16;

/// The addresses that follow from the name that was asked for, through aliases, each with the time that it lives. What an answer
/// says about other names is not looked at.
pub(crate) fn addresses(packet: &[u8]) -> Vec<(IpAddr, Duration)> {
    let Ok(message) = Message::from_vec(packet) else { return Vec::new() };
    let [asked] = message.queries.as_slice() else { return Vec::new() };
    if message.metadata.response_code != ResponseCode::NoError {
        return Vec::new();
    }
    let mut names: Vec<Name> = vec![asked.name().to_lowercase()];
    // In whatever order the aliases stand.
    for _ in 0..ALIASES {
        let next = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if names.contains(&record.name.to_lowercase()) => {
                Some(target.0.to_lowercase()).filter(|target| !names.contains(target))
            }
            _ => None,
        });
        match next {
            Some(target) => names.push(target),
            None => break,
        }
    }
    let of_ours = message.answers.iter().filter(|record| names.contains(&record.name.to_lowercase()));
    of_ours
        .flat_map(|record| {
            let ttl = Duration::from_secs(record.ttl.into());
            of_record(&record.data).into_iter().map(move |address| (address, ttl))
        })
        .take(MOST)
        .collect()
}

/// An address, or those that a service record hints at so that its reader need not ask for them.
fn of_record(data: &RData) -> Vec<IpAddr> {
    let service = match data {
        RData::A(address) => return vec![IpAddr::V4(address.0)],
        RData::AAAA(address) => return vec![IpAddr::V6(address.0)],
        RData::HTTPS(service) => &service.0,
        RData::SVCB(service) => service,
        _ => return Vec::new(),
    };
    let hints = service.svc_params.iter().flat_map(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hints) => hints.0.iter().map(|hint| IpAddr::V4(hint.0)).collect(),
        SvcParamValue::Ipv6Hint(hints) => hints.0.iter().map(|hint| IpAddr::V6(hint.0)).collect(),
        _ => Vec::new(),
    });
    hints.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::svcb::{IpHint, SVCB, SvcParamKey};
    use hickory_proto::rr::rdata::{A, CNAME, HTTPS};
    use hickory_proto::rr::{Record, RecordType};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(of: &str, last: u8, ttl: u32) -> Record {
        Record::from_rdata(name(of), ttl, RData::A(A::new(1, 1, 1, last)))
    }

    fn alias(of: &str, target: &str) -> Record {
        Record::from_rdata(name(of), 9, RData::CNAME(CNAME(name(target))))
    }

    fn found(asked: &str, records: Vec<Record>) -> Vec<(String, u64)> {
        let mut message = Message::query();
        message.add_query(Query::query(name(asked), RecordType::A));
        let mut message = message.into_response();
        message.add_answers(records);
        let found = addresses(&message.to_vec().unwrap());
        found.into_iter().map(|(address, ttl)| (address.to_string(), ttl.as_secs())).collect()
    }

    #[test]
    fn addresses_of_the_name_and_of_its_aliases_count_and_others_do_not() {
        let records = vec![
            a("cdn.example.", 2, 30),
            alias("WWW.example.", "mid.example."),
            a("other.example.", 9, 30),
            alias("mid.example.", "CDN.example."),
            a("cdn.example.", 3, 40),
        ];
        assert_eq!(found("www.Example.", records), [("1.1.1.2".into(), 30), ("1.1.1.3".into(), 40)]);
        assert!(found("a.example.", vec![a("b.example.", 1, 1)]).is_empty());
    }

    #[test]
    fn aliases_in_a_circle_and_long_chains_end() {
        let circle = vec![alias("a.", "b."), alias("b.", "a."), a("b.", 1, 1)];
        assert_eq!(found("a.", circle).len(), 1);
        let mut chain: Vec<Record> =
            (0..40).map(|n| alias(&format!("n{n}."), &format!("n{}.", n + 1))).collect();
        chain.push(a("n40.", 1, 1));
        assert!(found("n0.", chain).is_empty());
    }

    #[test]
    fn the_hints_of_a_service_count_too() {
        let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A::new(1, 1, 1, 7)]));
        let service = SVCB::new(1, name("."), vec![(SvcParamKey::Ipv4Hint, hint)]);
        let record = Record::from_rdata(name("a.example."), 60, RData::HTTPS(HTTPS(service)));
        assert_eq!(found("a.example.", vec![record]), [("1.1.1.7".into(), 60)]);
    }

    #[test]
    fn nonsense_gives_no_addresses() {
        assert!(addresses(b"").is_empty() && addresses(&[0xff; 40]).is_empty());
    }
}
