//! What an instruction asks of the world: everything in it is expanded, and its texts are those of Docker's
//! history.
//!
//! Nothing here is looked up yet: users are names, sources are patterns, stages and images are words that
//! [`super::plan::Plan`] resolves.

use super::syntax::{Mount, RunNetwork};

/// What came of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The state alone has changed.
    Config {
        /// For the history, as an empty layer; none where Docker notes nothing (`ONBUILD`).
        created_by: Option<String>,
    },
    /// The root has to be changed; the state is already as it will be then.
    Work(Work),
}

/// A change of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// `RUN`.
    Run(RunWork),
    /// `COPY` and `ADD`.
    Copy(CopyWork),
    /// `WORKDIR`: the folder, where it is missing.
    Folder(FolderWork),
}

impl Work {
    /// What the history says of it.
    pub fn created_by(&self) -> &str {
        match self {
            Self::Run(work) => &work.created_by,
            Self::Copy(work) => &work.created_by,
            Self::Folder(work) => &work.created_by,
        }
    }
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunWork {
    /// The program and its words: the shell's before, where it is for a shell.
    pub args: Vec<String>,
    /// `NAME=value`, each name once: the config's variables, and the arguments in scope.
    pub env: Vec<String>,
    /// Proxies given for the build: `NAME=value`, for the command to see. Neither kept nor part of a cache's key.
    pub proxies: Vec<String>,
    /// A file that the command needs: `args` names it by its path.
    pub script: Option<Script>,
    /// Folders and files that are there while it runs: targets absolute, all expanded.
    pub mounts: Vec<Mount>,
    /// The network.
    pub network: RunNetwork,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Absolute.
    pub working_dir: String,
    /// For the history.
    pub created_by: String,
}

/// A heredoc that begins with `#!`: to be read-only while the command runs, mode 0755.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Absolute: `/dev/pipes/NAME`.
    pub path: String,
    /// What is in it.
    pub content: String,
}

/// Files to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyWork {
    /// Never empty.
    pub sources: Vec<CopySource>,
    /// Absolute and without `.` and `..`; with a `/` at its end where it must be a folder.
    pub target: String,
    /// The word of `--from`; none for the context.
    pub from: Option<String>,
    /// Whether a path in the sources that is a tar archive is unpacked.
    pub unpack: bool,
    /// `user[:group]`, names or numbers; none for root.
    pub chown: Option<String>,
    /// At most 07777.
    pub chmod: Option<u32>,
    /// Patterns of what is left out, relative to each source.
    pub exclude: Vec<String>,
    /// Whether the folders of a source are made in the target.
    pub parents: bool,
    /// Whether links in the target's folders are not followed.
    pub link: bool,
    /// For the history.
    pub created_by: String,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the context or in `from`, relative, without `.` and `..`; empty for all of it.
    /// Only with `parents` it may have one `/./`: what is before that is not made in the target.
    Path(String),
    /// A new file, mode 0644.
    File {
        /// Its name.
        name: String,
        /// What is in it.
        content: String,
    },
}

/// A folder to be made where it is missing, with those above it, mode 0755.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderWork {
    /// Absolute, never `/`.
    pub path: String,
    /// Whose it is: `user[:group]`; empty for root.
    pub user: String,
    /// For the history.
    pub created_by: String,
}
