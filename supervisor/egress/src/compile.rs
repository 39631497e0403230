//! From a policy as written to one that answers fast.

use crate::compiled::{Compiled, PatternRules, PrefixRules};
use crate::condition::{Condition, MAX_CONDITIONS};
use crate::policy::{MAX_PROTECTED, MAX_RULE_BYTES, MAX_RULES, ParsedRule, check_count, cidrs};
use crate::{Action, Cidr, Policy, PolicyError};

/// Pairs of a network and a host that rules with both may make: each takes memory.
const MAX_PAIRS: usize = 65_536;

impl Policy {
    /// Checks the policy and makes it ready for decisions.
    pub fn compile(&self) -> Result<Compiled, PolicyError> {
        check_count("rules", self.rules.len(), MAX_RULES)?;
        check_count("protected", self.protected.len(), MAX_PROTECTED)?;
        let weight = self.weight();
        if weight > MAX_RULE_BYTES {
            let was = format!("about {weight} bytes");
            return Err(PolicyError::new("rules", was, format!("at most {MAX_RULE_BYTES} bytes in all")));
        }
        let mut compiled = Compiled::empty(self.default_action);
        for (index, cidr) in cidrs("protected", &self.protected)?.into_iter().enumerate() {
            let id = compiled.protected.add(cidr);
            if id as usize == compiled.protected_index.len() {
                compiled.protected_index.push(index);
            }
        }
        if let Some(subject) = &self.context {
            subject.check()?;
            compiled.subject = subject.clone();
        }
        let mut pairs = 0;
        for (index, rule) in self.rules.iter().enumerate() {
            let path = format!("rules[{index}]");
            let parsed = rule.parse(&path)?;
            pairs += parsed.cidrs.len() * parsed.hosts.len();
            if pairs > MAX_PAIRS {
                let was = format!("one of rules whose cidrs times hosts come to more than {MAX_PAIRS}");
                return Err(PolicyError::new(path, was, "rules with fewer cidrs or fewer hosts"));
            }
            // MAX_RULES is far below this.
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            compiled.names_of_rules.push(rule.name.as_deref().map(Into::into));
            if compiled.conditions.len() == MAX_CONDITIONS && parsed.condition.is_some() {
                let was = format!("one more than {MAX_CONDITIONS}");
                let allowed = format!("at most {MAX_CONDITIONS} rules with a condition");
                return Err(PolicyError::new(format!("{path}.condition"), was, allowed));
            }
            compiled.add(index, parsed);
        }
        Ok(compiled)
    }
}

impl Compiled {
    fn add(&mut self, index: u32, mut rule: ParsedRule) {
        let condition = rule.condition.take();
        let by_request = rule.scope.is_some();
        let conditional = condition.is_some() || by_request;
        let by_host = condition.as_ref().is_some_and(Condition::by_host);
        if let Some(condition) = condition {
            self.conditions.add(index, condition);
        }
        if let Some(scope) = rule.scope.take() {
            self.conditions.add_scope(index, scope);
        }
        let rule = &rule;
        let prefixes: Vec<u32> = rule.cidrs.iter().map(|cidr| self.prefix(*cidr)).collect();
        let patterns: Vec<u32> = rule.hosts.iter().map(|pattern| self.pattern(pattern)).collect();
        if patterns.is_empty() {
            for id in &prefixes {
                let rules = &mut self.prefix_rules[*id as usize];
                rules.plain.add(rule.action, &rule.services, index, conditional);
                if rule.action == Action::Deny && by_host {
                    rules.names_denied.add(&rule.services, index, conditional);
                }
            }
            if rule.action == Action::Allow && (by_host || rule.cidrs.iter().any(Cidr::is_everything)) {
                self.resolves_all.add(index, conditional);
            }
            return;
        }
        self.add_resolution(index, rule, &patterns, conditional, by_request);
        if prefixes.is_empty() {
            for id in &patterns {
                self.pattern_rules[*id as usize].anywhere.add(
                    rule.action,
                    &rule.services,
                    index,
                    conditional,
                );
            }
            let by_name = match rule.action {
                Action::Allow => &mut self.names_allowed,
                Action::Deny => &mut self.names_denied,
            };
            by_name.add(&rule.services, index, conditional);
            return;
        }
        for prefix in prefixes {
            for pattern in &patterns {
                let both = self.pairs.entry((prefix, *pattern)).or_default();
                both.add(rule.action, &rule.services, index, conditional);
            }
            if rule.action == Action::Deny {
                self.prefix_rules[prefix as usize].names_denied.add(&rule.services, index, conditional);
            }
        }
    }

    /// A DENY that says more than hosts leaves the name resolvable: only some flows to it are denied.
    fn add_resolution(
        &mut self,
        index: u32,
        rule: &ParsedRule,
        patterns: &[u32],
        conditional: bool,
        by_request: bool,
    ) {
        let hosts_only = rule.services.are_all() && rule.cidrs.is_empty() && !by_request;
        for id in patterns {
            let rules = &mut self.pattern_rules[*id as usize];
            match rule.action {
                Action::Allow => rules.resolves.add(index, conditional),
                Action::Deny if hosts_only => {
                    rules.refuses.add(index, conditional);
                }
                Action::Deny => {}
            }
        }
    }

    fn prefix(&mut self, cidr: Cidr) -> u32 {
        let id = self.prefixes.add(cidr);
        if id as usize == self.prefix_rules.len() {
            self.prefix_rules.push(PrefixRules::default());
        }
        id
    }

    fn pattern(&mut self, pattern: &crate::Pattern) -> u32 {
        let id = self.names.add(pattern);
        if id as usize == self.pattern_rules.len() {
            self.pattern_rules.push(PatternRules::default());
        }
        id
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(policy: &str) -> String {
        serde_json::from_str::<Policy>(policy).unwrap().compile().unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_helps() {
        for (rule, expected) in [
            (r#""cidrs": []"#, "rules[1].cidrs: was an empty list; allowed: at least one of"),
            (r#""cidrs": ["10.1.2.3/8"]"#, "rules[1].cidrs[0]: was \"10.1.2.3/8\"; allowed: 10.0.0.0/8 for"),
            (r#""hosts": ["a.b", "*"]"#, "rules[1].hosts[1]: was \"*\"; allowed: a host name such as"),
            (r#""hosts": ["a.b"], "ports": [1, 0]"#, "rules[1].ports[1]: was 0; allowed: a whole number"),
            (
                r#""hosts": ["a.b"], "protocols": ["UDP", "UDP", "UDP"]"#,
                "rules[1].protocols: was a list of 3; allowed: at most 2",
            ),
            (r#""hosts": ["a.b"], "name": "a b""#, "rules[1].name: was \"a b\"; allowed: 1 to 63"),
            (r#""hosts": ["a.b"], "name": """#, "rules[1].name: was \"\"; allowed: 1 to 63"),
            (
                r#""cidrs": ["10.0.0.0/8"], "methods": ["GET"]"#,
                "rules[1].hosts: was an empty list; allowed: at least one host",
            ),
            (
                r#""cidrs": ["10.0.0.0/8"], "paths": ["/a"]"#,
                "rules[1].hosts: was an empty list; allowed: at least one host",
            ),
            (
                r#""cidrs": ["10.0.0.0/8"], "condition": "ctx.request.method == 'GET'""#,
                "rules[1].hosts: was an empty list",
            ),
            (
                r#""hosts": ["a.b"], "methods": ["GET", "get"]"#,
                "rules[1].methods[1]: was \"get\" (is no method); allowed: capital",
            ),
            (r#""hosts": ["a.b"], "paths": ["/a/../b"]"#, "rules[1].paths[0]: was \"/a/../b\" (the path has"),
            (
                r#""hosts": ["a.b"], "paths": ["/%61"]"#,
                "rules[1].paths[0]: was \"/%61\" (has another spelling); allowed: /a",
            ),
            (
                r#""hosts": ["a.b"], "paths": [""]"#,
                "rules[1].paths[0]: was \"\" (has a length of 0); allowed: 1 to",
            ),
        ] {
            let ok = r#"{"action": "ALLOW", "hosts": ["a.b"]}"#;
            let text = error(&format!(r#"{{"rules": [{ok}, {{"action": "ALLOW", {rule}}}]}}"#));
            assert!(text.starts_with(expected), "{text}");
        }
        let text = error(r#"{"protected": ["10.0.0.0/8", "x"]}"#);
        assert!(text.starts_with("protected[1]: was \"x\"; allowed: a network such as"), "{text}");
    }

    #[test]
    fn sizes_are_bounded() {
        let rule = crate::Rule {
            name: None,
            action: Action::Allow,
            cidrs: vec![],
            hosts: vec!["a.b".into()],
            ports: vec![],
            protocols: vec![],
            methods: vec![],
            paths: vec![],
            condition: None,
        };
        let policy = |rule: crate::Rule, count| Policy { rules: vec![rule; count], ..Policy::default() };
        let path = |policy: Policy| policy.compile().unwrap_err().path;
        assert!(policy(rule.clone(), MAX_RULES).compile().is_ok());
        assert_eq!(path(policy(rule.clone(), MAX_RULES + 1)), "rules");
        let many = crate::Rule { ports: vec![1; 129], ..rule.clone() };
        assert_eq!(path(policy(many, 1)), "rules[0].ports");
        let many = crate::Rule { hosts: vec!["a.b".into(); 129], ..rule.clone() };
        assert_eq!(path(policy(many, 1)), "rules[0].hosts");
        let both = crate::Rule {
            cidrs: vec!["10.0.0.0/8".into(); 128],
            hosts: vec!["a.b".into(); 128],
            ..rule.clone()
        };
        assert!(policy(both.clone(), 4).compile().is_ok());
        assert_eq!(path(policy(both, 5)), "rules[4]");
        let name = format!("{0}.{0}.{0}", "a".repeat(63));
        let heavy = crate::Rule { hosts: vec![name; 128], ..policy(rule.clone(), 1).rules.remove(0) };
        assert_eq!(path(policy(heavy, 50)), "rules");
        let protected = vec!["10.0.0.0/8".to_owned(); MAX_PROTECTED + 1];
        assert_eq!(path(Policy { protected, ..Policy::default() }), "protected");
    }

    #[test]
    fn the_form_is_strict_and_denies_unless_told() {
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
        assert_eq!(Policy::default().default_action, crate::DefaultAction::Deny);
        for text in [
            r#"{"defaultAction": "ALLOW"}"#,
            r#"{"default_action": "DENY"}"#,
            r#"{"x": 1}"#,
            r#"{"rules": [{"hosts": ["a.b"]}]}"#,
            r#"{"rules": [{"action": "ALLOW", "hosts": ["a.b"], "host": "a.b"}]}"#,
            r#"{"rules": [{"action": "ALLOW", "hosts": ["a.b"], "ports": [65536]}]}"#,
            r#"{"rules": [{"action": "ALLOW", "hosts": ["a.b"], "protocols": ["udp"]}]}"#,
            r#"{"rules": [{"action": "ALLOW", "hosts": ["a.b"], "protocols": ["ICMP"]}]}"#,
        ] {
            assert!(serde_json::from_str::<Policy>(text).is_err(), "{text}");
        }
    }
}
