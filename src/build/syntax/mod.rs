//! A Dockerfile as typed instructions.
//!
//! What is expanded later is kept as it is written: variables, quotes and backslashes are still in it. What a
//! heredoc holds is kept byte for byte. Reference: Docker's `Dockerfile reference`, frontend 1.19.
//!
//! - [`pointer`]: where something stands, and errors that show it;

use std::borrow::Cow;

pub use crate::image::change::{Command, Healthcheck};

pub mod pointer;

pub use pointer::{Origin, Source as File};

/// A Dockerfile, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character: `\`, or `` ` `` by a directive.
    pub escape: char,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<Argument>,
    /// In order; never empty.
    pub stages: Vec<Stage>,
}

/// `FROM` and what comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// An image, `scratch` or an earlier stage: unexpanded.
    pub base: String,
    /// After `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`: unexpanded.
    pub platform: Option<String>,
    /// The `FROM` itself, for progress and errors.
    pub origin: Origin,
    /// What is done to it.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where.
    pub origin: Origin,
    /// What.
    pub word: Word,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `ADD`: as `COPY`, and archives are unpacked.
    Add(Copy),
    /// `ARG NAME[=DEFAULT] …`.
    Arg(Vec<Argument>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`: names and values, unexpanded.
    Env(Vec<(String, String)>),
    /// `EXPOSE`: unexpanded.
    Expose(Vec<String>),
    /// `HEALTHCHECK`; none for `NONE`.
    Healthcheck(Option<Healthcheck>),
    /// `LABEL`: unexpanded.
    Label(Vec<(String, String)>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the instruction as text, checked to be one.
    Onbuild(String),
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`: unexpanded.
    StopSignal(String),
    /// `USER`: unexpanded.
    User(String),
    /// `VOLUME`: unexpanded.
    Volume(Vec<String>),
    /// `WORKDIR`: unexpanded.
    Workdir(String),
}

/// A name, and its default value, unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The default.
    pub value: Option<String>,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What to run; with heredocs the shell form has the line that they are for.
    pub command: Command,
    /// Whether the heredoc is the whole command: a script, and not the input of one.
    pub is_script: bool,
    /// Heredocs, in order.
    pub documents: Vec<Document>,
    /// `--mount`, in order.
    pub mounts: Vec<MountText>,
    /// `--network`.
    pub network: RunNetwork,
}

/// `--mount` as it is written: read when its variables have values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountText {
    /// The whole of it, without the flag's name.
    pub text: String,
    /// Its `from`: a stage or an image, which has no variables.
    pub from: Option<String>,
}

/// The network of one `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// The build's.
    #[default]
    Default,
    /// None.
    None,
    /// The host's; refused unless the build may.
    Host,
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The word that ends it, which names the file of a `COPY`.
    pub name: String,
    /// The lines as they stand there, with their ends.
    pub content: String,
    /// Whether variables are put in: the word is without quotes.
    pub expand: bool,
    /// Whether tabs at the beginning of lines do not count: `<<-`.
    pub strips_tabs: bool,
}

impl Document {
    /// The content, without the tabs that do not count.
    pub fn text(&self) -> Cow<'_, str> {
        if !self.strips_tabs {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// `RUN --mount`, its variables put in. Options that the type does not know are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Of the context, a stage or an image.
    Bind {
        /// Where.
        target: String,
        /// In the context or in `from`; the root of it by default.
        source: String,
        /// A stage or image.
        from: Option<String>,
        /// `rw`: what is written goes nowhere.
        writable: bool,
    },
    /// Kept from build to build.
    Cache(Cache),
    /// Memory.
    Tmpfs {
        /// Where.
        target: String,
        /// Bytes at most.
        size: Option<u64>,
    },
    /// A file, or a variable, with a secret.
    Secret(Secret),
}

/// `--mount=type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Where.
    pub target: String,
    /// Which; the target by default.
    pub id: String,
    /// Who may use it beside.
    pub sharing: Sharing,
    /// What it begins with: a stage or image, and the folder in it.
    pub from: Option<String>,
    /// The folder in `from`.
    pub source: String,
    /// Not writable.
    pub read_only: bool,
    /// Of a new one, in octal: 0755.
    pub mode: u32,
    /// Owner of a new one.
    pub uid: u32,
    /// Group of a new one.
    pub gid: u32,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All.
    #[default]
    Shared,
    /// Each one of its own.
    Private,
    /// One after the other.
    Locked,
}

/// `--mount=type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Which; the target's last name by default.
    pub id: String,
    /// The file; `/run/secrets/ID` by default, none where only `env` is asked for.
    pub target: Option<String>,
    /// The variable.
    pub env: Option<String>,
    /// Whether it must be there.
    pub required: bool,
    /// In octal: 0400.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What; never empty.
    pub sources: Vec<Source>,
    /// Where to: unexpanded.
    pub target: String,
    /// A stage or an image: unexpanded. None: the context.
    pub from: Option<String>,
    /// `USER[:GROUP]`: unexpanded.
    pub chown: Option<String>,
    /// Octal: unexpanded.
    pub chmod: Option<String>,
    /// `--exclude`: patterns, unexpanded.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the target's folders are not followed.
    pub link: bool,
    /// `ADD --unpack`: whether archives are unpacked; by default they are by `ADD` alone.
    pub unpack: Option<bool>,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern: unexpanded.
    Path(String),
    /// A heredoc, as a file of that name.
    Document(Document),
}
