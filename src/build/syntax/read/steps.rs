//! The instructions that change a root: `RUN`, `COPY` and `ADD`.

use std::ops::Range;

use super::super::flags::Flags;
use super::super::{Command, Copy, Document, MountText, Run, RunNetwork, Source, Word, lines, mounts};
use super::{Read, Reader, Wrong};
use crate::image::words;

impl Reader<'_> {
    pub(super) fn run(&self) -> Read<Word> {
        self.some("a command")?;
        let flags = self.flags(&["mount", "network", "security", "device"])?;
        let command = self.command(self.rest.start)?;
        if command == Command::Exec(Vec::new()) {
            return Err(Wrong::new(self.rest.clone(), "RUN wants a command"));
        }
        if let Some((value, at)) = flags.one("security")? {
            match value.as_str() {
                "sandbox" => {}
                "insecure" => return Err(Wrong::new(at, "--security=insecure is not there: builds are confined")),
                _ => return Err(Wrong::new(at, format!("unknown security {value}")).hinted("it is sandbox")),
            }
        }
        if let Some((_, at)) = flags.each("device")?.pop() {
            return Err(Wrong::new(at, "--device is not there: builds have no devices"));
        }
        let network = match flags.one("network")? {
            None => RunNetwork::Default,
            Some((value, at)) => match value.as_str() {
                "default" => RunNetwork::Default,
                "none" => RunNetwork::None,
                "host" => RunNetwork::Host,
                _ => {
                    let wrong = Wrong::new(at, format!("unknown network {value}"));
                    return Err(wrong.hinted("it is default, none or host"));
                }
            },
        };
        let mounts = flags.each("mount")?.into_iter().map(|(text, at)| self.mount(text, at));
        Ok(Word::Run(Run {
            mounts: mounts.collect::<Read<_>>()?,
            // One word is the whole command: there is nothing that the heredoc could be the input of.
            is_script: !self.line.documents.is_empty()
                && matches!(&command, Command::Shell(line) if lines::heredoc(line).is_some()),
            command,
            documents: self.line.documents.clone(),
            network,
        }))
    }

    fn mount(&self, text: String, at: Range<usize>) -> Read<MountText> {
        let wrong = |misfit: mounts::Misfit| {
            // The field itself, where it stands there as it is.
            let found = self.text[at.clone()].find(&misfit.field).map(|from| at.start + from);
            let at = found.map_or(at.clone(), |from| from..from + misfit.field.len());
            Wrong {
                at,
                message: misfit.why,
                hint: misfit.hint,
            }
        };
        let from = mounts::from(&text).map_err(wrong)?;
        // What has variables is read when they have values.
        if !text.contains('$') {
            let plain = |value: &str| words::expand(value, self.escape, &|_| None).map_err(|cause| cause.to_string());
            mounts::read(&text, &plain).map_err(wrong)?;
        }
        Ok(MountText { text, from })
    }

    pub(super) fn copy(&self) -> Read<Copy> {
        let flags = Flags { all: &self.flags };
        self.some("a source and a target")?;
        let json = self.json(self.rest.start)?;
        let is_json = json.is_some();
        let mut parts: Vec<(String, Range<usize>)> = match json {
            Some(words) => words.into_iter().map(|word| (word, self.rest.clone())).collect(),
            None => self
                .parts()
                .into_iter()
                .map(|(part, at)| (part.to_owned(), at))
                .collect(),
        };
        let target = match parts.pop() {
            Some(target) if !parts.is_empty() => target,
            _ => {
                let wrong = Wrong::new(
                    self.rest.clone(),
                    format!("{} wants a source and a target", self.keyword),
                );
                return Err(wrong.hinted("a target that is the working directory is written ."));
            }
        };
        if !is_json && lines::heredoc(&target.0).is_some() {
            return Err(Wrong::new(target.1, "a heredoc cannot be a target"));
        }
        let mut documents = self.line.documents.iter();
        let sources = parts.into_iter().map(|(part, at)| {
            if is_json || !part.starts_with("<<") {
                return self.checked(&part, at).map(Source::Path);
            }
            let document = documents.next().filter(|_| lines::heredoc(&part).is_some());
            document_source(document, at)
        });
        Ok(Copy {
            sources: sources.collect::<Read<_>>()?,
            target: self.checked(&target.0, target.1)?,
            from: self.copy_from(&flags)?,
            chown: self.flag(&flags, "chown")?,
            chmod: self.flag(&flags, "chmod")?,
            exclude: flags.each("exclude")?.into_iter().map(|(pattern, _)| pattern).collect(),
            parents: flags.switch("parents")?.unwrap_or(false),
            link: flags.switch("link")?.unwrap_or(false),
            unpack: flags.switch("unpack")?,
            keep_git_dir: flags.switch("keep-git-dir")?.unwrap_or(false),
            checksum: self.flag(&flags, "checksum")?,
        })
    }

    /// A flag that is expanded later; an empty one is none.
    fn flag(&self, flags: &Flags, name: &str) -> Read<Option<String>> {
        match flags.one(name)? {
            Some((value, at)) if !value.is_empty() => self.checked(&value, at).map(Some),
            _ => Ok(None),
        }
    }

    fn copy_from(&self, flags: &Flags) -> Read<Option<String>> {
        match flags.one("from")? {
            Some((value, at)) if value.contains('$') => Err(Wrong::new(at, "--from takes no variables")
                .hinted("name a stage: FROM ${IMAGE} AS stage, and --from=stage")),
            Some((value, _)) if !value.is_empty() => Ok(Some(value)),
            _ => Ok(None),
        }
    }
}

/// A heredoc as a source: it makes a file of its name.
fn document_source(document: Option<&Document>, at: Range<usize>) -> Read<Source> {
    let Some(document) = document else {
        return Err(Wrong::new(at, "no heredoc").hinted("its name follows << at once, without white space in it"));
    };
    if document.name.contains('/') || [".", ".."].contains(&document.name.as_str()) {
        return Err(Wrong::new(
            at,
            format!("a heredoc's name is a file's, which {} cannot be", document.name),
        ));
    }
    Ok(Source::Document(document.clone()))
}
