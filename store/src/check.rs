//! Verifies the store against itself: records, blobs, names, index.

use crate::{Error, Result, Store};

/// How deep to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Depth {
    /// Read every blob and compare it with its digest.
    pub data: bool,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes of blobs read and hashed.
    pub bytes_hashed: u64,
    /// What is wrong; empty for a sound store.
    pub findings: Vec<Error>,
}

/// Verifies records against each other, blobs against records, the index against both.
///
/// # Errors
/// Only where the check itself cannot run.
pub fn check(store: &Store, depth: Depth, progress: &dyn Fn(u64)) -> Result<Report> {
    let _ = (store, depth, progress);
    todo!()
}
