//! How far the two threads and the caller are, and who waits for whom.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use plywood_store::blob::BlobWriter;

use super::{LAYERS, LEAD, ended_early};
use crate::error::Result;

/// How far everybody is. Who waits for another is woken by every change.
#[derive(Default)]
pub(super) struct Road {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// Those that were begun, base first.
    pub(super) layers: Vec<Growing>,
    /// Packed bytes in the blobs' files, and those of them that the inflater has read.
    pub(super) copied: u64,
    pub(super) taken: u64,
    /// Layers that the caller is done with.
    pub(super) done: usize,
    /// From this layer on nothing is copied, where the caller has refused one.
    copied_to: Option<usize>,
    /// From this one on nothing is inflated.
    pub(super) inflated_to: Option<usize>,
    /// Pieces that the caller is done with, to be filled again: the last one first, which the processor may still have.
    pub(super) spare: Vec<Vec<u8>>,
    /// The copier's thread has ended.
    pub(super) left: bool,
}

/// A blob's file that is being written.
pub(super) struct Growing {
    /// To be read from its beginning; none where the layer could not be opened, or once the inflater has it.
    pub(super) file: Option<File>,
    pub(super) bytes: u64,
    pub(super) end: Option<Result<BlobWriter>>,
}

impl State {
    fn is_copied(&self, number: usize) -> bool {
        self.copied_to.is_none_or(|end| number < end)
    }
}

impl Road {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole, whoever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let done = how(&mut self.state());
        self.changed.notify_all();
        done
    }

    pub(super) fn wait<T>(&self, mut until: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.state();
        loop {
            if let Some(found) = until(&mut state) {
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Layer `number` and those after it are not wanted; `number` itself is copied to its end where that tells whether
    /// it came damaged.
    pub(super) fn refuse(&self, number: usize, tells: bool) {
        self.change(|state| {
            state.copied_to = Some(if tells { number + 1 } else { 0 });
            state.inflated_to = Some(number);
        });
    }

    /// Waits until a layer may be begun. False where it is not wanted.
    pub(super) fn may_begin(&self, number: usize) -> bool {
        self.wait(|state| match state.is_copied(number) {
            false => Some(false),
            true => (number <= state.done + LAYERS).then_some(true),
        })
    }

    /// Waits until more of a layer may be copied. False where it is not wanted.
    pub(super) fn may_copy(&self, number: usize) -> bool {
        self.wait(|state| match state.is_copied(number) {
            false => Some(false),
            true => (state.copied - state.taken < LEAD).then_some(true),
        })
    }

    /// Waits until a layer is begun: its file, if it could be opened. None where there are no more.
    pub(super) fn begun(&self, number: usize) -> Option<Option<File>> {
        self.wait(|state| match state.layers.get_mut(number) {
            Some(layer) => Some(Some(layer.file.take())),
            None => state.left.then_some(None),
        })
    }

    /// Waits until a layer has more than `read` bytes: how many more, none at its end.
    pub(super) fn more(&self, number: usize, read: u64) -> io::Result<u64> {
        self.wait(|state| match state.layers.get(number) {
            Some(layer) if layer.bytes > read => Some(Ok(layer.bytes - read)),
            Some(Growing { end: Some(Ok(_)), .. }) => Some(Ok(0)),
            Some(Growing {
                end: Some(Err(cause)), ..
            }) => Some(Err(io::Error::other(cause.to_string()))),
            _ => state.left.then(|| Err(io::Error::other(ended_early()))),
        })
    }

    /// Waits until a layer is copied.
    pub(super) fn copied(&self, number: usize) -> Result<BlobWriter> {
        self.wait(
            |state| match state.layers.get_mut(number).and_then(|layer| layer.end.take()) {
                Some(end) => Some(end),
                None => state.left.then(|| Err(ended_early())),
            },
        )
    }
}
