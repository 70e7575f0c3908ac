//! `plywood pool trim`: space that is no longer needed goes back to where it came from.
//!
//! What containers have deleted, their filesystems give back to the pool; blocks of
//! volumes that went without a discard, the pool's data file gives back to the
//! disk. The latter wants the pool out of the kernel, so it waits for those that run.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use plywood_store::record::ContainerRecord;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::commands::live::Live;
use crate::commands::{Host, Session, hold, pool};
use crate::dm::assembly;
use crate::error::{Context, Kind, Result, both};
use crate::explain::{quote, step};
use crate::failure::{OK, Outcome};
use crate::output;
use crate::snapshot::Access;
use crate::sys::block;

/// Trims, and says how much was given back.
///
/// # Errors
/// Where there is no pool; the kernel's.
pub(super) fn run(session: &Session) -> Outcome {
    // Before a driver is asked for: a root without a pool is told as such.
    let store = pool::thin_store(session)?;
    let host = session.host()?;
    let before = pool::data_used(&store)?.unwrap_or(0);
    let mut is_running = false;
    for container in store.containers.list()? {
        match Live::of(container)? {
            Ok(live) => {
                is_running = true;
                let root = format!("/proc/{}/root", live.pid);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match rustix::fs::open(&root, flags, Mode::empty()) {
                    Ok(dir) => trim(dir.as_fd(), Path::new(&root))?,
                    // It has just ended.
                    Err(Errno::NOENT | Errno::SRCH) => {}
                    Err(error) => Err(error).context("open", &root)?,
                }
            }
            Err(ended) => trim_ended(&host, &ended)?,
        }
    }
    let after = pool::data_used(&store)?.unwrap_or(before);
    drop(host);
    let mut freed = before.saturating_sub(after);
    let lock = store.exclusive()?;
    match assembly::trim(&store, &lock) {
        Ok(punched) => freed = freed.saturating_add(punched),
        Err(error) if error.kind() == Kind::InUse && is_running => {
            session
                .output
                .note("containers run: blocks that no volume has any more stay until they have ended");
        }
        Err(error) => return Err(error.into()),
    }
    lock.done()?;
    if session.output.is_json() {
        session.output.json(&serde_json::json!({ "freed": freed }))?;
    } else {
        session.output.line(format!("{} given back", output::bytes(freed)))?;
    }
    Ok(OK)
}

/// An ended container that nobody works on.
fn trim_ended(host: &Host, ended: &ContainerRecord) -> Result<()> {
    let Some(_hold) = hold::try_take(&host.store, &ended.id)? else {
        return Ok(());
    };
    let mounted = match host.snapshotter.mount(&ended.id, Access::ReadWrite) {
        // One that is shown, whose snapshot is gone, or that wants a repair first is left alone.
        Err(error)
            if matches!(
                error.kind(),
                Kind::InUse | Kind::NotFound | Kind::Corrupt | Kind::NoSpace
            ) =>
        {
            tracing::debug!("container {} is not trimmed: {error}", ended.name);
            return Ok(());
        }
        mounted => mounted?,
    };
    let trimmed = trim(mounted.dir(), mounted.path());
    both(trimmed, mounted.close())
}

fn trim(root: BorrowedFd<'_>, shown: &Path) -> Result<()> {
    step(|| format!("fstrim {}", quote(shown)));
    match block::trim_filesystem(root) {
        // A classic snapshot takes no discards.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        trimmed => trimmed.context("trim the filesystem at", shown),
    }
}
