//! The watch over the pool under a container: it must never be full.
//!
//! A full pool is worse than a full disk: what was written and not synced is lost,
//! and ext4 gives up. So while a container runs, a thread of its plywood looks how
//! much room is left, without what containers have written and the kernel has
//! not, the more often the less it is. Before the rest is needed it freezes the
//! container and enlarges what can grow; where nothing can, it ends the container,
//! whose filesystem is whole then. The filesystem itself is not frozen: that would write
//! all of it first, and a frozen one outlives whoever froze it (docs/reliability.md).

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use plywood_store::Store;
use plywood_store::record::ContainerRecord;

use crate::commands::container::cgroup_name;
use crate::dm::room::is_watched;
use crate::error::{Error, Kind};
use crate::exec::cgroup::{Cgroup, Freezer};
use crate::output;
use crate::snapshot::{Gauge, Room};
use crate::sys::signal;

/// Bytes a second that nothing writes faster than: what is left lasts at least that long.
const FASTEST: u64 = 2 << 30;
const LONGEST: Duration = Duration::from_millis(500);
const SHORTEST: Duration = Duration::from_millis(2);

/// A thread that watches, until it is told to end or has ended the container.
#[derive(Debug)]
pub(super) struct Watch {
    /// Dropped, it ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<Option<Error>>,
}

/// What is watched.
struct Watched {
    gauge: Box<dyn Gauge>,
    /// The uuid of the root whose pool it is.
    root: String,
    /// The container's cgroup.
    cgroup: String,
    /// Its first process.
    handle: std::os::fd::OwnedFd,
    container: String,
}

impl Watch {
    /// Begins to watch the pool under the container whose first process is `pid`. None where there is nothing to
    /// watch, or somebody has switched it off.
    pub(super) fn begin(
        gauge: Option<Box<dyn Gauge>>,
        store: &Store,
        pid: u32,
        container: &ContainerRecord,
    ) -> Option<Self> {
        if !is_watched() {
            return None;
        }
        let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
        let handle = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()?;
        let watched = Watched {
            gauge: gauge?,
            root: store.meta().uuid.clone(),
            cgroup: cgroup_name(store, &container.id),
            handle,
            container: container.name.clone(),
        };
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("pool-watch".to_owned())
            .stack_size(256 << 10)
            .spawn(move || watched.watch(&stopped));
        match thread {
            Ok(thread) => Some(Self { stop, thread }),
            Err(error) => {
                tracing::warn!("nobody watches the pool: {error}");
                None
            }
        }
    }

    /// Ends it; why the container was ended, where it was.
    pub(super) fn end(self) -> Option<Error> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}

impl Watched {
    fn watch(self, stopped: &Receiver<()>) -> Option<Error> {
        let mut pause = SHORTEST;
        loop {
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
            }
            let room = match self.gauge.look() {
                Ok(room) => room,
                Err(error) => {
                    tracing::debug!("cannot look at the pool: {error}");
                    pause = LONGEST;
                    continue;
                }
            };
            match self.spare(&room) {
                Some(spare) if !room.metadata_is_low => pause = lasts(spare),
                _ => {
                    if let Some(error) = self.make_room() {
                        return Some(error);
                    }
                    pause = SHORTEST;
                }
            }
        }
    }

    /// Bytes above the floor that nobody has written to yet; none where it is reached.
    fn spare(&self, room: &Room) -> Option<u64> {
        room.free.checked_sub(self.unwritten())?.checked_sub(room.floor)
    }

    /// Bytes that containers on this pool have written and the kernel has not.
    fn unwritten(&self) -> u64 {
        Cgroup::all_unwritten(&self.root)
    }

    /// Holds the container still, and ends it where there is no room to be made.
    fn make_room(&self) -> Option<Error> {
        let freezer = Freezer::of(&self.cgroup).ok().flatten();
        if let Some(Err(error)) = freezer.as_ref().map(Freezer::freeze) {
            tracing::debug!("cannot freeze: {error}");
        }
        let grown = self.gauge.make_room(self.unwritten());
        let room = self.gauge.look();
        let is_enough = room
            .as_ref()
            .is_ok_and(|room| !room.metadata_is_low && self.spare(room).is_some());
        if !is_enough && let Err(error) = signal::send(&self.handle, libc::SIGKILL) {
            tracing::debug!("cannot end the container: {error}");
        }
        if let Some(Err(error)) = freezer.as_ref().map(Freezer::thaw) {
            tracing::warn!("cannot thaw: {error}");
        }
        match (is_enough, room) {
            (true, _) => None,
            (false, room) => Some(self.ended(grown, room.ok())),
        }
    }

    fn ended(&self, grown: crate::error::Result<()>, room: Option<Room>) -> Error {
        let left = room.map_or_else(String::new, |room| {
            let what = if room.metadata_is_low {
                "its metadata are nearly full"
            } else {
                "it is nearly full"
            };
            format!(
                ": {what}, {} of {} are left",
                output::bytes(room.free),
                output::bytes(room.total)
            )
        });
        let error = Error::new(
            Kind::NoSpace,
            format!("container {} was ended before its pool was full{left}", self.container),
        )
        .hinted(format!(
            "plywood rm, rmi and gc free space, plywood pool grow adds some; plywood start {} goes on with what it has written",
            self.container
        ));
        match grown {
            Ok(()) => error,
            Err(cause) => error.caused_by(cause),
        }
    }
}

/// How long so many bytes last.
fn lasts(bytes: u64) -> Duration {
    let milliseconds = bytes.saturating_mul(1000) / FASTEST / 2;
    Duration::from_millis(milliseconds).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_is_left_the_more_often_it_looks() {
        assert_eq!(lasts(u64::MAX), LONGEST);
        assert_eq!(lasts(400 << 20), Duration::from_millis(97));
        assert_eq!(lasts(0), SHORTEST);
    }
}
