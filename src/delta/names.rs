//! Names of inodes: an inode does not say what it is called, so its names are looked up and then verified.
//!
//! A directory knows its parent (`..`), so the way up from one is read from the volume itself. In which directories
//! a file's names are, a [`Parents`] remembers; what it says is believed only where the directory has the name and
//! all names together are as many as the inode has links. Else every directory is read once.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::ext4::directory::{self, is_dots};
use crate::ext4::inode::Inode;
use crate::ext4::layout::ROOT;
use crate::ext4::volume::Volume;

/// Directories within each other.
const DEPTH: usize = 2048;
/// Bytes of a path; the walk refuses longer ones too.
const PATH_BYTES: usize = 4095;
/// Paths that are kept.
const PATHS: usize = 1 << 14;
/// Names that are kept, of all directories together.
const KEPT: usize = 1 << 18;
/// Directories that are read together.
const TOGETHER: usize = 256;
/// Blocks of one directory that are read with those of others.
const FETCHED: usize = 4;

/// In which directories an inode's names are, as somebody noted it: it may be wrong, or not all.
pub trait Parents: std::fmt::Debug {
    /// The inode numbers of directories.
    ///
    /// # Errors
    /// Where the note cannot be read: it is not used then.
    fn parents(&self, inode: u32) -> Result<Vec<u32>>;
}

/// Nothing noted.
#[derive(Debug, Clone, Copy)]
pub struct Unknown;

impl Parents for Unknown {
    fn parents(&self, _inode: u32) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }
}

/// The names of one directory, by what they name.
#[derive(Debug)]
struct Listing {
    names: HashMap<u32, Vec<OsString>>,
    count: usize,
}

/// The names on one volume.
#[derive(Debug)]
pub struct Names {
    volume: Rc<Volume>,
    noted: Box<dyn Parents>,
    /// Inode and directory of the names that are new.
    added: BTreeSet<(u32, u32)>,
    listings: RefCell<HashMap<u32, Rc<Listing>>>,
    paths: RefCell<HashMap<u32, PathBuf>>,
    /// Inode and directory of every name.
    all: OnceCell<Vec<(u32, u32)>>,
}

impl Names {
    /// The names on `volume`. Those of `added` (inode, directory) are not noted yet.
    pub fn new(volume: &Rc<Volume>, noted: Box<dyn Parents>, added: BTreeSet<(u32, u32)>) -> Self {
        Self {
            volume: Rc::clone(volume),
            noted,
            added,
            listings: RefCell::default(),
            paths: RefCell::default(),
            all: OnceCell::new(),
        }
    }

    /// The names that are new, as inode and directory.
    pub fn added(&self) -> &BTreeSet<(u32, u32)> {
        &self.added
    }

    /// Whether every directory had to be read.
    pub fn has_scanned(&self) -> bool {
        self.all.get().is_some()
    }

    /// The path of a directory: empty for the root's.
    ///
    /// # Errors
    /// Corrupt where its parents do not lead to the root, or do not have its name.
    pub fn path_of(&self, directory: u32) -> Result<PathBuf> {
        let mut way = Vec::new();
        let mut at = directory;
        let mut path = loop {
            if at == ROOT {
                break PathBuf::new();
            }
            if let Some(path) = self.paths.borrow().get(&at) {
                break path.clone();
            }
            if way.len() > DEPTH {
                return Err(Error::corrupt(format!(
                    "the way up from directory {directory} has no end"
                )));
            }
            way.push(at);
            at = self.above(at)?;
        };
        for &below in way.iter().rev() {
            let listing = self.listing(at)?;
            let name = listing.names.get(&below).and_then(|names| names.first());
            path.push(name.ok_or_else(|| Error::corrupt(format!("directory {at} has no name for its own {below}")))?);
            if path.as_os_str().len() > PATH_BYTES {
                return Err(Error::corrupt(format!("the path of directory {directory} is too long")));
            }
            let mut paths = self.paths.borrow_mut();
            if paths.len() >= PATHS {
                paths.clear();
            }
            paths.insert(below, path.clone());
            at = below;
        }
        Ok(path)
    }

    /// All paths of what has this number; none where nothing has it.
    ///
    /// # Errors
    /// Corrupt where it has not as many names as it says.
    pub fn of(&self, number: u32) -> Result<Vec<PathBuf>> {
        let Some(inode) = self.volume.live(number)? else {
            return Ok(Vec::new());
        };
        if inode.is_directory() {
            return Ok(vec![self.path_of(number)?]);
        }
        let added = self
            .added
            .range((number, 0)..=(number, u32::MAX))
            .map(|(_, above)| *above);
        let mut above: BTreeSet<u32> = added.collect();
        // A note that cannot be read is as good as none.
        above.extend(self.noted.parents(number).unwrap_or_default());
        let names = self.among(number, &above)?;
        if names.len() == usize::from(inode.links()) {
            return Ok(names);
        }
        let all = self.all()?;
        let first = all.partition_point(|(inode, _)| *inode < number);
        let above = all.iter().skip(first).take_while(|(inode, _)| *inode == number);
        let names = self.among(number, &above.map(|(_, above)| *above).collect())?;
        if names.len() == usize::from(inode.links()) {
            return Ok(names);
        }
        Err(Error::corrupt(format!(
            "inode {number} has {} names, and says {}",
            names.len(),
            inode.links()
        )))
    }

    fn among(&self, number: u32, directories: &BTreeSet<u32>) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for &above in directories {
            // It may have been a directory once, and be something else now.
            let is_one = above <= self.volume.geometry().inodes
                && self.volume.live(above)?.is_some_and(|inode| inode.is_directory());
            let Some(names) = is_one.then(|| self.listing(above)).transpose()? else {
                continue;
            };
            for name in names.names.get(&number).into_iter().flatten() {
                paths.push(self.path_of(above)?.join(name));
            }
        }
        Ok(paths)
    }

    /// `..`.
    fn above(&self, directory: u32) -> Result<u32> {
        let inode = self.volume.live(directory)?.filter(Inode::is_directory);
        let inode = inode.ok_or_else(|| Error::corrupt(format!("inode {directory} is no directory")))?;
        let mut entries = Vec::new();
        if let Some((_, block)) = directory::blocks(&self.volume, &inode)?.first() {
            directory::entries_of(&self.volume, directory, *block, &mut entries)?;
        }
        let above = entries.iter().find(|entry| entry.name == "..").map(|entry| entry.inode);
        above.ok_or_else(|| Error::corrupt(format!("directory {directory} has no parent")))
    }

    fn listing(&self, number: u32) -> Result<Rc<Listing>> {
        if let Some(listing) = self.listings.borrow().get(&number) {
            return Ok(Rc::clone(listing));
        }
        let inode = self.volume.live(number)?;
        let inode = inode.ok_or_else(|| Error::corrupt(format!("directory {number} is not in use")))?;
        let mut names = HashMap::<u32, Vec<OsString>>::new();
        let entries = directory::entries(&self.volume, &inode)?;
        let count = entries.len();
        for entry in entries.into_iter().filter(|entry| !is_dots(&entry.name)) {
            names.entry(entry.inode).or_default().push(entry.name);
        }
        let listing = Rc::new(Listing { names, count });
        let mut listings = self.listings.borrow_mut();
        if listings.values().map(|listing| listing.count).sum::<usize>() + count > KEPT {
            listings.clear();
        }
        listings.insert(number, Rc::clone(&listing));
        Ok(listing)
    }

    fn all(&self) -> Result<&[(u32, u32)]> {
        if self.all.get().is_none() {
            let found = scan(&self.volume)?;
            let _ = self.all.set(found);
        }
        Ok(self.all.get().map(Vec::as_slice).unwrap_or_default())
    }
}

/// Reads every directory: inode and directory of every name, sorted.
///
/// Those of one depth are read together, in the order in which they lie: a tree that was written at once has its
/// directories side by side.
///
/// # Errors
/// Corrupt where a directory is no list of names.
pub fn scan(volume: &Volume) -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([ROOT]);
    let mut depth = vec![ROOT];
    while !depth.is_empty() {
        let mut below = Vec::new();
        depth.sort_unstable();
        for together in depth.chunks(TOGETHER) {
            for inode in directories(volume, together)? {
                for entry in directory::entries(volume, &inode)? {
                    if is_dots(&entry.name) {
                        continue;
                    }
                    found.push((entry.inode, inode.number()));
                    if entry.is_directory && seen.insert(entry.inode) {
                        below.push(entry.inode);
                    }
                }
            }
        }
        depth = below;
    }
    found.sort_unstable();
    Ok(found)
}

/// The inodes of these directories, whose blocks were read in as few pieces as they lie in.
fn directories(volume: &Volume, numbers: &[u32]) -> Result<Vec<Inode>> {
    let tables = numbers.iter().map(|number| volume.block_of_inode(*number));
    volume.fetch(tables.collect::<Result<_>>()?)?;
    let mut inodes = Vec::new();
    let mut blocks = Vec::new();
    for number in numbers {
        let inode = volume.live(*number)?.filter(Inode::is_directory);
        let inode = inode.ok_or_else(|| Error::corrupt(format!("inode {number} is no directory")))?;
        // One with many is read by itself.
        blocks.extend(
            directory::blocks(volume, &inode)?
                .iter()
                .take(FETCHED)
                .map(|(_, block)| *block),
        );
        inodes.push(inode);
    }
    volume.fetch(blocks)?;
    Ok(inodes)
}
