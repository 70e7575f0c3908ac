//! The external programs that plywood calls, all of them, and how.
//!
//! Each runs with a clean environment and nothing on standard input; a missing
//! one is an error that names its Debian package.

use std::ffi::OsStr;
use std::io::{BufReader, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, ExitStatus, Output, Stdio};

use crate::error::{Error, Kind, Result};
use crate::explain::{quote, step};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Formats the golden volume.
    MkfsExt4,
    /// Verifies and repairs a filesystem.
    E2fsck,
    /// Verifies a pool's metadata.
    ThinCheck,
    /// Writes what is left of a pool's metadata into others.
    ThinRepair,
    /// Lists a pool's volumes.
    ThinLs,
    /// Writes a pool's mappings out.
    ThinDump,
}

impl Program {
    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "mkfs.ext4",
            Self::E2fsck => "e2fsck",
            Self::ThinCheck => "thin_check",
            Self::ThinRepair => "thin_repair",
            Self::ThinLs => "thin_ls",
            Self::ThinDump => "thin_dump",
        }
    }

    /// The Debian package that has it.
    pub fn package(self) -> &'static str {
        match self {
            Self::MkfsExt4 | Self::E2fsck => "e2fsprogs",
            Self::ThinCheck | Self::ThinRepair | Self::ThinLs | Self::ThinDump => "thin-provisioning-tools",
        }
    }

    /// Where it is, if it is installed.
    pub fn find(self) -> Option<PathBuf> {
        PATH.split(':')
            .map(|folder| PathBuf::from(folder).join(self.name()))
            .find(|path| path.is_file())
    }

    /// Runs it and takes what it says. Its own failure is in the answer's status.
    ///
    /// # Errors
    /// Where it is missing or cannot be started.
    pub fn output<S: AsRef<OsStr>>(self, arguments: &[S]) -> Result<Output> {
        let (path, mut command) = self.command(arguments)?;
        command.output().map_err(|error| Error::io("run", &path, error))
    }

    fn command<S: AsRef<OsStr>>(self, arguments: &[S]) -> Result<(PathBuf, Command)> {
        let path = self.find().ok_or_else(|| {
            Error::not_found(format!("the program {} is missing", self.name()))
                .hinted(format!("apt install {}", self.package()))
        })?;
        step(|| {
            let words = arguments.iter().map(|word| format!(" {}", quote(word)));
            format!("{}{}", self.name(), words.collect::<String>())
        });
        let mut command = Command::new(&path);
        command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C");
        command.stdin(Stdio::null());
        Ok((path, command))
    }

    /// Runs it; anything but exit code 0 is an error with what it said.
    ///
    /// # Errors
    /// Its failure.
    pub fn run<S: AsRef<OsStr>>(self, arguments: &[S]) -> Result<String> {
        let output = self.output(arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(output.status, &output.stderr))
    }

    /// Runs it and has `reader` read what it says while it says it.
    ///
    /// # Errors
    /// Its failure; the reader's.
    pub fn read<S: AsRef<OsStr>, T>(
        self,
        arguments: &[S],
        reader: impl FnOnce(BufReader<ChildStdout>) -> Result<T>,
    ) -> Result<T> {
        let (path, mut command) = self.command(arguments)?;
        let io = |error| Error::io("run", &path, error);
        // A file, so that neither side waits for the other.
        let mut said = tempfile::tempfile().map_err(io)?;
        command.stderr(said.try_clone().map_err(io)?).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(io)?;
        let output = child.stdout.take().map(BufReader::new);
        let read = output.ok_or_else(|| Error::invalid("no pipe")).and_then(reader);
        // Without its reader it ends.
        let status = child.wait().map_err(io)?;
        if status.success() || status.signal() == Some(libc::SIGPIPE) {
            return read;
        }
        let mut words = Vec::new();
        said.rewind().and_then(|()| said.read_to_end(&mut words)).map_err(io)?;
        Err(self.failed(status, &words))
    }

    fn failed(self, status: ExitStatus, said: &[u8]) -> Error {
        let said = String::from_utf8_lossy(said);
        Error::new(Kind::Io, format!("{} failed: {status}: {}", self.name(), said.trim()))
    }
}
