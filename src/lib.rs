//! plywood: layered images on device-mapper thin pools, without a daemon.
//!
//! The store says what exists, the kernel rooms make it so, the verbs connect
//! them. Imports go one way:
//!
//! ```text
//! main -> cli, commands, output, failure
//! commands -> image, snapshot, exec, network -> dm -> sys
//!                         snapshot -> delta -> ext4 -> blocks   everyone -> plywood_store, explain, error
//! ```
//!
//! | room | what it is |
//! |---|---|
//! | [`cli`] | clap types only |
//! | [`commands`] | one verb a file; each reads like the story of the verb |
//! | [`output`] | the only writer to stdout: text, tables, progress, `--json` |
//! | [`failure`] | error kinds into exit code, cause chain, hint |
//! | [`explain`] | each kernel step as the shell command for it |
//! | [`image`] | import and export: rootfs tar, docker-archive, OCI layout |
//! | [`snapshot`] | trait [`snapshot::Snapshotter`] and its drivers, thin and overlay |
//! | [`delta`] | changed blocks into changed files: thin metadata, exception stores, ext4 inodes |
//! | [`ext4`] | the format of the volumes, read without a mount |
//! | [`blocks`] | bytes at an offset |
//! | [`dm`] | device-mapper: control, table and status, pool, volume |
//! | [`exec`] | run: namespaces, root filesystem, terminal |
//! | [`network`] | the bridge, a container's place on it, published ports, names |
//! | [`walk`] | trees of files by handles: every name, and the space that they take |
//! | [`sys`] | the only unsafe code: one wrapper, one system call |

// Not for the whole workspace: a test fails by panicking, and may print.
#![warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unwrap_used)]
#![warn(clippy::print_stderr, clippy::print_stdout, unreachable_pub)]

pub mod blocks;
pub mod build;
pub mod cli;
pub mod commands;
pub mod delta;
pub mod dm;
pub mod error;
pub mod exec;
pub mod explain;
pub mod ext4;
pub mod failure;
pub mod image;
pub mod network;
pub mod output;
pub mod snapshot;
pub mod sys;
pub mod walk;
