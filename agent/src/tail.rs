//! The last lines of a program's output, for messages about its failure.

const MAX_BYTES: usize = 4096;
const MAX_LINES: usize = 12;

#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    pub fn push(&mut self, data: &[u8]) {
        if data.len() >= MAX_BYTES {
            self.bytes.clear();
            self.bytes.extend_from_slice(&data[data.len() - MAX_BYTES..]);
            return;
        }
        self.bytes.extend_from_slice(data);
        if self.bytes.len() > 2 * MAX_BYTES {
            self.bytes.drain(..self.bytes.len() - MAX_BYTES);
        }
    }

    /// At most twelve lines, without blanks at the end and without control characters.
    pub fn text(&self) -> String {
        let start = self.bytes.len().saturating_sub(MAX_BYTES);
        let text = String::from_utf8_lossy(&self.bytes[start..]);
        // A carriage return rewrites the line: only what stood there last counts.
        let lines: Vec<&str> =
            text.lines().map(|line| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("")).collect();
        let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        let kept = &lines[end.saturating_sub(MAX_LINES)..end];
        kept.join("\n").chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
    }
}

/// `message`, and the output below it when there is any.
pub fn with_output(message: String, output: &str) -> String {
    if output.is_empty() { message } else { format!("{message}; its last output:\n{output}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        for n in 0..100_000 {
            tail.push(format!("line {n}\n").as_bytes());
        }
        assert!(tail.bytes.len() <= 2 * MAX_BYTES);
        let text = tail.text();
        assert_eq!(text.lines().count(), MAX_LINES);
        assert!(text.ends_with("line 99999"));
    }

    #[test]
    fn progress_and_control_characters_are_tidied() {
        let mut tail = Tail::default();
        tail.push(b"10%\r50%\r100%\nfatal: \x1b[31mno\n\n \n");
        assert_eq!(tail.text(), "100%\nfatal: [31mno");
    }

    #[test]
    fn one_huge_chunk() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 1 << 20]);
        assert_eq!(tail.text().len(), MAX_BYTES);
    }
}
