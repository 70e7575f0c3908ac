//! What to run, checked: pure data, kept in the container's record.

use serde::{Deserialize, Serialize};

/// The network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    Host,
    /// A namespace with nothing but a loopback device.
    None,
}

/// A bind mount of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host, absolute.
    pub source: std::path::PathBuf,
    /// In the container, absolute.
    pub target: std::path::PathBuf,
    /// Not writable.
    pub read_only: bool,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=value`, in order, no key twice.
    pub env: Vec<String>,
    /// Absolute; made if it is not there.
    pub working_dir: String,
    /// `USER[:GROUP]`, names or numbers, looked up in the image; empty for root.
    pub user: String,
    /// In the UTS namespace.
    pub hostname: String,
    /// The network.
    pub network: Network,
    /// Give the command a terminal of its own.
    pub terminal: bool,
    /// Pass standard input on.
    pub stdin: bool,
    /// The root filesystem cannot be written.
    pub read_only: bool,
    /// All capabilities, no masked paths.
    pub privileged: bool,
    /// Mounts from the host.
    pub binds: Vec<Bind>,
    /// Empty tmpfs mounts, absolute paths.
    pub tmpfs: Vec<String>,
}
