//! Unfinished files in `tmp/`. Who writes one holds a lock on it; when the lock is free, nobody will finish it.

use std::fs::{self, File};
use std::io::ErrorKind;

use rustix::fs::FlockOperation;

use crate::error::Context;
use crate::{Error, Result, Store, durable};

/// Name and length in bytes of those that no live process writes.
pub(super) fn dead(store: &Store) -> Result<Vec<(String, u64)>> {
    let folder = store.root().join("tmp");
    let mut dead = Vec::new();
    for entry in fs::read_dir(&folder).context("list", &folder)? {
        let entry = entry.context("list", &folder)?;
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        // What is not ours is for check to find, not for us to remove.
        let ours = entry.file_name().to_str().is_some_and(durable::is_unique_name);
        if !metadata.is_file() || !ours {
            continue;
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("open", path, error)),
        };
        if durable::try_flock(&file, FlockOperation::NonBlockingLockShared).context("lock", &path)? {
            dead.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
        }
    }
    dead.sort_unstable();
    Ok(dead)
}

/// Removes one, unless a process has begun to write it meanwhile.
pub(super) fn remove(store: &Store, name: &str) -> Result<()> {
    let path = store.root().join("tmp").join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    if durable::try_flock(&file, FlockOperation::NonBlockingLockExclusive).context("lock", &path)? {
        durable::remove(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fixture::fixture;
    use crate::gc::{condemn, mark};

    #[test]
    fn a_file_that_is_being_written_is_not_garbage() {
        let it = fixture();
        let writer = it.store.blobs.writer().unwrap();
        let left = it.store.root().join("tmp/1-00000000deadbeef");
        std::fs::write(&left, "half").unwrap();
        let lock = it.store.exclusive().unwrap();
        let garbage = mark(&it.store).unwrap();
        assert_eq!(garbage.temporary, [("1-00000000deadbeef".to_owned(), 4)]);
        condemn(&it.store, &lock, &garbage).unwrap();
        assert!(!left.exists());
        writer.finish(None).unwrap();
    }
}
