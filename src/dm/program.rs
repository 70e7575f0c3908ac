//! The external programs that plywood calls, all of them, and how.
//!
//! Each runs with a clean environment and nothing on standard input; a missing
//! one is an error that names its Debian package.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Kind, Result};
use crate::explain::{quote, step};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Formats the golden volume.
    MkfsExt4,
    /// Verifies a pool's metadata.
    ThinCheck,
    /// Lists a pool's volumes.
    ThinLs,
    /// Discards what no volume of a pool has.
    ThinTrim,
}

impl Program {
    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "mkfs.ext4",
            Self::ThinCheck => "thin_check",
            Self::ThinLs => "thin_ls",
            Self::ThinTrim => "thin_trim",
        }
    }

    /// The Debian package that has it.
    pub fn package(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "e2fsprogs",
            Self::ThinCheck | Self::ThinLs | Self::ThinTrim => "thin-provisioning-tools",
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
        let path = self.find().ok_or_else(|| {
            Error::not_found(format!("the program {} is missing", self.name()))
                .hinted(format!("apt install {}", self.package()))
        })?;
        step(|| {
            let words = arguments.iter().map(|word| format!(" {}", quote(word)));
            format!("{}{}", self.name(), words.collect::<String>())
        });
        Command::new(&path)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::io("run", &path, error))
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
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(
            Kind::Io,
            format!("{} failed: {}: {}", self.name(), output.status, said.trim()),
        ))
    }
}
