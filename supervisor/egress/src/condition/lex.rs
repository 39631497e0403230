//! Words of a condition and where they stand. No regular expressions, no backtracking: one pass.

use super::ConditionError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Int(u64),
    Text(String),
    Sign(&'static str),
    End,
}

/// A token and the byte that it begins at.
pub(super) type Placed<'a> = (Token<'a>, usize);

/// Longer ones first.
const SIGNS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]",
    ",", ".",
];

pub(super) fn tokens(text: &str, most: usize) -> Result<Vec<Placed<'_>>, ConditionError> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        at += blank;
        let rest = &text[at..];
        if found.len() == most {
            let allowed = format!("at most {most} words and signs");
            return Err(ConditionError::at(text, at, "a longer condition", allowed));
        }
        let Some(first) = rest.chars().next() else {
            found.push((Token::End, at));
            return Ok(found);
        };
        let (token, length) = match first {
            'a'..='z' | 'A'..='Z' | '_' => word(rest),
            '0'..='9' => int(text, at)?,
            '"' | '\'' => string(text, at, first)?,
            _ if rest.starts_with("//") => {
                return Err(ConditionError::at(text, at, "a comment", "a condition without comments"));
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => {
                    let allowed =
                        "names, whole numbers, strings, and && || ! == != < <= > >= in + - * / % ? : ( ) [ ]";
                    return Err(ConditionError::at(text, at, format!("{first:?}"), allowed));
                }
            },
        };
        found.push((token, at));
        at += length;
    }
}

fn word(rest: &str) -> (Token<'_>, usize) {
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    (Token::Word(&rest[..length]), length)
}

fn int(text: &str, at: usize) -> Result<(Token<'_>, usize), ConditionError> {
    let rest = &text[at..];
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
    let digits = &rest[..length];
    match digits.parse() {
        Ok(value) if value <= i64::MIN.unsigned_abs() => Ok((Token::Int(value), length)),
        _ => Err(ConditionError::at(text, at, super::quote(digits), "a whole number of 64 bits")),
    }
}

fn string(text: &str, at: usize, quote: char) -> Result<(Token<'static>, usize), ConditionError> {
    let mut value = String::new();
    let mut letters = text[at..].char_indices().skip(1);
    while let Some((offset, letter)) = letters.next() {
        match letter {
            _ if letter == quote => return Ok((Token::Text(value), offset + 1)),
            '\\' => match letters.next() {
                Some((_, escaped @ ('\\' | '"' | '\''))) => value.push(escaped),
                _ => {
                    let was = "an escape in a string";
                    return Err(ConditionError::at(text, at + offset, was, r#"\\, \" and \'"#));
                }
            },
            _ if letter.is_control() => {
                let allowed = "a string on one line, of printable characters";
                return Err(ConditionError::at(text, at + offset, format!("{letter:?}"), allowed));
            }
            _ => value.push(letter),
        }
    }
    Err(ConditionError::at(text, at, "a string that does not end", format!("a {quote} at its end")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_strings_and_signs() {
        let found: Vec<Token<'_>> = tokens("a.b_1>=12\n&& 'it\\'s' in [\"x\"]", 99)
            .unwrap()
            .into_iter()
            .map(|(token, _)| token)
            .collect();
        let sign = Token::Sign;
        let text = |text: &str| Token::Text(text.into());
        let expected = [
            Token::Word("a"),
            sign("."),
            Token::Word("b_1"),
            sign(">="),
            Token::Int(12),
            sign("&&"),
            text("it's"),
            Token::Word("in"),
            sign("["),
            text("x"),
            sign("]"),
            Token::End,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_word_is_refused_where_it_stands() {
        for (text, position) in [
            ("a == 'x", "line 1, column 6"),
            ("a ==\n 'x\\n'", "line 2, column 4"),
            ("1.5", "line 1, column 1"),
            ("1u", "line 1, column 1"),
            ("99999999999999999999", "line 1, column 1"),
            ("'ü' == {", "line 1, column 8"),
            ("a // b", "line 1, column 3"),
            ("a = b", "line 1, column 3"),
            ("'a\nb'", "line 1, column 3"),
        ] {
            let error = tokens(text, 99).unwrap_err();
            assert!(error.was.ends_with(position), "{text}: {error:?}");
        }
        assert!(tokens("a a a", 4).is_ok() && tokens("a a a a", 4).is_err());
    }
}
