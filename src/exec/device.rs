//! `--device`: a device of the host's for a container.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Attempt, Error, Result, Stage};

/// What may be done with a device: make its node, read, write. The kernel's numbers (`BPF_DEVCG_ACC_…` of linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u32);

/// Letters of the device cgroup's list, and their numbers.
const LETTERS: [(char, u32); 3] = [('r', 2), ('w', 4), ('m', 1)];

impl Access {
    /// Everything.
    pub const ALL: Self = Self(7);
    /// Make a node.
    pub const MAKE: Self = Self(1);

    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

impl std::str::FromStr for Access {
    type Err = Error;

    /// Some of the letters r, w and m, each once.
    fn from_str(text: &str) -> Result<Self> {
        let mut access = 0;
        for letter in text.chars() {
            let bit = LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| bit);
            match bit {
                Some(bit) if access & bit == 0 => access |= bit,
                _ => access = 0,
            }
            if access == 0 {
                break;
            }
        }
        match access {
            0 => Err(Error::new(
                Stage::Request,
                format!("allow {text:?} of a device: write some of r, w and m"),
            )),
            access => Ok(Self(access)),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letters = LETTERS.iter().filter(|(_, bit)| self.0 & bit != 0);
        letters.map(|(letter, _)| letter).collect::<String>().fmt(f)
    }
}

/// The two kinds of devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Bytes one after the other.
    #[default]
    Character,
    /// A disk.
    Block,
}

impl Kind {
    /// `BPF_DEVCG_DEV_…` of linux/bpf.h.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Block => 1,
            Self::Character => 2,
        }
    }

    /// As mknod(1) and the device cgroup's list have it.
    pub(super) fn letter(self) -> char {
        match self {
            Self::Block => 'b',
            Self::Character => 'c',
        }
    }
}

/// `SRC[:DST][:ACCESS]`, as it is kept in the container's record: the numbers are those that the host has then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: PathBuf,
    /// Some of `rwm`.
    pub access: String,
}

/// A device, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where its node is to be in the container.
    pub target: PathBuf,
    /// Its kind.
    pub kind: Kind,
    /// Its driver.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
    /// What may be done.
    pub access: Access,
    /// The host's node's permissions, which the container's has too.
    pub mode: u32,
    /// The host's node's group likewise; its owner is the container's root.
    pub group: u32,
}

impl Default for Device {
    /// The null device at its place.
    fn default() -> Self {
        Self {
            target: "/dev/null".into(),
            kind: Kind::Character,
            major: 1,
            minor: 3,
            access: Access::ALL,
            mode: 0o666,
            group: 0,
        }
    }
}

impl std::str::FromStr for Asked {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(
                Stage::Request,
                format!(
                    "understand the device {text:?}: write SRC, SRC:DST or SRC:DST:rwm, as in /dev/fuse or /dev/sdb:/dev/disk:r"
                ),
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, access) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, second] if second.starts_with('/') => (source, second, "rwm"),
            [source, access] => (source, source, access),
            [source, target, access] => (source, target, access),
            _ => return Err(bad()),
        };
        access.parse::<Access>()?;
        let asked = Self {
            source: source.into(),
            target: target.into(),
            access: access.to_owned(),
        };
        match asked.check() {
            true => Ok(asked),
            false => Err(bad()),
        }
    }
}

impl Asked {
    /// Whether its paths can be such.
    pub(super) fn check(&self) -> bool {
        let is_path = |path: &Path| path.is_absolute() && path.file_name().is_some();
        is_path(&self.source) && is_path(&self.target)
    }

    /// Looks it up on the host.
    ///
    /// # Errors
    /// At stage [`Stage::Mounts`], where it is not there, or no device.
    pub fn find(&self) -> Result<Device> {
        let shown = self.source.display();
        let found = std::fs::metadata(&self.source).attempt(Stage::Mounts, || format!("look up the device {shown}"))?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => Kind::Character,
            kind if kind.is_block_device() => Kind::Block,
            _ => {
                return Err(Error::new(
                    Stage::Mounts,
                    format!("give {shown} as a device: it is none"),
                ));
            }
        };
        Ok(Device {
            target: self.target.clone(),
            kind,
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
            access: self.access.parse()?,
            mode: found.mode() & 0o777,
            group: found.gid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_in_docker() {
        let asked = |text: &str| text.parse::<Asked>();
        let expected = |source: &str, target: &str, access: &str| Asked {
            source: source.into(),
            target: target.into(),
            access: access.to_owned(),
        };
        assert_eq!(asked("/dev/x").unwrap(), expected("/dev/x", "/dev/x", "rwm"));
        assert_eq!(asked("/dev/x:r").unwrap(), expected("/dev/x", "/dev/x", "r"));
        assert_eq!(asked("/dev/x:/dev/y").unwrap(), expected("/dev/x", "/dev/y", "rwm"));
        assert_eq!(asked("/dev/x:/y:mr").unwrap(), expected("/dev/x", "/y", "mr"));
        for bad in [
            "",
            "x",
            "/dev/x:",
            "/dev/x:rr",
            "/dev/x:/y:",
            "/dev/x:/y:rx",
            "/dev/x:y:r",
            "/a:/b:r:w",
            "/",
            "/dev/x:/",
        ] {
            assert_eq!(asked(bad).unwrap_err().exit_code(), 125, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert_eq!("/dev/null:r".parse::<Asked>().unwrap().find().unwrap().minor, 3);
        for bad in ["/etc/passwd", "/dev/no-such"] {
            assert!(bad.parse::<Asked>().unwrap().find().is_err());
        }
        assert_eq!("mw".parse::<Access>().unwrap().to_string(), "wm");
    }
}
