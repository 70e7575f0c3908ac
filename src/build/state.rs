//! What a stage has come to, and what each instruction makes of it.
//!
//! A [`State`] begins with an image, an earlier stage or nothing. Each instruction either changes it alone or
//! asks for [`Work`]; in both cases the state is then as it is after the instruction. As in BuildKit an `ARG`
//! is a variable like one of `ENV`, only that it is not kept in the config: the one that was set last counts,
//! and a stage begun from another has its arguments.
//!
//! Pure: what is in the root is not looked at.

use std::cell::Cell;
use std::sync::Arc;

use serde_json::Value;

use super::arguments::Globals;
use super::history;
use super::syntax::{self, Argument, Instruction, Origin, Word};
use super::work::{Effect, FolderWork, Work};
use crate::error::{Error, Result};
use crate::image::change::{self, Change};
use crate::image::oci::{DOCUMENT_MAX, ImageConfig};
use crate::image::words;

mod steps;

/// The programs' path where an image has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes that the texts of one instruction may have together, once their variables are put in.
const STEP_MAX: usize = 4 << 20;
/// Variables that a stage may have.
const VARIABLES_MAX: usize = 4096;

/// What a stage begins with.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// `FROM scratch`.
    Scratch,
    /// An image.
    Image(&'a ImageConfig),
    /// An earlier stage, as it ended.
    Stage(&'a State),
}

/// A stage between two instructions.
#[derive(Debug, Clone)]
pub struct State {
    /// The config so far: layers and history are the base's, and the caller's to add to.
    pub config: ImageConfig,
    globals: Arc<Globals>,
    /// `NAME=value`: the config's, and arguments.
    env: Vec<String>,
    /// Names of the arguments in scope, in order.
    arguments: Vec<String>,
    triggers: Vec<String>,
    cmd_is_new: bool,
    /// Bytes that the instruction at hand may still come to.
    room: Cell<usize>,
    /// Bytes of history so far, which all values come into.
    told: usize,
}

/// An error, and the word of the instruction that it is about; empty for all of it.
struct Fault {
    word: String,
    cause: Error,
}

impl From<Error> for Fault {
    fn from(cause: Error) -> Self {
        Self {
            word: String::new(),
            cause,
        }
    }
}

impl Fault {
    fn new(word: &str, message: impl Into<String>) -> Self {
        Self {
            word: word.to_owned(),
            cause: Error::invalid(message),
        }
    }

    fn hinted(mut self, hint: &str) -> Self {
        self.cause = self.cause.hinted(hint);
        self
    }
}

/// An error about a word of an instruction, with its hint.
pub(super) fn pointed(origin: &Origin, word: &str, cause: &Error) -> Error {
    let error = origin.error(word, &cause.to_string());
    match cause.hint() {
        Some(hint) => error.hinted(hint),
        None => error,
    }
}

impl State {
    /// The state right after `FROM`.
    pub fn begin(base: Base, globals: &Arc<Globals>) -> Self {
        let mut config = match base {
            Base::Scratch => ImageConfig::new(),
            Base::Image(image) => image.clone(),
            Base::Stage(state) => state.config.clone(),
        };
        config.created = None;
        let triggers = match config.config.other.remove("OnBuild") {
            Some(Value::Array(texts)) => texts
                .iter()
                .filter_map(|text| Some(text.as_str()?.to_owned()))
                .collect(),
            _ => Vec::new(),
        };
        let run = &mut config.config;
        if matches!(base, Base::Scratch) {
            "/".clone_into(&mut run.working_dir);
        }
        if !run.working_dir.is_empty() {
            run.working_dir = change::joined("", &run.working_dir);
        }
        if change::get_env(&run.env, "PATH").is_none() {
            run.env.push(format!("PATH={PATH}"));
        }
        let (env, arguments) = match base {
            Base::Stage(state) => (state.env.clone(), state.arguments.clone()),
            _ => (run.env.clone(), Vec::new()),
        };
        Self {
            config,
            globals: globals.clone(),
            env,
            arguments,
            triggers,
            cmd_is_new: false,
            room: Cell::new(STEP_MAX),
            told: 0,
        }
    }

    /// The `ONBUILD` instructions of what the stage began with, which come before its own; `base` is what
    /// errors call it.
    ///
    /// # Errors
    /// Invalid where the base holds one that is none.
    pub fn triggers(&self, base: &str) -> Result<Vec<Instruction>> {
        let shown = format!("ONBUILD of {base}");
        self.triggers
            .iter()
            .map(|text| syntax::parse_trigger(text, shown.as_ref()))
            .collect()
    }

    /// Takes an instruction.
    ///
    /// # Errors
    /// Invalid, pointing at the instruction, where a value is none when its variables are put in, or where it
    /// asks for what is not there. The state must not be used any more then.
    pub fn step(&mut self, instruction: &Instruction) -> Result<Effect> {
        self.room.set(STEP_MAX);
        let effect = self.effect(&instruction.word).and_then(|effect| self.fits(effect));
        effect.map_err(|fault| pointed(&instruction.origin, &fault.word, &fault.cause))
    }

    fn effect(&mut self, word: &Word) -> Result<Effect, Fault> {
        match word {
            Word::Add(copy) => self.copy(copy, true),
            Word::Arg(arguments) => self.argument(arguments),
            Word::Copy(copy) => self.copy(copy, false),
            Word::Maintainer(author) => {
                self.config.author = Some(author.clone());
                Ok(Effect::Config {
                    created_by: Some(format!("MAINTAINER {author}")),
                })
            }
            Word::Run(run) => self.run(run),
            word => self.change(word),
        }
    }

    /// Refuses what could only come to a config that nobody reads.
    fn fits(&mut self, effect: Effect) -> Result<Effect, Fault> {
        let created_by = match &effect {
            Effect::Config { created_by } => created_by.as_deref().unwrap_or_default(),
            Effect::Work(work) => work.created_by(),
        };
        self.told += created_by.len();
        if u64::try_from(self.told).is_ok_and(|told| told > DOCUMENT_MAX) {
            return Err(Fault::new(
                "",
                format!("the image's config comes to more than {DOCUMENT_MAX} bytes"),
            ));
        }
        if self.env.len() > VARIABLES_MAX {
            return Err(Fault::new(
                "",
                format!("the stage has more than {VARIABLES_MAX} variables"),
            ));
        }
        Ok(effect)
    }

    fn spend(&self, text: String) -> Result<String, Fault> {
        let left = self.room.get().checked_sub(text.len());
        self.room
            .set(left.ok_or_else(|| Fault::new("", format!("all values are more than {STEP_MAX} bytes")))?);
        Ok(text)
    }

    fn lookup(&self, name: &str) -> Option<String> {
        change::get_env(&self.env, name).map(str::to_owned)
    }

    /// A word with its variables put in.
    fn expand(&self, text: &str) -> Result<String, Fault> {
        let expanded = words::expand(text, self.globals.escape, &|name| self.lookup(name));
        self.spend(expanded.map_err(|cause| Fault {
            word: text.to_owned(),
            cause,
        })?)
    }

    fn argument(&mut self, arguments: &[Argument]) -> Result<Effect, Fault> {
        let mut created_by = "ARG".to_owned();
        for argument in arguments {
            let expand = |text: &str| words::expand(text, self.globals.escape, &|name| self.lookup(name));
            let value = self.globals.value(argument, expand).map_err(|cause| Fault {
                word: argument.value.clone().unwrap_or_default(),
                cause,
            })?;
            created_by.push(' ');
            created_by.push_str(&argument.name);
            if let Some(value) = value {
                let value = self.spend(value)?;
                created_by.push_str(&format!("={value}"));
                change::set_env(&mut self.env, &argument.name, &value);
            }
            if !self.arguments.contains(&argument.name) {
                self.arguments.push(argument.name.clone());
            }
            if self.arguments.len() > VARIABLES_MAX {
                return Err(Fault::new(
                    "",
                    format!("the stage has more than {VARIABLES_MAX} arguments"),
                ));
            }
        }
        Ok(Effect::Config {
            created_by: Some(created_by),
        })
    }

    /// What changes the config alone; `WORKDIR` makes its folder as well.
    fn change(&mut self, word: &Word) -> Result<Effect, Fault> {
        let change = match word.clone() {
            Word::Cmd(command) => Change::Cmd(command),
            Word::Entrypoint(command) => Change::Entrypoint(command),
            Word::Env(pairs) => Change::Env(pairs),
            Word::Expose(ports) => Change::Expose(ports),
            Word::Healthcheck(check) => Change::Healthcheck(check),
            Word::Label(pairs) => Change::Label(pairs),
            Word::Onbuild(text) => Change::Onbuild(text),
            Word::Shell(words) => Change::Shell(words),
            Word::StopSignal(signal) => Change::StopSignal(signal),
            Word::User(user) => Change::User(user),
            Word::Volume(paths) => Change::Volume(paths),
            Word::Workdir(path) => Change::WorkDir(path),
            Word::Add(_) | Word::Arg(_) | Word::Copy(_) | Word::Maintainer(_) | Word::Run(_) => {
                return Err(Fault::new("", "not an instruction that changes a config"));
            }
        };
        if let Change::Env(pairs) = &change
            && pairs.len() > VARIABLES_MAX
        {
            return Err(Fault::new(
                "",
                format!("the stage has more than {VARIABLES_MAX} variables"),
            ));
        }
        let config = &mut self.config.config;
        let lookup = |name: &str| change::get_env(&self.env, name).map(str::to_owned);
        let change = change
            .resolved(config, self.globals.escape, &lookup)
            .map_err(|cause| Fault {
                word: culprit(&change, |text| words::expand(text, self.globals.escape, &lookup)),
                cause,
            })?;
        change.put(config);
        match &change {
            Change::Cmd(_) => self.cmd_is_new = true,
            Change::Entrypoint(_) if !self.cmd_is_new => config.cmd = None,
            Change::Env(pairs) => {
                pairs
                    .iter()
                    .for_each(|(name, value)| change::set_env(&mut self.env, name, value));
            }
            _ => {}
        }
        let created_by = history::change(&change);
        Ok(match (change, created_by) {
            (Change::WorkDir(path), Some(created_by)) if path != "/" => Effect::Work(Work::Folder(FolderWork {
                path,
                user: config.user.clone(),
                created_by,
            })),
            (_, created_by) => Effect::Config { created_by },
        })
    }

    fn working_dir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }
}

/// The text of a change that cannot be expanded, or the only one that there is.
fn culprit(change: &Change, expand: impl Fn(&str) -> Result<String>) -> String {
    let texts = change.texts();
    match (texts.iter().find(|text| expand(text).is_err()), &texts[..]) {
        (Some(text), _) => (*text).to_owned(),
        (None, [only]) => (*only).to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// Steps through the one stage of a Dockerfile.
    fn stepped(text: &str) -> Result<(State, Vec<Effect>)> {
        let file = syntax::parse(text, Path::new("Dockerfile"))?;
        let globals = Arc::new(Globals::new(&file, &BTreeMap::new(), None)?);
        let mut state = State::begin(Base::Scratch, &globals);
        let steps = file.stages[0]
            .instructions
            .iter()
            .map(|instruction| state.step(instruction));
        let effects = steps.collect::<Result<Vec<_>>>()?;
        Ok((state, effects))
    }

    #[test]
    fn nothing_grows_without_end() {
        let power = format!("FROM a\nENV A=0123456789\n{}", "ENV A=$A$A$A$A$A$A$A$A\n".repeat(30));
        let big = format!("ENV A={}\n", "x".repeat(100_000));
        let many = format!("FROM a\n{big}ENV {}", "B=$A ".repeat(100));
        let sources = format!("FROM a\n{big}COPY {} /", "$A ".repeat(100));
        let history = format!("FROM a\n{big}{}", "USER $A\n".repeat(100));
        let ports = format!("FROM a\nEXPOSE {}", "0-65535 1-65535 ".repeat(1000));
        let names: String = (0..5000).map(|number| format!(" A{number}=")).collect();
        let variables = format!("FROM a\nENV{names}");
        let arguments = format!("FROM a\nARG{names}");
        for (text, why) in [
            (power, "more than 1048576 bytes"),
            (many, "more than 4194304 bytes"),
            (sources, "more than 4194304 bytes"),
            (history, "more than 4194304 bytes"),
            (ports, "not a port"),
            (variables, "more than 4096 variables"),
            (arguments, "more than 4096 arguments"),
        ] {
            let told = stepped(&text).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn the_state_is_as_it_is_after_the_instruction() {
        let (state, effects) = stepped("FROM a\nUSER me\nWORKDIR x\nRUN y").unwrap();
        assert_eq!(state.config.config.working_dir, "/x");
        let [
            Effect::Config { .. },
            Effect::Work(Work::Folder(folder)),
            Effect::Work(Work::Run(run)),
        ] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((folder.path.as_str(), folder.user.as_str()), ("/x", "me"));
        assert_eq!((run.working_dir.as_str(), run.user.as_str()), ("/x", "me"));
    }

    #[test]
    fn targets_keep_what_makes_them_folders() {
        let (state, _) = stepped("FROM a\nWORKDIR /w/x").unwrap();
        for (target, wanted) in [
            ("a", "/w/x/a"),
            ("a/", "/w/x/a/"),
            (".", "/w/x/"),
            ("./", "/w/x/"),
            ("..", "/w"),
            ("../", "/w/"),
            ("/a/.", "/a/"),
            ("/", "/"),
            ("/../..", "/"),
            ("", "/w/x/"),
        ] {
            assert_eq!(state.target(target), wanted, "{target}");
        }
    }

    #[test]
    fn a_base_with_odd_fields_is_no_harm() {
        let mut image = ImageConfig::new();
        image.config.other.insert("OnBuild".to_owned(), Value::from(7));
        image
            .config
            .other
            .insert("Shell".to_owned(), Value::from(vec![Value::from(1)]));
        image.config.working_dir = "rel/../x".to_owned();
        let file = syntax::parse("FROM a", Path::new("Dockerfile")).unwrap();
        let globals = Arc::new(Globals::new(&file, &BTreeMap::new(), None).unwrap());
        let state = State::begin(Base::Image(&image), &globals);
        assert!(state.triggers("base").unwrap().is_empty());
        assert_eq!(state.config.config.working_dir, "/x");
        assert_eq!(change::shell(&state.config.config), change::SHELL);
    }
}
