//! The gateway's rules, as text for `nft -f`.
//!
//! Everything is refused in `prerouting`, before routing: a gateway namespace does not forward, and a kernel that does
//! not forward drops in silence, which costs the caller a timeout. Protocols that `nft` itself does not know by name
//! (ICMPv6 is 58) stand as numbers: small containers have no `/etc/protocols`.
//!
//! Fragments are whole again before the first rule sees them, since connection tracking is in use. Of IPv6, packets with
//! extension headers are not heard at all: routing headers, tunnels and the rest have no use on a link of two addresses.
//! Nor is anything from a link-local address, and so no router advertisement and no redirect. A redirected packet gets an
//! address of the scope that it was sent to, and is dropped where the gateway has none: such scopes are refused before, TCP by a
//! reset, because an ICMP error that comes while `connect` still holds the socket is not heard.
//!
//! Datagrams other than DNS are not redirected but given to the broker's socket by `tproxy`, with their destination as it was.
//! They are then delivered here, because the gateway's routes call every address its own. Connection tracking does not know them:
//! a flood of destinations takes no memory of the kernel's.

use crate::{DNS_PORT, GATEWAY_V4, GATEWAY_V6, SANDBOX_V4, SANDBOX_V6, TCP_PORT, UDP_PORT};

/// The mark of datagrams that `tproxy` has given to the broker's socket. Those that come from the sandbox have none: marks do not
/// leave a namespace.
const TAKEN: u32 = 1;

/// The whole ruleset of a gateway whose end of the veth pair is `iface`. Loading it again replaces it.
///
/// Only packets from the sandbox's own two addresses are heard. TCP and datagrams go to the broker and DNS to its resolver;
/// echo requests to the gateway itself are answered, and the two ends find each other by IPv6; the rest is refused with an ICMP
/// error.
pub fn nft_ruleset(iface: &str) -> String {
    ruleset(iface, &to_broker())
}

/// The same for a kernel without `tproxy`: datagrams other than DNS are refused.
pub fn nft_ruleset_without_udp(iface: &str) -> String {
    ruleset(iface, "")
}

/// Datagrams to the broker, which answers what it refuses. What the kernel would not deliver or answer is left to the rules that
/// follow, and so is what comes from port 0: nobody can be answered there.
fn to_broker() -> String {
    let to = |family: &str, not: &str| {
        format!(
            "        {family} daddr != {{ {not} }} udp sport != 0 tproxy {family} to :{UDP_PORT} meta mark set {TAKEN} counter accept\n"
        )
    };
    to("ip", "0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4") + &to("ip6", "::/127, ff00::/8")
}

fn ruleset(iface: &str, to_broker: &str) -> String {
    // Whom a neighbour message is about: older versions of `nft` have no word for it.
    let [gateway, sandbox] = [GATEWAY_V6, SANDBOX_V6].map(|address| format!("{:#034x}", address.to_bits()));
    format!(
        r#"table inet cordium
delete table inet cordium
table inet cordium {{
    chain spoofed {{
        type filter hook prerouting priority raw; policy drop;
        iifname "lo" accept
        iifname != "{iface}" counter drop
        ip daddr != {GATEWAY_V4} udp dport != 53 notrack
        ip6 daddr != {GATEWAY_V6} udp dport != 53 notrack
        ip saddr {SANDBOX_V4} accept
        ip6 saddr != {SANDBOX_V6} counter drop
        ip6 nexthdr != {{ 6, 17, 58 }} counter drop
        ip6 daddr {{ ::/96, fe80::/10, fec0::/10 }} meta l4proto tcp counter reject with tcp reset
        ip6 daddr {{ ::/96, fe80::/10, fec0::/10 }} meta l4proto udp counter reject with icmpv6 type port-unreachable
        meta nfproto ipv6 accept
        counter drop
    }}
    chain to_broker {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{iface}" udp dport 53 counter redirect to :{DNS_PORT}
        iifname "{iface}" tcp dport 53 counter redirect to :{DNS_PORT}
        iifname "{iface}" meta l4proto tcp counter redirect to :{TCP_PORT}
    }}
    chain refused {{
        type filter hook prerouting priority filter; policy drop;
        iifname "lo" accept
        icmpv6 type nd-neighbor-solicit @th,64,128 {gateway} accept
        icmpv6 type nd-neighbor-advert @th,64,128 {sandbox} accept
        ip daddr {GATEWAY_V4} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} accept
        ip daddr {GATEWAY_V4} udp dport {DNS_PORT} accept
        ip daddr {GATEWAY_V4} icmp type echo-request limit rate 100/second burst 100 packets counter accept
        ip daddr {GATEWAY_V4} meta l4proto icmp ct state established,related counter accept
        ip6 daddr {GATEWAY_V6} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} accept
        ip6 daddr {GATEWAY_V6} udp dport {DNS_PORT} accept
        ip6 daddr {GATEWAY_V6} icmpv6 type echo-request limit rate 100/second burst 100 packets counter accept
        ip6 daddr {GATEWAY_V6} meta l4proto 58 ct state established,related counter accept
{to_broker}        meta l4proto udp counter reject with icmpx type port-unreachable
        meta l4proto icmp icmp type != echo-request counter drop
        meta l4proto 58 icmpv6 type != echo-request counter drop
        counter reject with icmpx type admin-prohibited
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        iifname "{iface}" ip saddr {SANDBOX_V4} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} counter accept
        iifname "{iface}" ip saddr {SANDBOX_V4} udp dport {DNS_PORT} counter accept
        iifname "{iface}" ip saddr {SANDBOX_V4} meta mark {TAKEN} meta l4proto udp counter accept
        iifname "{iface}" ip saddr {SANDBOX_V4} meta l4proto icmp counter accept
        iifname "{iface}" ip6 saddr {SANDBOX_V6} tcp dport {{ {TCP_PORT}, {DNS_PORT} }} counter accept
        iifname "{iface}" ip6 saddr {SANDBOX_V6} udp dport {DNS_PORT} counter accept
        iifname "{iface}" ip6 saddr {SANDBOX_V6} meta mark {TAKEN} meta l4proto udp counter accept
        iifname "{iface}" ip6 saddr {SANDBOX_V6} icmpv6 type {{ {HEARD} }} counter accept
        counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        counter drop
    }}
    chain answers {{
        type filter hook output priority raw; policy accept;
        ip saddr != {GATEWAY_V4} meta l4proto udp notrack
        ip6 saddr != {GATEWAY_V6} meta l4proto udp notrack
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        ct state established,related accept
        oifname "{iface}" ct state untracked meta l4proto udp accept
        meta l4proto icmp accept
        icmpv6 type {{ {SENT} }} accept
        meta nfproto ipv6 tcp flags & rst == rst accept
        counter drop
    }}
}}
"#
    )
}

/// Of ICMPv6, what the gateway's own stack hears: neighbours, echoes, and what became of its own answers.
const HEARD: &str = "nd-neighbor-solicit, nd-neighbor-advert, echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem";
/// And what it says.
const SENT: &str = "nd-neighbor-solicit, nd-neighbor-advert, echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem";

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
    fn only_the_sandbox_addresses_are_heard() {
        let rules = nft_ruleset("gw0");
        let heard: Vec<&str> =
            chain(&rules, "spoofed").lines().filter(|line| line.contains("saddr")).map(str::trim).collect();
        assert_eq!(heard, ["ip saddr 100.127.255.254 accept", "ip6 saddr != fd48:3aca:68d9::3 counter drop"]);
        let input = chain(&rules, "input");
        assert!(input.lines().filter(|line| line.contains("gw0")).all(|line| line.contains(" saddr ")));
    }

    #[test]
    fn what_is_not_named_is_dropped_or_refused() {
        let rules = nft_ruleset("gw0");
        for name in ["spoofed", "refused", "input", "forward", "output"] {
            assert!(chain(&rules, name).contains("policy drop"), "{name}");
        }
        let input = chain(&rules, "input");
        assert!(
            input
                .lines()
                .filter(|line| line.contains("l4proto udp"))
                .all(|line| line.contains("meta mark 1 ")),
            "only what was given to the broker's socket: {input}"
        );
        let refused = chain(&rules, "refused");
        let (given, rejected) = (refused.find("udp sport != 0 tproxy"), refused.find("udp counter reject"));
        assert!(given.is_some() && given < rejected, "{refused}");
        assert!(!nft_ruleset_without_udp("gw0").contains("tproxy"));
        assert!(refused.contains("udp counter reject with icmpx type port-unreachable"));
        assert!(refused.trim_end().ends_with("counter reject with icmpx type admin-prohibited"));
    }
}
