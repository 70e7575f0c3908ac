//! The instructions that ask for work: `RUN`, `COPY` and `ADD`, with all that is in them expanded.

use super::super::history;
use super::super::syntax::{Copy, Document, Mount, MountText, Run, Source, mounts, values};
use super::super::work::{CopySource, CopyWork, Effect, RunWork, Script, Work};
use super::{Fault, State};
use crate::image::change::{self, Command};
use crate::image::words;

/// Where scripts of heredocs are while they run.
const SCRIPTS: &str = "/dev/pipes";
/// Beginnings of sources that are somewhere else.
const REMOTE: [&str; 5] = ["http://", "https://", "git://", "ssh://", "git@"];

impl State {
    pub(super) fn run(&self, run: &Run) -> Result<Effect, Fault> {
        let (command, script) = match (&run.command, run.is_script, run.documents.first()) {
            (Command::Shell(_), true, Some(document)) => self.script(document),
            (Command::Shell(line), _, _) => {
                let mut line = line.clone();
                for document in &run.documents {
                    // The shell has heredocs of its own: it gets them as they are.
                    line.push_str(&format!("\n{}{}", document.content, document.name));
                }
                (Command::Shell(line), None)
            }
            (command, _, _) => (command.clone(), None),
        };
        let args = command.words(&self.config.config);
        let arguments = self.arguments.iter().map(|name| {
            let value = change::get_env(&self.env, name).unwrap_or_default();
            format!("{name}={value}")
        });
        let arguments: Vec<String> = arguments.collect();
        Ok(Effect::Work(Work::Run(RunWork {
            created_by: history::run(&args, &arguments),
            args,
            env: self.env.clone(),
            proxies: self.globals.proxies(),
            script,
            mounts: run
                .mounts
                .iter()
                .map(|mount| self.mount(mount))
                .collect::<Result<_, _>>()?,
            network: run.network,
            user: self.config.config.user.clone(),
            working_dir: self.working_dir().to_owned(),
        })))
    }

    /// A heredoc that is the command: for the shell, or a program of its own where it names an interpreter.
    fn script(&self, document: &Document) -> (Command, Option<Script>) {
        let content = document.text().into_owned();
        if !content.starts_with("#!") {
            return (Command::Shell(content), None);
        }
        let is_plain = !document.name.contains('/') && ![".", ".."].contains(&document.name.as_str());
        let name = if is_plain { document.name.as_str() } else { "script" };
        let path = format!("{SCRIPTS}/{name}");
        (Command::Shell(path.clone()), Some(Script { path, content }))
    }

    fn mount(&self, mount: &MountText) -> Result<Mount, Fault> {
        let expand = |text: &str| self.expand(text).map_err(|fault| fault.cause.to_string());
        let read = mounts::read(&mount.text, &expand).map_err(|misfit| {
            let fault = Fault::new(&misfit.field, misfit.why);
            match misfit.hint {
                Some(hint) => fault.hinted(&hint),
                None => fault,
            }
        });
        let mut read = read?;
        let placed = |target: &mut String| match change::joined(self.working_dir(), target).as_str() {
            "/" => Err(Fault::new(target, "a mount cannot be the whole root")),
            path => {
                path.clone_into(target);
                Ok(())
            }
        };
        let rooted = |source: &mut String| *source = change::joined("/", source);
        match &mut read {
            Mount::Bind { target, source, .. } => {
                placed(target)?;
                rooted(source);
            }
            Mount::Cache(cache) => {
                // A cache that is named by its target has one name however the target is written.
                if cache.id == cache.target {
                    cache.id = cleaned(&cache.id);
                }
                placed(&mut cache.target)?;
                rooted(&mut cache.source);
            }
            Mount::Tmpfs { target, .. } => placed(target)?,
            Mount::Secret(secret) => secret.target.iter_mut().try_for_each(placed)?,
        }
        Ok(read)
    }

    pub(super) fn copy(&self, copy: &Copy, is_add: bool) -> Result<Effect, Fault> {
        let word = if is_add { "ADD" } else { "COPY" };
        let flag = |flag: &Option<String>| -> Result<Option<String>, Fault> {
            let value = flag.as_deref().map(|text| self.expand(text)).transpose()?;
            Ok(value.filter(|value| !value.is_empty()))
        };
        if let Some(checksum) = &copy.checksum {
            return Err(Fault::new(
                checksum,
                "--checksum is for remote sources, which are not fetched",
            ));
        }
        let chown = flag(&copy.chown)?;
        let chmod = flag(&copy.chmod)?;
        let target = self.expand(&copy.target)?;
        let mut created_by = word.to_owned();
        if copy.parents {
            created_by.push_str(" --parents");
        }
        for (name, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                created_by.push_str(&format!(" --{name}={value}"));
            }
        }
        let mut paths = Vec::new();
        let mut files = Vec::new();
        for source in &copy.sources {
            match source {
                Source::Path(path) => {
                    let path = self.expand(path)?;
                    created_by.push_str(&format!(" {path}"));
                    paths.push(CopySource::Path(self.source(&path, copy)?));
                }
                Source::Document(document) => files.push(self.file(document)?),
            }
        }
        for file in &files {
            if let CopySource::File { name, .. } = file {
                created_by.push_str(&format!(" <<{name}"));
            }
        }
        created_by.push_str(&format!(" {target} # buildkit"));
        paths.append(&mut files);
        let octal = |text: String| values::mode(&text).map_err(|why| Fault::new(&text, format!("--chmod: {why}")));
        Ok(Effect::Work(Work::Copy(CopyWork {
            sources: paths,
            target: self.target(&target),
            from: copy.from.clone(),
            unpack: copy.unpack.unwrap_or(is_add),
            chown,
            chmod: chmod.map(octal).transpose()?,
            exclude: copy.exclude.clone(),
            parents: copy.parents,
            link: copy.link,
            created_by,
        })))
    }

    fn file(&self, document: &Document) -> Result<CopySource, Fault> {
        let mut content = document.text().into_owned();
        if document.expand {
            content = self.spend(words::expand_document(&content, &|name| self.lookup(name))?)?;
        }
        Ok(CopySource::File {
            name: document.name.clone(),
            content,
        })
    }

    /// A source as a path without `..`, relative to the context or the root of `--from`.
    fn source(&self, path: &str, copy: &Copy) -> Result<String, Fault> {
        if path.is_empty() {
            // BuildKit takes it for the whole context, which nobody means by a variable without a value.
            return Err(Fault::new("", "a source is empty").hinted("the whole context is written ."));
        }
        if REMOTE.iter().any(|remote| path.starts_with(remote)) {
            let fault = Fault::new(path, format!("{path} is remote: nothing is fetched"));
            return Err(fault.hinted("fetch it before the build into the context, or in it by RUN"));
        }
        let leads_out = |path: &str| {
            let mut depth = 0i64;
            path.split('/').any(|part| {
                depth += match part {
                    "" | "." => 0,
                    ".." => -1,
                    _ => 1,
                };
                depth < 0
            })
        };
        if copy.from.is_none() && leads_out(path) {
            let fault = Fault::new(path, format!("{path} leads out of the context"));
            return Err(
                fault.hinted("only what is in the context can be copied: build with a folder above as the context")
            );
        }
        let relative = |path: &str| change::joined("/", path).trim_start_matches('/').to_owned();
        let pivot = path.split_once("/./").filter(|_| copy.parents);
        Ok(match pivot.map(|(before, after)| (relative(before), relative(after))) {
            // What is before the pivot is not made in the target.
            Some((before, after)) if !before.is_empty() => format!("{before}/./{after}"),
            _ => relative(path),
        })
    }

    /// A target as an absolute path, with a `/` at its end where it must be a folder.
    pub(super) fn target(&self, target: &str) -> String {
        let is_folder =
            target.is_empty() || target == "." || ["/", "/.", "/.."].iter().any(|end| target.ends_with(end));
        let path = change::joined(self.working_dir(), target);
        match is_folder && path != "/" {
            true => format!("{path}/"),
            false => path,
        }
    }
}

/// A path without what does not count in it; a relative one stays so.
fn cleaned(path: &str) -> String {
    match path.starts_with('/') {
        true => change::joined("/", path),
        false => change::joined("/", path).trim_start_matches('/').to_owned(),
    }
}
