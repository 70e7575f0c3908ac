//! Where an archive is written: a tar, a folder; a file that is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use plywood_store::durable::sync_folder;

use super::unpack::of_reader;
use super::whole::{Building, to_regular_file};
use crate::error::{Context, Error, Kind, Result};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;
/// Bytes that are gathered before they are written: a whole piece is not.
const BUFFER: usize = PIECE;

/// Takes the files of an archive, one after the other.
pub trait Sink {
    /// A folder.
    ///
    /// # Errors
    /// I/O.
    fn folder(&mut self, name: &str) -> Result<()>;
    /// A file of `size` bytes.
    ///
    /// # Errors
    /// The reader's own, or where it has another size; I/O.
    fn stream(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()>;
    /// A small file.
    ///
    /// # Errors
    /// I/O.
    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.stream(name, content.len() as u64, &mut io::Cursor::new(content))
    }
}

/// Writes a tar: owner 0:0, time 0, so that the same files are the same bytes.
pub struct TarSink<'a> {
    out: &'a mut dyn Write,
}

impl std::fmt::Debug for TarSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarSink").finish_non_exhaustive()
    }
}

impl<'a> TarSink<'a> {
    /// A tar onto `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Writes the tar's end.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(self) -> Result<()> {
        self.out
            .write_all(&[0; 1024])
            .and_then(|()| self.out.flush())
            .context("write", "the archive")
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, mode: u32, size: u64) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(name).context("name in the archive", name)?;
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).context("write", "the archive")
    }
}

impl Sink for TarSink<'_> {
    fn folder(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), tar::EntryType::Directory, 0o755, 0)
    }

    fn stream(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        self.header(name, tar::EntryType::Regular, 0o644, size)?;
        copy_all(content, self.out, size, name)?;
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or_default();
        self.out
            .write_all([0; 512].get(..padding).unwrap_or_default())
            .context("write", "the archive")
    }
}

/// Copies exactly `size` bytes, and sees the end: only there a blob's reader says whether it is whole.
fn copy_all(from: &mut dyn Read, to: &mut dyn Write, size: u64, name: &str) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut copied: u64 = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(of_reader(cause)),
        };
        if count == 0 {
            break;
        }
        copied += count as u64;
        if copied > size {
            break;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())
            .context("write", name)?;
    }
    if copied != size {
        return Err(Error::corrupt(format!(
            "{name} has not the {size} bytes that its record says"
        )));
    }
    Ok(())
}

/// A folder that appears under its name when it is whole.
#[derive(Debug)]
pub struct FolderSink {
    building: Building,
    folders: Vec<PathBuf>,
}

impl FolderSink {
    /// Begins the folder `target`, which may be there and empty.
    ///
    /// # Errors
    /// Exists where something is there; I/O.
    pub fn new(target: &Path) -> Result<Self> {
        let taken = || {
            Error::new(
                Kind::Exists,
                format!("{} is there already and is not an empty folder", target.display()),
            )
            .hinted("name another folder, or remove it first")
        };
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Ok(false) => return Err(taken()),
            Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => return Err(taken()),
            Err(cause) => return Err(Error::io("look into", target, cause)),
        }
        Ok(Self {
            building: Building::begin(target)?,
            folders: Vec::new(),
        })
    }

    /// Makes it durable, and gives it its name.
    ///
    /// # Errors
    /// I/O: then nothing is left of it.
    pub fn finish(self) -> Result<()> {
        for folder in &self.folders {
            sync_folder(folder)?;
        }
        self.building.finish()
    }
}

impl Sink for FolderSink {
    fn folder(&mut self, name: &str) -> Result<()> {
        let path = self.building.path().join(name);
        fs::create_dir(&path).context("make", &path)?;
        self.folders.push(path);
        Ok(())
    }

    fn stream(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let path = self.building.path().join(name);
        let mut file = File::create_new(&path).context("create", &path)?;
        copy_all(content, &mut file, size, name)?;
        file.sync_all().context("write", &path)
    }
}

/// Has `write` fill the file `path`, or standard output for `-`. A regular file appears whole, durably, or not at all.
///
/// # Errors
/// `write`'s own; invalid for a terminal; I/O.
pub fn to_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if path == Path::new("-") {
        let stdout = io::stdout().lock();
        if stdout.is_terminal() {
            return Err(
                Error::invalid("standard output is a terminal: an archive is nothing to look at")
                    .hinted("redirect it, or name a file with -o FILE"),
            );
        }
        let mut out = BufWriter::with_capacity(BUFFER, stdout);
        write(&mut out)?;
        return out.flush().context("write", "standard output");
    }
    match fs::metadata(path) {
        // A pipe or a device is written as it is.
        Ok(metadata) if !metadata.is_file() => {
            if metadata.is_dir() {
                return Err(Error::new(Kind::Exists, format!("{} is a folder", path.display()))
                    .hinted("name a file, or use --format oci-dir"));
            }
            let mut out =
                BufWriter::with_capacity(BUFFER, File::options().write(true).open(path).context("open", path)?);
            write(&mut out)?;
            out.flush().context("write", path)
        }
        _ => to_regular_file(path, write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_no_file_and_keeps_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        let fail = |out: &mut dyn Write| {
            out.write_all(b"half").unwrap();
            Err(Error::invalid("no"))
        };
        assert!(to_file(&path, fail).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        to_file(&path, |out| out.write_all(b"whole").context("write", "x")).unwrap();
        assert!(to_file(&path, fail).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_or_too_long_a_file_ends_the_reading() {
        let mut room = [0; 4096];
        let mut full = &mut room[..];
        let mut sink = TarSink::new(&mut full);
        let error = sink.stream("x", 1 << 40, &mut io::repeat(7)).unwrap_err();
        assert_eq!(error.to_string(), "cannot write x");
        let mut short = Vec::new();
        let mut sink = TarSink::new(&mut short);
        let error = sink.stream("x", 3 * PIECE as u64, &mut io::repeat(7)).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("layout");
        let mut sink = FolderSink::new(&target).unwrap();
        sink.folder("a").unwrap();
        sink.file("a/b", b"c").unwrap();
        assert!(!target.exists());
        sink.finish().unwrap();
        assert_eq!(fs::read(target.join("a/b")).unwrap(), b"c");
        assert_eq!(FolderSink::new(&target).unwrap_err().kind(), Kind::Exists);
        let mut half = FolderSink::new(&folder.path().join("other")).unwrap();
        assert!(half.stream("x", 5, &mut io::Cursor::new(b"1234")).is_err());
        drop(half);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_tar_is_the_same_each_time_and_others_read_it() {
        let tar = || {
            let mut out = Vec::new();
            let mut sink = TarSink::new(&mut out);
            sink.folder("blobs").unwrap();
            sink.file("blobs/x", b"content").unwrap();
            sink.finish().unwrap();
            out
        };
        assert_eq!(tar(), tar());
        let bytes = tar();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .map(|entry| (entry.path_bytes().into_owned(), entry.size()))
                    .unwrap()
            })
            .collect();
        assert_eq!(entries, [(b"blobs/".to_vec(), 0), (b"blobs/x".to_vec(), 7)]);
    }
}
