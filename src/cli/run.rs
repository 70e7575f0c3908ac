//! `plywood run`: what a container can be told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::value::{bytes_of_disk, pids, processors, signal, size, swap, times_of_disk};
use super::{DETACH_KEYS, NetworkChoice};
use crate::exec::cgroup::limits::Swap;

/// Whose numbers a container's users have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UsersChoice {
    /// The host's: root inside is root outside, less its capabilities
    Host,
    /// A range of the host's that no other container has: root inside is a user without rights outside, and files
    /// keep the image's owners
    Auto,
}

/// `plywood run`
#[derive(Debug, Args)]
#[command(
    after_help = "The container stays when its command ends, and can be committed or started again; --rm removes it.\n\nExamples:\n  plywood run -it website-nginx bash\n  plywood run --name ops --net host base:12 sh -c 'apt-get update && apt-get install -y nginx'\n  plywood run --rm -v /srv/site:/var/www:ro website-nginx nginx -t\n  plywood run -d --name web -p 8080:80 website-nginx"
)]
pub struct RunArgs {
    /// Remove the container when its command ends
    #[arg(long)]
    pub rm: bool,
    /// Let it go on by itself: prints its id; plywood logs, attach, stop and wait work on it
    #[arg(short, long)]
    pub detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// A small first process, which buries orphans and passes signals on to the command
    #[arg(long)]
    pub init: bool,
    /// Keys that leave the terminal, and let the container go on
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Signal with which plywood stop asks it to end [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    pub stop_signal: Option<i32>,
    /// Name of the container [default: made up]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Keep what it writes in the exception store of a classic snapshot, which plywood merge folds
    /// into the image; on the thin driver
    #[arg(long)]
    pub cow: bool,
    /// The root filesystem cannot be written
    #[arg(long)]
    pub read_only: bool,
    /// All capabilities, all system calls, devices, no masked paths: the container can take over the host
    #[arg(long)]
    pub privileged: bool,
    /// Whose user and group numbers the container's are
    #[arg(long, value_name = "USERS", default_value = "host")]
    pub userns: UsersChoice,
    /// Give a capability more (NET_ADMIN), or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges=false: set-user-id programs inside, such as sudo, can give more rights.
    /// seccomp=FILE: allow and forbid system calls by Docker's JSON; unconfined: forbid none
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Memory at most, page cache included: bytes, or with K, M or G
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Memory and swap together at most; -1 for as much swap as there is [default: twice --memory]
    #[arg(long, value_name = "SIZE", value_parser = swap, allow_hyphen_values = true)]
    pub memory_swap: Option<Swap>,
    /// Processors at most, as in 1.5
    #[arg(long, value_name = "NUMBER", value_parser = processors)]
    pub cpus: Option<u32>,
    /// Processes and threads at most; -1 for no limit [default: 4096]
    #[arg(long, value_name = "NUMBER", value_parser = pids, allow_hyphen_values = true)]
    pub pids_limit: Option<u64>,
    /// Bytes a second that it may read from a disk at most: bytes, or with K, M or G
    #[arg(long, value_name = "DEV:RATE", value_parser = bytes_of_disk)]
    pub device_read_bps: Vec<(PathBuf, u64)>,
    /// Bytes a second that it may write to a disk at most
    #[arg(long, value_name = "DEV:RATE", value_parser = bytes_of_disk)]
    pub device_write_bps: Vec<(PathBuf, u64)>,
    /// Reads a second from a disk at most
    #[arg(long, value_name = "DEV:RATE", value_parser = times_of_disk)]
    pub device_read_iops: Vec<(PathBuf, u64)>,
    /// Writes a second to a disk at most
    #[arg(long, value_name = "DEV:RATE", value_parser = times_of_disk)]
    pub device_write_iops: Vec<(PathBuf, u64)>,
    /// Its share of disks that are busy, 10 to 1000 [default: the kernel's]
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub blkio_weight: Option<u16>,
    /// Limit what one process takes: nofile, nproc, stack and others of prlimit(1); -1 for no limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// How soon it is killed where memory runs out: -1000 never, 1000 first [default: as others]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = clap::value_parser!(i16).range(-1000..=1000))]
    pub oom_score_adj: Option<i16>,
    /// Set an environment variable; KEY alone takes it from plywood's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Read KEY=VALUE lines from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory inside
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as USER[:GROUP], names or numbers, looked up in the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Host name inside [default: the container's id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Mount a folder or file of the host's, or a volume by its name, at DST. Options, with commas: ro makes it
    /// read-only, idmap shows its owners to --userns auto as the container's users
    #[arg(short, long, value_name = "SRC:DST[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Give it a device of the host's, at DST; ACCESS is some of r, w and m (make nodes) [default: rwm]
    #[arg(long, value_name = "SRC[:DST][:ACCESS]")]
    pub device: Vec<String>,
    /// Mount an empty tmpfs at DST
    #[arg(long, value_name = "DST")]
    pub tmpfs: Vec<String>,
    /// Network: bridge, none (loopback only), host, or container:NAME for that one's
    #[arg(
        long,
        visible_alias = "network",
        value_name = "NET",
        env = "PLYWOOD_NET",
        default_value = "bridge"
    )]
    pub net: NetworkChoice,
    /// Publish a port of the container on the host, or a range; may be repeated
    #[arg(short, long, value_name = "[IP:]HOST:CONT[/udp]")]
    pub publish: Vec<String>,
    /// A name in /etc/hosts for a running container
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    pub link: Vec<String>,
    /// Ask this resolver, not the host's; may be repeated
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// Run this instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// The image
    pub image: String,
    /// Command and arguments [default: the image's]
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
