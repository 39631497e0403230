//! Text from a workspace on its way to the user's terminal: colours pass, everything that could move the cursor,
//! set a title or answer back does not.

/// One line without control characters, for messages.
pub fn one_line(text: &str) -> String {
    let joined = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
    clean(&joined, false)
}

/// A line of output without control characters and colours.
pub fn clean_line(text: &str) -> String {
    clean(text, false)
}

/// Keeps text, tabs and, when `colours`, SGR sequences (`ESC [ … m`).
pub fn clean(text: &str, colours: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.peek() {
                Some('[') => {
                    chars.next();
                    control_sequence(&mut chars, &mut out, colours);
                }
                Some(']' | 'P' | '_' | '^' | 'X') => {
                    chars.next();
                    control_string(&mut chars);
                }
                Some(' '..='/') => {
                    chars.next();
                    chars.next();
                }
                Some('0'..='~') => {
                    chars.next();
                }
                _ => {}
            },
            '\u{9b}' => control_sequence(&mut chars, &mut out, false),
            '\t' | '\n' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// After `ESC [`: parameters up to the final byte.
fn control_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, colours: bool) {
    let mut parameters = String::new();
    while let Some(&c) = chars.peek() {
        match c {
            '0'..='?' | ' '..='/' if parameters.len() < 64 => {
                parameters.push(c);
                chars.next();
            }
            '@'..='~' => {
                chars.next();
                let plain = parameters.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':');
                if c == 'm' && colours && plain {
                    out.push_str("\u{1b}[");
                    out.push_str(&parameters);
                    out.push('m');
                }
                return;
            }
            _ => return,
        }
    }
}

/// After the start of an OSC, DCS, APC, PM or SOS: everything up to BEL or ST.
fn control_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if chars.peek() == Some(&'\\') => {
                chars.next();
                return;
            }
            _ => {}
        }
    }
}

/// Cuts to a number of characters, with an ellipsis.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_pass_and_the_rest_does_not() {
        let text =
            "\u{1b}[1;31mred\u{1b}[0m \u{1b}[2J\u{1b}[10;10Hx\u{1b}]0;title\u{7}y\u{1b}]8;;http://e\u{1b}\\z";
        assert_eq!(clean(text, true), "\u{1b}[1;31mred\u{1b}[0m xyz");
        assert_eq!(clean(text, false), "red xyz");
    }

    #[test]
    fn hostile_ends_do_not_hang_or_leak() {
        for text in ["\u{1b}", "\u{1b}[", "\u{1b}[31", "\u{1b}]0;never ends", "\u{9b}31m", "\u{1b}(B"] {
            assert!(!clean(text, true).contains('\u{1b}'), "{text:?}");
        }
        assert_eq!(clean("a\rb\u{8}c\u{0}", true), "abc");
        assert_eq!(clean("\u{1b}[?1049h", true), "");
    }

    #[test]
    fn lines_are_joined() {
        assert_eq!(one_line("a\n\n b \nc"), "a;  b; c");
    }

    #[test]
    fn shortened_by_characters() {
        assert_eq!(shorten("äöüß", 4), "äöüß");
        assert_eq!(shorten("äöüßx", 4), "äöü…");
    }
}
