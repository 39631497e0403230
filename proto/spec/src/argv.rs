//! The words of `cmd` and `entrypoint`.

/// Why a command could not be split.
pub(crate) const ALLOWED: &str =
    "words with balanced quotes, as a shell would split them, or a JSON array of strings";

/// Splits a command as a POSIX shell splits words (quotes and backslashes, no expansion), or reads a JSON array of
/// strings. None when quotes are not balanced, the array is none of strings, or there is no word at all.
pub fn split_command(text: &str) -> Option<Vec<String>> {
    let words = if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<String>>(text).ok()?
    } else {
        split_words(text)?
    };
    let sound =
        words.first().is_some_and(|word| !word.is_empty()) && words.iter().all(|word| !word.contains('\0'));
    sound.then_some(words)
}

fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            '\n' => {}
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let split = |text: &str| split_command(text).map(|words| words.join("|"));
        assert_eq!(split("sleep  infinity").as_deref(), Some("sleep|infinity"));
        assert_eq!(split("sh -c 'echo \"a b\" > /tmp/x'").as_deref(), Some("sh|-c|echo \"a b\" > /tmp/x"));
        assert_eq!(split(r#"a "b \"c\" \d" e\ f ''"#).as_deref(), Some(r#"a|b "c" \d|e f|"#));
        assert_eq!(split(r#"["sh", "-c", "a b"]"#).as_deref(), Some("sh|-c|a b"));
        for bad in ["", "  ", "'", "a \"", "a\\", "[1]", "[]", "[\"a\"", "''"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
