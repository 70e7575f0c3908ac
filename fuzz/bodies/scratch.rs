//! Roots to unpack into, and beside them what must never change.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood_store::layer::apply::{Applied, apply};
use plywood_store::layer::{Limits, tree};
use plywood_store::{Digest, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use rustix::io::Errno;

const TIME: Timespec = Timespec {
    tv_sec: 1_600_000_000,
    tv_nsec: 0,
};
/// When the lower trees were made.
const THEN: Timestamps = Timestamps {
    last_access: TIME,
    last_modification: TIME,
};

/// What a root has before a layer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lower {
    /// Nothing.
    Empty,
    /// Folders, files and links in which whiteouts, replacements and names find something.
    Linked,
    /// The same without symbolic links.
    Plain,
}

impl Lower {
    pub(crate) fn of(byte: u8) -> Self {
        match byte % 3 {
            0 => Self::Empty,
            1 => Self::Linked,
            _ => Self::Plain,
        }
    }
}

/// A folder with roots in it, and the sentinel tree that links and names try to reach.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    sentinel: Digest,
}

/// One root, gone when it is dropped.
pub(crate) struct Root(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "unpacking needs root");
        let dir = tempfile::tempdir().expect("a folder");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("the sentinel");
        fs::write(outside.join("secret"), "secret").expect("its file");
        fs::create_dir(outside.join("a")).expect("its folder");
        fs::write(outside.join("a/b"), "b").expect("its other file");
        fs::set_permissions(outside.join("secret"), Permissions::from_mode(0o600)).expect("its mode");
        let sentinel = digest(&outside);
        Self { dir, sentinel }
    }

    /// Where the sentinel tree is.
    pub(crate) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// A new root; of each kind always the same one.
    pub(crate) fn root(&self, lower: Lower) -> Root {
        let root = tempfile::tempdir_in(self.dir.path()).expect("a root");
        if lower != Lower::Empty {
            self.fill(root.path(), lower == Lower::Linked).expect("a tree");
        }
        Root(root)
    }

    fn fill(&self, root: &Path, links: bool) -> std::io::Result<()> {
        for folder in ["a", "a/d", "a/d/a", "d"] {
            fs::create_dir(root.join(folder))?;
        }
        for file in ["a/a", "c", "a/d/b", "d/a"] {
            fs::write(root.join(file), file)?;
        }
        fs::hard_link(root.join("c"), root.join("a/c"))?;
        if links {
            symlink("../d", root.join("a/b"))?;
            symlink(self.outside(), root.join("b"))?;
            symlink("../../outside", root.join("d/b"))?;
            symlink("a", root.join("d/d"))?;
        }
        for path in [
            "a/a", "a/b", "a/d/a", "a/d/b", "b", "c", "d/a", "d/b", "d/d", "a/d", "a", "d",
        ] {
            match utimensat(CWD, root.join(path), &THEN, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) if !links => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Fails where something beside the roots was touched, or is new there.
    pub(crate) fn check(&self, roots: usize) {
        assert_eq!(
            digest(&self.outside()),
            self.sentinel,
            "the tree beside the root was touched"
        );
        let beside = fs::read_dir(self.dir.path()).expect("the folder").count();
        assert_eq!(beside, roots + 1, "something new beside the root");
    }
}

impl Root {
    /// A handle to it.
    pub(crate) fn open(&self) -> File {
        File::open(self.0.path()).expect("a root's handle")
    }

    pub(crate) fn apply(&self, mut tar: &[u8], limits: &Limits) -> Result<Applied> {
        apply(self.open().as_fd(), &mut tar, limits)
    }

    pub(crate) fn digest(&self) -> Digest {
        digest(self.0.path())
    }
}

fn digest(path: &Path) -> Digest {
    tree::digest(&File::open(path).expect("a tree").as_fd()).expect("a tree that can be read")
}
