//! Variables: `${{ vars.NAME }}` and `${{vars.NAME}}`.
//!
//! Values may use other variables. They are expanded once, depth first, so every value is final before any field is
//! substituted and a field's text is never scanned twice; a cycle is an error that shows it. Other `${{ … }}` text is
//! left as it is. An unknown variable is empty, and remembered: should the field then be refused, the error says so.

use std::collections::BTreeMap;

use crate::error::{SpecError, UNSET_VARS, quote};

/// Bytes of one variable once expanded.
const MAX_VALUE: usize = 16 << 10;
/// Bytes that substitution may write into one spec.
const MAX_TOTAL: usize = 1 << 20;

pub(crate) enum Piece<'a> {
    Text(&'a str),
    Var(&'a str),
}

/// The text as runs of plain text and variables.
pub(crate) fn pieces(mut text: &str) -> impl Iterator<Item = Piece<'_>> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(found) = text[from..].find("${{") {
            let at = from + found;
            if let Some((name, length)) = placeholder(&text[at..]) {
                if at > 0 {
                    let plain = &text[..at];
                    text = &text[at..];
                    return Some(Piece::Text(plain));
                }
                text = &text[length..];
                return Some(Piece::Var(name));
            }
            from = at + 1;
        }
        Some(Piece::Text(std::mem::take(&mut text)))
    })
}

/// The variable's name and the length of the placeholder that the text begins with.
fn placeholder(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix("${{")?.trim_start_matches([' ', '\t']).strip_prefix("vars.")?;
    let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))?;
    let rest = inner[end..].trim_start_matches([' ', '\t']).strip_prefix("}}")?;
    (end > 0).then(|| (&inner[..end], text.len() - rest.len()))
}

pub(crate) fn has_placeholder(text: &str) -> bool {
    pieces(text).any(|piece| matches!(piece, Piece::Var(_)))
}

/// Variables with their final values.
#[derive(Debug, Default)]
pub(crate) struct Vars {
    values: BTreeMap<String, String>,
    written: usize,
    unknown: Vec<(String, String)>,
}

impl Vars {
    /// Expands every value.
    pub(crate) fn new(raw: &BTreeMap<String, String>) -> Result<Self, SpecError> {
        let mut vars = Self::default();
        let mut path = Vec::new();
        for name in raw.keys() {
            vars.expand(name, raw, &mut path)?;
        }
        Ok(vars)
    }

    /// `path` holds the variables that are being expanded; it is never longer than there are variables.
    fn expand<'a>(
        &mut self,
        name: &'a str,
        raw: &'a BTreeMap<String, String>,
        path: &mut Vec<&'a str>,
    ) -> Result<(), SpecError> {
        if self.values.contains_key(name) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|open| *open == name) {
            path.push(name);
            let cycle = path[start..].join(" → ");
            return Err(SpecError::new(
                format!("vars.{name}"),
                format!(
                    "was part of a cycle: {cycle}; allowed: values that do not lead back to their own variable"
                ),
            ));
        }
        let Some(value) = raw.get(name) else { return Ok(()) };
        path.push(name);
        let mut expanded = String::new();
        for piece in pieces(value) {
            match piece {
                Piece::Text(text) => expanded.push_str(text),
                Piece::Var(other) => {
                    self.expand(other, raw, path)?;
                    expanded.push_str(self.values.get(other).map_or("", String::as_str));
                }
            }
            if expanded.len() > MAX_VALUE {
                return Err(SpecError::new(
                    format!("vars.{name}"),
                    format!("was longer than {MAX_VALUE} bytes once expanded; allowed: at most {MAX_VALUE}"),
                ));
            }
        }
        path.pop();
        self.values.insert(name.to_string(), expanded);
        Ok(())
    }

    /// Replaces what is in the text; `at` names the field for errors.
    pub(crate) fn substitute(&mut self, text: &mut String, at: impl Fn() -> String) -> Result<(), SpecError> {
        if !has_placeholder(text) {
            return Ok(());
        }
        let mut done = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => done.push_str(text),
                Piece::Var(name) => match self.values.get(name) {
                    Some(value) => done.push_str(value),
                    None => self.unknown.push((at(), name.to_string())),
                },
            }
            if self.written + done.len() > MAX_TOTAL {
                return Err(SpecError::new(
                    at(),
                    "variables made the spec grow by more than 1 MiB; allowed: less",
                ));
            }
        }
        self.written += done.len();
        *text = done;
        Ok(())
    }

    pub(crate) fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Adds to an error about a field which of its variables were not set.
    pub(crate) fn explain(&self, mut error: SpecError) -> SpecError {
        let mut missing: Vec<_> = self
            .unknown
            .iter()
            .filter(|(path, _)| *path == error.path)
            .map(|(_, name)| quote(name))
            .collect();
        missing.dedup();
        if !missing.is_empty() {
            error.message.push_str(&format!("; {UNSET_VARS} and so are empty: {}", missing.join(", ")));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
        let mut text = text.to_string();
        Vars::new(&map(pairs)).unwrap().substitute(&mut text, || "x".into()).unwrap();
        text
    }

    #[test]
    fn both_spellings_are_replaced_and_other_text_is_kept() {
        let vars = [("A", "1"), ("B_2-x", "two")];
        for (text, expected) in [
            ("${{ vars.A }}", "1"),
            ("${{vars.A}}", "1"),
            ("a${{  vars.A\t}}b${{vars.B_2-x}}c", "a1btwoc"),
            ("${{ vars.NONE }}", ""),
            ("${{ github.ref }} ${{ vars.A", "${{ github.ref }} ${{ vars.A"),
            ("${{ ${{ vars.A }} }}", "${{ 1 }}"),
            ("$${{vars.A}}", "$1"),
            ("${{vars.}} ${{vars.A b}} ${ {vars.A}}", "${{vars.}} ${{vars.A b}} ${ {vars.A}}"),
            ("é${{vars.A}}é", "é1é"),
        ] {
            assert_eq!(replaced(text, &vars), expected, "{text}");
        }
    }

    #[test]
    fn values_use_other_values_and_are_not_scanned_again() {
        assert_eq!(
            replaced("${{vars.C}}", &[("A", "x"), ("B", "${{vars.A}}y"), ("C", "${{vars.B}}z${{vars.B}}")]),
            "xyzxy"
        );
        assert_eq!(
            replaced("${{vars.A}}", &[("A", "$${{vars.B}}"), ("B", "{{vars.C}}"), ("C", "no")]),
            "${{vars.C}}"
        );
    }

    #[test]
    fn a_cycle_is_shown() {
        let error = Vars::new(&map(&[("A", "${{vars.B}}"), ("B", "${{vars.C}}"), ("C", "${{ vars.B }}")]))
            .unwrap_err();
        assert_eq!(error.path, "vars.B");
        assert!(error.message.contains("B → C → B"), "{error}");
        assert!(Vars::new(&map(&[("A", "${{vars.A}}")])).unwrap_err().message.contains("A → A"));
    }

    #[test]
    fn a_bomb_of_variables_is_refused() {
        let mut bomb = map(&[("v0", "0123456789")]);
        for i in 1..100 {
            bomb.insert(format!("v{i}"), format!("${{{{vars.v{}}}}}", i - 1).repeat(10));
        }
        let error = Vars::new(&bomb).unwrap_err();
        assert!(error.message.contains("16384 bytes"), "{error}");

        let mut vars = Vars::new(&map(&[("A", &"x".repeat(10_000))])).unwrap();
        let result =
            (0..200).try_for_each(|_| vars.substitute(&mut "${{vars.A}}".to_string(), || "spec".into()));
        assert!(result.unwrap_err().message.contains("1 MiB"));
    }

    #[test]
    fn a_long_chain_is_no_problem() {
        let mut chain = map(&[("v0", "end")]);
        for i in 1..384 {
            chain.insert(format!("v{i}"), format!("${{{{vars.v{}}}}}", i - 1));
        }
        assert_eq!(Vars::new(&chain).unwrap().values()["v383"], "end");
    }

    proptest! {
        #[test]
        fn pieces_give_the_text_back(text in "(\\$|\\{|\\}|vars\\.|[ a-c.]|\\$\\{\\{|é){0,40}") {
            let mut back = String::new();
            let mut vars = 0;
            for piece in pieces(&text) {
                match piece { Piece::Text(text) => back.push_str(text), Piece::Var(_) => vars += 1 }
            }
            prop_assert_eq!(vars == 0, back == text);
            prop_assert_eq!(vars > 0, has_placeholder(&text));
        }

        #[test]
        fn substitution_ends(values in proptest::collection::btree_map("[a-d]", "(\\$\\{\\{ vars\\.[a-e] \\}\\}|x|\\$|\\{){0,6}", 0..5), text in ".{0,20}(\\$\\{\\{vars\\.[a-e]\\}\\}){0,9}") {
            if let Ok(mut vars) = Vars::new(&values) {
                let mut text = text;
                prop_assert!(vars.substitute(&mut text, || "x".into()).is_ok());
            }
        }
    }
}
