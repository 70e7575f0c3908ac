//! What parent and child say to each other between fork and execve.
//!
//! One unnamed SEQPACKET socket pair, closed by execve:
//!
//! ```text
//! child                                parent
//!   |-- Ready{made} [+ terminal] ------->|   everything is set up
//!   |                                    |   the verb records the process
//!   |<------------------------- one byte-|   go
//!   | execve: end of file -------------->|   the command runs
//!   |-- Failed{error} ------------------>|   instead of any of these
//! ```
//!
//! Where the parent dies, the child reads an end of file instead of "go" and ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{Attempt, Error, Result, Stage, Wire};
use super::leftover::Made;

/// Bytes of one message; a child's report is far smaller.
const MESSAGE_MAX: usize = 128 << 10;

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Everything is set up; the command waits.
    Ready {
        /// Mount targets that the image did not have.
        made: Vec<Made>,
    },
    /// The child has ended.
    Failed(Wire),
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The parent's and the child's end.
pub(super) fn pair() -> Result<(Channel, Channel)> {
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .attempt(Stage::Namespaces, || "make a socket pair".to_owned())?;
    Ok((Channel(one), Channel(other)))
}

impl Channel {
    /// Sends a message, and a descriptor with it.
    pub(super) fn send(&self, message: &Message, handle: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes =
            serde_json::to_vec(message).map_err(|_| Error::new(Stage::Supervision, "put a message into JSON"))?;
        let handles = handle.map(|handle| [handle]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(handles) = &handles {
            control.push(SendAncillaryMessage::ScmRights(handles));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .attempt(Stage::Supervision, || "report to plywood".to_owned())?;
        Ok(())
    }

    /// Says why the command does not run; gives the exit code of that.
    pub(super) fn fail(&self, error: Error) -> i32 {
        let code = error.exit_code();
        // Where the parent is gone too, nobody is left to tell.
        let _ = self.send(&Message::Failed(error.into()), None);
        code
    }

    /// Waits for a message; none at the end.
    pub(super) fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let length = match received {
            Ok(received) => received.bytes,
            // The other end is gone, with something of ours unread.
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(Error::system(Stage::Supervision, "hear from the container", error)),
        };
        if length == 0 {
            return Ok(None);
        }
        let handle = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut handles) => handles.next(),
            _ => None,
        });
        let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default())
            .map_err(|_| Error::new(Stage::Supervision, "understand the container's report"))?;
        Ok(Some((message, handle)))
    }

    /// Lets the child go on.
    pub(super) fn release(&self) -> Result<()> {
        rustix::net::send(&self.0, b"g", SendFlags::NOSIGNAL)
            .attempt(Stage::Supervision, || "release the container".to_owned())?;
        Ok(())
    }

    /// Whether the other end is still there.
    pub(super) fn is_open(&self) -> bool {
        let mut watched = [PollFd::new(&self.0, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::io::retry_on_intr(|| poll(&mut watched, Some(&now))), Ok(0))
    }

    /// Waits for [`Channel::release`]; false where the parent is gone.
    pub(super) fn wait(&self) -> bool {
        let mut byte = [0; 1];
        matches!(
            rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut byte)),
            Ok(1)
        )
    }
}
