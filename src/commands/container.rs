//! What the verbs on containers share: the hold that keeps two of them apart.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use plywood_store::Store;
use plywood_store::record::ContainerRecord;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, Error, Kind, Result};

/// A container that no other process runs, commits or removes meanwhile: an
/// flock that ends with its holder, however it ends.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

/// Takes hold of a container, or says that it is in use.
///
/// # Errors
/// In use where it runs or another command works on it.
pub fn hold(store: &Store, container: &ContainerRecord) -> Result<Hold> {
    match try_hold(store, container)? {
        Some(hold) => Ok(hold),
        None => Err(Error::new(
            Kind::InUse,
            format!(
                "container {} is running, or another command works on it",
                container.name
            ),
        )
        .hinted("wait until it has ended; plywood ps shows what runs")),
    }
}

/// Takes hold of a container unless somebody has it.
///
/// # Errors
/// Where the lock file cannot be opened.
pub fn try_hold(store: &Store, container: &ContainerRecord) -> Result<Option<Hold>> {
    let path = store.folder("locks")?.join(format!("container-{}", container.id));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .context("open", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Hold { _file: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io("lock", &path, error)),
    }
}

/// Forgets the lock file of a container that is gone. Only its holder may.
///
/// # Errors
/// Where the file cannot be removed.
pub fn forget(store: &Store, container: &ContainerRecord, hold: Hold) -> Result<()> {
    let path = store.folder("locks")?.join(format!("container-{}", container.id));
    std::fs::remove_file(&path)
        .or_else(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        })
        .context("remove", &path)?;
    drop(hold);
    Ok(())
}
