//! A volume as a tree that a walker reads like a mounted one.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use plywood_store::layer::folder::Folder;
use plywood_store::layer::{Node, Xattrs};

use super::content::Content;
use super::directory::{self, is_dots};
use super::inode::{Inode, PAYLOAD};
use super::layout::{ROOT, mode};
use super::volume::Volume;
use super::xattr::xattrs;
use crate::error::{Error, Result};

/// Bytes of a symbolic link's target.
const LONGEST_TARGET: u64 = 4095;

/// A directory of a volume.
#[derive(Debug)]
pub struct Directory {
    volume: Rc<Volume>,
    inode: Inode,
    /// Read when the first name is asked for.
    list: OnceCell<List>,
}

/// What is in a directory.
#[derive(Debug, Default)]
struct List {
    names: BTreeMap<OsString, u32>,
    /// Numbers that more than one of the names have.
    linked: BTreeSet<u32>,
    /// `..`.
    above: Option<u32>,
}

impl Directory {
    /// The volume's root directory.
    ///
    /// # Errors
    /// Where there is none.
    pub fn root(volume: &Rc<Volume>) -> Result<Self> {
        Self::open(volume, ROOT)
    }

    fn open(volume: &Rc<Volume>, number: u32) -> Result<Self> {
        let inode = live(volume, number)?;
        if !inode.is_directory() {
            return Err(Error::corrupt(format!("inode {number} is no directory")));
        }
        Ok(Self {
            volume: Rc::clone(volume),
            inode,
            list: OnceCell::new(),
        })
    }

    /// The directory that one of the names is. It has no other name: else a tree would have no end, or one would have
    /// to go through a part of it once for each.
    fn open_child(&self, name: &OsStr) -> Result<Self> {
        let missing = || Error::not_found(format!("directory {} has no {name:?}", self.inode.number()));
        let list = self.listed()?;
        let number = *list.names.get(name).ok_or_else(missing)?;
        let child = Self::open(&self.volume, number)?;
        let is_below = child.listed()?.above == Some(self.inode.number());
        if number == ROOT || !is_below || list.linked.contains(&number) {
            return Err(Error::corrupt(format!("directory {number} has more than one name")));
        }
        Ok(child)
    }

    fn listed(&self) -> Result<&List> {
        if let Some(list) = self.list.get() {
            return Ok(list);
        }
        let mut list = List::default();
        let mut seen = BTreeSet::new();
        for entry in directory::entries(&self.volume, &self.inode)? {
            if is_dots(&entry.name) {
                list.above = list.above.or((entry.name == "..").then_some(entry.inode));
                continue;
            }
            if !seen.insert(entry.inode) {
                list.linked.insert(entry.inode);
            }
            if list.names.insert(entry.name, entry.inode).is_some() {
                return Err(Error::corrupt(format!(
                    "directory {} has one name twice",
                    self.inode.number()
                )));
            }
        }
        Ok(self.list.get_or_init(|| list))
    }

    fn find(&self, name: &OsStr) -> Result<Option<Inode>> {
        let number = self.listed()?.names.get(name).copied();
        number.map(|number| live(&self.volume, number)).transpose()
    }

    fn found(&self, name: &OsStr) -> io::Result<Inode> {
        self.find(name)
            .map_err(wrapped)?
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn xattrs_of(&self, inode: &Inode, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        xattrs(&self.volume, inode, left_out).map_err(wrapped)
    }
}

/// Keeps its kind, and so the way to its exit code.
fn wrapped(error: Error) -> io::Error {
    io::Error::other(error)
}

fn live(volume: &Volume, number: u32) -> Result<Inode> {
    let inode = volume.live(number)?;
    inode.ok_or_else(|| Error::corrupt(format!("a name is that of inode {number}, which is not in use")))
}

/// The target of a symbolic link: in the inode where it is short, else in a block.
///
/// # Errors
/// Corrupt where it has none.
pub fn link_target(volume: &Rc<Volume>, inode: &Inode) -> Result<Vec<u8>> {
    let size = inode.size();
    let broken = || Error::corrupt(format!("the target of symbolic link {} is missing", inode.number()));
    if inode.mode() & mode::TYPE != mode::SYMLINK || size == 0 || size > LONGEST_TARGET {
        return Err(broken());
    }
    let mut target = Vec::new();
    if inode.has_extents() {
        let mut content = Content::open(volume, inode)?;
        content.read_to_end(&mut target).map_err(|_| broken())?;
    } else {
        let length = usize::try_from(size).ok().filter(|length| *length < PAYLOAD);
        target.extend_from_slice(
            length
                .and_then(|length| inode.payload().get(..length))
                .ok_or_else(broken)?,
        );
    }
    if target.contains(&0) {
        return Err(broken());
    }
    Ok(target)
}

impl Folder for Directory {
    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(self.listed().map_err(wrapped)?.names.keys().cloned().collect())
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        let inode = self.find(name).map_err(wrapped)?;
        inode.map(|inode| inode.node()).transpose().map_err(wrapped)
    }

    fn xattrs(&self, name: &OsStr, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.xattrs_of(&self.found(name)?, left_out)
    }

    fn link_target(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        link_target(&self.volume, &self.found(name)?).map_err(wrapped)
    }

    fn file(&self, name: &OsStr) -> io::Result<Box<dyn Read>> {
        let inode = self.found(name)?;
        Ok(Box::new(Content::open(&self.volume, &inode).map_err(wrapped)?))
    }

    fn own(&self) -> io::Result<Node> {
        self.inode.node().map_err(wrapped)
    }

    fn own_xattrs(&self, left_out: &mut dyn FnMut(&[u8])) -> io::Result<Xattrs> {
        self.xattrs_of(&self.inode, left_out)
    }

    fn child(&self, name: &OsStr) -> io::Result<Box<dyn Folder>> {
        self.found(name)?;
        Ok(Box::new(self.open_child(name).map_err(wrapped)?))
    }

    fn below(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        let mut here = Self::open(&self.volume, self.inode.number()).map_err(wrapped)?;
        for name in path {
            if name.as_bytes() == b".." {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            here.found(name)?;
            here = here.open_child(name).map_err(wrapped)?;
        }
        Ok(Box::new(here))
    }
}
