//! A long file on its way to the disk while it is written.
//!
//! By itself the kernel begins when a tenth of the memory is dirty, or after some seconds: until then the disk has
//! nothing to do, and whoever waits for the end waits for all of it. And what was written stays in memory, where it
//! takes the place of what others read; a blob is hardly read again once its layer is applied.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

/// Bytes that are sent to the disk at a time.
const RUN: u64 = 8 << 20;
/// Bytes behind the end that stay in memory: who reads a blob while it is written is nearer to its end than this.
const KEPT: u64 = 10 * RUN;

/// How far one file, which is written from its beginning to its end, is on its way.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    begun: u64,
}

impl WriteBack {
    /// Sends to the disk what is there in whole runs, now that the file has `bytes`, and lets go of what has arrived.
    ///
    /// It waits for nothing. An error costs time only: the one that matters is told by the `fsync` at the end.
    pub(crate) fn advance(&mut self, file: &File, bytes: u64) {
        while self.begun + RUN <= bytes {
            let dont_need = |begin, length| fadvise(file, begin, NonZeroU64::new(length), Advice::DontNeed);
            // What is dirty is written; only what is clean leaves the memory, sooner or later.
            let _ = dont_need(self.begun, RUN);
            let arrived = self.begun.saturating_sub(KEPT);
            if arrived > 0 {
                let _ = dont_need(0, arrived);
            }
            self.begun += RUN;
        }
    }
}
