//! A layer tar into a mounted snapshot, by a throw-away child that can reach nothing else.
//!
//! ```text
//! parent                                child: /proc/self/exe __apply LIMITS, cwd = the snapshot's root
//!   tar ──────────── pipe, fd 0 ──────────> confine::confine(), then layer::apply onto its own /
//!   Applied or Error <── pipe, fd 1, JSON ── one Report, at the end
//!   a panic's last words <── pipe, fd 2
//! ```
//!
//! A base layer can be written onto the device of an empty snapshot instead, without a mount:
//! `__fill LIMITS DEVICE`. That child has one more descriptor, and can reach no file at all.
//!
//! The snapshot's root is handed over as the working directory, by handle. The
//! parent hashes while it feeds; it believes nothing of the child's but
//! success or failure. A parent that dies closes the pipe: the tar ends too
//! early, and the child fails by itself.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use plywood_store::layer::Limits;
use plywood_store::layer::apply::Applied;
use serde::{Deserialize, Serialize};

use super::confine;
use crate::error::{Context, Error, Kind, Result};
use crate::explain;
use crate::ext4::write::Filled;
use crate::snapshot::{Device, Mounted};

/// The hidden first argument that makes a plywood process the confined child.
pub const CHILD_ARGUMENT: &str = "__apply";
/// The same for one that writes onto a device, which is its third argument.
pub const DEVICE_CHILD_ARGUMENT: &str = "__fill";
/// A folder that every machine has: the child of a device needs none, and puts an empty one over it.
pub(super) const ANY_FOLDER: &str = "/proc";
/// Bytes of a pipe between parent and child: a child that waits for a disk should not stop the inflating at once.
const PIPE_BYTES: usize = 1 << 20;
/// Bytes that a report may have: a child that was taken over could send without end.
const REPORT_MAX: u64 = 4 << 20;
const CHUNK: usize = 256 << 10;

/// Starts confined children.
#[derive(Debug, Clone)]
pub struct Unpacker {
    /// The program that is the child when its first argument is [`CHILD_ARGUMENT`].
    pub program: PathBuf,
    /// What a tar may ask for.
    pub limits: Limits,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            limits: Limits::default(),
        }
    }
}

impl Unpacker {
    /// Applies the uncompressed layer tar to the mounted snapshot; `shown` is where a person would find it.
    ///
    /// # Errors
    /// The child's own refusal, which names the entry; how it died; or the tar's read error, which comes first.
    pub fn unpack(&self, mounted: &Mounted, tar: &mut dyn Read, shown: &Path) -> Result<Applied> {
        explain::step(|| {
            format!(
                "tar --delay-directory-restore --xattrs --xattrs-include='*' --acls --numeric-owner -xpf {} -C {}    # and .wh.NAME removes NAME",
                explain::quote(shown),
                explain::quote(mounted.path())
            )
        });
        let mut limits = self.limits.clone();
        limits.null_devices &= !mounted.is_bare();
        // Resolved by the child between fork and exec, while it still has the handle.
        let folder = format!("/proc/self/fd/{}", mounted.dir().as_raw_fd());
        let running = Running::start(self, &limits, &[CHILD_ARGUMENT.as_ref()], folder.as_ref())?;
        match running.run(tar)? {
            Filled::Whole(applied) => Ok(applied),
            Filled::Declined(why) => Err(Error::corrupt(format!(
                "the confined child does not want the layer: {why}"
            ))),
        }
    }

    /// Writes the uncompressed base layer straight onto the device of an empty snapshot. Where it is declined, the
    /// tar is not read to its end, and the snapshot is good for nothing.
    ///
    /// # Errors
    /// As for [`Unpacker::unpack`].
    pub fn fill(&self, device: &Device, tar: &mut dyn Read, shown: &Path) -> Result<Filled> {
        explain::step(|| {
            format!(
                "m=$(mktemp -d) && mount -t ext4 -o nodev,noatime {} $m && tar --delay-directory-restore --xattrs --xattrs-include='*' --acls --numeric-owner -xpf {} -C $m && umount $m && rmdir $m    # plywood writes the same onto the device itself, without the mount",
                explain::quote(device.path()),
                explain::quote(shown)
            )
        });
        let words = [DEVICE_CHILD_ARGUMENT.as_ref(), device.path().as_os_str()];
        Running::start(self, &self.limits, &words, ANY_FOLDER.as_ref())?.run(tar)
    }
}

/// Applies a layer tar with the default limits, by this very program.
///
/// # Errors
/// As for [`Unpacker::unpack`].
pub fn unpack(mounted: &Mounted, tar: &mut dyn Read, shown: &Path) -> Result<Applied> {
    Unpacker::default().unpack(mounted, tar, shown)
}

enum Fed {
    Whole,
    ChildStopped,
    TarFailed(Error),
}

/// The child, killed and reaped when dropped.
struct Running {
    child: Child,
}

impl Running {
    /// `words` are what it is to do, and where; the limits come between.
    fn start(unpacker: &Unpacker, limits: &Limits, words: &[&OsStr], folder: &Path) -> Result<Self> {
        let limits = serde_json::to_string(&Wire::from(limits))
            .map_err(|cause| Error::new(Kind::Io, "cannot write the limits as JSON").caused_by(cause))?;
        let (first, rest) = words.split_at(1.min(words.len()));
        let child = Command::new(&unpacker.program)
            .args(first)
            .arg(limits)
            .args(rest)
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the confined child", &unpacker.program)?;
        Ok(Self { child })
    }

    /// Gives it the tar, and waits for its report.
    fn run(mut self, tar: &mut dyn Read) -> Result<Filled> {
        let fed = self.feed(tar);
        if let Fed::TarFailed(cause) = fed {
            return Err(cause);
        }
        self.outcome(matches!(fed, Fed::ChildStopped))
    }

    /// Feeds the tar to its end, or until the child stops reading.
    fn feed(&mut self, tar: &mut dyn Read) -> Fed {
        let Some(mut pipe) = self.child.stdin.take() else {
            return Fed::ChildStopped;
        };
        // A smaller pipe only costs time.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match tar.read(&mut chunk) {
                Ok(0) => return Fed::Whole,
                Ok(count) => count,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(cause) => return Fed::TarFailed(of_reader(cause)),
            };
            if pipe.write_all(chunk.get(..count).unwrap_or_default()).is_err() {
                return Fed::ChildStopped;
            }
        }
    }

    /// What the child reports, or how it died.
    fn outcome(mut self, stopped_early: bool) -> Result<Filled> {
        let mut report = Vec::new();
        if let Some(pipe) = self.child.stdout.take() {
            pipe.take(REPORT_MAX)
                .read_to_end(&mut report)
                .context("read the report of", "the confined child")?;
        }
        let mut last_words = Vec::new();
        if let Some(pipe) = self.child.stderr.take() {
            pipe.take(4096)
                .read_to_end(&mut last_words)
                .context("read the last words of", "the confined child")?;
        }
        let status = self.child.wait().context("wait for", "the confined child")?;
        match serde_json::from_slice::<Report>(&report) {
            Ok(Report::Applied(applied)) if status.success() && !stopped_early => Ok(Filled::Whole(applied)),
            Ok(Report::Declined(why)) if status.success() => Ok(Filled::Declined(why)),
            Ok(Report::Refused(refusal)) => Err(refusal.into()),
            _ => Err(death(status, &last_words)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Reaped already: both fail, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The tar's reader may carry an error of ours inside its own.
pub(crate) fn of_reader(cause: std::io::Error) -> Error {
    match cause.downcast::<Error>() {
        Ok(ours) => ours,
        Err(cause) => match cause.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::corrupt("the layer ends too early").caused_by(cause),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Other
                if cause.raw_os_error().is_none() =>
            {
                Error::corrupt("the layer cannot be unpacked: it is damaged").caused_by(cause)
            }
            _ => Error::new(Kind::Io, "cannot read the layer").caused_by(cause),
        },
    }
}

fn death(status: ExitStatus, last_words: &[u8]) -> Error {
    let words = String::from_utf8_lossy(last_words);
    let words = words.trim();
    let error = Error::new(
        Kind::Io,
        format!("the confined child that unpacks the layer ended without a report ({status})"),
    );
    if words.is_empty() {
        error
    } else {
        error.caused_by(words.escape_debug().to_string())
    }
}

/// The child's whole answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It is done.
    Applied(Applied),
    /// It is none for this way, for this reason.
    Declined(String),
    /// It is not, and nothing of it may be used.
    Refused(Refusal),
}

/// An [`Error`] on its way through a pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    kind: String,
    message: String,
    hint: Option<String>,
    causes: Vec<String>,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::NotFound, "not_found"),
    (Kind::Exists, "exists"),
    (Kind::InUse, "in_use"),
    (Kind::Invalid, "invalid"),
    (Kind::Corrupt, "corrupt"),
    (Kind::Incompatible, "incompatible"),
    (Kind::NoSpace, "no_space"),
    (Kind::Io, "io"),
];

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        let kind = KINDS
            .iter()
            .find(|(kind, _)| *kind == error.kind())
            .map_or("io", |(_, name)| *name);
        Self {
            kind: kind.to_owned(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
            causes,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = KINDS
            .iter()
            .find(|(_, name)| *name == refusal.kind)
            .map_or(Kind::Io, |(kind, _)| *kind);
        let cause = refusal
            .causes
            .into_iter()
            .rev()
            .fold(None, |below: Option<Error>, message| {
                let error = Error::new(kind, message);
                Some(match below {
                    Some(below) => error.caused_by(below),
                    None => error,
                })
            });
        let mut error = Error::new(kind, refusal.message);
        if let Some(cause) = cause {
            error = error.caused_by(cause);
        }
        match refusal.hint {
            Some(hint) => error.hinted(hint),
            None => error,
        }
    }
}

/// [`Limits`] on their way to the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wire {
    total_bytes: u64,
    file_bytes: u64,
    entries: u64,
    path_bytes: usize,
    depth: usize,
    header_bytes: u64,
    null_devices: bool,
}

impl From<&Limits> for Wire {
    fn from(limits: &Limits) -> Self {
        let Limits {
            total_bytes,
            file_bytes,
            entries,
            path_bytes,
            depth,
            header_bytes,
            null_devices,
        } = *limits;
        Self {
            total_bytes,
            file_bytes,
            entries,
            path_bytes,
            depth,
            header_bytes,
            null_devices,
        }
    }
}

impl From<Wire> for Limits {
    fn from(wire: Wire) -> Self {
        let Wire {
            total_bytes,
            file_bytes,
            entries,
            path_bytes,
            depth,
            header_bytes,
            null_devices,
        } = wire;
        Self {
            total_bytes,
            file_bytes,
            entries,
            path_bytes,
            depth,
            header_bytes,
            null_devices,
        }
    }
}

/// The confined child's whole life. Call it first thing in `main`, before any thread, when the first argument is
/// [`CHILD_ARGUMENT`] or [`DEVICE_CHILD_ARGUMENT`].
pub fn child_main() -> std::process::ExitCode {
    let limits = std::env::args().nth(2);
    let done = match std::env::args_os().nth(3) {
        Some(device) => confine::device_child(limits.as_deref(), device.as_ref()),
        None => confine::child(limits.as_deref()).map(Filled::Whole),
    };
    let report = match done {
        Ok(Filled::Whole(applied)) => Report::Applied(applied),
        Ok(Filled::Declined(why)) => Report::Declined(why),
        Err(error) => Report::Refused(Refusal::from(&error)),
    };
    // Standard output is the pipe to the parent; who does not read it does not need an answer.
    let sent = serde_json::to_vec(&report).is_ok_and(|bytes| std::io::stdout().write_all(&bytes).is_ok());
    match (sent, report) {
        (true, Report::Applied(_) | Report::Declined(_)) => std::process::ExitCode::SUCCESS,
        _ => std::process::ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_arrives_as_it_was_sent() {
        let sent = Error::invalid("entry \"x\"")
            .hinted("do y")
            .caused_by(Error::new(Kind::Io, "middle").caused_by("root"));
        let bytes = serde_json::to_vec(&Report::Refused(Refusal::from(&sent))).unwrap();
        let Report::Refused(refusal) = serde_json::from_slice(&bytes).unwrap() else {
            panic!("not a refusal")
        };
        let got = Error::from(refusal);
        assert_eq!(
            (got.kind(), got.to_string(), got.hint()),
            (Kind::Invalid, "entry \"x\"".to_owned(), Some("do y"))
        );
        let cause = std::error::Error::source(&got).unwrap();
        assert_eq!(
            (cause.to_string(), cause.source().unwrap().to_string()),
            ("middle".into(), "root".into())
        );
    }
}
