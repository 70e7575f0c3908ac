//! Volumes as files: formatted as plywood does it, filled from tars, mounted, checked.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use plywood::dm::ext4;
use plywood::ext4::write::{Filled, fill};
use plywood_store::Digest;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Limits, tree};
use tempfile::TempDir;

use crate::common::tars::{archive, directory, file, hard_link, raw, symlink, with};
use crate::common::wait;

/// Runs a command, which must end well; what it prints.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A folder with an empty volume in it, as the golden one of a pool is, but for the mount that emptied it.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// The empty volume is of `size` bytes.
    pub fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { folder };
        let file = File::create(place.empty()).expect("a file");
        file.set_len(size).expect("a length");
        ext4::format(&place.empty()).expect("a filesystem");
        ok(Command::new("debugfs")
            .args(["-w", "-R", "rmdir lost+found"])
            .arg(place.empty()));
        place
    }

    fn empty(&self) -> PathBuf {
        self.folder.path().join("empty")
    }

    /// A copy of the empty volume.
    pub fn volume(&self, name: &str) -> Volume {
        let path = self.folder.path().join(name);
        ok(Command::new("cp").arg("--sparse=always").arg(self.empty()).arg(&path));
        Volume { path }
    }
}

/// A volume in a file.
#[derive(Debug)]
pub struct Volume {
    pub path: PathBuf,
}

impl Volume {
    /// Writes the tar onto it, without a mount.
    pub fn fill(&self, mut tar: &[u8]) -> plywood::error::Result<Filled> {
        let file = File::options().read(true).write(true).open(&self.path);
        fill(&file.expect("the volume"), &mut tar, &Limits::default())
    }

    /// The same, which must work.
    #[track_caller]
    pub fn filled(self, tar: &[u8]) -> Self {
        match self.fill(tar) {
            Ok(Filled::Whole(_)) => self.checked(),
            other => panic!("{other:?}"),
        }
    }

    /// Wants nothing that e2fsck finds wrong.
    #[track_caller]
    pub fn checked(self) -> Self {
        ok(Command::new("e2fsck").arg("-fn").arg(&self.path));
        self
    }

    /// What its bytes are.
    pub fn digest(&self) -> Digest {
        Digest::of(&fs::read(&self.path).expect("the volume"))
    }

    /// What `debugfs` says.
    pub fn debugfs(&self, request: &str) -> String {
        let output = Command::new("debugfs").args(["-R", request]).arg(&self.path).output();
        String::from_utf8_lossy(&output.expect("it starts").stdout).into_owned()
    }

    /// Mounts it; in a mount namespace of this thread's own.
    pub fn mount(self) -> Tree {
        let at = self.path.with_extension("mounted");
        fs::create_dir_all(&at).expect("a folder");
        ok(Command::new("mount").args(["-o", "loop"]).arg(&self.path).arg(&at));
        let dir = File::open(&at).expect("the mount").into();
        Tree {
            volume: self,
            at,
            dir: Some(dir),
        }
    }
}

/// A volume that is mounted.
#[derive(Debug)]
pub struct Tree {
    volume: Volume,
    pub at: PathBuf,
    dir: Option<OwnedFd>,
}

impl Tree {
    /// Makes the root what an empty snapshot's is.
    pub fn emptied(self) -> Self {
        ext4::empty(&self.at).expect("an empty root");
        self
    }

    /// Applies a tar, as it is done on a mounted volume.
    pub fn apply(&self, mut tar: &[u8]) -> plywood::error::Result<()> {
        apply(self.dir(), &mut tar, &Limits::default()).map(drop)
    }

    pub fn dir(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_ref().expect("a mount").as_fd()
    }

    /// The layer that makes this tree of `parent`.
    pub fn layer(&self, parent: Option<&Tree>) -> Vec<u8> {
        let mut tar = Vec::new();
        let parent = parent.map(Tree::dir);
        let parent = parent.as_ref().map(|parent| parent as &dyn Folder);
        write_layer(parent, &self.dir(), &Everything, &Options::default(), &mut tar).expect("a layer");
        tar
    }

    /// Wants the same tree in both.
    #[track_caller]
    pub fn assert_like(&self, other: &Tree) {
        for (one, two) in [(self, other), (other, self)] {
            let tar = one.layer(Some(two));
            assert!(tar.len() <= 1024, "{}", listed(&tar));
        }
        let digest = |tree: &Tree| tree::digest(&tree.dir()).expect("a digest");
        assert_eq!(digest(self), digest(other));
        let root = |tree: &Tree| {
            use std::os::unix::fs::MetadataExt;
            let root = fs::metadata(&tree.at).expect("the root");
            (
                root.mode(),
                root.uid(),
                root.gid(),
                root.mtime(),
                root.mtime_nsec(),
                root.nlink(),
            )
        };
        assert_eq!(root(self), root(other));
    }

    /// Unmounts it.
    pub fn unmount(mut self) -> Volume {
        self.release();
        Volume {
            path: self.volume.path.clone(),
        }
    }

    fn release(&mut self) {
        if self.dir.take().is_some() {
            // A program that another test starts has the handle until it has been executed.
            wait::until(&format!("{} is not busy", self.at.display()), || {
                let umount = Command::new("umount").arg(&self.at).status();
                umount.is_ok_and(|status| status.success())
            });
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.release();
        }
    }
}

fn listed(tar: &[u8]) -> String {
    let mut reader = tar;
    let mut entries = plywood_store::layer::read::Reader::new(&mut reader, &Limits::default());
    let mut lines = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry() {
        lines.push(format!("{entry:?}"));
    }
    lines.truncate(5);
    lines.join("\n")
}

/// A tar with something of everything.
pub fn everything() -> Vec<u8> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut entries = vec![
        directory("./"),
        directory("bin/"),
        with(
            &[("SCHILY.xattr.security.capability", &capability)],
            &file("bin/tool", "tool"),
        ),
        hard_link("bin/same", "bin/tool"),
        symlink("short", "bin/tool"),
        symlink("long", "x".repeat(1000)),
        file("not/described/file", "y"),
        with(&[("SCHILY.xattr.user.long", &[7; 3000])], &file("attributes", "z")),
        with(&[("mtime", b"-1.5"), ("uid", b"4000000")], &file("old", "")),
    ];
    for number in 0..2000 {
        entries.push(file(&format!("many/name-{number}"), ""));
    }
    let blocks: Vec<u8> = (0..6000_u32)
        .flat_map(|number| [u8::from(number % 2 == 0); 4096])
        .collect();
    entries.push(raw(b"pieces", b'0', b"", 0o644, &blocks));
    entries.push(raw(b"whole", b'0', b"", 0o644, &vec![1; 50 << 20]));
    archive(&entries)
}
