//! One instruction: its keyword, flags and arguments, as BuildKit reads them.
//!
//! A list in JSON that is none is taken for the other form, where an instruction has two; one of other things
//! than texts is an error.

use std::ops::Range;

use super::flags::{self, Flags};
use super::lines::{self, Line};
use super::{Argument, Command, Healthcheck, Word, values};
use crate::image::words;

mod steps;

/// All instructions.
pub(super) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What is wrong in an instruction, and which bytes of it that is about.
#[derive(Debug)]
pub(super) struct Wrong {
    pub at: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What reading gives, or what is wrong.
pub(super) type Read<T> = Result<T, Wrong>;

/// An instruction, or the beginning of a stage.
#[derive(Debug)]
pub(super) enum Said {
    /// `FROM`.
    From {
        base: String,
        name: Option<String>,
        platform: Option<String>,
    },
    /// All others.
    Word(Word),
}

/// Reads an instruction.
pub(super) fn instruction(line: &Line, escape: char) -> Read<Said> {
    let mut reader = Reader::new(line, 0, escape)?;
    if reader.keyword == "FROM" {
        return reader.from();
    }
    reader.word().map(Said::Word)
}

/// One instruction of a line: the whole of it, or what `ONBUILD` is for.
struct Reader<'a> {
    line: &'a Line,
    text: &'a str,
    escape: char,
    keyword: &'static str,
    keyword_at: Range<usize>,
    flags: Vec<flags::Flag>,
    /// The arguments, without white space around them.
    rest: Range<usize>,
}

impl<'a> Reader<'a> {
    fn new(line: &'a Line, from: usize, escape: char) -> Read<Self> {
        let text = line.text.as_str();
        let (at, rest) = lines::keyword(text, from);
        let given = text[at.clone()].to_ascii_uppercase();
        let Some(keyword) = KEYWORDS.into_iter().find(|keyword| *keyword == given) else {
            let wrong = Wrong::new(at.clone(), format!("unknown instruction {}", &text[at]));
            return Err(match values::nearest(&given, &KEYWORDS) {
                Some(near) => wrong.hinted(format!("did you mean {near}?")),
                None => wrong.hinted(format!("there are {}", KEYWORDS.join(", "))),
            });
        };
        let (flags, rest) = flags::split(text, rest, escape);
        let end = rest + text[rest..].trim_end().len();
        Ok(Self {
            line,
            text,
            escape,
            keyword,
            keyword_at: at,
            flags,
            rest: rest..end,
        })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.rest.clone()]
    }

    fn flags(&self, known: &[&str]) -> Read<Flags<'_>> {
        let flags = Flags { all: &self.flags };
        flags.only(known)?;
        Ok(flags)
    }

    /// An error about the instruction as a whole.
    fn wrong(&self, message: impl Into<String>) -> Wrong {
        Wrong::new(self.keyword_at.clone(), message)
    }

    /// The arguments, of which there must be some.
    fn some(&self, wanted: &str) -> Read<&'a str> {
        if self.rest().is_empty() {
            return Err(self.wrong(format!("{} wants {wanted}", self.keyword)));
        }
        Ok(self.rest())
    }

    /// Arguments at white space, quotes or not, and where they stand.
    fn parts(&self) -> Vec<(&'a str, Range<usize>)> {
        let mut parts = Vec::new();
        let mut at = self.rest.start;
        for part in self.rest().split(lines::is_space) {
            if !part.is_empty() {
                parts.push((part, at..at + part.len()));
            }
            at += part.len() + 1;
        }
        parts
    }

    /// The texts of a JSON list; none where it is no JSON list.
    fn json(&self, from: usize) -> Read<Option<Vec<String>>> {
        let text = self.text[from..self.rest.end].trim_start();
        if !text.starts_with('[') {
            return Ok(None);
        }
        let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
            return Ok(None);
        };
        let texts = list
            .into_iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect();
        let not_texts = || {
            let at = self.rest.end - text.len()..self.rest.end;
            Wrong::new(at, "a JSON list has texts only").hinted("put each word in double quotes")
        };
        Option::ok_or_else(texts, not_texts).map(Some)
    }

    /// What is expanded later can be: its quotes and braces are closed.
    fn checked(&self, text: &str, at: Range<usize>) -> Read<String> {
        match words::check(text, self.escape) {
            Ok(()) => Ok(text.to_owned()),
            Err(why) => Err(Wrong::new(at, why)),
        }
    }

    fn word(&mut self) -> Read<Word> {
        let known = match self.keyword {
            "ADD" => &[
                "chown",
                "chmod",
                "link",
                "keep-git-dir",
                "checksum",
                "unpack",
                "exclude",
            ][..],
            "COPY" => &["chown", "chmod", "link", "from", "exclude", "parents"],
            "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
            "RUN" => &["mount", "network", "security", "device"],
            _ => &[],
        };
        self.flags(known)?;
        match self.keyword {
            "ADD" => Ok(Word::Add(self.copy()?)),
            "ARG" => Ok(Word::Arg(self.arguments()?)),
            "CMD" => Ok(Word::Cmd(self.command(self.rest.start)?)),
            "COPY" => Ok(Word::Copy(self.copy()?)),
            "ENTRYPOINT" => Ok(Word::Entrypoint(self.command(self.rest.start)?)),
            "ENV" => Ok(Word::Env(self.pairs()?)),
            "EXPOSE" => self.expose(),
            "HEALTHCHECK" => self.healthcheck(),
            "LABEL" => Ok(Word::Label(self.pairs()?)),
            "MAINTAINER" => Ok(Word::Maintainer(self.some("a name")?.to_owned())),
            "ONBUILD" => self.onbuild(),
            "RUN" => self.run(),
            "SHELL" => self.shell(),
            "STOPSIGNAL" => Ok(Word::StopSignal(self.text("a signal")?)),
            "USER" => Ok(Word::User(self.text("a user")?)),
            "VOLUME" => self.volume(),
            "WORKDIR" => Ok(Word::Workdir(self.text("a folder")?)),
            // `FROM` begins a stage; it is here where `ONBUILD` has it, which was refused before.
            other => Err(self.wrong(format!("{other} cannot stand here"))),
        }
    }

    /// The arguments as one text that is expanded later.
    fn text(&self, wanted: &str) -> Read<String> {
        self.checked(self.some(wanted)?, self.rest.clone())
    }

    fn command(&self, from: usize) -> Read<Command> {
        Ok(match self.json(from)? {
            Some(words) => Command::Exec(words),
            None => Command::Shell(self.text[from..self.rest.end].to_owned()),
        })
    }

    fn from(&self) -> Read<Said> {
        let flags = self.flags(&["platform"])?;
        let parts = self.parts();
        let (base, name) = match &parts[..] {
            [] => {
                return Err(self
                    .wrong("FROM wants an image")
                    .hinted("name one, or an empty root: FROM scratch"));
            }
            [base] => (base, None),
            [base, (r#as, _), name] if r#as.eq_ignore_ascii_case("as") => (base, Some(name)),
            [_, (second, at), ..] => {
                let at = at.start..self.rest.end;
                let hint = if second.eq_ignore_ascii_case("as") {
                    "a stage's name is one word"
                } else {
                    "it is FROM IMAGE, or FROM IMAGE AS NAME"
                };
                return Err(Wrong::new(at, "FROM wants an image, and perhaps AS and a name").hinted(hint));
            }
        };
        let name = match name {
            Some((name, at)) => Some(stage_name(name, at.clone())?),
            None => None,
        };
        Ok(Said::From {
            base: self.checked(base.0, base.1.clone())?,
            name,
            platform: flags.text("platform")?,
        })
    }

    fn arguments(&self) -> Read<Vec<Argument>> {
        let text = self.some("a name")?;
        let mut arguments = Vec::new();
        for part in words::split(text, self.escape) {
            let at = self.rest.start + part.start..self.rest.start + part.end;
            let (name, value) = match text[part.clone()].split_once('=') {
                Some((name, value)) => (name, Some(self.checked(value, at.clone())?)),
                None => (&text[part], None),
            };
            if name.is_empty() {
                return Err(Wrong::new(at, "the name before = is missing"));
            }
            arguments.push(Argument {
                name: name.to_owned(),
                value,
            });
        }
        Ok(arguments)
    }

    fn pairs(&self) -> Read<Vec<(String, String)>> {
        let text = self.some("NAME=value")?;
        words::pairs(text, self.escape).map_err(|(at, why)| {
            let at = self.rest.start + at.start..self.rest.start + at.end;
            let is_split = why.contains("NAME=value");
            let wrong = Wrong::new(at, format!("{}: {why}", self.keyword));
            if is_split {
                wrong.hinted("values with white space are put in quotes")
            } else {
                wrong
            }
        })
    }

    fn expose(&self) -> Read<Word> {
        self.some("a port")?;
        let ports = self.parts().into_iter().map(|(port, at)| self.checked(port, at));
        let mut ports: Vec<String> = ports.collect::<Read<_>>()?;
        // The order of the history, which is Docker's.
        ports.sort();
        Ok(Word::Expose(ports))
    }

    fn volume(&self) -> Read<Word> {
        self.some("a folder")?;
        let paths = match self.json(self.rest.start)? {
            Some(paths) => paths
                .iter()
                .map(|path| self.checked(path.trim(), self.rest.clone()))
                .collect(),
            None => self
                .parts()
                .into_iter()
                .map(|(path, at)| self.checked(path, at))
                .collect::<Read<Vec<_>>>(),
        }?;
        if paths.is_empty() || paths.iter().any(String::is_empty) {
            return Err(Wrong::new(
                self.rest.clone(),
                "VOLUME wants a folder, and not an empty name",
            ));
        }
        Ok(Word::Volume(paths))
    }

    fn shell(&self) -> Read<Word> {
        self.some("a list of words")?;
        match self.json(self.rest.start)? {
            Some(words) if !words.is_empty() => Ok(Word::Shell(words)),
            _ => {
                Err(Wrong::new(self.rest.clone(), "SHELL wants a JSON list").hinted("as SHELL [\"/bin/bash\", \"-c\"]"))
            }
        }
    }

    fn healthcheck(&self) -> Read<Word> {
        self.some("CMD and a command, or NONE")?;
        let (kind, rest) = lines::keyword(self.text, self.rest.start);
        match self.text[kind.clone()].to_ascii_uppercase().as_str() {
            "NONE" if rest >= self.rest.end => return Ok(Word::Healthcheck(None)),
            "NONE" => return Err(Wrong::new(rest..self.rest.end, "HEALTHCHECK NONE takes no more words")),
            "CMD" => {}
            _ => {
                let wrong = Wrong::new(kind.clone(), format!("HEALTHCHECK does not know {}", &self.text[kind]));
                return Err(wrong.hinted("use CMD and a command, or NONE"));
            }
        }
        let command = self.command(rest.min(self.rest.end))?;
        if [Command::Shell(String::new()), Command::Exec(Vec::new())].contains(&command) {
            return Err(Wrong::new(kind, "HEALTHCHECK CMD wants a command"));
        }
        let flags = self.flags(&["interval", "timeout", "start-period", "start-interval", "retries"])?;
        let time = |name: &str| match flags.one(name)? {
            Some((text, at)) if !text.is_empty() => values::duration(&text)
                .map(Some)
                .map_err(|why| Wrong::new(at, format!("--{name}: {why}")).hinted("durations are written 1m30s, 500ms")),
            _ => Ok(None),
        };
        let retries = match flags.one("retries")? {
            Some((text, at)) if !text.is_empty() => {
                let number = text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or_else(|| Wrong::new(at, format!("--retries: not a number: {text}")))?)
            }
            _ => None,
        };
        Ok(Word::Healthcheck(Some(Healthcheck {
            command,
            interval: time("interval")?,
            timeout: time("timeout")?,
            start_period: time("start-period")?,
            start_interval: time("start-interval")?,
            retries,
        })))
    }

    fn onbuild(&self) -> Read<Word> {
        self.some("an instruction")?;
        let mut inner = Reader::new(self.line, self.rest.start, self.escape)?;
        if ["ONBUILD", "FROM", "MAINTAINER"].contains(&inner.keyword) {
            return Err(inner.wrong(format!("{} cannot stand after ONBUILD", inner.keyword)));
        }
        inner.word()?;
        let mut text = self.rest().to_owned();
        for document in &self.line.documents {
            text.push('\n');
            text.push_str(&document.content);
            text.push_str(&document.name);
        }
        Ok(Word::Onbuild(text))
    }
}

/// A stage's name in lower case: `[a-z][a-z0-9-_.]*`.
fn stage_name(name: &str, at: Range<usize>) -> Read<String> {
    let lower = name.to_ascii_lowercase();
    let is_first = lower.starts_with(|char: char| char.is_ascii_lowercase());
    let rest = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-_.".contains(char);
    if is_first && lower.chars().all(rest) {
        return Ok(lower);
    }
    Err(Wrong::new(at, format!("not a stage's name: {name}")).hinted("it is letters, digits, - _ and . after a letter"))
}
