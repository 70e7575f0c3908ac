//! How an export's output comes into being: whole, under its name, or not at all, however plywood ends.
//!
//! A file has no name until it is written and synced (`O_TMPFILE`), so that a killed export leaves none. Only
//! where a file of that name is there already, or on a filesystem without nameless files, does it have
//! another name for a while. A folder cannot be without a name: it is built beside its place, under a name
//! that is made of its own, with a lock that ends with its builder. So the next export to the same name finds
//! what a killed one left of either, and removes it.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plywood_store::Digest;
use plywood_store::durable::{flock, is_still_at, remove, sync_folder, try_flock};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

use crate::error::{Context, Error, Kind, Result, both};

const BUFFER: usize = 1 << 20;
/// What a file or folder is called before it has its name.
const UNFINISHED: &str = ".plywood-";

/// Has `write` fill the regular file `path`, which appears whole, durably, or not at all.
///
/// # Errors
/// `write`'s own; I/O. Then the file is as it was.
pub fn to_regular_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let beside = folder_of(path);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(&beside, flags, Mode::from_raw_mode(0o666)) {
        Ok(nameless) => {
            let file = filled(File::from(nameless), path, write)?;
            give_name(&file, path)?;
        }
        // overlayfs before Linux 6.3, NFS and others have none.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            let named: NamedTempFile = Builder::new()
                .prefix(UNFINISHED)
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(&beside)
                .context("make a file in", &beside)?;
            let named = filled(named, path, write)?;
            named.as_file().sync_all().context("write", path)?;
            named
                .persist(path)
                .map_err(|failed| failed.error)
                .context("rename to", path)?;
        }
        Err(error) => return Err(Error::io("make a file in", beside, error)),
    }
    sync_folder(&beside)
}

fn filled<W: Write>(out: W, path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<W> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    write(&mut out)?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .context("write", path)
}

/// Has `build` make the regular file `path`, which is empty and has another name meanwhile, for programs that
/// want one.
///
/// # Errors
/// `build`'s own; in use where another export builds it; I/O. Then the file is as it was.
pub fn to_named_file(path: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let between = unfinished(path);
    let file = claim(&between, path)?;
    file.set_len(0).context("empty", &between)?;
    let built = build(&between).and_then(|()| file.sync_all().context("write", path));
    match built.and_then(|()| fs::rename(&between, path).context("rename to", path)) {
        Ok(()) => sync_folder(&folder_of(path)),
        Err(error) => both(Err(error), remove(&between).map(drop)),
    }
}

/// The file with the name for the time being, for this process alone.
fn claim(between: &Path, target: &Path) -> Result<File> {
    loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(between)
            .context("make", between)?;
        if !try_flock(&file, FlockOperation::NonBlockingLockExclusive).context("lock", between)? {
            return Err(being_written(target));
        }
        // Who had the lock may have given it its name.
        if is_still_at(&file, between)? {
            return Ok(file);
        }
    }
}

fn being_written(target: &Path) -> Error {
    Error::new(Kind::InUse, format!("another export is writing {}", target.display()))
        .hinted("wait until it has ended, or name another output")
}

/// Gives a nameless file the name `path`, also where another file has it.
fn give_name(file: &File, path: &Path) -> Result<()> {
    file.sync_all().context("write", path)?;
    let beside = folder_of(path);
    // One at a time: a file that lost its only name can never have another one.
    let folder = File::open(&beside).context("open", &beside)?;
    flock(&folder, FlockOperation::LockExclusive).context("lock", &beside)?;
    let between = unfinished(path);
    // A killed export's.
    remove(&between)?;
    match link(file, path) {
        Err(Errno::EXIST) => {}
        linked => return linked.context("give its name to", path),
    }
    link(file, &between).context("make", &between)?;
    fs::rename(&between, path).context("rename to", path)
}

fn link(file: &File, path: &Path) -> rustix::io::Result<()> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

/// The name beside `path` of what is not finished.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    folder_of(path).join(format!("{UNFINISHED}{}", Digest::of(name).short()))
}

/// A folder that is being filled; dropped before it is finished, it goes.
#[derive(Debug)]
pub struct Building {
    path: PathBuf,
    target: PathBuf,
    finished: bool,
    _lock: File,
}

impl Building {
    /// Begins the folder that is to be `target`, and removes what a killed export left of it.
    ///
    /// # Errors
    /// In use where another export builds it; I/O.
    pub fn begin(target: &Path) -> Result<Self> {
        let path = unfinished(target);
        loop {
            match fs::DirBuilder::new().mode(0o755).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", path, error)),
            }
            let lock = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.context("open", &path)?,
            };
            if !try_flock(&lock, FlockOperation::NonBlockingLockExclusive).context("lock", &path)? {
                return Err(being_written(target));
            }
            // Who had the lock may have removed the folder, or given it its name.
            if !is_still_at(&lock, &path)? {
                continue;
            }
            empty(&path)?;
            return Ok(Self {
                path,
                target: target.to_owned(),
                finished: false,
                _lock: lock,
            });
        }
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// I/O: then nothing is left of it.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(&self.path)?;
        fs::rename(&self.path, &self.target).context("rename to", &self.target)?;
        self.finished = true;
        sync_folder(&folder_of(&self.target))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::debug!(path = %self.path.display(), "cannot remove an unfinished folder: {error}");
        }
    }
}

/// Removes what is in a folder.
fn empty(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).context("list", path)? {
        let entry = entry.context("list", path)?;
        let removed = match entry.file_type().context("look at", entry.path())?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.context("remove", entry.path())?;
    }
    Ok(())
}

/// The folder that `path` is in.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    #[test]
    fn an_unfinished_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        to_regular_file(&path, |out| {
            out.write_all(b"whole").unwrap();
            out.flush().unwrap();
            assert_eq!(names(folder.path()), [] as [&Path; 0]);
            Ok(())
        })
        .unwrap();
        assert_eq!(names(folder.path()), [path]);
    }

    #[test]
    fn what_a_killed_export_left_goes_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        fs::write(&path, "old").unwrap();
        fs::write(unfinished(&path), "between its two names").unwrap();
        to_regular_file(&path, |out| out.write_all(b"new").context("write", "x")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), [path.as_path()]);
        fs::rename(&path, unfinished(&path)).unwrap();
        to_regular_file(&path, |out| out.write_all(b"new").context("write", "x")).unwrap();
        assert_eq!(names(folder.path()), [path.as_path()]);

        let layout = folder.path().join("layout");
        fs::create_dir_all(unfinished(&layout).join("blobs")).unwrap();
        let building = Building::begin(&layout).unwrap();
        assert_eq!(Building::begin(&layout).unwrap_err().kind(), Kind::InUse);
        assert_eq!(names(building.path()), [] as [&Path; 0]);
        building.finish().unwrap();
        assert!(layout.is_dir());
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn two_at_a_time_both_write_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..50 {
                        to_regular_file(&path, |out| out.write_all(b"whole").context("write", "x")).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(folder.path()), [path]);
    }
}
