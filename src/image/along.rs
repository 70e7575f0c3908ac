//! A tar whose content is brought to the disk while the rest of it is still unpacked.
//!
//! By itself the kernel leaves what was written in memory until a tenth of that is dirty, or for half a minute: the
//! disk of an import that takes seconds would have nothing to do until its end, which then waits for all of it.

use std::io::{self, Read};
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::error::{Error, Kind, Result};

/// Bytes of tar between one sync and the next: enough that what a sync costs by itself is nothing beside it.
const BETWEEN: u64 = 256 << 20;

/// Has `unpack` take `tar`, and a thread `sync` what that wrote so far, now and then. The last part is the caller's.
///
/// # Errors
/// Those of `unpack`; those of `sync`, which the kernel tells once, and so not again at the end.
pub(super) fn synced<T>(
    sync: &(dyn Fn() -> Result<()> + Sync),
    tar: &mut dyn Read,
    unpack: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    thread::scope(|threads| {
        let mut tar = Along {
            tar,
            threads,
            sync,
            unsynced: 0,
            running: None,
        };
        let unpacked = unpack(&mut tar);
        let synced = tar.wait();
        unpacked.and_then(|unpacked| synced.map(|()| unpacked))
    })
}

struct Along<'scope, 'env> {
    tar: &'env mut dyn Read,
    threads: &'scope Scope<'scope, 'env>,
    sync: &'env (dyn Fn() -> Result<()> + Sync),
    /// Bytes read since the last sync began.
    unsynced: u64,
    running: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl Along<'_, '_> {
    fn begin(&mut self) -> Result<()> {
        self.wait()?;
        self.unsynced = 0;
        let thread = thread::Builder::new().name("sync".to_owned());
        // Without one the end waits for more.
        self.running = thread.spawn_scoped(self.threads, self.sync).ok();
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        match self.running.take().map(ScopedJoinHandle::join) {
            None => Ok(()),
            Some(Ok(synced)) => synced,
            Some(Err(_)) => Err(Error::new(Kind::Io, "a thread that syncs ended early")),
        }
    }
}

impl Read for Along<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_idle = self.running.as_ref().is_none_or(ScopedJoinHandle::is_finished);
        if self.unsynced >= BETWEEN && is_idle {
            self.begin().map_err(io::Error::other)?;
        }
        let count = self.tar.read(buffer)?;
        self.unsynced += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::image::unpack::of_reader;

    /// What becomes of a tar of `bytes` whose content is synced by `sync`.
    fn read(bytes: u64, sync: &(dyn Fn() -> Result<()> + Sync)) -> Result<u64> {
        let mut tar = io::repeat(0).take(bytes);
        synced(sync, &mut tar, |tar| {
            let mut piece = vec![0; 1 << 20];
            let mut total = 0;
            loop {
                match tar.read(&mut piece).map_err(of_reader)? {
                    0 => return Ok(total),
                    count => total += count as u64,
                }
            }
        })
    }

    #[test]
    fn a_long_tar_is_synced_along_the_way_and_a_short_one_is_not() {
        let synced = AtomicUsize::new(0);
        let sync = || {
            synced.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        assert_eq!(read(BETWEEN - 1, &sync).unwrap(), BETWEEN - 1);
        assert_eq!(synced.load(Ordering::Relaxed), 0);
        assert_eq!(read(2 * BETWEEN, &sync).unwrap(), 2 * BETWEEN);
        assert!(synced.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn a_sync_that_failed_along_the_way_is_told_though_all_was_unpacked() {
        let sync = || Err(Error::new(Kind::Io, "cannot sync /m"));
        let error = read(BETWEEN + 1, &sync).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::Io, "cannot sync /m".to_owned())
        );
        assert!(read(3 * BETWEEN, &sync).is_err());
    }
}
