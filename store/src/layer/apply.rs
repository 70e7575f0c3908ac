//! Brings a layer tar into a directory, by handles only.
//!
//! ```text
//! a/b/c   parent "a/b": openat2 below the root, kept open while the next entries have the same one
//!         name "c": *at calls that follow nothing; attributes through the handle that made it
//! ```
//!
//! Symbolic links of the tree are followed for parents only, and resolve as if
//! the tree's root were `/`. A directory over a directory takes on its
//! attributes and keeps its children; any other collision is removed first. A
//! whiteout hides what was there before this layer, wherever it stands in the
//! tar: so names that the layer itself made are remembered, unless it came into
//! an empty tree, where there is nothing to hide. Directories get their mtimes
//! at the end; one that no entry describes keeps the mtime that it had, and one
//! that had to be made has mode 0755, owner 0:0 and mtime 0. Same layer, same
//! tree, whatever the umask, the clock and the default ACLs say.
//!
//! Nothing is synced here: the caller syncs the filesystem once.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::hash::RandomState;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Limits;
use super::content::{write_around_holes, write_at};
use super::entry::{Device, Entry, EntryKind, shown};
use super::handle::{self, DIRECTORY, NodeKind};
use super::place::{DEFAULT_ACL, Place, Touched, has_default_acl};
use super::read::Reader;
use super::whiteout::{self, is_foreign_mark};
use crate::{Error, Result};

/// Lines that [`Applied::notes`] may have.
const NOTES: usize = 100;
/// How often a name is cleared for an entry before somebody else is blamed for filling it again.
const COLLISIONS: usize = 16;
/// Files from this size on keep their zero blocks as holes.
const HOLES_FROM: u64 = 64 << 10;

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Entries read.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Whiteouts honoured.
    pub whiteouts: u64,
    /// What was left out on purpose (sockets, filtered xattrs, …), a line each, at most 100.
    pub notes: Vec<String>,
}

/// Applies an uncompressed layer tar to the tree under `root`. Whiteouts
/// delete; nothing outside `root` is reachable. The stream is read to its end
/// (trailing zero blocks included), so that a hash over it is the DiffID.
///
/// # Errors
/// A tar that [`read`](super::read) refuses, an entry that cannot be made, by
/// name. The tree is then half changed: drop it.
pub fn apply(root: BorrowedFd<'_>, tar: &mut dyn Read, limits: &Limits) -> Result<Applied> {
    let mut applier = Applier::new(root)?;
    let mut reader = Reader::new(tar, limits);
    while let Some(entry) = reader.next_entry()? {
        applier.entry(&entry, &mut reader)?;
        for note in reader.take_notes() {
            applier.note(note);
        }
    }
    applier.applied.entries = reader.entries();
    applier.finish()
}

/// An apply under way. Its directories are in [`place`](super::place), its whiteouts in [`whiteout`](super::whiteout).
pub(super) struct Applier {
    pub(super) root: Rc<Place>,
    pub(super) here: Rc<Place>,
    /// By inode number, as a directory may have several paths through links.
    pub(super) touched: HashMap<u64, Touched>,
    pub(super) numbers: RandomState,
    /// Whether there is anything that a whiteout could hide.
    pub(super) lower: bool,
    filtered: BTreeMap<String, u64>,
    pub(super) applied: Applied,
}

impl Applier {
    fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let at = Path::new("");
        let dir = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty()).map_err(|cause| failed("open", at, cause))?;
        let stat = rustix::fs::fstat(&dir).map_err(|cause| failed("look at", at, cause))?;
        let lower = !handle::list(dir.as_fd())
            .map_err(|cause| failed("list", at, cause))?
            .is_empty();
        let root = Rc::new(Place {
            path: PathBuf::new(),
            inode: stat.st_ino,
            default_acl: has_default_acl(&dir),
            dir,
        });
        let mut applier = Self {
            here: Rc::clone(&root),
            root,
            touched: HashMap::new(),
            numbers: RandomState::new(),
            lower,
            filtered: BTreeMap::new(),
            applied: Applied::default(),
        };
        applier.touch(at, &stat)?;
        Ok(applier)
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<'_>) -> Result<()> {
        let (Some(name), Some(parent)) = (entry.path.file_name(), entry.path.parent()) else {
            return self.root_entry(entry);
        };
        if is_foreign_mark(parent, name) {
            tracing::debug!(path = %shown(&entry.path), "a mark of another tool is passed over");
            return Ok(());
        }
        if parent.iter().any(handle::is_whiteout) {
            return Err(whiteout::invalid(entry));
        }
        if handle::is_whiteout(name) {
            return self.whiteout(entry, parent, name);
        }
        let place = self.enter(parent)?;
        match &entry.kind {
            EntryKind::File => self.file(&place, name, entry, reader)?,
            EntryKind::Directory => self.directory(&place, name, entry)?,
            EntryKind::HardLink(target) => self.hard_link(&place, name, entry, target)?,
            EntryKind::Symlink(target) => {
                let make = || rustix::fs::symlinkat(target, &place.dir, name);
                self.node(&place, name, entry, &make)?;
            }
            EntryKind::Character(device) => self.device(&place, name, entry, FileType::CharacterDevice, *device)?,
            EntryKind::Block(device) => self.device(&place, name, entry, FileType::BlockDevice, *device)?,
            EntryKind::Fifo => {
                let none = Device { major: 0, minor: 0 };
                self.device(&place, name, entry, FileType::Fifo, none)?;
            }
        }
        self.made(&place, name);
        Ok(())
    }

    /// The root keeps being a directory, whatever an entry says.
    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::invalid(
                "the tar has an entry that makes the root something else than a directory",
            ));
        }
        let root = Rc::clone(&self.root);
        self.describe(root.dir.as_fd(), entry, true)?;
        self.described(&root.dir, entry)?;
        self.reset_root()
    }

    /// The root's default ACL may have changed.
    fn reset_root(&mut self) -> Result<()> {
        let root = &self.root;
        let dir = root.dir.try_clone();
        self.root = Rc::new(Place {
            path: PathBuf::new(),
            dir: dir.map_err(|cause| failed("open", Path::new(""), cause))?,
            inode: root.inode,
            default_acl: has_default_acl(&root.dir),
        });
        self.here = Rc::clone(&self.root);
        Ok(())
    }

    fn file(&mut self, place: &Place, name: &OsStr, entry: &Entry, reader: &mut Reader<'_>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.make(place, name, entry, &|| {
            rustix::fs::openat(&place.dir, name, flags, mode)
        })?;
        let mut end = 0;
        while let Some((offset, piece)) = reader.content()? {
            let put = if entry.size >= HOLES_FROM {
                write_around_holes(&file, offset, piece)
            } else {
                write_at(&file, offset, piece).map(|()| offset + piece.len() as u64)
            };
            end = put.map_err(|cause| failed("write", &entry.path, cause))?.max(end);
            self.applied.bytes += piece.len() as u64;
        }
        if end < entry.size {
            rustix::fs::ftruncate(&file, entry.size).map_err(|cause| failed("write", &entry.path, cause))?;
        }
        self.describe(file.as_fd(), entry, place.default_acl)?;
        rustix::fs::futimens(&file, &handle::modified(entry.mtime))
            .map_err(|cause| failed("set the time of", &entry.path, cause))
    }

    fn directory(&mut self, place: &Place, name: &OsStr, entry: &Entry) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut fresh = true;
        let made = rustix::fs::mkdirat(&place.dir, name, mode);
        if made == Err(Errno::EXIST) && self.is_directory(place, name, entry)? {
            fresh = false;
        } else if made.is_err() {
            self.make(place, name, entry, &|| rustix::fs::mkdirat(&place.dir, name, mode))?;
        }
        let dir = handle::open_child(place.dir.as_fd(), name).map_err(|cause| failed("open", &entry.path, cause))?;
        self.describe(dir.as_fd(), entry, !fresh || place.default_acl)?;
        let inode = self.described(&dir, entry)?;
        self.here = Rc::new(Place {
            path: entry.path.clone(),
            dir,
            inode,
            default_acl: entry.xattrs.iter().any(|(key, _)| key == DEFAULT_ACL),
        });
        Ok(())
    }

    fn is_directory(&self, place: &Place, name: &OsStr, entry: &Entry) -> Result<bool> {
        let found = handle::look(place.dir.as_fd(), name).map_err(|cause| failed("look at", &entry.path, cause))?;
        Ok(found.is_some_and(|node| node.kind == NodeKind::Directory))
    }

    /// Remembers what an entry says of a directory; gives its inode number.
    fn described(&mut self, dir: &OwnedFd, entry: &Entry) -> Result<u64> {
        let stat = rustix::fs::fstat(dir).map_err(|cause| failed("look at", &entry.path, cause))?;
        self.touch(&entry.path, &stat)?;
        if let Some(touched) = self.touched.get_mut(&stat.st_ino) {
            touched.mtime = entry.mtime;
            touched.described = true;
        }
        Ok(stat.st_ino)
    }

    fn hard_link(&mut self, place: &Place, name: &OsStr, entry: &Entry, target: &Path) -> Result<()> {
        let missing = || {
            Error::invalid(format!(
                "the tar has a hard link {} to {}, which is not there",
                shown(&entry.path),
                shown(target)
            ))
        };
        let (Some(above), Some(old)) = (target.parent(), target.file_name()) else {
            return Err(missing());
        };
        let dir = match self.resolve(above) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            found => found.map_err(|cause| failed("open", above, cause))?,
        };
        let look =
            |dir: BorrowedFd<'_>, name| handle::look(dir, name).map_err(|cause| failed("look at", &entry.path, cause));
        let source = look(dir.as_fd(), old)?.ok_or_else(missing)?;
        if source.kind == NodeKind::Directory {
            return Err(Error::invalid(format!(
                "the tar has a hard link {} to the directory {}",
                shown(&entry.path),
                shown(target)
            )));
        }
        if look(place.dir.as_fd(), name)?.is_some_and(|node| node.inode == source.inode) {
            return Ok(());
        }
        let link = || match rustix::fs::linkat(&dir, old, &place.dir, name, AtFlags::empty()) {
            // Cleared away with what stood in this entry's place.
            Err(Errno::NOENT) => Err(Errno::STALE),
            done => done,
        };
        self.make(place, name, entry, &link)
    }

    fn device(&mut self, place: &Place, name: &OsStr, entry: &Entry, kind: FileType, device: Device) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode);
        let number = rustix::fs::makedev(device.major, device.minor);
        let make = || rustix::fs::mknodat(&place.dir, name, kind, mode, number);
        self.node(place, name, entry, &make)
    }

    /// Something without content, whose attributes are set by name.
    fn node(&mut self, place: &Place, name: &OsStr, entry: &Entry, make: &dyn Fn() -> Result<(), Errno>) -> Result<()> {
        self.make(place, name, entry, make)?;
        let dir = place.dir.as_fd();
        let refused = |cause| failed("set the attributes of", &entry.path, cause);
        let node = handle::look(dir, name)
            .map_err(refused)?
            .ok_or_else(|| refused(Errno::NOENT))?;
        let link = node.kind == NodeKind::Symlink;
        let mut drop_mode = false;
        if (node.uid, node.gid) != (entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
            drop_mode = entry.mode & 0o6000 != 0;
        }
        if place.default_acl && !link {
            handle::remove_xattr(dir, name, b"system.posix_acl_access").map_err(refused)?;
        }
        if !link && (drop_mode || place.default_acl || node.mode != entry.mode) {
            handle::set_mode(dir, name, Mode::from_raw_mode(entry.mode)).map_err(refused)?;
        }
        for (key, value) in &entry.xattrs {
            if self.carries(key) {
                handle::set_xattr(dir, name, key, value).map_err(|cause| attribute(&entry.path, key, cause))?;
            }
        }
        let mtime = handle::modified(entry.mtime);
        rustix::fs::utimensat(dir, name, &mtime, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)
    }

    /// Makes a name; what stands in its place is removed.
    fn make<T>(
        &mut self,
        place: &Place,
        name: &OsStr,
        entry: &Entry,
        make: &dyn Fn() -> Result<T, Errno>,
    ) -> Result<T> {
        for _ in 0..COLLISIONS {
            match make() {
                Err(Errno::EXIST) => {
                    self.remove(place.dir.as_fd(), name, &entry.path)?;
                    let twice = self
                        .touched
                        .get(&place.inode)
                        .is_some_and(|touched| touched.made.contains(&self.number(name)));
                    if twice || !self.lower {
                        self.note(format!("{}: named twice, the last one counts", shown(&entry.path)));
                    }
                }
                done => return done.map_err(|cause| failed("make", &entry.path, cause)),
            }
        }
        Err(failed("make", &entry.path, Errno::EXIST))
    }

    /// Owner, mode and extended attributes through a handle; `stale` says that it may have some already.
    pub(super) fn describe(&mut self, file: BorrowedFd<'_>, entry: &Entry, stale: bool) -> Result<()> {
        let refused = |cause| failed("set the attributes of", &entry.path, cause);
        let stat = rustix::fs::fstat(file).map_err(refused)?;
        if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(refused)?;
        }
        if stale {
            let kept = |name: &Vec<u8>| entry.xattrs.iter().any(|(key, _)| key == name);
            for name in handle::xattr_names(file).map_err(refused)? {
                if handle::carried(&name) && !kept(&name) {
                    match rustix::fs::fremovexattr(file, name.as_slice()) {
                        Ok(()) | Err(Errno::NODATA) => {}
                        Err(cause) => return Err(attribute(&entry.path, &name, cause)),
                    }
                }
            }
        }
        // A new owner, or an ACL that goes, may have changed it.
        if stale || stat.st_mode & 0o7777 != entry.mode || entry.mode & 0o6000 != 0 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(refused)?;
        }
        for (key, value) in &entry.xattrs {
            if self.carries(key) {
                rustix::fs::fsetxattr(file, key.as_slice(), value, XattrFlags::empty())
                    .map_err(|cause| attribute(&entry.path, key, cause))?;
            }
        }
        Ok(())
    }

    fn carries(&mut self, key: &[u8]) -> bool {
        let carried = handle::carried(key);
        if !carried {
            let key = String::from_utf8_lossy(key.get(..key.len().min(64)).unwrap_or(key)).into_owned();
            // As many kinds as there is room for in the notes.
            if self.filtered.len() < NOTES || self.filtered.contains_key(&key) {
                *self.filtered.entry(key).or_default() += 1;
            }
        }
        carried
    }

    /// Removes a name with all beneath it. Open places may be gone with it, and links to them.
    pub(super) fn remove(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
        let touched = &mut self.touched;
        handle::remove(dir, name, &mut |inode| {
            touched.remove(&inode);
        })
        .map_err(|cause| failed("remove what stands in the way of", path, cause))?;
        self.here = Rc::clone(&self.root);
        Ok(())
    }

    fn note(&mut self, note: String) {
        tracing::debug!("{note}");
        if self.applied.notes.len() < NOTES {
            self.applied.notes.push(note);
        }
    }

    fn finish(mut self) -> Result<Applied> {
        self.set_times()?;
        for (name, count) in std::mem::take(&mut self.filtered) {
            self.note(format!("extended attribute {name:?} left out, times {count}"));
        }
        Ok(self.applied)
    }
}

/// An error that names an entry.
pub(super) fn failed(verb: &str, path: &Path, cause: impl Into<std::io::Error>) -> Error {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    Error::io(verb, shown(path), cause)
}

fn attribute(path: &Path, key: &[u8], cause: Errno) -> Error {
    let key = key.get(..key.len().min(64)).unwrap_or(key);
    failed(&format!("set {:?} of", String::from_utf8_lossy(key)), path, cause)
}
