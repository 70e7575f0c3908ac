//! A Dockerfile as typed instructions.
//!
//! What is expanded later is kept as it is written: variables, quotes and backslashes are still in it. What a
//! heredoc holds is kept byte for byte. Reference: `docs/reference/builder` of Docker, frontend 1.7.

use std::ops::Range;
use std::time::Duration;

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

/// Where something stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The instruction as it stands there, continued lines joined.
    pub text: String,
    /// Line of its first word, from 1.
    pub line: usize,
    /// Bytes of the file that it takes.
    pub span: Range<usize>,
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

/// The two forms of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell of the stage.
    Shell(String),
    /// Words, as they are.
    Exec(Vec<String>),
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// `CMD`.
    pub command: Command,
    /// `--interval`.
    pub interval: Option<Duration>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--start-period`.
    pub start_period: Option<Duration>,
    /// `--start-interval`.
    pub start_interval: Option<Duration>,
    /// `--retries`.
    pub retries: Option<u32>,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What to run; with heredocs the shell form has the line that they are for.
    pub command: Command,
    /// Heredocs, in order. One that is the whole command is a script: [`Run::is_script`].
    pub documents: Vec<Document>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: RunNetwork,
}

impl Run {
    /// Whether the first heredoc is the script (`RUN <<EOF`), and not the input of the command.
    pub fn is_script(&self) -> bool {
        let Command::Shell(line) = &self.command else {
            return false;
        };
        let line = line.trim();
        line.starts_with("<<") && !line.contains(char::is_whitespace) && self.documents.len() == 1
    }
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
    /// The lines, with their ends; tabs taken away for `<<-`.
    pub content: String,
    /// Whether variables are put in: the word is without quotes.
    pub expand: bool,
}

/// `RUN --mount`. Texts are unexpanded; options that the type does not know are refused by [`parse`].
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
    /// `ADD --checksum`, `--keep-git-dir`: for remote sources, which are refused.
    pub checksum: Option<String>,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern: unexpanded.
    Path(String),
    /// A heredoc, as a file of that name.
    Document(Document),
}
