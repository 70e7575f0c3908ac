//! Containers that run, seen from another process: their first process by handle, and their end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use plywood_store::Store;
use plywood_store::record::{ContainerRecord, ContainerState};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::commands::{Host, Session, container, hold};
use crate::error::{Context, Error, Kind, Result};
use crate::exec::state;
use crate::explain;
use crate::sys::signal;

/// How often it is looked whether a container has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// A running container.
#[derive(Debug)]
pub struct Live {
    /// Its record.
    pub record: ContainerRecord,
    /// Its first process's number, as the host sees it.
    pub pid: u32,
    /// That process and no other.
    pub handle: OwnedFd,
}

impl Live {
    /// The container `name`.
    ///
    /// # Errors
    /// Not found where there is none; invalid where it does not run.
    pub fn find(store: &Store, name: &str) -> Result<Self> {
        let record = store.find_container(name)?;
        Self::of(record).and_then(|found| {
            found.map_err(|record| {
                Error::invalid(format!("container {} does not run", record.name))
                    .hinted(format!("plywood start {} runs it", record.name))
            })
        })
    }

    /// A container that runs, or its record.
    ///
    /// # Errors
    /// Where the kernel gives no handle on its process.
    pub fn of(record: ContainerRecord) -> Result<std::result::Result<Self, ContainerRecord>> {
        let ContainerState::Running { pid, start_ticks, .. } = record.state else {
            return Ok(Err(record));
        };
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = process.ok_or_else(|| Error::corrupt(format!("container {} has process {pid}", record.name)))?;
        let handle = match pidfd_open(process, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(Err(record)),
            handle => handle.context("find process", pid.to_string())?,
        };
        // The handle first, then the start time: now the number is not another's.
        if state::start_ticks(pid) != Some(start_ticks) {
            return Ok(Err(record));
        }
        Ok(Ok(Self { record, pid, handle }))
    }

    /// Sends its first process a signal.
    ///
    /// # Errors
    /// The kernel's; that it is gone is none.
    pub fn signal(&self, number: i32) -> Result<()> {
        explain::step(|| format!("kill -{number} {}", self.pid));
        match signal::send(&self.handle, number) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            sent => sent.context("signal process", self.pid.to_string()),
        }
    }
}

/// Waits until nobody runs or works on container `id` any more; false where `patience` was over first.
///
/// # Errors
/// I/O.
pub fn wait_for_end(store: &Store, id: &str, patience: Option<Duration>) -> Result<bool> {
    let begun = Instant::now();
    loop {
        // Without its record it has no lock file, and is not to be given one.
        if store.containers.get(id)?.is_none() || hold::try_take(store, id)?.is_some() {
            return Ok(true);
        }
        if patience.is_some_and(|patience| begun.elapsed() >= patience) {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The opened root, where containers can be; `name` is looked for.
///
/// # Errors
/// Not found where nothing was ever stored.
pub fn host(session: &Session, name: &str) -> Result<Host> {
    session.existing_host()?.ok_or_else(|| container::none(name))
}

/// The error for a container that did not end in time.
pub fn did_not_end(record: &ContainerRecord, patience: Duration) -> Error {
    Error::new(
        Kind::InUse,
        format!(
            "container {} did not end within {} seconds of being killed",
            record.name,
            patience.as_secs()
        ),
    )
}
