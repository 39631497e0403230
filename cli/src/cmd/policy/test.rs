//! `cordium policy test`: a policy tried out here, by the same code that enforces it.

use std::{net::IpAddr, path::PathBuf};

use cordium_egress::{
    Cidr, Compiled, DefaultAction, Flow, Moment, Policy, Protocol, Request, Ruling, Said, Settled,
};
use serde_json::{Value, json};

use super::{
    context,
    destination::{self, Destination, Target},
};
use crate::{
    cmd::Outcome,
    error::{CliError, CliResult},
    output::{
        self,
        format::{Format, Out},
        table,
    },
    spec::file,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
What only a node knows is left out: its own addresses, the protectedNetworks of its configuration, and the rules of the \
workspace's template if FILE is a workspace. Conditions are asked with what --ctx and --at say.")]
pub struct Args {
    /// A Workspace or Template in YAML or JSON, or its egress section alone (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: PathBuf,
    /// HOST:PORT, ADDRESS:PORT, or a URL: a request to it
    #[arg(required = true, value_name = "DESTINATION", value_parser = destination::parse)]
    pub destinations: Vec<Destination>,
    /// The address that the hosts resolve to [default: a public one that no rule names]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// The method of the requests
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// Ask for datagrams, not connections
    #[arg(long)]
    pub udp: bool,
    #[command(flatten)]
    pub context: context::Args,
    #[command(flatten)]
    pub out: Out,
}

pub fn run(args: &Args) -> Outcome {
    let text = file::text(&args.file)?;
    let egress = cordium_spec::parse_egress(&text)
        .map_err(|error| CliError::usage(format!("{}: {error}", args.file.display())))?;
    let mut policy = egress.policy(DefaultAction::AllowPublic, Vec::new());
    policy.context = Some(args.context.subject());
    let asked = Asked {
        address: args.address,
        method: args.method.clone(),
        protocol: if args.udp { Protocol::Udp } else { Protocol::Tcp },
        at: args.context.moment(),
    };
    let compiled = policy.compile().map_err(|error| CliError::usage(error.to_string()))?;
    let answers = args
        .destinations
        .iter()
        .map(|destination| answer(&policy, &compiled, destination, &asked))
        .collect::<CliResult<Vec<_>>>()?;
    match args.out.format.structured() {
        Some(format) => {
            output::print(&format.render(&Value::Array(answers.iter().map(Answer::json).collect()))?);
        }
        None => output::print(&rows(&answers, args.out.format)),
    }
    Ok(u8::from(answers.iter().any(|answer| !answer.allowed)))
}

/// What is the same for all destinations.
struct Asked {
    /// Of the hosts.
    address: Option<IpAddr>,
    protocol: Protocol,
    /// Of requests.
    method: String,
    at: Moment,
}

struct Answer {
    destination: String,
    host: Option<String>,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    allowed: bool,
    /// Some requests are, and none was named.
    by_request: bool,
    rule: String,
    reason: Option<&'static str>,
    next: Option<&'static str>,
}

impl Answer {
    fn json(&self) -> Value {
        let mut value = json!({
            "destination": self.destination, "address": self.address, "port": self.port,
            "protocol": self.protocol.name(), "allowed": self.allowed, "rule": self.rule,
        });
        if self.by_request {
            value["byRequest"] = true.into();
        }
        for (key, text) in [("host", self.host.as_deref()), ("reason", self.reason), ("next", self.next)] {
            if let Some(text) = text {
                value[key] = text.into();
            }
        }
        value
    }
}

fn answer(
    policy: &Policy,
    compiled: &Compiled,
    destination: &Destination,
    asked: &Asked,
) -> CliResult<Answer> {
    let (port, protocol, at) = (destination.port, asked.protocol, asked.at);
    let (host, address) = match &destination.target {
        Target::Address(address) => (None, *address),
        Target::Host(host) => {
            let address = asked.address.or_else(|| usual_address(policy)).ok_or_else(|| {
                CliError::new(format!("the rules name every address that {host} could have"))
                    .hint("say with --address to which one it resolves")
            })?;
            (Some(host), address)
        }
    };
    let resolved = host.map(|host| compiled.resolves(host, at)).filter(|ruling| !ruling.is_allowed());
    let settled = resolved.map_or_else(
        || {
            let names = Vec::from_iter(host.cloned());
            // A datagram says no name.
            let said = host.filter(|_| protocol == Protocol::Tcp).map_or(Said::Other, Said::Name);
            let flow = Flow { address, port, protocol, names: &names, began: at };
            match (compiled.decide_again(&flow, said), host, &destination.path) {
                (Settled::ByRequest, Some(host), Some(path)) => {
                    Settled::Decided(compiled.decide_request(&flow, host, &Request::new(&asked.method, path)))
                }
                (settled, ..) => settled,
            }
        },
        Settled::Decided,
    );
    let (rule, reason, next) = match settled {
        Settled::Decided(Ruling::Allow { rule }) => (rule.to_string(), None, None),
        Settled::Decided(Ruling::Deny { rule, reason }) => {
            (rule.to_string(), Some(reason.text()), Some(reason.next()))
        }
        Settled::ByRequest => {
            let reason = "rules with methods or paths decide about each request";
            ("-".to_owned(), Some(reason), Some("test a URL such as https://HOST/PATH, with --method"))
        }
    };
    Ok(Answer {
        destination: destination.text.clone(),
        host: host.map(ToString::to_string),
        address,
        port,
        protocol,
        allowed: settled.may_go_on(),
        by_request: settled == Settled::ByRequest,
        rule,
        reason,
        next,
    })
}

/// A public address that only rules for all addresses hold.
fn usual_address(policy: &Policy) -> Option<IpAddr> {
    let named: Vec<Cidr> =
        policy.rules.iter().flat_map(|rule| &rule.cidrs).filter_map(|text| Cidr::parse(text).ok()).collect();
    (1..=223_u8).map(|n| IpAddr::from([n, n, n, n])).find(|address| {
        cordium_egress::is_public(*address)
            && !named.iter().any(|cidr| !cidr.is_everything() && cidr.contains(*address))
    })
}

fn rows(answers: &[Answer], format: Format) -> String {
    if format == Format::Name {
        return answers
            .iter()
            .filter(|answer| answer.allowed)
            .map(|a| format!("{}\n", a.destination))
            .collect();
    }
    let mut header = vec!["DESTINATION", "VERDICT", "RULE", "REASON"];
    if format == Format::Wide {
        header.extend(["ADDRESS", "NEXT STEP"]);
    }
    let row = |answer: &Answer| {
        let verdict = match answer.allowed {
            true if answer.by_request => "by request",
            true => "allow",
            false => "deny",
        };
        let texts = [&answer.destination, verdict, &answer.rule, answer.reason.unwrap_or("-")];
        let mut row: Vec<String> = texts.map(str::to_owned).into();
        if format == Format::Wide {
            row.extend([answer.address.to_string(), answer.next.unwrap_or("-").to_owned()]);
        }
        row
    };
    table::render(&header, &answers.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EGRESS: &str = "
defaultAction: DENY
rules:
  - {name: github, action: ALLOW, hosts: [github.com, '*.github.com'], ports: [443]}
  - {name: office, action: ALLOW, cidrs: [10.20.0.0/16]}
  - {name: db, action: ALLOW, hosts: [db.example], cidrs: [10.30.0.0/16], ports: [5432]}
";

    fn ask(egress: &str, destination: &str, address: Option<&str>) -> String {
        ask_by(Protocol::Tcp, egress, destination, address)
    }

    fn ask_by(protocol: Protocol, egress: &str, destination: &str, address: Option<&str>) -> String {
        request(protocol, "GET", egress, destination, address)
    }

    fn request(
        protocol: Protocol,
        method: &str,
        egress: &str,
        destination: &str,
        address: Option<&str>,
    ) -> String {
        let policy = cordium_spec::parse_egress(egress).unwrap().policy(DefaultAction::AllowPublic, vec![]);
        let compiled = policy.compile().unwrap();
        let destination = destination::parse(destination).unwrap();
        let address = address.map(|address| address.parse().unwrap());
        let asked = Asked { address, protocol, method: method.to_owned(), at: Moment::at(8 * 3600) };
        let answer = answer(&policy, &compiled, &destination, &asked).unwrap();
        assert_eq!(answer.allowed, answer.reason.is_none() || answer.by_request);
        if answer.by_request {
            return "by request".to_owned();
        }
        format!("{} {}", if answer.allowed { "allow" } else { "deny" }, answer.rule)
    }

    #[test]
    fn destinations_are_judged_as_the_broker_would() {
        for (destination, expected) in [
            ("api.github.com:443", "allow github"),
            ("api.github.com:80", "deny default"),
            ("evil.test:443", "deny default"),
            ("10.20.1.1:22", "allow office"),
            ("140.82.112.3:443", "deny host-name"),
            ("169.254.169.254:80", "deny link-local"),
            ("127.0.0.1:80", "deny loopback"),
            ("[2606:4700::1111]:443", "deny host-name"),
        ] {
            assert_eq!(ask(EGRESS, destination, None), expected, "{destination}");
        }
        assert_eq!(ask(EGRESS, "db.example:5432", None), "deny default");
        assert_eq!(ask(EGRESS, "db.example:5432", Some("10.30.0.1")), "allow db");
        assert_eq!(ask(EGRESS, "github.com:443", Some("10.30.0.1")), "deny github");
        assert_eq!(ask("rules: []", "example.com:80", None), "allow default");
        assert_eq!(ask("rules: []", "192.168.0.1:80", None), "deny default");
    }

    #[test]
    fn datagrams_pass_only_where_a_rule_names_udp() {
        let rules = "
defaultAction: ALLOW_PUBLIC
rules:
  - {name: ntp, action: ALLOW, hosts: [time.example], ports: [123], protocols: [UDP]}
  - {name: web, action: ALLOW, hosts: [www.example], ports: [443]}
";
        for (destination, expected) in [
            ("time.example:123", "allow ntp"),
            ("time.example:124", "deny default"),
            ("www.example:443", "deny default"),
            ("9.9.9.9:123", "deny host-name"),
            ("127.0.0.1:123", "deny loopback"),
        ] {
            assert_eq!(ask_by(Protocol::Udp, rules, destination, None), expected, "{destination}");
        }
        assert_eq!(ask(rules, "www.example:443", None), "allow default");
    }

    #[test]
    fn conditions_are_asked() {
        let rules = "
defaultAction: DENY
rules:
  - {action: ALLOW, hosts: [a.example], condition: ctx.time.hour == 8}
  - {action: ALLOW, hosts: [b.example], condition: ctx.time.hour == 9}
  - {action: ALLOW, hosts: [c.example], condition: ctx.request.port == 443}
";
        for (destination, expected) in [
            ("a.example:80", "allow rules[0]"),
            ("b.example:80", "deny default"),
            ("c.example:443", "allow rules[2]"),
            ("c.example:80", "deny default"),
        ] {
            assert_eq!(ask(rules, destination, None), expected, "{destination}");
        }
    }

    #[test]
    fn requests_are_judged_by_method_and_path() {
        let rules = "
defaultAction: DENY
rules:
  - {name: read, action: ALLOW, hosts: [git.example], methods: [GET], paths: [/acme]}
  - {name: rest, action: ALLOW, hosts: [api.example]}
  - {name: keep, action: DENY, hosts: [api.example], methods: [DELETE]}
";
        for (method, destination, expected) in [
            ("GET", "https://git.example/acme/x?y", "allow read"),
            ("PUT", "https://git.example/acme/x", "deny default"),
            ("GET", "http://git.example/else", "deny default"),
            ("GET", "http://git.example/acme/../x", "deny default"),
            ("GET", "git.example:443", "by request"),
            ("DELETE", "https://api.example/x", "deny keep"),
            ("POST", "https://api.example/x", "allow rest"),
            ("GET", "https://other.example/acme", "deny default"),
        ] {
            assert_eq!(
                request(Protocol::Tcp, method, rules, destination, None),
                expected,
                "{method} {destination}"
            );
        }
    }

    #[test]
    fn the_usual_address_is_public_and_named_by_no_rule() {
        let egress = "rules: [{action: DENY, cidrs: [1.0.0.0/8, 2.0.0.0/7, 0.0.0.0/0]}]";
        let policy = cordium_spec::parse_egress(egress).unwrap().policy(DefaultAction::Deny, vec![]);
        assert_eq!(usual_address(&policy), Some("4.4.4.4".parse().unwrap()));
        let egress = "rules: [{action: DENY, cidrs: [0.0.0.0/1, 128.0.0.0/1]}]";
        let policy = cordium_spec::parse_egress(egress).unwrap().policy(DefaultAction::Deny, vec![]);
        assert_eq!(usual_address(&policy), None);
    }
}
