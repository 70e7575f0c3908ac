//! What a command of a build prints: told line by line, and its end kept for the error of one that fails.
//!
//! Whoever watches must not have their terminal driven by it: escape sequences and other control characters are
//! taken out before anybody sees a line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anstream::adapter::strip_str;

/// Lines of a failed command that its error repeats.
const KEPT: usize = 20;
/// Bytes of a line that are shown: a program may print without end and without lines.
const LONGEST: usize = 4096;

/// The last lines that a command has printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let Ok(mut lines) = self.0.lock() else { return };
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Each on a line of its own, indented.
    pub(super) fn told(&self) -> String {
        let Ok(lines) = self.0.lock() else { return String::new() };
        lines.iter().map(|line| format!("\n    {line}")).collect()
    }
}

/// What a command has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Printed {
    /// A line.
    Line(String),
    /// What stands in a line now, and is about to be written over.
    Passing(String),
}

/// Reads what a command prints until its end, and tells it line by line with the time since `begun`.
pub(super) fn listen(from: impl Read, begun: Instant, tail: &Tail, tell: impl Fn(Duration, Printed)) {
    let mut from = BufReader::new(from);
    // Since the last carriage return; and what that has left standing.
    let (mut text, mut standing) = (Vec::new(), String::new());
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let is_over = bytes.is_empty();
        let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let room = LONGEST - text.len();
        let (taken, breaks) = match end {
            Some(end) if end < room => (end + 1, Some(bytes[end])),
            _ => (bytes.len().min(room), None),
        };
        text.extend_from_slice(&bytes[..taken]);
        from.consume(taken);
        let is_line = breaks == Some(b'\n') || text.len() == LONGEST || is_over;
        if !is_line && breaks.is_none() {
            continue;
        }
        let shown = printable(&text);
        let is_empty = matches!(text.as_slice(), [] | [b'\n' | b'\r']);
        // A line break after a carriage return ends the line that stands there.
        let shown = if is_empty { std::mem::take(&mut standing) } else { shown };
        if is_line && (!is_over || !text.is_empty() || !shown.is_empty()) {
            tail.push(&shown);
            tell(begun.elapsed(), Printed::Line(shown));
            standing.clear();
        } else if !is_line {
            standing.clone_from(&shown);
            tell(begun.elapsed(), Printed::Passing(shown));
        }
        text.clear();
        if is_over {
            return;
        }
    }
}

/// A line without what drives a terminal, and without its end.
pub(super) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    // What is left of control characters is none that a sequence begins with, or the eight-bit kind.
    let plain = strip_str(text).to_string();
    plain
        .chars()
        .map(|char| {
            if char.is_control() && char != '\t' {
                '\u{fffd}'
            } else {
                char
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_told_in_lines_and_its_end_is_kept() {
        let told = Mutex::new(Vec::new());
        let tail = Tail::default();
        let printed: String = (0..30).map(|number| format!("line {number}\n")).collect();
        listen(printed.as_bytes(), Instant::now(), &tail, |_, line| {
            told.lock().unwrap().push(line);
        });
        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 30);
        assert_eq!(told[29], Printed::Line("line 29".to_owned()));
        assert_eq!(
            tail.told().lines().filter(|line| line.starts_with("    ")).count(),
            KEPT
        );
        assert!(tail.told().starts_with("\n    line 10\n"));
    }

    #[test]
    fn what_is_written_over_is_told_as_it_passes() {
        let (line, passing) = (
            |text: &str| Printed::Line(text.to_owned()),
            |text: &str| Printed::Passing(text.to_owned()),
        );
        for (printed, wanted) in [
            (
                "10%\r20%\rdone\nx",
                vec![passing("10%"), passing("20%"), line("done"), line("x")],
            ),
            (
                "10%\r100%\r\nx\r\n",
                vec![passing("10%"), passing("100%"), line("100%"), passing("x"), line("x")],
            ),
            (
                "\r10%\r\r\n",
                vec![passing(""), passing("10%"), passing("10%"), line("10%")],
            ),
            ("a\n\nb\r", vec![line("a"), line(""), passing("b"), line("b")]),
            ("", vec![]),
        ] {
            let told = Mutex::new(Vec::new());
            let tail = Tail::default();
            listen(printed.as_bytes(), Instant::now(), &tail, |_, printed| {
                told.lock().unwrap().push(printed);
            });
            assert_eq!(told.into_inner().unwrap(), wanted, "{printed:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_told_in_pieces() {
        let told = Mutex::new(0);
        listen(
            std::io::repeat(b'x').take(3 * LONGEST as u64),
            Instant::now(),
            &Tail::default(),
            |_, _| {
                *told.lock().unwrap() += 1;
            },
        );
        assert_eq!(*told.lock().unwrap(), 3);
    }

    #[test]
    fn nothing_that_drives_a_terminal_is_left_of_a_line() {
        for (printed, shown) in [
            (&b"\x1b[2J\x1b[31;1mred\x1b[0m"[..], "red"),
            (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
            (b"\x1bPq#0;2;0\x1b\\b", "b"),
            (b"\x1b(0c\x1bc\x1b7", "c"),
            // Cut off, as by the length of a line.
            (b"d\x1b[3", "d"),
            (b"e\x1b", "e"),
            (b"bell\x07 back\x08 del\x7f", "bell back del"),
            // CSI and OSC in one character each, and those bytes alone, which are no UTF-8.
            (b"f\xc2\x9b2J\xc2\x9d0;t\xc2\x9c", "f\u{fffd}2J\u{fffd}0;t\u{fffd}"),
            (b"g\x9b2J", "g\u{fffd}2J"),
            ("\t\u{fc}ber\u{4e16} ".as_bytes(), "\t\u{fc}ber\u{4e16} "),
            (b"h\x0b\x0c", "h"),
        ] {
            let told = printable(printed);
            assert!(!told.chars().any(|char| char.is_control() && char != '\t'), "{told:?}");
            assert_eq!(
                told.trim_end_matches('\u{fffd}'),
                shown.trim_end_matches('\u{fffd}'),
                "{printed:?}"
            );
        }
    }
}
