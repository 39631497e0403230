//! Text of a PEM bundle: our certificate goes to its end between two comments, and out again without a trace.

use super::authority::{Authority, BEGIN, END};

const FIRST: &str = "# cordium-workspace: the certificate authority of this run, replaced at each start";
const LAST: &str = "# cordium-workspace: end";
/// Of one certificate.
const MAX_LINES: usize = 512;

/// A bundle that has none of ours, with `new`.
pub fn with(mut bundle: Vec<u8>, new: &Authority) -> Vec<u8> {
    // The first newline ends a last line that has none; `without` takes it away again.
    bundle.extend_from_slice(format!("\n{FIRST}\n{}{LAST}\n", new.pem).as_bytes());
    bundle
}

/// The bundle without any of ours. A copy of `former` that a tool of the image wrote elsewhere into it goes, too.
pub fn without(bundle: &[u8], former: Option<&Authority>) -> Vec<u8> {
    let former = former.map(|former| body(former.pem.lines().map(str::as_bytes)));
    let mut kept = Vec::with_capacity(bundle.len() + 4096);
    let mut lines = Lines(bundle);
    while let Some(line) = lines.next() {
        let end = match line {
            _ if is(line, FIRST) => marked(lines).inspect(|_| {
                if kept.last() == Some(&b'\n') {
                    kept.pop();
                }
            }),
            _ if is(line, BEGIN) => {
                certificate(lines).filter(|(found, _)| Some(found) == former.as_ref()).map(|(_, rest)| rest)
            }
            _ => None,
        };
        match end {
            Some(rest) => lines = rest,
            None => kept.extend_from_slice(line),
        }
    }
    kept
}

/// True if there is a certificate in it at all.
pub fn has_certificates(bundle: &[u8]) -> bool {
    Lines(bundle).any(|line| is(line, BEGIN))
}

#[derive(Clone, Copy)]
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    /// With its newline, if it has one.
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|byte| *byte == b'\n').map_or(self.0.len(), |at| at + 1);
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

fn is(line: &[u8], text: &str) -> bool {
    line.trim_ascii_end() == text.as_bytes()
}

/// What follows a marked block, whose first line was taken; nothing else than exactly such a block is one.
fn marked(mut lines: Lines<'_>) -> Option<Lines<'_>> {
    lines.next().filter(|line| is(line, BEGIN))?;
    let (_, mut lines) = certificate(lines)?;
    lines.next().filter(|line| is(line, LAST))?;
    Some(lines)
}

/// A certificate's text without white space, and what follows it. Its first line was taken.
fn certificate(mut lines: Lines<'_>) -> Option<(Vec<u8>, Lines<'_>)> {
    let begun = lines;
    for count in 0..MAX_LINES {
        let line = lines.next()?;
        if is(line, END) {
            return Some((body(begun.take(count)), lines));
        }
        if line.starts_with(b"-----") {
            return None;
        }
    }
    None
}

fn body<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let text = lines.filter(|line| !line.starts_with(b"-----")).flatten();
    text.copied().filter(|byte| !byte.is_ascii_whitespace()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::trust::authority::tests::authority;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static TWO: LazyLock<[Authority; 2]> = LazyLock::new(|| ["one", "two"].map(authority));

    fn edit(bundle: &[u8], former: Option<&Authority>, new: Option<&Authority>) -> Vec<u8> {
        let rest = without(bundle, former);
        new.map_or(rest.clone(), |new| with(rest, new))
    }

    #[test]
    fn one_of_ours_at_a_time() {
        let (first, second, root) = (authority("one"), authority("two"), authority("root"));
        let image = format!("# A root\n{}", root.pem);
        let once = edit(image.as_bytes(), None, Some(&first));
        assert_eq!(once, [image.as_bytes(), format!("\n{FIRST}\n{}{LAST}\n", first.pem).as_bytes()].concat());
        assert_eq!(edit(&once, Some(&first), Some(&first)), once);
        let twice = edit(&once, Some(&first), Some(&second));
        assert_eq!(twice, edit(image.as_bytes(), None, Some(&second)));
        assert_eq!(edit(&twice, None, None), image.as_bytes(), "even if what was there is not known");
    }

    #[test]
    fn what_a_tool_of_the_image_wrote_goes_too() {
        let (ours, root) = (authority("ours"), authority("root"));
        let copied = format!("{}{}", root.pem, ours.pem.replace('\n', "\r\n"));
        assert_eq!(edit(copied.as_bytes(), Some(&ours), None), root.pem.as_bytes());
        assert_eq!(edit(copied.as_bytes(), None, None), copied.as_bytes());
    }

    #[test]
    fn a_marker_that_encloses_something_else_takes_nothing_with_it() {
        let root = authority("root").pem;
        for text in [
            format!("{FIRST}\n{root}{root}{LAST}\n"),
            format!("{FIRST}\n{root}"),
            format!("{root}\n{FIRST}"),
            format!("{FIRST}\n{LAST}\n{root}"),
            format!("{FIRST}\n{BEGIN}\n{root}{LAST}\n"),
            format!("{FIRST}\n{BEGIN}\n{}{END}\n{LAST}\n", "A\n".repeat(MAX_LINES)),
        ] {
            assert_eq!(edit(text.as_bytes(), None, None), text.as_bytes());
        }
        // A good one after a broken one is found.
        let ours = authority("ours");
        let broken = format!("{root}\n{FIRST}");
        assert_eq!(edit(&edit(broken.as_bytes(), None, Some(&ours)), None, None), broken.as_bytes());
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(FIRST.as_bytes().to_vec()),
            Just(LAST.as_bytes().to_vec()),
            Just(BEGIN.as_bytes().to_vec()),
            Just(END.as_bytes().to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"MIIB\n".to_vec()),
            Just(b"-----BEGIN TRUSTED CERTIFICATE-----\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn put_and_removed_leaves_the_bytes(image in pieces()) {
            let [first, second] = &*TWO;
            // What is no block of ours already.
            let image = without(&image, None);
            prop_assume!(without(&image, None) == image);
            let once = edit(&image, None, Some(first));
            prop_assert_eq!(&edit(&once, Some(first), None), &image);
            prop_assert_eq!(&edit(&once, Some(first), Some(first)), &once);
            let other = edit(&once, Some(first), Some(second));
            prop_assert_eq!(&other, &edit(&image, None, Some(second)));
            prop_assert_eq!(&edit(&other, Some(second), None), &image);
        }

        #[test]
        fn only_ours_is_taken_out(image in pieces()) {
            let kept = without(&image, Some(&TWO[0]));
            prop_assert!(kept.len() <= image.len());
            prop_assert!(has_certificates(&image) || !has_certificates(&kept));
        }
    }
}
