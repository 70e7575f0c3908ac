//! The flags of an instruction: `--name`, `--name=value`, before its arguments.
//!
//! Quotes and escape characters in them are taken away; a `--` alone ends them.

use std::ops::Range;

use super::read::{Read, Wrong};
use super::values;

/// One flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    /// Without the dashes.
    pub name: String,
    /// What is after `=`, where there is one.
    pub value: Option<String>,
    /// Where it stands in the instruction.
    pub at: Range<usize>,
}

/// The flags from `from` on, and where the arguments begin.
pub(super) fn split(text: &str, from: usize, escape: char) -> (Vec<Flag>, usize) {
    let mut flags = Vec::new();
    let mut at = from;
    loop {
        at = text.len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (word, end) = unquoted(text, at, escape);
        let start = std::mem::replace(&mut at, end);
        if word == "--" {
            return (flags, at);
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        flags.push(Flag {
            name: name.trim_start_matches("--").to_owned(),
            value,
            at: start..end,
        });
    }
}

/// A word without its quotes and escapes, and where it ends.
fn unquoted(text: &str, from: usize, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[from..].char_indices();
    while let Some((at, char)) = chars.next() {
        match quote {
            _ if char == escape => word.extend(chars.next().map(|(_, next)| next)),
            Some(open) if open == char => quote = None,
            None if char.is_whitespace() => return (word, from + at),
            None if char == '\'' || char == '"' => quote = Some(char),
            _ => word.push(char),
        }
    }
    (word, text.len())
}

/// The flags of one instruction, asked for by name.
pub(super) struct Flags<'a> {
    /// In order.
    pub all: &'a [Flag],
}

impl Flags<'_> {
    /// Refuses all but these.
    pub(super) fn only(&self, known: &[&str]) -> Read<()> {
        let Some(flag) = self.all.iter().find(|flag| !known.contains(&flag.name.as_str())) else {
            return Ok(());
        };
        let wrong = Wrong::new(flag.at.clone(), format!("unknown flag --{}", flag.name));
        Err(match values::nearest(&flag.name, known) {
            Some(near) => wrong.hinted(format!("did you mean --{near}?")),
            None if known.is_empty() => wrong.hinted("this instruction has no flags"),
            None => {
                let known: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
                wrong.hinted(format!("it has {}", known.join(", ")))
            }
        })
    }

    /// All values of a flag that may stand there more than once.
    pub(super) fn each(&self, name: &str) -> Read<Vec<(String, Range<usize>)>> {
        let named = self.all.iter().filter(|flag| flag.name == name);
        named
            .map(|flag| match &flag.value {
                Some(value) => Ok((value.clone(), flag.at.clone())),
                None => Err(Wrong::new(
                    flag.at.clone(),
                    format!("--{name} wants a value: --{name}=…"),
                )),
            })
            .collect()
    }

    /// The value of a flag.
    pub(super) fn one(&self, name: &str) -> Read<Option<(String, Range<usize>)>> {
        let mut all = self.each(name)?;
        match all.get(1) {
            Some((_, at)) => Err(Wrong::new(at.clone(), format!("--{name} stands here a second time"))),
            None => Ok(all.pop()),
        }
    }

    /// The value of a flag as it is.
    pub(super) fn text(&self, name: &str) -> Read<Option<String>> {
        Ok(self.one(name)?.map(|(value, _)| value))
    }

    /// A flag that is on or off.
    pub(super) fn switch(&self, name: &str) -> Read<Option<bool>> {
        let mut named = self.all.iter().filter(|flag| flag.name == name);
        let Some(flag) = named.next() else { return Ok(None) };
        if let Some(second) = named.next() {
            return Err(Wrong::new(
                second.at.clone(),
                format!("--{name} stands here a second time"),
            ));
        }
        match flag.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Wrong::new(flag.at.clone(), format!("--{name} is true or false"))),
        }
    }
}
