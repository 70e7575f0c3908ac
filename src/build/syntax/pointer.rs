//! Where something stands in a file, and errors that show it:
//!
//! ```text
//! Dockerfile:3:1: unknown instruction RUNN
//!    3 | RUNN apt-get update
//!      | ^^^^
//! ```

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;

/// Characters of a line that are shown around what is pointed at.
const SHOWN_MAX: usize = 120;

/// A file's text, and what it is called.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its name, as the user gave it.
    pub shown: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Where something stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The file.
    pub file: Arc<Source>,
    /// The instruction as it stands there, continued lines joined; without heredocs.
    pub text: String,
    /// Line of its first word, from 1.
    pub line: usize,
    /// Bytes of the file that it takes, heredocs among them.
    pub span: Range<usize>,
}

impl Origin {
    /// An error about the instruction: its first line is shown, and the word of it that the error is about
    /// is pointed at; where the word is not there, the whole line.
    pub fn error(&self, word: &str, message: &str) -> Error {
        let whole = self.file.text.get(self.span.clone()).unwrap_or_default();
        let found = if word.is_empty() { None } else { whole.find(word) };
        let span = match found {
            Some(at) => self.span.start + at..self.span.start + at + word.len(),
            None => self.span.clone(),
        };
        at(&self.file.shown, &self.file.text, span, message)
    }
}

/// An error about a part of a file; `span` is in bytes of `text`. Only the first line of it is shown.
pub fn at(shown: &Path, text: &str, span: Range<usize>, message: &str) -> Error {
    let (number, column, line, marked) = place(text, span);
    // What is shown of a long line begins some way before the word.
    let skipped = if line.chars().count() > SHOWN_MAX {
        column.saturating_sub(SHOWN_MAX / 3)
    } else {
        0
    };
    let seen: String = line.chars().skip(skipped).take(SHOWN_MAX).map(printable).collect();
    let marks = "^".repeat(marked.clamp(1, SHOWN_MAX - (column - skipped).min(SHOWN_MAX - 1)));
    let margin = " ".repeat(number.to_string().len().max(4));
    let indent = " ".repeat(column - skipped);
    Error::invalid(format!(
        "{}:{number}:{}: {message}\n{number:>4} | {seen}\n{margin} | {indent}{marks}",
        shown.display(),
        column + 1
    ))
}

/// Number of the line from 1, characters before the span, the line, characters of it in the span.
fn place(text: &str, span: Range<usize>) -> (usize, usize, &str, usize) {
    let start = floor(text, span.start);
    let end = floor(text, span.end).max(start);
    let begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let stop = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[begin..stop].trim_end_matches('\r');
    let number = text[..start].matches('\n').count() + 1;
    let column = text[begin..start].chars().count();
    let marked = text[start..end.min(stop)].trim_end().chars().count();
    (number, column, line, marked)
}

/// The place of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One column on the terminal for each, and no commands to it.
fn printable(char: char) -> char {
    match char {
        '\t' => ' ',
        char if char.is_control() => '\u{fffd}',
        char => char,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_pointed_at() {
        let text = "FROM a\n\tRUNN x\r\nCMD y";
        let error = at(Path::new("Dockerfile"), text, 8..12, "unknown instruction RUNN");
        assert_eq!(
            error.to_string(),
            "Dockerfile:2:2: unknown instruction RUNN\n   2 |  RUNN x\n     |  ^^^^"
        );
    }

    #[test]
    fn any_span_is_shown_somewhere() {
        for text in ["", "a", "ä\nöö\n", &"x".repeat(1000), "\x1b[2J"] {
            for (start, end) in [(0, 0), (0, 9), (1, 2), (2, 1), (3, 5), (999, 2000), (5000, 5001)] {
                let told = at(Path::new("f"), text, start..end, "m").to_string();
                assert!(
                    told.lines().count() == 3 && told.len() < 500 && !told.contains('\x1b'),
                    "{told}"
                );
            }
        }
    }

    #[test]
    fn an_instruction_points_at_its_word() {
        let origin = Origin {
            file: Arc::new(Source {
                shown: "D".into(),
                text: "FROM a\nCOPY b c\n".to_owned(),
            }),
            text: "COPY b c".to_owned(),
            line: 2,
            span: 7..15,
        };
        assert!(origin.error("c", "x").to_string().starts_with("D:2:8: x\n"));
        assert!(origin.error("nope", "x").to_string().ends_with("| ^^^^^^^^"));
    }
}
