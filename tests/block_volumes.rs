//! Volumes that somebody forged, by hand: each is an error or a walk instead, never a change that is missed. The
//! fuzzer looks for more of them (`fuzz/bodies/volumes.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test ends where something is not as it must be"
)]

use std::ffi::OsStr;
use std::rc::Rc;

use plywood::delta::changes::{Compared, compare};
use plywood::delta::names::{Parents, Unknown, scan};
use plywood::error::Result;
use plywood::ext4::directory;
use plywood::ext4::inode::Inode;
use plywood::ext4::layout::JOURNAL;
use plywood::ext4::tree::Directory;
use plywood::ext4::volume::Volume;
use plywood_store::layer::diff::{Everything, Options, Scope, write_layer};

const BLOCK: usize = 4096;

/// A volume's bytes.
#[derive(Clone)]
struct Image(Vec<u8>);

impl Image {
    /// What `fuzz/images/make` made: parent and child.
    fn pair() -> (Self, Self) {
        let packed: &[u8] = include_bytes!("../fuzz/images/ext4.zst");
        let mut parent = zstd::decode_all(packed).unwrap();
        let child = parent.split_off(parent.len() / 2);
        (Self(parent), Self(child))
    }

    fn open(&self) -> Result<Rc<Volume>> {
        Volume::open(Box::new(self.0.clone())).map(Rc::new)
    }

    fn find(&self, path: &str) -> Inode {
        let volume = self.open().unwrap();
        let mut at = volume.inode(2).unwrap();
        for name in path.split('/') {
            let entries = directory::entries(&volume, &at).unwrap();
            let entry = entries.iter().find(|entry| entry.name == OsStr::new(name)).unwrap();
            at = volume.inode(entry.inode).unwrap();
        }
        at
    }

    /// Where an inode lies.
    fn place(&self, number: u32) -> usize {
        let table = self.open().unwrap().groups().next().unwrap().inode_table as usize;
        table * BLOCK + (number as usize - 1) * 256
    }

    /// Where the first block of something lies.
    fn content(&self, path: &str) -> usize {
        let mapping = self.open().unwrap().mapping(&self.find(path)).unwrap();
        mapping.extents[0].physical as usize * BLOCK
    }

    /// Where the entry of a directory lies.
    fn entry(&self, path: &str, name: &str) -> usize {
        let block = if path.is_empty() {
            self.root()
        } else {
            self.content(path)
        };
        let mut at = block;
        while self.0[at + 6] as usize != name.len() || &self.0[at + 8..at + 8 + name.len()] != name.as_bytes() {
            at += usize::from(u16::from_le_bytes([self.0[at + 4], self.0[at + 5]]));
            assert!(at < block + BLOCK, "{name} is there");
        }
        at
    }

    fn root(&self) -> usize {
        let volume = self.open().unwrap();
        let mapping = volume.mapping(&volume.inode(2).unwrap()).unwrap();
        mapping.extents[0].physical as usize * BLOCK
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn layer(parent: &Rc<Volume>, child: &Rc<Volume>, scope: &dyn Scope) -> Result<Vec<u8>> {
    let options = Options {
        thorough: true,
        room: Some(64 << 20),
        ..Options::default()
    };
    let mut tar = Vec::new();
    let roots = (Directory::root(parent)?, Directory::root(child)?);
    write_layer(Some(&roots.0), &roots.1, scope, &options, &mut tar)?;
    Ok(tar)
}

fn by_blocks(parent: &Image, child: &Image) -> Result<Option<Vec<u8>>> {
    by_blocks_and(Box::new(Unknown), parent, child)
}

/// With the directories of names that somebody noted.
fn by_blocks_and(noted: Box<dyn Parents>, parent: &Image, child: &Image) -> Result<Option<Vec<u8>>> {
    let blocks = parent.0.chunks(BLOCK).zip(child.0.chunks(BLOCK));
    let blocks = (0_u64..).zip(blocks);
    let changed: Vec<u64> = blocks
        .filter(|(_, (old, new))| old != new)
        .map(|(block, _)| block)
        .collect();
    let (parent, child) = (parent.open()?, child.open()?);
    match compare(&parent, &child, &changed, noted)? {
        Compared::Known(changes) => layer(&parent, &child, &changes).map(Some),
        Compared::Unknown(_) => Ok(None),
    }
}

/// One directory, for every name.
#[derive(Debug)]
struct Noted(u32);

impl Parents for Noted {
    fn parents(&self, _inode: u32) -> Result<Vec<u32>> {
        Ok(vec![self.0])
    }
}

fn by_walk(parent: &Image, child: &Image) -> Result<Vec<u8>> {
    layer(&parent.open()?, &child.open()?, &Everything)
}

/// Forges the child. What blocks tell is an error, or the walk is asked; what that reads is an error too.
fn forged(what: &str, forge: impl FnOnce(&mut Image)) {
    let (parent, mut child) = Image::pair();
    forge(&mut child);
    let told = by_blocks(&parent, &child);
    assert!(!matches!(told, Ok(Some(_))), "{what}: blocks tell something");
    let error = by_walk(&parent, &child).unwrap_err();
    println!("{what}: {error}");
}

/// Forges the child where a walk does not look, or not so. What blocks tell is an error, or the walk is asked.
fn hidden(what: &str, forge: impl FnOnce(&mut Image)) {
    let (parent, mut child) = Image::pair();
    forge(&mut child);
    let told = by_blocks(&parent, &child);
    assert!(!matches!(told, Ok(Some(_))), "{what}: blocks tell something");
}

#[test]
fn what_is_not_forged_is_told_by_blocks() {
    let (parent, child) = Image::pair();
    let told = by_blocks(&parent, &child).unwrap().unwrap();
    assert!(told == by_walk(&parent, &child).unwrap());
    assert!(told.len() > 10_000);
    assert!(scan(&child.open().unwrap()).unwrap().len() > 100);
}

#[test]
fn extents_that_go_in_a_circle_or_overlap() {
    let node = |image: &Image| {
        let mapping = image.open().unwrap().mapping(&image.find("var/pieces")).unwrap();
        mapping.nodes[0]
    };
    for depth in [1_u16, 2, 5, 6, 0xffff] {
        forged("a node that is its own child", |image| {
            let block = node(image);
            let place = image.place(image.find("var/pieces").number());
            image.put(place + 0x28 + 6, &depth.to_le_bytes());
            let at = block as usize * BLOCK;
            image.put(at + 6, &1_u16.to_le_bytes());
            image.put(at + 12 + 4, &u32::to_le_bytes(block as u32));
            image.put(at + 12 + 8, &[0; 2]);
        });
    }
    forged("one block twice", |image| {
        let at = node(image) as usize * BLOCK + 12;
        let first = image.0[at + 8..at + 12].to_vec();
        image.put(at + 12 + 8, &first);
    });
    forged("out of the filesystem", |image| {
        let at = node(image) as usize * BLOCK + 12;
        image.put(at + 8, &[0xff; 4]);
    });
    forged("a directory of one block, again and again", |image| {
        let inode = image.find("etc");
        let place = image.place(inode.number());
        let block = u32::to_le_bytes((image.content("etc") / BLOCK) as u32);
        image.put(place + 4, &(2 * BLOCK as u32).to_le_bytes());
        image.put(place + 0x28 + 2, &2_u16.to_le_bytes());
        for entry in 0..2_u32 {
            let at = place + 0x28 + 12 * (entry as usize + 1);
            image.put(at, &entry.to_le_bytes());
            image.put(at + 4, &1_u32.to_le_bytes());
            image.put(at + 8, &block);
        }
    });
}

/// Lets `to` say that it has the blocks of `from`, and its size.
fn share(image: &mut Image, from: &Inode, to: &Inode) {
    let (from, to) = (image.place(from.number()), image.place(to.number()));
    // i_size_lo, i_flags, i_block.
    for field in [4..8, 0x20..0x24, 0x28..0x28 + 60] {
        let bytes = image.0[from + field.start..from + field.end].to_vec();
        image.put(to + field.start, &bytes);
    }
}

#[test]
fn many_files_that_share_one_extent_tree() {
    for (what, from, to) in [
        ("one extent tree", "var/pieces", "etc/text"),
        ("one run of blocks", "usr/bin/tool", "etc/text"),
        ("the blocks of one directory", "etc/conf.d", "usr/bin"),
    ] {
        forged(what, |image| share(image, &image.find(from), &image.find(to)));
    }
    let (_, mut child) = Image::pair();
    let pieces = child.find("var/pieces");
    let volume = child.open().unwrap();
    let many = directory::entries(&volume, &child.find("many")).unwrap();
    let many: Vec<Inode> = many
        .iter()
        .filter(|entry| !directory::is_dots(&entry.name))
        .map(|entry| volume.inode(entry.inode).unwrap())
        .collect();
    assert!(many.len() > 50);
    for file in &many {
        share(&mut child, &pieces, file);
    }
    // The tree is walked for the first, as often as it is asked for, and for no other.
    let volume = child.open().unwrap();
    for (number, file) in many.iter().chain(&many).enumerate() {
        let found = volume.mapping(&volume.inode(file.number()).unwrap());
        assert_eq!(found.is_ok(), number % many.len() == 0, "{number}: {found:?}");
    }
}

#[test]
fn directories_that_are_none() {
    for length in [0_u16, 4, 7, 13, 0xffff] {
        forged("an entry of no length", |image| {
            let at = image.entry("etc", "passwd");
            image.put(at + 4, &length.to_le_bytes());
        });
    }
    for name in [b"a/bcde", b"a\0bcde"] {
        forged("a name that leads elsewhere", |image| {
            let at = image.entry("etc", "passwd");
            image.put(at + 8, name);
        });
    }
    forged("one name twice", |image| {
        let at = image.entry("etc", "text");
        image.put(at + 8, b"long");
    });
    forged("a name hidden as a checksum", |image| {
        let at = image.entry("etc", "passwd");
        image.put(at + 7, &[0xde]);
    });
    for number in [8_u32, 10, u32::MAX] {
        forged("an inode that is no file's", |image| {
            let at = image.entry("etc", "passwd");
            image.put(at, &number.to_le_bytes());
        });
    }
    forged("a name of a free inode", |image| {
        let at = image.entry("etc", "passwd");
        image.put(at, &2900_u32.to_le_bytes());
    });
}

#[test]
fn a_name_more_than_its_inode_says() {
    let name = "a-name-that-is-long-enough-to-fill-its-directory-soon-59";
    let forge = |image: &mut Image| {
        let number = image.find("var/reserved").number();
        let volume = image.open().unwrap();
        let blocks = directory::blocks(&volume, &image.find("many")).unwrap();
        let entry = blocks.iter().find_map(|(_, block)| {
            let from = *block as usize * BLOCK;
            let bytes = &image.0[from..from + BLOCK];
            let at = bytes.windows(name.len()).position(|found| found == name.as_bytes())?;
            Some(from + at - 8)
        });
        image.put(entry.unwrap(), &number.to_le_bytes());
    };
    let told = |told: Result<Option<Vec<u8>>>| {
        let error = told.unwrap_err();
        assert!(error.to_string().contains("has 2 names, and says 1"), "{error}");
    };
    // The new one and the noted one are one too many.
    let (mut parent, mut child) = Image::pair();
    forge(&mut child);
    let noted = Noted(child.find("var").number());
    told(by_blocks_and(Box::new(noted), &parent, &child));
    // In both, so that its directory did not change: without a note its names are looked for everywhere, and counted.
    forge(&mut parent);
    told(by_blocks(&parent, &child));
}

#[test]
fn directories_within_themselves() {
    for (what, path, name, to) in [
        ("the root", "tree", "moved", ""),
        ("itself", "tree", "moved", "tree"),
        ("the one above", "var/lib/deep", "er", "var/lib"),
        ("another's", "tree", "moved", "usr/bin"),
    ] {
        forged(what, |image| {
            let number = if to.is_empty() { 2 } else { image.find(to).number() };
            let at = image.entry(path, name);
            image.put(at, &number.to_le_bytes());
        });
    }
    forged("two names", |image| {
        let number = image.find("tree/one").number();
        let at = image.entry("tree", "moved");
        image.put(at, &number.to_le_bytes());
    });
    // Its parent's name is in the way only where it is looked for.
    forged("a parent that is another", |image| {
        let number = image.find("etc").number();
        let at = image.content("var/lib/deep") + 12;
        image.put(at, &number.to_le_bytes());
    });
}

#[test]
fn attributes_past_the_end() {
    for (at, bytes) in [(2, [0xf0, 0xff]), (8, [0xff, 0x0f]), (0, [0xff, 1]), (0, [1, 9])] {
        forged("in the inode", |image| {
            let place = image.place(image.find("etc/text").number());
            let extra = usize::from(u16::from_le_bytes([image.0[place + 0x80], image.0[place + 0x81]]));
            let entry = place + 0x80 + extra + 4;
            assert_ne!(image.0[entry..entry + 4], [0; 4], "it has one");
            image.put(entry + at, &bytes);
        });
        forged("in a block", |image| {
            let block = image.find("etc/passwd").xattr_block();
            assert_ne!(block, 0, "it has one");
            image.put(block as usize * BLOCK + 32 + at, &bytes);
        });
    }
    forged("a block out of the filesystem", |image| {
        let place = image.place(image.find("etc/passwd").number());
        image.put(place + 0x68, &[0xff; 4]);
    });
}

#[test]
fn tables_that_are_elsewhere() {
    for at in [0, 4, 8, 0x20, 0x28] {
        forged("out of the filesystem", |image| image.put(BLOCK + at, &[0xff; 4]));
    }
    forged("a block bitmap within the inodes", |image| {
        let table = image.open().unwrap().groups().next().unwrap().inode_table as u32;
        image.put(BLOCK, &(table + 1).to_le_bytes());
        image.put(BLOCK + 4, &table.to_le_bytes());
    });
    hidden("a journal over the inodes", |image| {
        let place = image.place(JOURNAL);
        let table = image.open().unwrap().groups().next().unwrap().inode_table as u32;
        image.put(place + 0x28 + 12 + 8, &table.to_le_bytes());
    });
    hidden("content that no inode tells of", |image| {
        let at = image.content("tree/moved/file");
        image.put(at, b"forged");
    });
    hidden("a superblock of another size", |image| {
        image.put(1024 + 4, &3000_u32.to_le_bytes())
    });
    forged("every inode reserved", |image| image.put(1024 + 0x54, &[0xff; 4]));
    forged("a feature that is not known", |image| image.put(1024 + 0x60, &[0xff]));
}
