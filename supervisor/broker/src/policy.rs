//! What becomes of one flow or one name: pure decisions over data.
//!
//! Order: the host mapping, the protected table, the node's own addresses, then the workspace's policy. Only the last is
//! the workspace's to choose.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use cordium_egress::{
    Compiled, Flow, Host, Moment, Protocol, Reason, Request, Ruling, Said, Settled, Verdict, protected,
    spellings,
};
use tokio::sync::watch;

use crate::denials::Why;
use crate::inspect::Inspection;
use crate::service;
use crate::wire::Registration;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Dial this address.
    Allow(SocketAddr),
    /// Dial it, and let the client's bytes pass once [`Rules::settle`] allows what they say.
    Ask(SocketAddr),
    Deny(Why),
}

/// How a flow that is allowed goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Its bytes are copied.
    Open,
    /// It must be HTTP, and [`Rules::request`] decides about each request.
    ByRequest,
}

/// What a workspace may reach now, ready for decisions.
#[derive(Debug)]
pub(crate) struct Rules {
    gateway: Ipv4Addr,
    host_ports: BTreeSet<u16>,
    policy: watch::Sender<Arc<Compiled>>,
    inspection: watch::Sender<Option<Arc<Inspection>>>,
    services: watch::Sender<Option<Arc<service::Table>>>,
}

impl Rules {
    pub(crate) fn new(registration: &Registration, policy: Compiled, inspection: Option<Inspection>) -> Self {
        Self {
            gateway: registration.gateway_v4,
            host_ports: registration.host_ports.iter().copied().collect(),
            policy: watch::Sender::new(Arc::new(policy)),
            inspection: watch::Sender::new(inspection.map(Arc::new)),
            services: watch::Sender::new(None),
        }
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// From here on these decide; open flows hear of it.
    pub(crate) fn set(&self, policy: Compiled, inspection: Option<Inspection>) {
        self.inspection.send_replace(inspection.map(Arc::new));
        self.policy.send_replace(Arc::new(policy));
    }

    /// From here on these are the workspace's services; connections to those that are no more are told.
    pub(crate) fn set_services(&self, services: Option<service::Table>) {
        self.services.send_replace(services.map(Arc::new));
    }

    /// Where the name of a service leads inside.
    pub(crate) fn service_address(&self, name: &Host) -> Option<Ipv4Addr> {
        self.services.borrow().as_ref()?.address(name)
    }

    /// The service that a flow is to, if it is to one; why not, if it is to the address of one.
    pub(crate) fn service_at(
        &self,
        destination: SocketAddr,
    ) -> Option<Result<Arc<service::Ready>, (Host, Why)>> {
        let found = self.services.borrow().as_ref()?.at(destination)?;
        let reason = "no service of the workspace has this port";
        Some(found.map_err(|host| (host, why("services", reason, "connect to the port that the spec names"))))
    }

    /// Returns when the service's credential has been taken away.
    pub(crate) async fn unserved(&self, name: &str) {
        let serves =
            |table: &Option<Arc<service::Table>>| table.as_ref().is_some_and(|table| table.serves(name));
        let mut changes = self.services.subscribe();
        if changes.wait_for(|table| !serves(table)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether the node's loopback may be the upstream of a service at this port.
    pub(crate) fn may_serve_node(&self, port: u16) -> Result<(), Why> {
        match self.decide((self.gateway, port).into(), &[], SystemTime::now().into(), |_| false) {
            Decision::Deny(why) => Err(why),
            Decision::Allow(_) | Decision::Ask(_) => Ok(()),
        }
    }

    /// Whether the upstream of a service may have this address. The spec names it, which is what an ALLOW is elsewhere; what the
    /// node protects and what a DENY names stays closed.
    pub(crate) fn may_serve(
        &self,
        upstream: SocketAddr,
        name: Option<&Host>,
        is_node: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Why> {
        let names = name.map(std::slice::from_ref).unwrap_or_default();
        let began = SystemTime::now().into();
        let (address, port) = (upstream.ip().to_canonical(), upstream.port());
        if protected(address).is_none() && spellings(address).into_iter().flatten().any(is_node) {
            return Err(own());
        }
        let said = name.map_or(Said::Other, Said::Name);
        match self.policy().decide_again(&Flow { address, port, protocol: Protocol::Tcp, names, began }, said)
        {
            Settled::Decided(Ruling::Deny {
                rule,
                reason: reason @ (Reason::Rule | Reason::Protected(_) | Reason::ProtectedNetwork),
            }) => Err(why_denied(&rule.to_string(), reason)),
            // Rules on requests of HTTP say nothing of other protocols.
            Settled::Decided(Ruling::Deny { .. } | Ruling::Allow { .. }) | Settled::ByRequest => Ok(()),
        }
    }

    /// The workspace's credentials, if it has any.
    pub(crate) fn inspection(&self) -> Option<Arc<Inspection>> {
        self.inspection.borrow().clone()
    }

    /// Those that have a credential bound to this host.
    pub(crate) fn inspection_of(&self, host: &Host) -> Option<Arc<Inspection>> {
        self.inspection().filter(|inspection| inspection.binds(host))
    }

    /// Returns when no credential is bound to this host any more.
    pub(crate) async fn unbound(&self, host: &Host) {
        let bound =
            |inspection: &Option<Arc<Inspection>>| inspection.as_ref().is_some_and(|all| all.binds(host));
        let mut changes = self.inspection.subscribe();
        if changes.wait_for(|inspection| !bound(inspection)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells of each new policy.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Compiled>> {
        self.policy.subscribe()
    }

    fn policy(&self) -> Arc<Compiled> {
        Arc::clone(&self.policy.borrow())
    }

    /// Whether this destination is the host mapping, which is no part of the policy.
    fn is_mapped(&self, destination: SocketAddr) -> bool {
        destination.ip().to_canonical() == IpAddr::V4(self.gateway)
    }

    /// The name of the host mapping, if the destination is that: a credential may be bound to it.
    pub(crate) fn mapped_name(&self, destination: SocketAddr) -> Option<Host> {
        self.is_mapped(destination).then(|| Host::parse(crate::HOST_NAME).ok()).flatten()
    }

    /// `names` led to the destination when the flow began. `is_node` tells whether an address is one of the node's own.
    pub(crate) fn decide(
        &self,
        destination: SocketAddr,
        names: &[Host],
        began: Moment,
        is_node: impl Fn(IpAddr) -> bool,
    ) -> Decision {
        let address = destination.ip().to_canonical();
        let port = destination.port();
        if self.is_mapped(destination) {
            let target = (Ipv4Addr::LOCALHOST, port).into();
            let flow = Flow { address, port, protocol: Protocol::Tcp, names, began };
            return if self.host_ports.contains(&port) {
                match self.mapped(&flow, None) {
                    Ok(Passage::Open) => Decision::Allow(target),
                    Ok(Passage::ByRequest) => Decision::Ask(target),
                    Err(why) => Decision::Deny(why),
                }
            } else {
                Decision::Deny(why(
                    "host-ports",
                    "the port is not among the given ports of the node",
                    "ask who runs the node to add it to hostPorts",
                ))
            };
        }
        if let Err(why) = never((address, port), is_node) {
            return Decision::Deny(why);
        }
        let policy = self.policy();
        match policy.decide(&Flow { address, port, protocol: Protocol::Tcp, names, began }) {
            Verdict::Decided(Ruling::Allow { .. }) => Decision::Allow((address, port).into()),
            Verdict::Decided(Ruling::Deny { rule, reason }) => {
                Decision::Deny(why_denied(&rule.to_string(), reason))
            }
            Verdict::ByName(_) => Decision::Ask((address, port).into()),
        }
    }

    /// Whether datagrams may go to this destination. They say no name: those that led there decide, and a host whose connections
    /// are looked into has none.
    pub(crate) fn decide_udp(
        &self,
        destination: SocketAddr,
        names: &[Host],
        began: Moment,
        is_node: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Why> {
        if self.is_mapped(destination) {
            return Err(why("host-ports", "ports of the node are given for TCP only", "connect over TCP"));
        }
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        never((address, port), is_node)?;
        if names.iter().any(|name| self.inspection_of(name).is_some()) {
            return Err(why(
                "credential",
                "a credential is bound to this host, and is put on requests over TCP only",
                "connect over TCP, as clients of HTTP/3 do by themselves",
            ));
        }
        let flow = Flow { address, port, protocol: Protocol::Udp, names, began };
        match self.policy().decide_again(&flow, Said::Other) {
            Settled::Decided(ruling) => ruled(ruling),
            Settled::ByRequest => Err(why_denied("host-name", Reason::NotHttp)),
        }
    }

    /// The decision on a flow whose first bytes are known, or on one that is open while the policy changes.
    pub(crate) fn settle(
        &self,
        destination: SocketAddr,
        names: &[Host],
        began: Moment,
        said: Said<'_>,
    ) -> Result<Passage, Why> {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let flow = Flow { address, port, protocol: Protocol::Tcp, names, began };
        if self.is_mapped(destination) {
            let passage = self.mapped(&flow, None)?;
            return match said {
                _ if passage == Passage::Open => Ok(passage),
                Said::Name(name) if names.contains(name) => Ok(Passage::ByRequest),
                Said::Name(_) => Err(why_denied("host-name", Reason::NameNotPinned)),
                Said::Unnamed => Err(why_denied("host-name", Reason::Unnamed)),
                Said::Unasked => Err(why_denied("host-name", Reason::Unasked)),
                Said::Other => Err(why_denied("host-name", Reason::NotHttp)),
            };
        }
        let policy = self.policy();
        match policy.decide_again(&flow, said) {
            Settled::Decided(ruling) => ruled(ruling).map(|()| Passage::Open),
            Settled::ByRequest => Ok(Passage::ByRequest),
        }
    }

    /// The decision on one request to `name` in a flow that [`settle`](Self::settle) has let go on.
    pub(crate) fn request(
        &self,
        destination: SocketAddr,
        names: &[Host],
        name: &Host,
        request: &Request<'_>,
    ) -> Result<(), Why> {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let flow = Flow { address, port, protocol: Protocol::Tcp, names, began: SystemTime::now().into() };
        if self.is_mapped(destination) {
            return self.mapped(&flow, Some(request)).map(drop);
        }
        ruled(self.policy().decide_request(&flow, name, request))
    }

    /// What the policy says of the node's own services: only requests are denied. Without a request: whether one could be.
    fn mapped(&self, flow: &Flow<'_>, request: Option<&Request<'_>>) -> Result<Passage, Why> {
        let Some(name) = flow.names.first() else { return Ok(Passage::Open) };
        match self.policy().decide_mapped(flow, name, request) {
            Settled::Decided(ruling) => ruled(ruling).map(|()| Passage::Open),
            Settled::ByRequest => Ok(Passage::ByRequest),
        }
    }

    /// Whether a flow that is open but has said nothing yet may go on to speak.
    pub(crate) fn may_speak(
        &self,
        destination: SocketAddr,
        names: &[Host],
        began: Moment,
    ) -> Result<(), Why> {
        match self.decide(destination, names, began, |_| false) {
            Decision::Deny(why) => Err(why),
            Decision::Allow(_) | Decision::Ask(_) => Ok(()),
        }
    }

    /// Whether a name outside this node may be asked for.
    pub(crate) fn resolves(&self, name: &Host) -> Result<(), Why> {
        ruled(self.policy().resolves(name, SystemTime::now().into()))
    }
}

fn ruled(ruling: Ruling<'_>) -> Result<(), Why> {
    match ruling {
        Ruling::Allow { .. } => Ok(()),
        Ruling::Deny { rule, reason } => Err(why_denied(&rule.to_string(), reason)),
    }
}

/// What no policy opens, and no table has.
fn never((address, port): (IpAddr, u16), is_node: impl Fn(IpAddr) -> bool) -> Result<(), Why> {
    if port == 0 {
        return Err(why("port", "port 0 does not exist", "connect to another port"));
    }
    if protected(address).is_none() && spellings(address).into_iter().flatten().any(is_node) {
        return Err(own());
    }
    Ok(())
}

/// No workspace reaches the node's own addresses.
fn own() -> Why {
    why(
        "node",
        "the address is one of the node's own",
        "no policy opens it; a port of the node itself is opened with hostPorts",
    )
}

pub(crate) fn why(rule: &str, reason: &'static str, next: &'static str) -> Why {
    Why { rule: rule.to_owned(), reason, next }
}

fn why_denied(rule: &str, reason: Reason) -> Why {
    why(rule, reason.text(), reason.next())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cordium_egress::{Action, Policy, Rule};

    use super::*;

    fn now() -> Moment {
        Moment::at(1_795_298_193)
    }

    fn allow(cidrs: &[&str], hosts: &[&str]) -> Policy {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rule = Rule {
            name: None,
            action: Action::Allow,
            cidrs: texts(cidrs),
            hosts: texts(hosts),
            ports: vec![],
            protocols: vec![],
            methods: vec![],
            paths: vec![],
            condition: None,
        };
        Policy { rules: vec![rule], ..Policy::default() }
    }

    fn everything() -> Policy {
        allow(&["0.0.0.0/0", "::/0"], &[])
    }

    fn rules(policy: &Policy) -> Rules {
        let gateway_v4 = crate::GATEWAY_V4;
        let (workspace, run) = ("w".into(), "r".into());
        let registration = Registration { workspace, run, gateway_v4, host_ports: vec![8080] };
        Rules::new(&registration, policy.compile().unwrap(), None)
    }

    fn rule(policy: &Policy, destination: &str) -> String {
        let node: IpAddr = "10.1.2.3".parse().unwrap();
        match rules(policy).decide(destination.parse().unwrap(), &[], now(), |address| address == node) {
            Decision::Allow(_) => "allowed".to_owned(),
            Decision::Ask(_) => "asked".to_owned(),
            Decision::Deny(why) => why.rule,
        }
    }

    #[test]
    fn what_is_not_protected_is_the_policys_to_open() {
        for open in ["1.1.1.1:443", "10.0.0.9:5432", "192.168.0.1:80", "[2606:4700::1111]:443"] {
            assert_eq!(rule(&everything(), open), "allowed", "{open}");
            assert_eq!(rule(&Policy::default(), open), "default", "{open}");
        }
    }

    #[test]
    fn the_node_is_not_reached() {
        for (closed, expected) in [
            ("127.0.0.1:22", "loopback"),
            ("[::1]:22", "loopback"),
            ("[::ffff:127.0.0.1]:22", "loopback"),
            ("169.254.169.254:80", "link-local"),
            ("10.1.2.3:6443", "node"),
            ("[::ffff:10.1.2.3]:6443", "node"),
            ("[64:ff9b::a01:203]:6443", "node"),
            ("100.127.255.254:80", "gateway"),
            ("[fd48:3aca:68d9::2]:8080", "gateway"),
            ("[fe80::1]:80", "link-local"),
            ("[2002:a01:203::1]:6443", "node"),
            ("8.8.8.8:0", "port"),
        ] {
            assert_eq!(rule(&everything(), closed), expected, "{closed}");
        }
    }

    #[test]
    fn the_gateway_is_the_nodes_loopback_on_given_ports_only() {
        for policy in [everything(), Policy::default()] {
            let decide = |port| rules(&policy).decide((crate::GATEWAY_V4, port).into(), &[], now(), |_| true);
            assert_eq!(decide(8080), Decision::Allow("127.0.0.1:8080".parse().unwrap()));
            for port in [0, 22, 8081, crate::TCP_PORT] {
                assert!(matches!(decide(port), Decision::Deny(why) if why.rule == "host-ports"), "{port}");
            }
        }
    }

    #[test]
    fn a_host_rule_asks_the_client_and_a_new_policy_is_asked_again() {
        let rules = rules(&allow(&[], &["a.example"]));
        let destination: SocketAddr = "1.1.1.1:443".parse().unwrap();
        let [a, b] = ["a.example", "b.example"].map(|name| Host::parse(name).unwrap());
        assert_eq!(
            rules.decide(destination, std::slice::from_ref(&a), now(), |_| false),
            Decision::Ask(destination)
        );
        assert!(matches!(rules.decide(destination, &[], now(), |_| false), Decision::Deny(_)));
        let names = [a.clone(), b.clone()];
        assert_eq!(rules.settle(destination, &names, now(), Said::Name(&a)), Ok(Passage::Open));
        assert!(rules.settle(destination, &names, now(), Said::Name(&b)).is_err());
        assert_eq!((rules.resolves(&a), rules.resolves(&b).is_err()), (Ok(()), true));
        assert_eq!(rules.may_speak(destination, &names, now()), Ok(()));

        let mut changes = rules.changes();
        rules.set(Policy::default().compile().unwrap(), None);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert!(rules.settle(destination, &names, now(), Said::Name(&a)).is_err());
        assert!(rules.may_speak(destination, &names, now()).is_err() && rules.resolves(&a).is_err());
        // The host mapping is not the policy's.
        assert_eq!(
            rules.settle((crate::GATEWAY_V4, 8080).into(), &[], now(), Said::Unasked),
            Ok(Passage::Open)
        );
    }

    #[test]
    fn rules_by_request_decide_about_each_and_of_the_node_only_denials_count() {
        let text = r#"{"rules": [
            {"action": "ALLOW", "hosts": ["a.example"], "methods": ["GET"], "name": "read"},
            {"action": "DENY", "hosts": ["host.cordium.internal"], "paths": ["/private"], "name": "private"}]}"#;
        let rules = rules(&serde_json::from_str(text).unwrap());
        let [a, node] = ["a.example", crate::HOST_NAME].map(|name| Host::parse(name).unwrap());
        let (outside, inside) = ("1.1.1.1:443".parse().unwrap(), (crate::GATEWAY_V4, 8080).into());
        for (destination, name, allowed, denied, rule) in [
            (outside, &a, ("GET", "/x"), ("PUT", "/x"), "default"),
            (inside, &node, ("PUT", "/x"), ("GET", "/private/y"), "private"),
        ] {
            let names = std::slice::from_ref(name);
            assert!(matches!(rules.decide(destination, names, now(), |_| false), Decision::Ask(_)));
            let settle = |said| rules.settle(destination, names, now(), said);
            assert_eq!(settle(Said::Name(name)), Ok(Passage::ByRequest));
            for said in [Said::Other, Said::Unnamed, Said::Unasked] {
                assert!(settle(said).is_err(), "{said:?}");
            }
            let request =
                |(method, path)| rules.request(destination, names, name, &Request::new(method, path));
            assert_eq!(request(allowed), Ok(()));
            assert_eq!(request(denied).unwrap_err().rule, rule);
        }
        let closed = rules.decide((crate::GATEWAY_V4, 22).into(), &[node], now(), |_| false);
        assert!(matches!(closed, Decision::Deny(why) if why.rule == "host-ports"));
    }

    #[test]
    fn datagrams_reach_what_a_rule_names_and_never_the_node() {
        let udp = |mut policy: Policy| {
            policy.rules[0].protocols = vec![Protocol::Udp];
            rules(&policy)
        };
        let node: IpAddr = "10.1.2.3".parse().unwrap();
        let decide = |rules: &Rules, destination: &str, names: &[Host]| {
            let decided =
                rules.decide_udp(destination.parse().unwrap(), names, now(), |address| address == node);
            decided.map_or_else(|why| why.rule, |()| "allowed".into())
        };
        for (destination, expected) in [
            ("1.1.1.1:443", "allowed"),
            ("10.0.0.9:123", "allowed"),
            ("[2606:4700::1111]:443", "allowed"),
            ("10.1.2.3:123", "node"),
            ("[::ffff:10.1.2.3]:123", "node"),
            ("[64:ff9b::a01:203]:123", "node"),
            ("8.8.8.8:0", "port"),
            ("127.0.0.1:123", "loopback"),
            ("169.254.169.254:123", "link-local"),
            ("224.0.0.251:5353", "multicast"),
            ("255.255.255.255:67", "reserved"),
            ("[ff02::fb]:5353", "multicast"),
            ("100.127.255.254:9", "gateway"),
            ("100.127.255.253:8080", "host-ports"),
        ] {
            assert_eq!(decide(&udp(everything()), destination, &[]), expected, "{destination}");
        }
        assert_eq!(decide(&rules(&everything()), "1.1.1.1:443", &[]), "default", "TCP is what it opens");
        let [a, b] = ["a.example", "b.example"].map(|name| Host::parse(name).unwrap());
        let by_name = udp(allow(&[], &["a.example"]));
        assert_eq!(decide(&by_name, "1.1.1.1:443", &[b.clone(), a]), "allowed");
        assert_eq!(decide(&by_name, "1.1.1.1:443", &[b]), "default");
        assert_eq!(decide(&by_name, "1.1.1.1:443", &[]), "host-name");
    }
}
