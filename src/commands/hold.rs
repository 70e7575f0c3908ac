//! The hold that keeps two commands on one container apart.
//!
//! The record alone would not: a killed plywood leaves *running* behind, and one
//! that is still unmounting has no process left to point at.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use plywood_store::record::ContainerRecord;
use plywood_store::{Store, durable};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::commands::{Session, freeze};
use crate::error::{Context, Error, Kind, Result};
use crate::exec::state;

/// How long another command's work on a container is waited for: a large commit takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long that is waited in silence, and how often it is looked.
const SILENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// A container that no other process runs, commits or removes meanwhile: an
/// flock that ends with its holder, however it ends.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

/// A container's lock file is called this and its id.
const LOCK: &str = "container-";

/// Removes the lock files of containers that are gone: who looked for one just then has left its file.
///
/// # Errors
/// I/O.
pub fn sweep_locks(store: &Store) -> Result<()> {
    let folder = store.folder("locks")?;
    for entry in std::fs::read_dir(&folder).context("list", &folder)? {
        let name = entry.context("list", &folder)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(LOCK)) else {
            continue;
        };
        if store.containers.get(id)?.is_none()
            && let Some(hold) = try_take(store, id)?
        {
            forget(store, id, hold)?;
        }
    }
    Ok(())
}

/// Takes hold of a container. One that runs is refused; another command's work on it is waited for.
///
/// # Errors
/// In use where it runs, or the other command does not end; not found where it has just been removed.
pub fn take(session: &Session, store: &Store, container: &ContainerRecord) -> Result<Hold> {
    let name = &container.name;
    let begun = Instant::now();
    let mut told = false;
    loop {
        let held = try_take(store, &container.id)?;
        let current = store.containers.get(&container.id)?;
        match (held, current) {
            (Some(hold), Some(_)) => return Ok(hold),
            (held, None) => {
                held.map_or(Ok(()), |hold| forget(store, &container.id, hold))?;
                return Err(Error::not_found(format!("container {name} has just been removed")));
            }
            (None, Some(current)) if state::is_alive(&current.state) => {
                return Err(Error::new(Kind::InUse, format!("container {name} is running"))
                    .hinted("wait until it has ended; plywood ps shows what runs"));
            }
            (None, Some(_)) if begun.elapsed() > PATIENCE => {
                return Err(
                    Error::new(Kind::InUse, format!("another command works on container {name}"))
                        .hinted("try again when it has ended"),
                );
            }
            (None, Some(_)) => {}
        }
        if !told && begun.elapsed() > SILENCE {
            told = true;
            session
                .output
                .note(format!("waiting for another command that works on container {name}"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Takes hold of a container unless somebody has it or reads it, or it has outlived its plywood. It need not be
/// there.
///
/// # Errors
/// Where the lock file cannot be opened.
pub fn try_take(store: &Store, id: &str) -> Result<Option<Hold>> {
    let Some(hold) = try_lock(store, &format!("{LOCK}{id}"))? else {
        return Ok(None);
    };
    // The caller's record is older than the hold.
    let current = store.containers.get(id)?;
    let lives = current.is_some_and(|current| state::is_alive(&current.state));
    Ok((!lives && !freeze::is_read(store, id)?).then_some(hold))
}

/// Takes the lock file `name`, which is made where it is not there; none where another has it.
///
/// # Errors
/// Where it cannot be opened.
pub fn try_lock(store: &Store, name: &str) -> Result<Option<Hold>> {
    let path = store.folder("locks")?.join(name);
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .context("open", &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::io("lock", &path, error)),
        }
        // Who held it may have removed the file just now: then this locks nothing.
        if durable::is_still_at(&file, &path)? {
            return Ok(Some(Hold { _file: file }));
        }
    }
}

/// Forgets the lock file of a container that is gone. Only its holder may.
///
/// # Errors
/// Where the file cannot be removed.
pub fn forget(store: &Store, id: &str, hold: Hold) -> Result<()> {
    forget_lock(store, &format!("{LOCK}{id}"), hold)
}

/// Removes the lock file `name`. Only its holder may.
///
/// # Errors
/// Where the file cannot be removed.
pub fn forget_lock(store: &Store, name: &str, hold: Hold) -> Result<()> {
    let path = store.folder("locks")?.join(name);
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
