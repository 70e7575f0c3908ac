//! A full disk, told as what it is: which one, what it had left, what was wanted of it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::source::room_in;
use crate::output;

/// A disk before the work that may fill it.
#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    free: u64,
}

impl Room {
    /// Of the disk that holds this folder.
    ///
    /// # Errors
    /// I/O.
    pub(super) fn under(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            free: room_in(folder)?,
        })
    }

    /// Bytes that may be used; some are left to others.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// The same failure; one for want of space names the disk. `what` was to lie on it, of `need` bytes
    /// at least where that is known.
    pub(super) fn told(&self, error: Error, what: &str, need: Option<u64>) -> Error {
        if error.kind() != Kind::NoSpace {
            return error;
        }
        let need = need.map(|need| format!(", and {what} has {}", output::bytes(need)));
        let text = format!(
            "there is no room for {what} on the disk under {}: it had {} left{}",
            self.folder.display(),
            output::bytes(self.free),
            need.unwrap_or_default()
        );
        Error::new(Kind::NoSpace, text)
            .caused_by(error)
            .hinted("free some space there; plywood df shows what plywood keeps, plywood gc removes what nothing needs")
    }
}
