//! The one filesystem that plywood makes: ext4 with a pinned feature set.
//!
//! Every feature is named, so that the host's mke2fs.conf changes nothing and
//! volumes can be read block by block. No lazy initialisation: a kernel thread
//! would write into the golden volume later. Inodes for small files: one per
//! 4096 bytes, 2,621,440 on 10 GiB.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use crate::dm::program::Program;
use crate::dm::volume::Mode as Access;
use crate::error::{Context, Error, Result};
use crate::explain::{quote, step};
use crate::ext4::layout::{SUPERBLOCK, SUPERBLOCK_BYTES};
pub use crate::ext4::superblock::Health;

/// The same for every golden volume: equal volumes, equal bytes.
const UUID: &str = "706c7977-6f6f-4400-8000-676f6c64656e";
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Formats a device that reads as zeros.
///
/// # Errors
/// The formatter's, or where it is missing.
pub fn format(device: &Path) -> Result<()> {
    let extended = format!(
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,root_owner=0:0,hash_seed={UUID}"
    );
    let options: [&str; 19] = [
        "-q", "-F", "-b", "4096", "-I", "256", "-i", "4096", "-m", "0", "-J", "size=16", "-U", UUID, "-O", FEATURES,
        "-E", &extended, "-e",
    ];
    let mut words: Vec<&std::ffi::OsStr> = options.iter().map(std::ffi::OsStr::new).collect();
    words.push("remount-ro".as_ref());
    words.push(device.as_os_str());
    Program::MkfsExt4.run(&words).map(drop)
}

/// Makes the root directory of a fresh filesystem what an empty snapshot's is.
///
/// # Errors
/// The operating system's.
pub fn empty(root: &Path) -> Result<()> {
    let lost = root.join("lost+found");
    step(|| {
        format!(
            "rmdir {0} && chmod 0755 {1} && touch -d @0 {1}",
            quote(&lost),
            quote(root)
        )
    });
    match std::fs::remove_dir(&lost) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &lost, error)),
        _ => {}
    }
    let dir = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open", root)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).context("set the mode of", root)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps {
        last_access: zero,
        last_modification: zero,
    };
    rustix::fs::futimens(&dir, &times).context("set the times of", root)?;
    rustix::fs::syncfs(&dir).context("sync", root)
}

/// Mounts a volume. Device nodes in it do nothing; reads change nothing. Read-only, nobody gains rights
/// from it either: that is how `plywood mount` shows an image in the host's tree.
///
/// # Errors
/// The kernel's.
pub fn mount(device: &Path, target: &Path, access: Access) -> Result<()> {
    let (flags, words) = match access {
        Access::ReadOnly => (
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME,
            "ro,nosuid,nodev,noatime,errors=remount-ro",
        ),
        Access::ReadWrite => (
            MsFlags::MS_NODEV | MsFlags::MS_NOATIME,
            "rw,nodev,noatime,errors=remount-ro",
        ),
    };
    step(|| {
        format!(
            "mkdir -p {1} && mount -t ext4 -o {words} {0} {1}",
            quote(device),
            quote(target)
        )
    });
    nix::mount::mount(Some(device), target, Some("ext4"), flags, Some("errors=remount-ro"))
        .context(&format!("mount {} on", device.display()), target)
}

/// Unmounts what is on top at `target`.
///
/// # Errors
/// The kernel's; EBUSY where something is open below it.
pub fn unmount(target: &Path) -> Result<()> {
    step(|| format!("umount {}", quote(target)));
    nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW).context("unmount", target)
}

/// Reads the health of the filesystem on a device.
///
/// # Errors
/// Where it cannot be read, or holds no ext4.
pub fn health(device: &Path) -> Result<Health> {
    step(|| format!("dumpe2fs -h {}    # state, errors, needs_recovery", quote(device)));
    let mut superblock = [0; SUPERBLOCK_BYTES];
    let file = File::open(device).context("open", device)?;
    file.read_exact_at(&mut superblock, SUPERBLOCK)
        .context("read the superblock of", device)?;
    Health::of(&superblock).ok_or_else(|| Error::corrupt(format!("{} holds no ext4 filesystem", device.display())))
}

/// What `e2fsck` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Nothing.
    Clean,
    /// Something, which it has put right: what it said.
    Fixed(String),
    /// Something that is wrong still.
    Damaged(String),
}

/// Verifies the filesystem on a device that is not mounted. With `fix` the journal is replayed first, and what is wrong
/// put right: what is safe, then, where that is not enough, everything. A filesystem that is whole is not changed.
///
/// # Errors
/// Where `e2fsck` is missing or cannot read the device.
pub fn check(device: &Path, fix: bool) -> Result<Checked> {
    if fix && health(device).is_ok_and(|health| health != Health::Clean) {
        fsck(device, &["-p", "-E", "journal_only"])?;
    }
    let (found, said) = fsck(device, &["-f", "-n"])?;
    if found == 0 {
        return Ok(Checked::Clean);
    }
    if !fix {
        return Ok(Checked::Damaged(told(&said)));
    }
    let (mut left, mut said) = fsck(device, &["-f", "-p"])?;
    if left > CORRECTED {
        (left, said) = fsck(device, &["-f", "-y"])?;
    }
    Ok(match left {
        0..=CORRECTED => Checked::Fixed(told(&said)),
        _ => Checked::Damaged(told(&said)),
    })
}

/// The highest of e2fsck(8)'s codes that says that everything was put right.
const CORRECTED: i32 = 3;

/// Its exit code, and what it said.
fn fsck(device: &Path, words: &[&str]) -> Result<(i32, String)> {
    let mut words: Vec<&std::ffi::OsStr> = words.iter().map(std::ffi::OsStr::new).collect();
    words.push(device.as_os_str());
    let output = Program::E2fsck.output(&words)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    match output.status.code() {
        Some(code) => Ok((code, said)),
        None => Err(Error::new(
            crate::error::Kind::Io,
            format!(
                "e2fsck of {} ended with {}: {}",
                device.display(),
                output.status,
                told(&said)
            ),
        )),
    }
}

/// What a person wants to know of what e2fsck said: the findings, on one line.
fn told(said: &str) -> String {
    const MOST: usize = 6;
    let is_finding = |line: &&str| {
        !(line.is_empty() || line.starts_with("e2fsck ") || line.starts_with("Pass ") || line.contains(" files ("))
    };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(is_finding).collect();
    let mut text = lines.iter().take(MOST).copied().collect::<Vec<_>>().join("; ");
    if lines.len() > MOST {
        text.push_str(&format!("; and {} lines more", lines.len() - MOST));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_file_has_room_for_two_million_files_and_is_clean() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10 << 30).unwrap();
        format(file.path()).unwrap();
        assert_eq!(health(file.path()).unwrap(), Health::Clean);
        let mut block = [0; 1024];
        file.as_file().read_exact_at(&mut block, 1024).unwrap();
        let inodes = u32::from_le_bytes(block[0..4].try_into().unwrap());
        assert!(inodes >= 2_000_000, "{inodes}");
        let features = u32::from_le_bytes(block[0x60..0x64].try_into().unwrap());
        assert_eq!(features, 0x2c2, "filetype, extents, 64bit, flex_bg and nothing else");
    }
}
