//! What kind of archive a file, folder or stream is, by content; and its parts by name.
//!
//! ```text
//! rootfs tar        anything else that is a tar; streamed, never kept twice
//! OCI layout        oci-layout, index.json, blobs/…      a folder, or in a tar
//! docker-archive    manifest.json, <config>.json, …      in a tar
//! ```
//!
//! The first name in a tar decides whether it is looked into: an image archive
//! begins with a name of its own kind. Looking into needs seeking, so a packed
//! or piped archive goes to an unnamed temporary file first; a root filesystem
//! never does.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use plywood_store::compress;
use plywood_store::digest::{Digest, Hasher};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::archive::{self, Archive};
use super::budget::Budget;
use super::guess;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::openat2;

/// Bytes of the packed stream that are looked at before it is decided what it is.
const HEAD: usize = 512 << 10;

/// An archive, recognised.
#[derive(Debug)]
pub enum Source {
    /// A root filesystem (or one layer) as a tar, packed or not.
    Tree(Tree),
    /// An OCI layout.
    Oci(Parts),
    /// A docker-archive.
    Docker(Parts),
}

/// A root filesystem's tar.
pub struct Tree {
    /// The bytes as they came.
    pub reader: Box<dyn Read + Send>,
    /// Their number, where it is known.
    pub size: Option<u64>,
    /// Where it came from: a path, or `-`.
    pub path: PathBuf,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("size", &self.size)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The files of an image archive, by name.
#[derive(Debug)]
pub enum Parts {
    /// In a tar that can be sought in.
    Tar(Archive),
    /// In a folder.
    Folder(OwnedFd),
}

/// One file of an image archive.
pub struct Part {
    /// Its content.
    pub reader: Box<dyn Read + Send>,
    /// Length in bytes.
    pub size: u64,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Parts {
    /// The file `name`, or none where the archive has none of that name.
    ///
    /// # Errors
    /// Invalid where the name leads out of the archive or to no regular file.
    pub fn open(&self, name: &str) -> Result<Option<Part>> {
        match self {
            Self::Tar(archive) => archive.open(name),
            Self::Folder(folder) => open_beneath(folder, name),
        }
    }

    /// The whole file `name`, of at most `limit` bytes.
    ///
    /// # Errors
    /// As for [`Parts::open`]; invalid where it is longer.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(part) = self.open(name)? else { return Ok(None) };
        let mut content = Vec::new();
        part.reader
            .take(limit + 1)
            .read_to_end(&mut content)
            .context("read", name)?;
        if content.len() as u64 > limit {
            return Err(Error::invalid(format!(
                "{name} in the archive has more than {limit} bytes"
            )));
        }
        Ok(Some(content))
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.open(name)?.is_some())
    }
}

fn open_beneath(folder: &OwnedFd, name: &str) -> Result<Option<Part>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = openat2::open(folder, name, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
    let file = match opened {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => File::from(opened.context("open", name)?),
    };
    let metadata = file.metadata().context("look at", name)?;
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{name} in the layout is no regular file")));
    }
    Ok(Some(Part {
        size: metadata.len(),
        reader: Box::new(file),
    }))
}

/// Opens and recognises `path` (`-` for standard input). `spool` is a folder for unnamed temporary files.
/// With `expected`, a file or stream must have that digest. What is unpacked on the way is the `budget`'s.
///
/// # Errors
/// Invalid where it is none of the kinds, or unpacks to more than the budget has; corrupt where the digest is another.
pub fn open(path: &Path, spool: &Path, expected: Option<&Digest>, budget: &Budget) -> Result<Source> {
    let file = open_input(path)?;
    let metadata = file.metadata().context("look at", path)?;
    if metadata.is_dir() {
        return open_folder(&file, path);
    }
    let size = metadata.is_file().then_some(metadata.len());
    // A digest can only be compared when the end was seen, and nothing may come of the file before.
    let (file, size) = match (expected, size) {
        (None, _) => (file, size),
        (Some(expected), Some(size)) => (checked(file, expected, path)?, Some(size)),
        (Some(expected), None) => {
            let (file, size) = spooled(Box::new(file), spool)?;
            (checked(file, expected, path)?, Some(size))
        }
    };
    if let Some(size) = size {
        budget.came(size);
    }
    recognise(file, size, path, spool, budget)
}

/// Opens `path` as one layer's tar, whatever is in it.
///
/// # Errors
/// As for [`open`].
pub fn open_layer(path: &Path, spool: &Path, expected: Option<&Digest>, budget: &Budget) -> Result<Tree> {
    match open(path, spool, expected, budget)? {
        Source::Tree(tree) => Ok(tree),
        Source::Oci(_) | Source::Docker(_) => Err(Error::invalid(format!(
            "{} is an image archive, not one layer's tar",
            path.display()
        ))
        .hinted("import it without --layer")),
    }
}

fn open_input(path: &Path) -> Result<File> {
    if path == Path::new("-") {
        if io::IsTerminal::is_terminal(&io::stdin()) {
            return Err(Error::invalid("standard input is a terminal, not an archive")
                .hinted("redirect one: plywood import - NAME < archive.tar"));
        }
        return Ok(File::from(
            rustix::io::dup(io::stdin()).context("open", "standard input")?,
        ));
    }
    File::open(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("there is no file {}", path.display())).caused_by(cause),
        _ => Error::io("open", path, cause),
    })
}

fn open_folder(folder: &File, path: &Path) -> Result<Source> {
    // Reopened, because the handle that came may be of any kind.
    let folder = rustix::fs::openat(
        folder,
        ".",
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH,
        Mode::empty(),
    )
    .context("open", path)?;
    let parts = Parts::Folder(folder);
    if parts.has("oci-layout")? && parts.has("index.json")? {
        return Ok(Source::Oci(parts));
    }
    Err(Error::invalid(format!(
        "{} is a folder, but no OCI layout: it has no oci-layout and index.json",
        path.display()
    ))
    .hinted(format!(
        "for a folder that is a root filesystem: tar -C {} -cf - . | plywood import - NAME",
        crate::explain::quote(path)
    )))
}

/// Compares a file's digest, and goes back to its beginning.
fn checked(mut file: File, expected: &Digest, path: &Path) -> Result<File> {
    let start = io::Seek::stream_position(&mut file).context("seek in", path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).context("read", path)?;
        if count == 0 {
            break;
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
    let found = hasher.digest();
    if found != *expected {
        return Err(
            Error::corrupt(format!("{} has the digest {found}, not {expected}", path.display()))
                .hinted("it is damaged or another file: nothing of it was used"),
        );
    }
    io::Seek::seek(&mut file, io::SeekFrom::Start(start)).context("seek in", path)?;
    Ok(file)
}

/// An unnamed temporary copy of a stream, and its length in bytes.
fn spooled(stream: Box<dyn Read + '_>, spool: &Path) -> Result<(File, u64)> {
    let mut file = tempfile::tempfile_in(spool).context("make a temporary file in", spool)?;
    // A few bytes can unpack to any number: the disk must not fill up over them.
    let room = room_in(spool)?;
    let size = io::copy(&mut stream.take(room + 1), &mut file).map_err(|cause| match cause.raw_os_error() {
        Some(_) => Error::io("copy the archive to a temporary file in", spool, cause),
        None => super::unpack::of_reader(cause),
    })?;
    if size > room {
        return Err(Error::new(
            Kind::NoSpace,
            format!(
                "the archive unpacks to more than the {room} bytes that are left in {}",
                spool.display()
            ),
        )
        .hinted("make room there, or unpack the archive yourself and look what it is"));
    }
    io::Seek::rewind(&mut file).context("seek in", spool)?;
    Ok((file, size))
}

/// Bytes that may be written into the filesystem of `folder`: what is free, less a sixteenth.
///
/// # Errors
/// I/O.
pub fn room_in(folder: &Path) -> Result<u64> {
    let status = rustix::fs::statvfs(folder).context("look at", folder)?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    Ok(free - free / 16)
}

/// Files that may be made in the filesystem of `folder`: those that it has inodes for, less a sixteenth; none where
/// it makes inodes as it needs them.
///
/// # Errors
/// I/O.
pub fn files_in(folder: &Path) -> Result<Option<u64>> {
    let status = rustix::fs::statvfs(folder).context("look at", folder)?;
    Ok((status.f_files > 0).then(|| status.f_favail - status.f_favail / 16))
}

fn recognise(mut file: File, size: Option<u64>, path: &Path, spool: &Path, budget: &Budget) -> Result<Source> {
    let start = if size.is_some() {
        io::Seek::stream_position(&mut file).context("seek in", path)?
    } else {
        0
    };
    let mut head = Vec::new();
    (&mut file)
        .take(HEAD as u64)
        .read_to_end(&mut head)
        .context("read", path)?;
    let (is_packed, begin) = look_at(&head);
    let first = archive::first_name(&begin).ok_or_else(|| guess::not_a_tar(&head, &begin, path))?;
    let whole = |file: File| -> Result<Box<dyn Read + Send>> {
        match size {
            Some(_) => {
                let mut file = file;
                io::Seek::seek(&mut file, io::SeekFrom::Start(start)).context("seek in", path)?;
                Ok(Box::new(file))
            }
            None => Ok(Box::new(budget.coming(Cursor::new(head.clone()).chain(file)))),
        }
    };
    let tree = |reader, size| {
        Source::Tree(Tree {
            reader,
            size,
            path: path.to_owned(),
        })
    };
    if !first.as_deref().is_some_and(archive::is_archive_name) {
        return Ok(tree(whole(file)?, size.map(|size| size.saturating_sub(start))));
    }
    // It may be an image archive: look into all of it.
    let (original, original_size) = match size {
        Some(size) => (file, size),
        None => spooled(whole(file)?, spool)?,
    };
    let unpacked = if is_packed {
        let mut copy = original.try_clone().context("open again", path)?;
        io::Seek::seek(&mut copy, io::SeekFrom::Start(start)).context("seek in", path)?;
        let (_, plain) = compress::decoder(Box::new(copy))?;
        spooled(Box::new(budget.unpacking(plain, true)), spool)?.0
    } else {
        original.try_clone().context("open again", path)?
    };
    let archive_start = if is_packed { 0 } else { start };
    match look_into(unpacked, archive_start)? {
        Some(source) => Ok(source),
        None => {
            let mut original = original;
            io::Seek::seek(&mut original, io::SeekFrom::Start(start)).context("seek in", path)?;
            Ok(tree(Box::new(original), Some(original_size.saturating_sub(start))))
        }
    }
}

/// The kind of an image archive, or none where it is another tar after all.
fn look_into(file: File, start: u64) -> Result<Option<Source>> {
    let archive = Archive::index(file, start)?;
    let is_image_alone = archive.is_image_alone();
    let parts = Parts::Tar(archive);
    if parts.has("index.json")? && parts.has("oci-layout")? {
        return Ok(Some(Source::Oci(parts)));
    }
    if parts.has("manifest.json")? && is_image_alone {
        return Ok(Some(Source::Docker(parts)));
    }
    if parts.has("repositories")? && is_image_alone {
        return Err(Error::invalid(
            "this is a docker-archive from before Docker 1.10: it has repositories, but no manifest.json",
        )
        .hinted("load it into a Docker or podman of today, and save it again from there"));
    }
    Ok(None)
}

/// Whether the stream is packed, and how it begins inside.
fn look_at(head: &[u8]) -> (bool, Vec<u8>) {
    let Ok((compression, mut tar)) = compress::decoder(Box::new(Cursor::new(head.to_vec()))) else {
        return (false, Vec::new());
    };
    let mut begin = Vec::new();
    // What is cut off makes an error at the end, not at the beginning.
    let mut buffer = [0; 4096];
    while begin.len() < HEAD {
        match tar.read(&mut buffer) {
            Ok(count) if count > 0 => begin.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            _ => break,
        }
    }
    (compression != compress::Compression::None, begin)
}
