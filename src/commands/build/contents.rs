//! What the sources of copies hold, as this build has found it: none is read twice only to be looked up.
//!
//! A stage may be looked at by the build, done by a worker and then looked at again; what one of them has read, the
//! others take from here. So a source counts as what it held when it was read first, however long the build takes.
//! What is put into an image is hashed as it is copied, and that takes the place of what was known: a source that has
//! changed meanwhile is never kept under the digest of what it was.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plywood_store::{ChainId, Digest};

use super::event::{Event, Teller};
use crate::build::key::Key;
use crate::error::Result;

/// Where a source is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Context,
    /// A stage or an image, by its layers.
    Stack(Option<&'a ChainId>),
}

impl Place<'_> {
    /// Stands for a source there: its path, and what else tells how it is read goes in too.
    pub(super) fn source(&self) -> Key {
        match self {
            Self::Context => Key::new("source in the context", None),
            Self::Stack(stack) => Key::new("source in a stack", *stack),
        }
    }
}

/// Digests of contents, by the digests that stand for sources.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    known: Mutex<BTreeMap<Digest, Digest>>,
    /// Hears of what a worker has read.
    teller: Teller<'a>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(known: Vec<(Digest, Digest)>, teller: Teller<'a>) -> Self {
        Self {
            known: Mutex::new(known.into_iter().collect()),
            teller,
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Digest, Digest>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a worker.
    pub(super) fn all(&self) -> Vec<(Digest, Digest)> {
        self.known()
            .iter()
            .map(|(source, content)| (*source, *content))
            .collect()
    }

    /// A source holds that.
    pub(super) fn learn(&self, source: Digest, content: Digest) {
        if self.known().insert(source, content) != Some(content) {
            self.teller.tell(&Event::Content(source, content));
        }
    }

    /// What a source holds, which `read` finds out where it is not known. It is called `shown` in the log.
    ///
    /// # Errors
    /// The reader's.
    pub(super) fn of(&self, source: Digest, shown: &str, read: impl FnOnce() -> Result<Digest>) -> Result<Digest> {
        let known = self.known().get(&source).copied();
        if let Some(content) = known {
            return Ok(content);
        }
        let content = read()?;
        tracing::debug!(source = shown, "hashed for the build cache");
        self.learn(source, content);
        Ok(content)
    }
}
