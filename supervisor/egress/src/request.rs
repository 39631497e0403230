//! Requests of HTTP, and the part of a rule that goes by them.
//!
//! Methods and paths are checked here for credentials, too, so that both are written and compared in one way.

use crate::{Action, path};

/// The longest method.
const MAX_METHOD: usize = 63;
/// The longest beginning of a path.
const MAX_PATH: usize = 1024;

/// A request as rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    method: &'a str,
    /// In its one spelling; why it has none.
    path: Result<String, &'static str>,
}

impl<'a> Request<'a> {
    /// `path` as it was sent, without the query.
    pub fn new(method: &'a str, path: &str) -> Self {
        Self { method, path: path::normalise(path) }
    }

    pub(crate) fn method(&self) -> &'a str {
        self.method
    }

    pub(crate) fn path(&self) -> Result<&str, &'static str> {
        self.path.as_deref().map_err(|problem| *problem)
    }
}

/// The methods and paths of a rule. An empty list means any; the two are ANDed.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    methods: Vec<String>,
    /// Normal beginnings.
    paths: Vec<String>,
}

impl Scope {
    /// Both have been checked.
    pub(crate) fn new(methods: &[String], paths: &[String]) -> Self {
        Self { methods: methods.to_vec(), paths: paths.to_vec() }
    }

    /// A path without a plain form is under every DENY and under no ALLOW. Servers that do not tell `delete` from `DELETE`
    /// do not get around a DENY.
    pub(crate) fn matches(&self, action: Action, request: &Request<'_>) -> bool {
        let denies = action == Action::Deny;
        let same = |method: &String| {
            *method == request.method || denies && method.eq_ignore_ascii_case(request.method)
        };
        let below = || match &request.path {
            Ok(path) => self.paths.iter().any(|prefix| path::is_below(path, prefix)),
            Err(_) => denies,
        };
        (self.methods.is_empty() || self.methods.iter().any(same)) && (self.paths.is_empty() || below())
    }

    pub(crate) fn has_paths(&self) -> bool {
        !self.paths.is_empty()
    }
}

/// What is wrong with one entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub index: usize,
    pub problem: String,
    pub allowed: String,
}

pub(crate) fn check_methods(methods: &[String]) -> Result<(), Wrong> {
    let plain = |method: &String| {
        (1..=MAX_METHOD).contains(&method.len())
            && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
    };
    match methods.iter().position(|method| !plain(method)) {
        Some(index) => Err(Wrong {
            index,
            problem: "is no method".into(),
            allowed: "capital letters and '-', such as GET".into(),
        }),
        None => Ok(()),
    }
}

pub(crate) fn check_paths(paths: &[String]) -> Result<(), Wrong> {
    for (index, prefix) in paths.iter().enumerate() {
        let wrong =
            |problem: &str, allowed: String| Err(Wrong { index, problem: problem.to_owned(), allowed });
        if !(1..=MAX_PATH).contains(&prefix.len()) {
            let problem = format!("has a length of {}", prefix.len());
            return wrong(&problem, format!("1 to {MAX_PATH}"));
        }
        match path::normalise(prefix) {
            Ok(normal) if normal == *prefix => {}
            Ok(normal) => return wrong("has another spelling", normal),
            Err(problem) => return wrong(problem, "the plain beginning of one, such as /v1".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(methods: &[&str], paths: &[&str]) -> Scope {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Scope::new(&own(methods), &own(paths))
    }

    #[test]
    fn both_dimensions_are_needed_and_an_empty_one_is_any() {
        let read = scope(&["GET", "HEAD"], &["/a", "/b/c"]);
        for action in [Action::Allow, Action::Deny] {
            let matches = |scope: &Scope, method, path| scope.matches(action, &Request::new(method, path));
            for (method, path) in [("GET", "/a"), ("HEAD", "/a/x"), ("GET", "/b/c/"), ("GET", "/%61/x")] {
                assert!(matches(&read, method, path), "{method} {path}");
            }
            for (method, path) in [("POST", "/a"), ("GET", "/ab"), ("GET", "/b"), ("GET", "/")] {
                assert!(!matches(&read, method, path), "{method} {path}");
            }
            assert!(matches(&scope(&[], &["/a"]), "ANY", "/a"));
            assert!(matches(&scope(&["GET"], &[]), "GET", "/a//b"), "the path is not looked at");
            assert!(matches(&scope(&[], &[]), "X", "/../"));
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_denied() {
        let one = scope(&["DELETE"], &["/a"]);
        for path in ["/x/../a", "/x//y", "/%2e%2e/", "/x;y", "/%2Fa", "/\\a", "/%c0%ae", "/%00", "*", ""] {
            let request = Request::new("DELETE", path);
            assert!(one.matches(Action::Deny, &request) && !one.matches(Action::Allow, &request), "{path}");
            assert!(!one.matches(Action::Deny, &Request::new("GET", path)), "{path}: another method");
        }
        let small = Request::new("delete", "/a");
        assert!(one.matches(Action::Deny, &small) && !one.matches(Action::Allow, &small));
    }
}
