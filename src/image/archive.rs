//! An image archive's tar, indexed by seeking: names to places, nothing unpacked.
//!
//! Its entries are files of the archive format (blobs, JSON documents), not of
//! an image: few, flat, and only ever read by the names that the format knows.
//! Links inside, as old docker-archives have them, are followed within the index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::source::Part;
use crate::error::{Context, Error, Result};

/// Entries that an image archive may have: 1000 layers with their legacy files, many images.
const ENTRIES_MAX: usize = 100_000;
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
    /// Indexes the tar that begins at byte `start`.
    ///
    /// # Errors
    /// Corrupt where it ends too early; invalid where it is damaged or a name comes twice.
    pub fn index(file: File, start: u64) -> Result<Self> {
        let length = file.metadata().context("look at", "the archive")?.len();
        let file = Arc::new(file);
        let mut entries = HashMap::new();
        let mut is_image_alone = true;
        let view = View {
            file: Arc::clone(&file),
            start,
            at: start,
            end: length,
        };
        let mut tar = tar::Archive::new(view);
        for entry in tar.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let Some(name) = name_of(&entry.path_bytes()) else {
                is_image_alone = false;
                continue;
            };
            if name.is_empty() || is_header(entry.header().entry_type()) {
                continue;
            }
            is_image_alone &= is_archive_name(&name);
            let (at, size) = (start.saturating_add(entry.raw_file_position()), entry.size());
            let found = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    if at.checked_add(size).is_none_or(|end| end > length) {
                        return Err(Error::corrupt(format!("the archive ends in the middle of {name}"))
                            .hinted("it was cut off: fetch or export it again"));
                    }
                    Entry::File { at, size }
                }
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let base = if kind == tar::EntryType::Symlink {
                        name.rsplit_once('/').map_or("", |(folder, _)| folder)
                    } else {
                        ""
                    };
                    joined(base, &target).map_or(Entry::Other, Entry::Link)
                }
                _ => Entry::Other,
            };
            if !matches!(found, Entry::Other) && entries.insert(name.clone(), found).is_some() {
                return Err(Error::invalid(format!(
                    "the archive has {name} twice: it could be read as two different images"
                )));
            }
            if entries.len() > ENTRIES_MAX {
                return Err(Error::invalid(format!(
                    "the archive has more than {ENTRIES_MAX} entries"
                )));
            }
        }
        Ok(Self {
            file,
            entries,
            is_image_alone,
        })
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
                    let view = View {
                        file: Arc::clone(&self.file),
                        start: *at,
                        at: *at,
                        end: at + size,
                    };
                    return Ok(Some(Part {
                        reader: Box::new(view),
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

fn damaged(cause: io::Error) -> Error {
    Error::corrupt("the archive is damaged or was cut off").caused_by(cause)
}

fn is_header(kind: tar::EntryType) -> bool {
    kind.is_pax_global_extensions() || kind.is_dir()
}

/// A name without `./`; none where it is no text or leads out.
fn name_of(bytes: &[u8]) -> Option<String> {
    joined("", bytes)
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
    let mut tar = tar::Archive::new(Cursor::new(begin));
    for (count, entry) in tar.entries().ok()?.enumerate() {
        let entry = match entry {
            Ok(entry) => entry,
            // Cut off later on: a tar without a name that decides.
            Err(_) if count > 0 => return Some(None),
            Err(_) => return None,
        };
        match name_of(&entry.path_bytes()) {
            Some(name) if name.is_empty() || entry.header().entry_type().is_pax_global_extensions() => {}
            name => return Some(name),
        }
    }
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
    start: u64,
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

impl io::Seek for View {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(at) => self.start.checked_add(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let target = target.filter(|target| *target >= self.start);
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at - self.start)
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
        assert!(archive.open("c").unwrap().is_none());
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
