//! Files that survive a power cut: temporary name, fsync, rename, fsync of the folder.
//!
//! Every file of the store comes into being here. A `Temporary` lives in
//! `tmp/` and is flocked by its writer, so that `gc` can tell a file that is
//! being written from what a dead process left. The flock belongs to the inode
//! and stays when the file is renamed: [`crate::intent`] builds on that.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::Context;
use crate::{Error, Result};

/// A name that no other process and no other thread gives: `<pid>-<16 random hexadecimal digits>`.
pub(crate) fn unique_name() -> Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("read random bytes for", "a file name")?;
    Ok(format!("{}-{:016x}", std::process::id(), u64::from_le_bytes(random)))
}

/// Whether [`unique_name`] can have given it.
pub(crate) fn is_unique_name(name: &str) -> bool {
    name.split_once('-').is_some_and(|(pid, random)| {
        !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && random.len() == 16
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Takes or releases an flock, waiting where `how` waits.
///
/// # Errors
/// I/O.
pub fn flock(file: &File, how: FlockOperation) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, how))
}

/// Takes an flock without waiting; false where somebody else holds one.
///
/// # Errors
/// I/O.
pub fn try_flock(file: &File, how: FlockOperation) -> rustix::io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `path` still names the very file that is open as `file`.
///
/// # Errors
/// I/O.
pub fn is_still_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().context("look at", path)?;
    match path.symlink_metadata() {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// I/O.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .context("sync folder", folder)
}

/// Makes a folder (mode 0700) durably, if it is not there.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        Err(error) => return Err(Error::io("make folder", folder, error)),
    }
    match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// Makes a folder and those above it that are missing, as [`make_folder`] does.
pub(crate) fn make_folders(folder: &Path) -> Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|above| !above.exists()).collect();
    // A relative path ends in an empty one, which is the working folder.
    let named = missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty());
    for folder in named {
        make_folder(folder)?;
    }
    Ok(())
}

/// Removes a file durably; false where there was none.
///
/// # Errors
/// I/O.
pub fn remove(path: &Path) -> Result<bool> {
    let removed = remove_passing(path)?;
    if let Some(folder) = path.parent().filter(|_| removed) {
        sync_folder(folder)?;
    }
    Ok(removed)
}

/// The same for what means nothing after a power cut.
pub(crate) fn remove_passing(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// A file that is being written: locked, under a name that means nothing yet.
/// Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: Option<File>,
    path: PathBuf,
}

impl Temporary {
    /// Makes an empty, locked file in `folder`.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        loop {
            let path = folder.join(unique_name()?);
            let file = match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io("create", path, error)),
            };
            flock(&file, FlockOperation::LockExclusive).context("lock", &path)?;
            // gc may have seen the file before it was locked, and have removed it.
            if is_still_at(&file, &path)? {
                return Ok(Self { file: Some(file), path });
            }
        }
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(crate) fn file(&self) -> io::Result<&File> {
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::other("the temporary file is closed"))
    }

    /// Makes the content durable, gives it its name (replacing what has it), and
    /// makes the name durable. The file comes back open and still locked.
    pub(crate) fn publish(self, target: &Path) -> Result<File> {
        let file = self.publish_unsynced(target)?;
        if let Some(folder) = target.parent() {
            sync_folder(folder)?;
        }
        Ok(file)
    }

    /// The same, but for the name: that is durable when the caller has [synced the folder](sync_folder).
    pub(crate) fn publish_unsynced(self, target: &Path) -> Result<File> {
        let file = self.file().context("write", target)?;
        file.sync_all().context("sync", &self.path)?;
        self.name(target)
    }

    /// The same for what means nothing after a power cut: nothing is made durable.
    fn name(mut self, target: &Path) -> Result<File> {
        std::fs::rename(&self.path, target).context("rename a temporary file to", target)?;
        let file = self.file.take();
        file.ok_or_else(|| Error::io("write", target, io::Error::other("the file is closed")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), "cannot remove a temporary file: {error}");
        }
    }
}

/// Writes a whole small file durably under `target`, through a temporary file in `tmp`.
pub(crate) fn write(tmp: &Path, target: &Path, content: &[u8]) -> Result<File> {
    written(tmp, target, content)?.publish(target)
}

/// The same for what means nothing after a power cut: whole, not durable. The folder is made where it is missing.
pub(crate) fn write_passing(tmp: &Path, target: &Path, content: &[u8]) -> Result<File> {
    if let Some(folder) = target.parent().filter(|folder| !folder.is_dir()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.context("make folder", folder)?;
    }
    written(tmp, target, content)?.name(target)
}

fn written(tmp: &Path, target: &Path, content: &[u8]) -> Result<Temporary> {
    let temporary = Temporary::create(tmp)?;
    let mut file = temporary.file().context("write", target)?;
    io::Write::write_all(&mut file, content).context("write", target)?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_temporary_leaves_nothing_and_a_published_one_its_content() {
        let folder = tempfile::tempdir().unwrap();
        drop(Temporary::create(folder.path()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let target = folder.path().join("x");
        write(folder.path(), &target, b"one").unwrap();
        write(folder.path(), &target, b"two").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_lock_stays_through_the_rename() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        let owner = write(folder.path(), &target, b"mine").unwrap();
        let other = File::open(&target).unwrap();
        assert!(!try_flock(&other, FlockOperation::NonBlockingLockShared).unwrap());
        drop(owner);
        assert!(try_flock(&other, FlockOperation::NonBlockingLockShared).unwrap());
    }
}
