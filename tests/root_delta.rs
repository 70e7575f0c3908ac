//! Changed blocks and a walk through both mounted trees give the same layer, byte for byte.
//!
//! The kernel writes ext4 in two loop files, the child being the parent plus random edits; the blocks that differ are
//! what a pool's metadata would say. `PLYWOOD_TEST_SEED` repeats one seed, `PLYWOOD_TEST_ROUNDS` plays as many from `PLYWOOD_TEST_FIRST` on.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use common::edits::Dice;
use common::{as_many, number, wait};
use rustix::fs::{CWD, RenameFlags, SeekFrom, XattrFlags, renameat_with, setxattr};

use plywood::blocks::Counted;
use plywood::delta::changes::{Compared, compare};
use plywood::delta::names::{Unknown, scan};
use plywood::delta::noted::{self, Noted};
use plywood::dm::volume::Mode;
use plywood::dm::{ext4, loops};
use plywood::ext4::tree::Directory;
use plywood::ext4::volume::Volume;
use plywood::sys::mount::enter_private_namespace;
use plywood_store::layer::diff::{Everything, Options, Scope, write_layer};
use plywood_store::layer::folder::Folder;

const BLOCK: usize = 4096;

/// A filesystem in a file.
struct Image {
    file: PathBuf,
    point: PathBuf,
}

impl Image {
    fn new(folder: &Path, name: &str, size: u64) -> Self {
        let image = Self {
            file: folder.join(name),
            point: folder.join(format!("{name}.mnt")),
        };
        fs::create_dir(&image.point).unwrap();
        File::create(&image.file).unwrap().set_len(size).unwrap();
        image
    }

    fn mounted<T>(&self, mode: Mode, work: impl FnOnce(&Path) -> T) -> T {
        let device = loops::attach(&self.file, "loop").unwrap();
        ext4::mount(&device.path, &self.point, mode).unwrap();
        let done = work(&self.point);
        unmount(&self.point);
        done
    }

    fn open(&self) -> Rc<Volume> {
        Rc::new(Volume::open(Box::new(File::open(&self.file).unwrap())).unwrap())
    }

    /// The blocks that hold anything.
    fn data(&self) -> BTreeSet<u64> {
        let file = File::open(&self.file).unwrap();
        let (mut at, mut blocks) = (0, BTreeSet::new());
        while let Ok(begin) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(begin)).unwrap();
            blocks.extend(begin / BLOCK as u64..at.div_ceil(BLOCK as u64));
        }
        blocks
    }
}

/// A program that another test starts has this one's files open until it has been executed.
fn unmount(point: &Path) {
    let what = format!("{} is not busy", point.display());
    wait::until_ok(&what, || ext4::unmount(point));
}

/// Parent and child of one filesystem.
struct Pair {
    parent: Image,
    child: Image,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        Self::of_size(96 << 20)
    }

    fn of_size(size: u64) -> Self {
        enter_private_namespace().unwrap();
        let folder = tempfile::Builder::new().prefix("plywood-delta-").tempdir().unwrap();
        let pair = Self {
            parent: Image::new(folder.path(), "parent", size),
            child: Image::new(folder.path(), "child", size),
            _folder: folder,
        };
        ext4::format(&pair.child.file).unwrap();
        pair.child.mounted(Mode::ReadWrite, |root| ext4::empty(root).unwrap());
        pair.follow();
        pair
    }

    /// The blocks that differ.
    fn changed(&self) -> Vec<u64> {
        let (parent, child) = (
            File::open(&self.parent.file).unwrap(),
            File::open(&self.child.file).unwrap(),
        );
        let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut blocks = self.parent.data();
        blocks.extend(self.child.data());
        blocks.retain(|block| {
            parent.read_exact_at(&mut one, block * BLOCK as u64).unwrap();
            child.read_exact_at(&mut other, block * BLOCK as u64).unwrap();
            one != other
        });
        blocks.into_iter().collect()
    }

    /// The child becomes the parent of what comes next.
    fn follow(&self) {
        // Within one tick of the clock a directory changes and its times do not: that is told as not explained.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let child = File::open(&self.child.file).unwrap();
        let parent = File::options().write(true).open(&self.parent.file).unwrap();
        let mut bytes = vec![0; BLOCK];
        for block in self.changed() {
            child.read_exact_at(&mut bytes, block * BLOCK as u64).unwrap();
            parent.write_all_at(&bytes, block * BLOCK as u64).unwrap();
        }
    }

    fn compare(&self) -> (Rc<Volume>, Rc<Volume>, Compared) {
        let (parent, child) = (self.parent.open(), self.child.open());
        let compared = compare(&parent, &child, &self.changed(), Box::new(Unknown)).unwrap();
        (parent, child, compared)
    }

    /// Both differs; gives the layer.
    fn both(&self, when: &str) -> Vec<u8> {
        let (parent, child, compared) = self.compare();
        let changes = match compared {
            Compared::Known(changes) => changes,
            Compared::Unknown(why) => panic!("{when}: {why}"),
        };
        let roots = (Directory::root(&parent).unwrap(), Directory::root(&child).unwrap());
        // As the commit does: of what changed, times prove nothing.
        let by_blocks = layer(&roots.0, &roots.1, &changes, true);
        let by_walk = self.walked();
        assert_eq!(entries(&by_blocks), entries(&by_walk), "{when}");
        assert!(by_blocks == by_walk, "{when}: same entries, other bytes");
        let all = layer(&roots.0, &roots.1, &Everything, true);
        assert!(all == by_walk, "{when}: a walk through the volumes gives other bytes");
        by_blocks
    }

    fn walked(&self) -> Vec<u8> {
        self.parent.mounted(Mode::ReadOnly, |parent| {
            self.child.mounted(Mode::ReadOnly, |child| {
                let (parent, child) = (File::open(parent).unwrap(), File::open(child).unwrap());
                layer(&parent.as_fd(), &child.as_fd(), &Everything, true)
            })
        })
    }

    fn edit(&self, edits: impl FnOnce(&Path)) {
        self.child.mounted(Mode::ReadWrite, edits);
    }
}

fn layer(parent: &dyn Folder, child: &dyn Folder, scope: &dyn Scope, thorough: bool) -> Vec<u8> {
    let options = Options {
        thorough,
        ..Options::default()
    };
    let mut tar = Vec::new();
    write_layer(Some(parent), child, scope, &options, &mut tar).unwrap();
    tar
}

/// Kind, path, link, size and mode of every entry, for a readable difference.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            header.entry_type(),
            entry.path().unwrap(),
            entry.link_name().unwrap(),
            header.size().unwrap(),
            header.mode().unwrap(),
        )
    });
    entries.collect()
}

/// What is told by blocks or inodes alone, and what overlayfs, for which the other edits are, refuses.
fn more(dice: &mut Dice, root: &Path) -> std::io::Result<()> {
    let (path, other) = (dice.path(root), dice.path(root));
    match dice.below(8) {
        0 => Ok(renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?),
        // The same bytes again, in blocks of their own.
        1 => {
            let content = read_file(&path)?;
            fs::write(&path, content)
        }
        2 => {
            let before = fs::symlink_metadata(&path)?;
            let mut content = read_file(&path)?;
            content.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(&path, content)?;
            File::options()
                .write(true)
                .open(&path)?
                .set_modified(before.modified()?)
        }
        3 => {
            fs::create_dir_all(&path)?;
            let names = 0..300 + dice.below(600);
            names
                .clone()
                .try_for_each(|name| File::create(path.join(format!("{name}-of-many"))).map(drop))?;
            let step = 1 + dice.below(7);
            names
                .step_by(step)
                .try_for_each(|name| fs::remove_file(path.join(format!("{name}-of-many"))))
        }
        // Too large for the inodes: a block that both share.
        4 => {
            let value = vec![b's'; 500];
            [path, other]
                .iter()
                .try_for_each(|path| Ok(setxattr(path, "user.shared", &value, XattrFlags::empty())?))
        }
        5 => Command::new("cp")
            .args(["-a", "--remove-destination"])
            .arg(&path)
            .arg(&other)
            .stderr(Stdio::null())
            .status()
            .map(drop),
        6 => Command::new("chmod")
            .args(["-R", "g+w"])
            .arg(&path)
            .stderr(Stdio::null())
            .status()
            .map(drop),
        // Many extents, and a tree of them.
        _ => {
            let file = File::options().write(true).create_new(true).open(&path)?;
            (0..400).try_for_each(|block| file.write_all_at(b"apart", block * 2 * BLOCK as u64))
        }
    }
}

/// Of a regular file: a FIFO would wait, and a device is not the tree's.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    match fs::symlink_metadata(path)?.is_file() {
        true => fs::read(path),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

fn play(pair: &Pair, seed: u64) {
    let mut dice = Dice::new(seed);
    let rounds = 1 + dice.below(6);
    pair.edit(|root| {
        for _ in 0..rounds {
            let (count, other) = (dice.below(12), dice.below(3));
            dice.edits(root, count);
            for _ in 0..other {
                let _ = more(&mut dice, root);
            }
        }
    });
    pair.both(&format!("seed {seed}"));
    pair.follow();
}

#[test]
fn root_random_edits_give_the_same_layer_by_blocks_and_by_a_walk() {
    let pair = Pair::new();
    for seed in common::seeds(as_many(60, 12)) {
        // What came before decides what an edit does, so a seed is the first of its own filesystem now and then.
        let fresh = (seed % 20 == 0).then(Pair::new);
        play(fresh.as_ref().unwrap_or(&pair), seed);
    }
}

#[test]
fn root_a_block_that_changed_behind_ext4s_back_is_not_explained() {
    let pair = Pair::new();
    pair.edit(|root| fs::write(root.join("file"), vec![b'x'; 3 * BLOCK]).unwrap());
    pair.follow();
    let (_, child, _) = pair.compare();
    let root = Directory::root(&child).unwrap();
    let node = root.look("file".as_ref()).unwrap().unwrap();
    let inode = child.inode(u32::try_from(node.inode).unwrap()).unwrap();
    let block = child.mapping(&inode).unwrap().extents[0].physical + 1;
    let file = File::options().write(true).open(&pair.child.file).unwrap();
    file.write_all_at(b"changed", block * BLOCK as u64).unwrap();
    match pair.compare().2 {
        Compared::Unknown(why) => assert!(why.contains(&format!("block {block}")), "{why}"),
        Compared::Known(changes) => panic!("{changes:?}"),
    }
}

#[test]
fn root_a_directory_in_the_place_of_another_is_read_as_a_whole() {
    let pair = Pair::new();
    pair.edit(|root| {
        for name in ["one", "two"] {
            fs::create_dir_all(root.join(name).join("deep")).unwrap();
            fs::write(root.join(name).join("deep/file"), name).unwrap();
        }
        fs::hard_link(root.join("one/deep/file"), root.join("link")).unwrap();
    });
    pair.both("made");
    pair.follow();
    pair.edit(|root| {
        renameat_with(CWD, root.join("one"), CWD, root.join("two"), RenameFlags::EXCHANGE).unwrap();
    });
    let tar = pair.both("exchanged");
    assert!(
        entries(&tar).iter().any(|entry| entry.contains("link")),
        "{:?}",
        entries(&tar)
    );
}

#[test]
fn root_what_was_written_with_its_times_put_back_is_found() {
    let pair = Pair::new();
    pair.edit(|root| fs::write(root.join("file"), "before").unwrap());
    pair.follow();
    pair.edit(|root| {
        let path = root.join("file");
        let before = fs::metadata(&path).unwrap();
        fs::write(&path, "after!").unwrap();
        let time = before.modified().unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime_nsec(), before.mtime_nsec());
    });
    assert_eq!(entries(&pair.both("times put back")).len(), 1);
}

#[test]
fn root_a_file_that_was_open_when_its_name_went_is_explained() {
    let pair = Pair::new();
    pair.edit(|root| fs::write(root.join("file"), "x").unwrap());
    pair.follow();
    // As a volume is captured while its container runs: frozen, and the file open still.
    let device = loops::attach(&pair.child.file, "loop").unwrap();
    ext4::mount(&device.path, &pair.child.point, Mode::ReadWrite).unwrap();
    let path = pair.child.point.join("file");
    let open = File::options().write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    open.write_all_at(&vec![b'y'; 2 * BLOCK], 0).unwrap();
    assert!(
        std::process::Command::new("fsfreeze")
            .arg("-f")
            .arg(&pair.child.point)
            .status()
            .unwrap()
            .success()
    );
    let copy = pair.child.file.with_extension("copy");
    fs::copy(&pair.child.file, &copy).unwrap();
    assert!(
        std::process::Command::new("fsfreeze")
            .arg("-u")
            .arg(&pair.child.point)
            .status()
            .unwrap()
            .success()
    );
    drop(open);
    unmount(&pair.child.point);
    drop(device);
    fs::rename(&copy, &pair.child.file).unwrap();
    let (parent, child, compared) = pair.compare();
    let Compared::Known(changes) = compared else {
        panic!("{compared:?}");
    };
    let tar = layer(
        &Directory::root(&parent).unwrap(),
        &Directory::root(&child).unwrap(),
        &changes,
        false,
    );
    assert_eq!(entries(&tar), ["Regular \".wh.file\" None 0 0"]);
}

/// What reads a volume, and counts.
struct Reading {
    volume: Rc<Volume>,
    counted: Rc<Counted<File>>,
}

impl Reading {
    fn of(image: &Image) -> Self {
        let counted = Rc::new(Counted::new(File::open(&image.file).unwrap()));
        let volume = Volume::open(Box::new(Rc::clone(&counted))).unwrap();
        Self {
            volume: Rc::new(volume),
            counted,
        }
    }
}

/// Reads, and blocks in them, that one changed file costs in a tree of `files`.
fn cost(files: usize) -> (u64, u64) {
    let pair = Pair::of_size((files as u64 * 8192 + (64 << 20)).next_multiple_of(128 << 20));
    pair.edit(|root| {
        for file in 0..files {
            let folder = root.join(format!("usr/share/{}/{}", file / 10_000, file / 100 % 100));
            if file % 100 == 0 {
                fs::create_dir_all(&folder).unwrap();
            }
            fs::write(
                folder.join(format!("file-{file}")),
                &b"x"[..usize::from(file % 100 == 7)],
            )
            .unwrap();
        }
    });
    pair.follow();
    let notes = pair.parent.file.with_extension("names");
    noted::write(&notes, &scan(&pair.parent.open()).unwrap(), true).unwrap();
    pair.edit(|root| {
        let path = root.join("usr/share/0/3/file-307");
        fs::OpenOptions::new()
            .append(true)
            .open(path)
            .unwrap()
            .write_all(b"more")
            .unwrap();
    });
    let changed = pair.changed();
    let (parent, child) = (Reading::of(&pair.parent), Reading::of(&pair.child));
    let noted = Noted::open([notes.as_path()].into_iter());
    let compared = compare(&parent.volume, &child.volume, &changed, Box::new(noted)).unwrap();
    let Compared::Known(changes) = compared else {
        panic!("{compared:?}");
    };
    assert!(!changes.has_scanned(), "the notes have the name");
    let tar = layer(
        &Directory::root(&parent.volume).unwrap(),
        &Directory::root(&child.volume).unwrap(),
        &changes,
        false,
    );
    let last = entries(&tar).pop().unwrap();
    assert_eq!(last, "Regular \"usr/share/0/3/file-307\" None 5 420");
    let sum = |count: fn(&Counted<File>) -> u64| count(&parent.counted) + count(&child.counted);
    (sum(Counted::reads), sum(Counted::bytes) / BLOCK as u64)
}

/// `PLYWOOD_TEST_FILES=1000000` for as many as that.
#[test]
fn root_one_changed_file_costs_the_same_in_a_large_tree() {
    let many = number("PLYWOOD_TEST_FILES").unwrap_or(as_many(50_000, 5_000));
    let (few, many) = (cost(1000), cost(many));
    println!("(reads, blocks) in 1000 files: {few:?}, in many: {many:?}");
    assert!(many.0 <= 2 * few.0 && many.1 <= 2 * few.1, "{few:?} {many:?}");
}
