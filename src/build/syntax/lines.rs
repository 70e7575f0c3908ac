//! A Dockerfile's text as instructions, each with its heredocs: directives are read, comments and empty lines
//! left out, continued lines joined.
//!
//! As BuildKit has it, with its corners: a line goes on where it ends with one escape character (two are a
//! character and no continuation), white space after that does not count; comments and empty lines within an
//! instruction are left out; the first line loses the white space before it, the others keep theirs. All of
//! this is our own, because the `parse-dockerfile` crate (0.1.9) finds a heredoc only as the very first word of
//! a `RUN`, keeps continuations in the text, and takes `\\` at the end for one.

use std::ops::Range;

use super::Document;
use super::flags;
use super::read::Wrong;
use crate::image::words;

/// An instruction's text, and where it came from.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Continued lines joined.
    pub text: String,
    /// Pieces of it: where each begins in `text`, and in the file.
    pieces: Vec<(usize, usize)>,
    /// Number of its first line in the file, from 1.
    pub number: usize,
    /// Bytes of the file, its heredocs among them.
    pub span: Range<usize>,
    /// In order.
    pub documents: Vec<Document>,
}

impl Line {
    /// Where in the file a part of the text stands.
    pub(super) fn place(&self, part: Range<usize>) -> Range<usize> {
        let at = |offset: usize| {
            let piece = self.pieces.iter().rev().find(|(begin, _)| *begin <= offset);
            piece.map_or(self.span.start, |(begin, place)| place + (offset - begin))
        };
        // The end belongs to the last character of the part, not to the line after it.
        let end = if part.end > part.start {
            at(part.end - 1) + 1
        } else {
            at(part.end)
        };
        at(part.start)..end
    }
}

/// The file as instructions.
#[derive(Debug)]
pub(super) struct Lines {
    /// The escape character.
    pub escape: char,
    /// In order.
    pub lines: Vec<Line>,
}

/// Reads all of a file.
///
/// # Errors
/// What is wrong, and where in the file: a directive, or a heredoc without an end.
pub(super) fn read(text: &str) -> Result<Lines, Wrong> {
    let mut reader = Reader {
        text,
        at: 0,
        number: 0,
        escape: '\\',
        directives: Some(Vec::new()),
    };
    let mut lines = Vec::new();
    while let Some(line) = reader.instruction()? {
        lines.push(line);
    }
    Ok(Lines {
        escape: reader.escape,
        lines,
    })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Lines read.
    number: usize,
    escape: char,
    /// Those seen; none once they may not come any more.
    directives: Option<Vec<String>>,
}

impl<'a> Reader<'a> {
    /// The next line of the file, with its end, and where it begins.
    fn line(&mut self) -> Option<(usize, &'a str)> {
        let rest = &self.text[self.at..];
        let line = rest.split_inclusive('\n').next()?;
        let begin = self.at;
        self.at += line.len();
        self.number += 1;
        Some((begin, line))
    }

    /// The next instruction, its heredocs taken.
    fn instruction(&mut self) -> Result<Option<Line>, Wrong> {
        let mut line = Line::default();
        let mut goes_on = false;
        while let Some((begin, raw)) = self.line() {
            let trimmed = raw.trim_end_matches(['\r', '\n']);
            let start = if goes_on { trimmed } else { trimmed.trim_start() };
            let begin = begin + (trimmed.len() - start.len());
            if !goes_on {
                self.directive(start, begin)?;
            }
            if trimmed.trim_start().starts_with('#') || trimmed.trim().is_empty() {
                continue;
            }
            if !goes_on {
                line.number = self.number;
                line.span.start = begin;
            }
            let kept = self.continued(start);
            let piece = kept.unwrap_or(start);
            line.pieces.push((line.text.len(), begin));
            line.text.push_str(piece);
            line.span.end = begin + piece.len();
            goes_on = kept.is_some();
            if !goes_on {
                break;
            }
        }
        if line.text.trim().is_empty() {
            // The end of the file, perhaps after a lone escape character.
            return Ok(None);
        }
        self.documents(&mut line)?;
        Ok(Some(line))
    }

    /// The line without its continuation, where it has one.
    fn continued<'b>(&self, line: &'b str) -> Option<&'b str> {
        let before = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        (!before.ends_with(self.escape)).then_some(before)
    }

    /// `# name=value` at the head of the file.
    fn directive(&mut self, line: &str, begin: usize) -> Result<(), Wrong> {
        let Some(seen) = &mut self.directives else {
            return Ok(());
        };
        let pair = line.strip_prefix('#').and_then(|rest| rest.split_once('='));
        let name = pair
            .map(|(name, _)| name.trim().to_ascii_lowercase())
            .unwrap_or_default();
        let value = pair.map_or("", |(_, value)| value.trim());
        if !["syntax", "escape", "check"].contains(&name.as_str()) || value.is_empty() {
            self.directives = None;
            return Ok(());
        }
        let whole = begin..begin + line.len();
        if seen.contains(&name) {
            return Err(Wrong::new(
                whole,
                format!("the directive {name} stands here a second time"),
            ));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => {
                    let at = begin + line.rfind(value).unwrap_or(0);
                    let wrong = Wrong::new(at..at + value.len(), format!("no escape character: {value}"));
                    return Err(wrong.hinted("it is \\ or `"));
                }
            };
        }
        seen.push(name);
        Ok(())
    }

    /// Takes the lines of the heredocs that the instruction asks for.
    fn documents(&mut self, line: &mut Line) -> Result<(), Wrong> {
        if !line.text.contains("<<") || !may_have_documents(&line.text, self.escape) {
            return Ok(());
        }
        for word in words::raw_words(&line.text, true).unwrap_or_default() {
            let Some(mut document) = heredoc(&word) else { continue };
            loop {
                let Some((begin, raw)) = self.line() else {
                    let at = line.text.find(&word).unwrap_or(0);
                    let message = format!("the heredoc {} has no end", document.name);
                    let wrong = Wrong::new(line.place(at..at + word.len()), message);
                    return Err(wrong.hinted(format!(
                        "it ends with a line that is {} and nothing else; a << that begins none is put in quotes",
                        document.name
                    )));
                };
                line.span.end = begin + raw.trim_end_matches(['\r', '\n']).len();
                let ending = raw.trim_end_matches(['\r', '\n']);
                let ending = if document.strips_tabs {
                    ending.trim_start_matches('\t')
                } else {
                    ending
                };
                if ending == document.name {
                    break;
                }
                document.content.push_str(raw);
            }
            line.documents.push(document);
        }
        Ok(())
    }
}

/// Whether this is a `RUN`, `COPY` or `ADD`, or one of them for `ONBUILD`, and not in JSON.
fn may_have_documents(text: &str, escape: char) -> bool {
    let mut from = 0;
    for _ in 0..2 {
        let (keyword, rest) = keyword(text, from);
        let (_, arguments) = flags::split(text, rest, escape);
        match text[keyword].to_ascii_uppercase().as_str() {
            "ONBUILD" => from = arguments,
            "RUN" | "COPY" | "ADD" => {
                let arguments = text[arguments..].trim();
                return !(arguments.starts_with('[') && serde_json::from_str::<Vec<String>>(arguments).is_ok());
            }
            _ => return false,
        }
    }
    false
}

/// The first word from `from` on, and where what comes after it begins.
pub(super) fn keyword(text: &str, from: usize) -> (Range<usize>, usize) {
    let start = text.len() - text[from..].trim_start().len();
    let end = text[start..].find(is_space).map_or(text.len(), |length| start + length);
    let rest = text.len() - text[end..].trim_start().len();
    (start..end, rest)
}

/// White space between words, as BuildKit has it.
pub(super) fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// The heredoc that a word asks for: `[N]<<[-]NAME`, its content to come.
pub(super) fn heredoc(word: &str) -> Option<Document> {
    let rest = word
        .trim_start_matches(|char: char| char.is_ascii_digit())
        .strip_prefix("<<")?;
    let (strips_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.contains('<') {
        return None;
    }
    let plain = words::raw_words(rest, false)?;
    let quoted = words::raw_words(rest, true)?;
    let ([name], [quoted]) = (&plain[..], &quoted[..]) else {
        return None;
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Document {
        name: name.clone(),
        content: String::new(),
        expand: quotes(name) == quotes(quoted),
        strips_tabs,
    })
}
