//! The verbs on containers that run.

use clap::{Args, Subcommand};

use super::DETACH_KEYS;
use super::value::signal;

/// `plywood attach`
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Do not pass standard input on
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the command; else they end only this
    #[arg(long, value_name = "TRUTH", default_value_t = true, action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    /// Keys that leave the terminal, and let the container go on
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Name or id
    pub container: String,
}

/// `plywood exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; KEY alone takes it from plywood's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory inside [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as USER[:GROUP] [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Name or id
    pub container: String,
    /// Command and arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

/// `plywood nsenter`
#[derive(Debug, Args)]
pub struct NsenterArgs {
    /// Name or id
    pub container: String,
    /// Join the network namespace
    #[arg(short, long)]
    pub net: bool,
    /// Join the process namespace; /proc stays the host's
    #[arg(short, long)]
    pub pid: bool,
    /// Join the namespace of the host name
    #[arg(short, long)]
    pub uts: bool,
    /// Join the namespace of IPC
    #[arg(short, long)]
    pub ipc: bool,
    /// Join the cgroup namespace
    #[arg(short = 'C', long)]
    pub cgroup: bool,
    /// Program of the host's and its arguments
    #[arg(
        value_name = "HOSTCMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

/// `plywood logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// With the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Name or id
    pub container: String,
}

/// `plywood stop`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds that it may take before it is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `plywood kill`
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub signal: i32,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `plywood wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `plywood cp`
#[derive(Debug, Args)]
pub struct CpArgs {
    /// CONTAINER:PATH, a path of the host's, or - for a tar
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The same
    #[arg(value_name = "TARGET")]
    pub target: String,
}

/// `plywood stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Once, also at a terminal
    #[arg(long)]
    pub no_stream: bool,
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `plywood volume`
#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// List volumes, and the containers that have them
    #[command(after_help = "Example:\n  plywood volume ls")]
    Ls,
    /// Make an empty volume; run -v makes one with what the image has
    #[command(after_help = "Example:\n  plywood volume create data")]
    Create(VolumeCreateArgs),
    /// Remove volumes, and what is in them
    #[command(after_help = "Example:\n  plywood volume rm data")]
    Rm(VolumeRmArgs),
}

/// `plywood volume create`
#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// Its name
    pub name: String,
}

/// `plywood volume rm`
#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}
