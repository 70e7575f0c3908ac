//! `plywood build`: what a build can be told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::NetworkChoice;
use plywood_store::Reference;

/// How a build tells what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressChoice {
    /// tty on a terminal, else plain
    Auto,
    /// A line after the other
    Plain,
    /// Steps at work are drawn in place, with their times and the last lines of their output
    Tty,
}

/// `plywood build`
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Name of the image; may be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<Reference>,
    /// The Dockerfile; - is standard input [default: Dockerfile in the context, or Containerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Value of an ARG; KEY alone takes it from plywood's own environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub build_arg: Vec<String>,
    /// The stage that becomes the image, and no stage that it does not need [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// A secret for RUN --mount=type=secret: id=NAME, with src=FILE or env=VARIABLE [default: the variable or file NAME]
    #[arg(long, value_name = "id=NAME[,src=FILE|,env=VARIABLE]")]
    pub secret: Vec<String>,
    /// One layer of all that the last stage's steps did
    #[arg(long)]
    pub squash: bool,
    /// Do every step again
    #[arg(long)]
    pub no_cache: bool,
    /// A label of the image; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// The platform, which must be this machine's
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Network of RUN: bridge, none (loopback only) or host
    #[arg(
        long,
        visible_alias = "network",
        value_name = "NET",
        env = "PLYWOOD_NET",
        default_value = "bridge"
    )]
    pub net: NetworkChoice,
    /// How the steps are told, on standard error; -q tells nothing
    #[arg(long, value_name = "HOW", value_enum, default_value_t = ProgressChoice::Auto)]
    pub progress: ProgressChoice,
    /// Do this stage only, for another plywood
    #[arg(long, hide = true)]
    pub worker_stage: Option<usize>,
    /// What counts as that one's own: microseconds since 1970
    #[arg(long, hide = true, default_value_t = 0)]
    pub worker_since: i64,
    /// The folder that COPY and ADD take files from; - for none, and the Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
}
