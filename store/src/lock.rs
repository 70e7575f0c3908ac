//! The store's lock: shared to read, exclusive for the short steps that change.
//!
//! Long work (unpack, diff, compress) holds none. [`Exclusive`] is the proof,
//! in a type, that a change is allowed: every method that changes a record
//! wants one. Dropping it without [`Exclusive::done`] leaves the index marked
//! dirty, so the next command rebuilds it from the records.

/// Holds the shared lock until dropped: nothing changes meanwhile.
#[derive(Debug)]
pub struct Shared {}

/// Holds the exclusive lock until dropped, and remembers what it changed.
#[derive(Debug)]
pub struct Exclusive {}

impl Exclusive {
    /// Brings the index up to date with what changed, and lets go.
    ///
    /// # Errors
    /// Nothing is lost by one: the records are the truth and already durable.
    pub fn done(self) -> crate::Result<()> {
        todo!()
    }
}
