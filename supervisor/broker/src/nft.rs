//! The gateway's rules, as text for `nft -f`.
//!
//! Everything is refused in `prerouting`, before routing: a gateway namespace does not forward, and a kernel that does
//! not forward drops in silence, which costs the caller a timeout. Protocols that `nft` itself does not know by name
//! (ICMPv6 is 58) stand as numbers: small containers have no `/etc/protocols`.

use crate::{DNS_PORT, GATEWAY_V4, SANDBOX_V4, TCP_PORT};

/// The whole ruleset of a gateway whose end of the veth pair is `iface`. Loading it again replaces it.
///
/// Only packets from the sandbox's own address are heard. TCP goes to the broker's listener and DNS to its resolver;
/// echo requests to the gateway itself are answered; the rest is refused with an ICMP error, IPv6 included.
pub fn nft_ruleset(iface: &str) -> String {
    format!(
        r#"table inet cordium
delete table inet cordium
table inet cordium {{
    chain spoofed {{
        type filter hook prerouting priority raw; policy accept;
        iifname "lo" accept
        iifname != "{iface}" counter drop
        meta nfproto ipv6 accept
        ip saddr != {SANDBOX_V4} counter drop
    }}
    chain to_broker {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{iface}" meta nfproto ipv4 udp dport 53 counter redirect to :{DNS_PORT}
        iifname "{iface}" meta nfproto ipv4 tcp dport 53 counter redirect to :{DNS_PORT}
        iifname "{iface}" meta nfproto ipv4 meta l4proto tcp counter redirect to :{TCP_PORT}
    }}
    chain refused {{
        type filter hook prerouting priority filter; policy drop;
        iifname "lo" accept
        meta nfproto ipv6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        meta nfproto ipv6 tcp flags & (fin|syn|rst|ack) != 0 counter reject with tcp reset
        meta nfproto ipv6 counter reject with icmpv6 type admin-prohibited
        ip daddr {GATEWAY_V4} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} accept
        ip daddr {GATEWAY_V4} udp dport {DNS_PORT} accept
        ip daddr {GATEWAY_V4} icmp type echo-request limit rate 100/second burst 100 packets counter accept
        ip daddr {GATEWAY_V4} meta l4proto icmp ct state established,related counter accept
        meta l4proto udp counter reject with icmp type port-unreachable
        meta l4proto icmp icmp type != echo-request counter drop
        counter reject with icmp type admin-prohibited
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        iifname "{iface}" ip saddr {SANDBOX_V4} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} counter accept
        iifname "{iface}" ip saddr {SANDBOX_V4} udp dport {DNS_PORT} counter accept
        iifname "{iface}" ip saddr {SANDBOX_V4} meta l4proto icmp counter accept
        iifname "{iface}" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        counter drop
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        ct state established,related accept
        meta l4proto {{ icmp, 58 }} accept
        meta nfproto ipv6 meta l4proto tcp tcp flags & rst == rst accept
        counter drop
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain<'a>(rules: &'a str, name: &str) -> &'a str {
        let start = rules.find(&format!("chain {name} {{")).unwrap_or_else(|| panic!("no chain {name}"));
        let rest = &rules[start..];
        &rest[..rest.find("\n    }").unwrap_or(rest.len())]
    }

    #[test]
    fn loading_it_twice_replaces_it() {
        assert!(nft_ruleset("gw0").starts_with("table inet cordium\ndelete table inet cordium\n"));
    }

    #[test]
    fn dns_is_redirected_before_the_rule_for_all_tcp() {
        let rules = nft_ruleset("gw0");
        let redirect = chain(&rules, "to_broker");
        let dns = redirect.find("tcp dport 53");
        assert!(dns.is_some() && dns < redirect.find("l4proto tcp"), "{redirect}");
        assert!(redirect.contains("redirect to :15001") && redirect.contains("redirect to :15053"));
        assert!(
            redirect.lines().filter(|line| line.contains("redirect to")).all(|line| line.contains("\"gw0\""))
        );
    }

    #[test]
    fn only_the_sandbox_address_is_heard() {
        let rules = nft_ruleset("gw0");
        assert!(chain(&rules, "spoofed").contains("ip saddr != 100.127.255.254 counter drop"));
        assert!(
            chain(&rules, "input")
                .lines()
                .filter(|l| l.contains("dport"))
                .all(|l| l.contains("saddr 100.127"))
        );
    }

    #[test]
    fn what_is_not_named_is_dropped_or_refused() {
        let rules = nft_ruleset("gw0");
        for name in ["refused", "input", "forward", "output"] {
            assert!(chain(&rules, name).contains("policy drop"), "{name}");
        }
        assert!(chain(&rules, "refused").contains("udp counter reject with icmp type port-unreachable"));
        assert!(chain(&rules, "refused").contains("ipv6 counter reject"));
    }
}
