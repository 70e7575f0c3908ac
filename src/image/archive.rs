//! An image archive's tar, indexed by seeking: names to places, nothing unpacked.
//!
//! Its entries are files of the archive format (blobs, JSON documents), not of
//! an image: few, flat, and only ever read by the names that the format knows.
//! Links inside, as old docker-archives have them, are followed within the index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use plywood_store::layer::read::{EntryKind, Reader};
use plywood_store::layer::{self, Limits};

use super::source::Part;
use crate::error::{Context, Error, Result};

/// Entries that an image archive may have: 1000 layers with their legacy files, many images.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// Bytes that are read at once where headers are looked for.
const HEADERS: usize = 4096;
/// Links that a name may lead over.
const LINKS_MAX: usize = 8;

/// An indexed tar.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
    is_image_alone: bool,
}

#[derive(Debug, Clone)]
enum Entry {
    File { at: u64, size: u64 },
    Link(String),
    Other,
}

impl Archive {
    /// Indexes the tar that begins at byte `start`, by the reader that reads layers too: it is as strict
    /// here, and no header can claim more than its due.
    ///
    /// # Errors
    /// Corrupt where it ends too early; invalid where it is damaged or a name comes twice.
    pub fn index(file: File, start: u64) -> Result<Self> {
        let length = file.metadata().context("look at", "the archive")?.len();
        let mut archive = Self {
            file: Arc::new(file),
            entries: HashMap::new(),
            is_image_alone: true,
        };
        let mut next = start;
        for _ in 0..=ENTRIES_MAX {
            let mut rest = Headers(archive.view(next, length));
            let mut reader = Reader::new(&mut rest, &limits());
            let Some(entry) = reader.next_entry().map_err(damaged)? else {
                return Ok(archive);
            };
            let (from, stored) = reader.extent();
            let (at, end) = (
                next.saturating_add(from),
                next.saturating_add(from).saturating_add(stored),
            );
            if end > length {
                return Err(
                    Error::corrupt(format!("the archive ends in the middle of {:?}", entry.path))
                        .hinted("it was cut off: fetch or export it again"),
                );
            }
            archive.take(&entry, at, stored)?;
            next = at.saturating_add(stored.next_multiple_of(BLOCK));
        }
        Err(Error::invalid(format!(
            "the archive has more than {ENTRIES_MAX} entries"
        )))
    }

    /// Remembers where an entry is, if a name leads to it.
    fn take(&mut self, entry: &layer::read::Entry, at: u64, size: u64) -> Result<()> {
        let Some(name) = entry.path.to_str() else {
            self.is_image_alone = false;
            return Ok(());
        };
        if entry.kind == EntryKind::Directory {
            return Ok(());
        }
        self.is_image_alone &= is_archive_name(name);
        let found = match &entry.kind {
            // A sparse one is no blob.
            EntryKind::File if entry.size == size => Entry::File { at, size },
            EntryKind::Symlink(target) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                joined(folder, target.as_os_str().as_bytes()).map_or(Entry::Other, Entry::Link)
            }
            EntryKind::HardLink(target) => joined("", target.as_os_str().as_bytes()).map_or(Entry::Other, Entry::Link),
            _ => Entry::Other,
        };
        if self.entries.insert(name.to_owned(), found).is_some() {
            return Err(Error::invalid(format!(
                "the archive has {name:?} twice: it could be read as two different images"
            )));
        }
        Ok(())
    }

    fn view(&self, start: u64, end: u64) -> View {
        View {
            file: Arc::clone(&self.file),
            at: start,
            end,
        }
    }

    /// Whether every name in it is one that image archives have.
    pub fn is_image_alone(&self) -> bool {
        self.is_image_alone
    }

    /// The file `name`, links followed; none where there is none.
    ///
    /// # Errors
    /// Invalid where the name leads to no regular file.
    pub fn open(&self, name: &str) -> Result<Option<Part>> {
        let mut wanted =
            joined("", name.as_bytes()).ok_or_else(|| Error::invalid(format!("{name:?} leads out of the archive")))?;
        for _ in 0..LINKS_MAX {
            match self.entries.get(&wanted) {
                None => return Ok(None),
                Some(Entry::File { at, size }) => {
                    return Ok(Some(Part {
                        reader: Box::new(self.view(*at, at + size)),
                        size: *size,
                    }));
                }
                Some(Entry::Link(target)) => wanted.clone_from(target),
                Some(Entry::Other) => break,
            }
        }
        Err(Error::invalid(format!("{name} in the archive is no regular file")))
    }
}

/// The size of a file in an archive is the archive's, not an image's.
fn limits() -> Limits {
    Limits {
        total_bytes: u64::MAX,
        file_bytes: u64::MAX,
        ..Limits::default()
    }
}

fn damaged(cause: Error) -> Error {
    Error::corrupt("the archive is damaged or was cut off").caused_by(cause)
}

/// `target` as seen from the folder `base`, inside the archive.
fn joined(base: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The first name in a tar's beginning: none for no tar; none inside for one without names.
pub fn first_name(begin: &[u8]) -> Option<Option<String>> {
    if begin.len() < 512 {
        return None;
    }
    // Two empty blocks are an empty tar; tar writers pad with more.
    if begin.iter().all(|byte| *byte == 0) {
        return Some(None);
    }
    if !layer::read::is_header(begin) {
        return None;
    }
    let mut begin = begin;
    let mut reader = Reader::new(&mut begin, &limits());
    while let Ok(Some(entry)) = reader.next_entry() {
        if !entry.path.as_os_str().is_empty() {
            return Some(entry.path.to_str().map(str::to_owned));
        }
    }
    // Cut off, or refused later: a tar without a name that decides.
    Some(None)
}

/// Whether an image archive could have a file of this name.
pub fn is_archive_name(name: &str) -> bool {
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = name.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    match (first, second, third) {
        ("oci-layout" | "index.json" | "manifest.json" | "repositories" | "umoci.json" | "blobs", None, None) => true,
        ("blobs", Some("sha256" | "sha512"), None) => true,
        ("blobs", Some("sha256"), Some(name)) => hex(name),
        ("blobs", Some("sha512"), Some(_)) => true,
        (layer, Some("layer.tar" | "json" | "VERSION"), None) => hex(layer),
        // `sha256:…` is a config's name as crane, ko and kaniko give it.
        (file, None, None) => hex(file
            .trim_start_matches("sha256:")
            .trim_end_matches(".json")
            .trim_end_matches(".tar")
            .trim_end_matches(".gz")
            .trim_end_matches(".tar")),
        _ => false,
    }
}

/// A part of a file, read by position: any number of them may be read at a time.
#[derive(Debug, Clone)]
struct View {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let count = self
            .file
            .read_at(buffer.get_mut(..count).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// What is read for its headers: a little at a time, as contents are passed over unread.
struct Headers(View);

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let few = buffer.len().min(HEADERS);
        self.0.read(buffer.get_mut(..few).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar_of(files: &[(&str, &str, Option<&str>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content, link) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            match link {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, name, target).unwrap();
                }
                None => tar.append_data(&mut header, name, content.as_bytes()).unwrap(),
            }
        }
        tar.into_inner().unwrap()
    }

    fn indexed(bytes: &[u8], before: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(before).unwrap();
        file.write_all(bytes).unwrap();
        Archive::index(file, before.len() as u64)
    }

    fn text(archive: &Archive, name: &str) -> Option<String> {
        let mut text = String::new();
        archive.open(name).unwrap()?.reader.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn files_are_found_by_name_and_through_links() {
        let tar = tar_of(&[
            ("a/layer.tar", "x", None),
            ("b/layer.tar", "", Some("../a/layer.tar")),
            ("./c", "y", None),
        ]);
        for before in [&b""[..], b"something else"] {
            let archive = indexed(&tar, before).unwrap();
            for (name, content) in [
                ("a/layer.tar", Some("x")),
                ("b/layer.tar", Some("x")),
                ("c", Some("y")),
                ("./c", Some("y")),
                ("d", None),
            ] {
                assert_eq!(text(&archive, name).as_deref(), content, "{name}");
            }
            assert!(archive.open("../c").is_err());
        }
    }

    #[test]
    fn loops_ways_out_doubles_and_cuts_are_refused() {
        let archive = indexed(
            &tar_of(&[
                ("a", "", Some("b")),
                ("b", "", Some("a")),
                ("c", "", Some("../../etc/passwd")),
            ]),
            b"",
        )
        .unwrap();
        assert!(archive.open("a").is_err());
        assert!(archive.open("c").is_err());
        assert!(indexed(&tar_of(&[("a", "1", None), ("./a", "2", None)]), b"").is_err());
        let whole = tar_of(&[("a", &"1".repeat(2000), None)]);
        assert!(indexed(&whole[..1500], b"").is_err());
    }

    #[test]
    fn the_first_name_decides() {
        let name = |files: &[(&str, &str, Option<&str>)]| first_name(&tar_of(files));
        assert_eq!(name(&[("./bin/sh", "x", None)]), Some(Some("bin/sh".into())));
        assert_eq!(name(&[]), Some(None));
        assert_eq!(first_name(b""), None);
        assert_eq!(first_name(&[b'x'; 2048]), None);
        let hex = "0123456789abcdef".repeat(4);
        for yes in [
            "oci-layout".to_owned(),
            "blobs".into(),
            "blobs/sha256".into(),
            format!("blobs/sha256/{hex}"),
            format!("{hex}.json"),
            format!("{hex}.tar"),
            format!("sha256:{hex}"),
            hex.clone(),
            format!("{hex}/layer.tar"),
            "manifest.json".into(),
        ] {
            assert!(is_archive_name(&yes), "{yes}");
        }
        for no in [
            "bin",
            "etc/passwd",
            "blobs/x",
            "blobs/sha256/x",
            "manifest.json/x",
            "home",
            &hex[1..],
            "",
        ] {
            assert!(!is_archive_name(no), "{no}");
        }
    }
}
