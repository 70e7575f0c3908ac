//! Random edits of a tree, the same for the same seed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, XattrFlags, mknodat, setxattr};

/// xorshift64*: the same edits for the same seed, on every machine.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The edits of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to one less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % end
    }

    /// A path of up to three levels under `root`, of few names, so that edits meet.
    fn path(&mut self, root: &Path) -> PathBuf {
        const NAMES: [&str; 7] = ["a", "b", "c", "dir", "sub", "\u{e9}t\u{e9}", "z z"];
        let mut path = root.to_owned();
        for _ in 0..=self.below(3) {
            path.push(NAMES[self.below(NAMES.len())]);
        }
        path
    }

    /// One edit; many of them fail, because what they want is not there.
    fn edit(&mut self, root: &Path) -> std::io::Result<()> {
        let (path, other) = (self.path(root), self.path(root));
        let number = self.below(1 << 16);
        match self.below(20) {
            0..=3 => open(&path, fs::OpenOptions::new().create(true).truncate(true))?.write_all(&vec![b'x'; number]),
            4 => open(&path, fs::OpenOptions::new().append(true))?.write_all(b"more"),
            5..=7 => fs::create_dir_all(path),
            8 => fs::remove_file(path),
            9 => fs::remove_dir_all(path),
            // overlayfs refuses to rename a folder that a lower layer has; mv copies then.
            10 if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) => Ok(()),
            10 => fs::rename(path, other),
            11 | 12 => fs::hard_link(path, other),
            13 => std::os::unix::fs::symlink("a", path),
            14 => fs::set_permissions(path, PermissionsExt::from_mode(u32::try_from(number & 0o7777).unwrap())),
            15 => std::os::unix::fs::lchown(path, Some(u32::try_from(number).unwrap()), Some(7)),
            16 => Ok(setxattr(
                &path,
                "user.test",
                ["v0", "v1", "v2"][number % 3].as_bytes(),
                XattrFlags::empty(),
            )?),
            17 => {
                let kind = [FileType::Fifo, FileType::CharacterDevice][number % 2];
                Ok(mknodat(CWD, &path, kind, 0o600.into(), rustix::fs::makedev(1, 3))?)
            }
            // Opened for writing and left as it was: copied up, not changed.
            18 => open(&path, &mut fs::OpenOptions::new()).map(drop),
            _ => {
                let file = open(&path, fs::OpenOptions::new().read(true))?;
                file.set_modified(
                    std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(u64::try_from(number).unwrap()),
                )
            }
        }
    }

    /// Makes `count` edits under `root`.
    pub fn edits(&mut self, root: &Path, count: usize) {
        for _ in 0..count {
            let _ = self.edit(root);
        }
    }
}

/// Opens for writing, but neither waits for a fifo's other end nor follows a link.
fn open(path: &Path, options: &mut fs::OpenOptions) -> std::io::Result<fs::File> {
    options
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
}
