//! Notes of the directories in which inodes have their names: one small sorted file per layer.
//!
//! A layer's file has the names that it added to its parent's, or all of them. Nothing depends on it:
//! [`Names`](super::names::Names) verifies what it says against the volume, and reads every directory where it is
//! missing or wrong. So it has no checksum, is never synced, and may be deleted at any time.
//!
//! ```text
//! "PLYNAME1", flags u32 (1: whole), count u32,
//! the first inode of each page of 512 pairs (u32 each),
//! pairs of inode and directory (u32 each), ascending
//! ```
//! All numbers are little-endian.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::names::Parents;
use crate::error::{Context, Error, Result};

const MAGIC: &[u8; 8] = b"PLYNAME1";
const HEADER: usize = 16;
/// Pairs in a page of 4 KiB.
const PAGE: usize = 512;
const PAIR: usize = 8;
/// Set where a file needs no other beneath it.
const WHOLE: u32 = 1;
/// Files that are looked into at most: then one is made of them.
const CHAIN: usize = 16;

/// An inode, and a directory in which it has a name.
pub type Pair = (u32, u32);

/// Writes pairs, ascending, as a file that is there as a whole or not at all. `whole` where they are all there are.
///
/// # Errors
/// The disk's.
pub fn write(path: &Path, pairs: &[Pair], whole: bool) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let made = tempfile::NamedTempFile::new_in(folder).context("make a file in", folder)?;
    let written = encode(&mut BufWriter::new(made.as_file()), pairs, whole);
    written.context("write", path)?;
    made.persist(path)
        .map_err(|error| Error::io("make", path, error.error))?;
    Ok(())
}

fn encode(out: &mut dyn Write, pairs: &[Pair], whole: bool) -> io::Result<()> {
    let count = u32::try_from(pairs.len()).map_err(io::Error::other)?;
    out.write_all(MAGIC)?;
    out.write_all(&u32::from(whole).to_le_bytes())?;
    out.write_all(&count.to_le_bytes())?;
    for (first, _) in pairs.chunks(PAGE).filter_map(<[Pair]>::first) {
        out.write_all(&first.to_le_bytes())?;
    }
    for (inode, directory) in pairs {
        out.write_all(&inode.to_le_bytes())?;
        out.write_all(&directory.to_le_bytes())?;
    }
    out.flush()
}

/// One layer's file.
#[derive(Debug)]
struct Notes {
    file: File,
    whole: bool,
    count: usize,
    /// The first inode of each page.
    pages: Vec<u32>,
}

impl Notes {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context("open", path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).context("read", path)?;
        let length = file.metadata().context("look at", path)?.len();
        let count = usize::try_from(number(&header, 12)).unwrap_or(usize::MAX);
        let pages = count.div_ceil(PAGE);
        let expected = HEADER + 4 * pages + PAIR * count;
        if !header.starts_with(MAGIC) || length != expected as u64 {
            return Err(Error::corrupt(format!("{} is no note of names", path.display())));
        }
        let mut bytes = vec![0; 4 * pages];
        file.read_exact_at(&mut bytes, HEADER as u64).context("read", path)?;
        Ok(Self {
            file,
            whole: number(&header, 8) & WHOLE != 0,
            count,
            pages: bytes.chunks_exact(4).map(|bytes| number(bytes, 0)).collect(),
        })
    }

    fn pairs(&self, page: usize) -> io::Result<Vec<Pair>> {
        let first = page * PAGE;
        let mut bytes = vec![0; self.count.saturating_sub(first).min(PAGE) * PAIR];
        let at = HEADER + 4 * self.pages.len() + first * PAIR;
        self.file.read_exact_at(&mut bytes, at as u64)?;
        Ok(bytes
            .chunks_exact(PAIR)
            .map(|pair| (number(pair, 0), number(pair, 4)))
            .collect())
    }

    /// Adds the directories of an inode.
    fn find(&self, inode: u32, found: &mut Vec<u32>) -> io::Result<()> {
        // The last page that begins before the inode has its first pair, and those that begin with it the others.
        let first = self.pages.partition_point(|first| *first < inode).saturating_sub(1);
        for page in first..self.pages.len() {
            if self.pages.get(page).is_none_or(|first| *first > inode) {
                break;
            }
            let pairs = self.pairs(page)?;
            found.extend(pairs.iter().filter(|pair| pair.0 == inode).map(|pair| pair.1));
        }
        Ok(())
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

/// A layer's notes, with those of the layers beneath it.
#[derive(Debug, Default)]
pub struct Noted {
    notes: Vec<Notes>,
    whole: bool,
}

impl Noted {
    /// Opens the files of a layer and of those beneath it, the layer's first, as far as they are needed. What cannot be
    /// read ends them.
    pub fn open<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut noted = Self::default();
        for path in files {
            match Notes::open(path) {
                Ok(notes) => {
                    noted.whole = notes.whole;
                    noted.notes.push(notes);
                }
                Err(error) => {
                    tracing::debug!("the names are looked for without {}: {error}", path.display());
                    break;
                }
            }
            if noted.whole {
                break;
            }
        }
        noted
    }

    /// Whether every name is in them.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What a layer's own file is to say that adds `added` (ascending) to this; and whether that is whole. None where
    /// only reading every directory can tell.
    ///
    /// # Errors
    /// The disk's.
    pub fn with(&self, added: Vec<Pair>) -> io::Result<Option<(Vec<Pair>, bool)>> {
        if !self.whole || self.notes.len() < CHAIN {
            return Ok(self.whole.then_some((added, false)));
        }
        let mut all = added;
        for notes in &self.notes {
            for page in 0..notes.pages.len() {
                all.extend(notes.pairs(page)?);
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(Some((all, true)))
    }
}

impl Parents for Noted {
    fn parents(&self, inode: u32) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for notes in &self.notes {
            notes.find(inode, &mut found).context("read", "the notes of names")?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_is_found_across_pages_and_layers() {
        let folder = tempfile::tempdir().unwrap();
        let (base, next) = (folder.path().join("base"), folder.path().join("next"));
        // One inode has more names than a page has pairs.
        let mut pairs: Vec<Pair> = (10..2000).map(|inode| (inode * 2, inode % 7 + 2)).collect();
        pairs.extend((0..1500).map(|directory| (100, directory + 1000)));
        pairs.sort_unstable();
        write(&base, &pairs, true).unwrap();
        write(&next, &[(20, 77), (21, 78)], false).unwrap();
        let noted = Noted::open([next.as_path(), base.as_path()].into_iter());
        assert!(noted.is_whole());
        for inode in 0..4100 {
            let mut expected: Vec<u32> = pairs.iter().filter(|pair| pair.0 == inode).map(|pair| pair.1).collect();
            expected.extend(
                [(20, 77), (21, 78)]
                    .iter()
                    .filter(|pair| pair.0 == inode)
                    .map(|pair| pair.1),
            );
            let mut found = noted.parents(inode).unwrap();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{inode}");
        }
        assert_eq!(noted.with(vec![(1, 2)]).unwrap(), Some((vec![(1, 2)], false)));
    }

    #[test]
    fn a_file_that_is_none_ends_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let (base, next) = (folder.path().join("base"), folder.path().join("next"));
        write(&base, &[(1, 2)], true).unwrap();
        for broken in [&b""[..], b"PLYNAME1", b"PLYNAME1\0\0\0\0\xff\xff\xff\xff", &[0; 64]] {
            std::fs::write(&next, broken).unwrap();
            let noted = Noted::open([next.as_path(), base.as_path()].into_iter());
            assert!(!noted.is_whole());
            assert_eq!(noted.parents(1).unwrap(), Vec::<u32>::new());
        }
    }

    #[test]
    fn a_long_chain_becomes_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..16u32).map(|layer| folder.path().join(layer.to_string())).collect();
        for (layer, file) in (0u32..).zip(&files) {
            write(file, &[(layer, 2), (layer + 100, 2)], layer == 15).unwrap();
        }
        let noted = Noted::open(files.iter().map(|file| file.as_path()));
        let (pairs, whole) = noted.with(vec![(50, 3)]).unwrap().unwrap();
        assert!(whole);
        assert_eq!(pairs.len(), 33);
        assert!(pairs.is_sorted());
    }
}
