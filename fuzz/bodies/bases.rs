//! What the fuzzer does with the writer of base layers, and what must then hold. The corpus is replayed through the
//! same function by `tests/root_corpus_ext4.rs`.

#![allow(dead_code, reason = "the fuzzer uses a part of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

use plywood::blocks::{ReadAt, WriteAt};
use plywood::dm::ext4;
use plywood::ext4::tree::Directory;
use plywood::ext4::volume::Volume;
use plywood::ext4::write::{Filled, fill};
use plywood_store::layer::Limits;
use plywood_store::layer::apply::Applied;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::folder::Folder;
use rustix::fs::{Mode, SeekFrom, Timespec, Timestamps, fchmod, futimens, seek};

mod program;
mod scratch;

use program::{Code, Header, put_extended, put_padded};
use scratch::{Lower, Scratch};

const BLOCK: usize = 4096;
/// Bytes of the empty volume: the inode tables of its 16 groups leave some 400 blocks of the first one, so that layers
/// go on in the second soon.
const SIZE: u64 = 2020 << 20;

/// Small enough that nothing takes long.
fn limits() -> Limits {
    Limits {
        total_bytes: 32 << 20,
        file_bytes: 16 << 20,
        entries: 2000,
        ..Limits::default()
    }
}

/// Blocks that are not all zeros.
type Blocks = BTreeMap<u64, Vec<u8>>;

/// An empty volume, as the golden one of a pool is.
fn empty() -> &'static Blocks {
    static EMPTY: OnceLock<Blocks> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(SIZE).expect("a length");
        ext4::format(file.path()).expect("a filesystem");
        run(Command::new("debugfs")
            .args(["-w", "-R", "rmdir lost+found"])
            .arg(file.path()));
        let mut blocks = Blocks::new();
        let mut at = 0;
        while let Ok(data) = seek(file.as_file(), SeekFrom::Data(at)) {
            at = seek(file.as_file(), SeekFrom::Hole(data)).expect("where it ends");
            for block in data / BLOCK as u64..at.div_ceil(BLOCK as u64) {
                let mut bytes = vec![0; BLOCK];
                file.as_file()
                    .read_exact_at(&mut bytes, block * BLOCK as u64)
                    .expect("a block");
                if bytes.iter().any(|byte| *byte != 0) {
                    blocks.insert(block, bytes);
                }
            }
        }
        blocks
    })
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&said)
    );
}

/// A volume in memory: what was written, over the empty one.
#[derive(Default)]
struct Written(RefCell<Blocks>);

impl ReadAt for Written {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > SIZE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let written = self.0.borrow();
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (block, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let (now, after) = rest.split_at_mut(rest.len().min(BLOCK - within));
            match written.get(&block).or_else(|| empty().get(&block)) {
                Some(bytes) => now.copy_from_slice(&bytes[within..within + now.len()]),
                None => now.fill(0),
            }
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

impl WriteAt for Written {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(
            offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK),
            "not whole blocks"
        );
        assert!(offset + bytes.len() as u64 <= SIZE, "past the end");
        let mut written = self.0.borrow_mut();
        for (block, bytes) in (offset / BLOCK as u64..).zip(bytes.chunks(BLOCK)) {
            written.insert(block, bytes.to_vec());
        }
        Ok(())
    }
}

/// What the generator of few names never makes: a directory of many long ones, a file in many pieces, a long one.
fn bulk(code: &mut Code<'_>) -> Vec<u8> {
    let [names, length, pieces, run] = [(); 4].map(|()| usize::from(code.byte()));
    let mut tar = Vec::new();
    for number in 0..names * 2 {
        let name = format!("many/{number:0length$}");
        if name.len() > 100 {
            put_extended(&mut tar, b'L', &[name.as_bytes(), b"\0"].concat());
        }
        let header = Header {
            name: name.as_bytes(),
            ..Header::default()
        };
        tar.extend_from_slice(&header.block());
    }
    let every_other: Vec<u8> = (0..pieces * 4)
        .flat_map(|block| [u8::from(block % 2 == 0); BLOCK])
        .collect();
    for (name, content) in [(&b"pieces"[..], every_other), (&b"run"[..], vec![1; run * 8 * BLOCK])] {
        if !content.is_empty() {
            let header = Header {
                name,
                size: content.len(),
                ..Header::default()
            };
            tar.extend_from_slice(&header.block());
            put_padded(&mut tar, &content);
        }
    }
    tar
}

/// The tar of a program: whether it is a plain one and whether the bulk comes last, the bulk, the program.
fn tar(data: &[u8]) -> Vec<u8> {
    const END: usize = 1024;
    let mut code = Code(data);
    let how = code.byte();
    let bulk = bulk(&mut code);
    let mut entries = program::Layer::new(code, Path::new("/outside"), how & 1 != 0).tar();
    entries.truncate(entries.len() - END);
    let parts = if how & 2 == 0 { [bulk, entries] } else { [entries, bulk] };
    [parts.concat(), vec![0; END]].concat()
}

/// Writes a layer onto an empty volume: declined or refused, or its tree, read back, is the one that applying the layer
/// to an empty folder makes; and the same bytes each time.
pub(crate) fn ext4_write(data: &[u8]) {
    written(data);
}

/// The same, and `e2fsck` finds nothing wrong.
pub(crate) fn checked(data: &[u8]) {
    let Some(written) = written(data) else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(SIZE).expect("a length");
    for (block, bytes) in empty().iter().chain(written.0.borrow().iter()) {
        file.as_file().write_all_at(bytes, block * BLOCK as u64).expect("room");
    }
    run(Command::new("e2fsck").arg("-fn").arg(file.path()));
}

/// The volume, where it holds the layer.
fn written(data: &[u8]) -> Option<Rc<Written>> {
    let tar = tar(data);
    let (volume, again) = (Rc::new(Written::default()), Written::default());
    let filled = fill(&*volume, &mut &*tar, &limits());
    let more = fill(&again, &mut &*tar, &limits());
    assert!(*volume.0.borrow() == *again.0.borrow(), "the same layer, two volumes");
    let whole = match filled {
        Ok(Filled::Declined(_)) => {
            assert!(matches!(more, Ok(Filled::Declined(_))));
            return None;
        }
        Ok(Filled::Whole(applied)) => Ok(applied),
        Err(error) => Err(error),
    };
    match (whole, applied(&tar)) {
        (Err(_), Err(_)) => None,
        (Ok(applied), Ok((as_told, tree))) => {
            let counts = |of: &Applied| (of.entries, of.bytes, of.whiteouts);
            assert_eq!(counts(&applied), counts(&as_told), "entries, bytes, whiteouts");
            let read = Volume::open(Box::new(Rc::clone(&volume)))
                .map(Rc::new)
                .expect("a volume");
            let root = Directory::root(&read).expect("a root");
            assert!(layer(&root) == tree, "the volume has another tree than the layer");
            Some(volume)
        }
        (Ok(_), Err(error)) => panic!("written, but applying it is refused: {error}"),
        (Err(error), Ok(_)) => panic!("applied, but writing it is refused: {error}"),
    }
}

/// The tree that the layer makes of an empty folder, as a layer.
fn applied(tar: &[u8]) -> plywood_store::Result<(Applied, Vec<u8>)> {
    thread_local! {
        static SCRATCH: Scratch = Scratch::new();
    }
    SCRATCH.with(|scratch| {
        let root = scratch.root(Lower::Empty);
        as_golden(&root.open());
        let applied = root.apply(tar, &limits())?;
        Ok((applied, layer(&root.open().as_fd())))
    })
}

/// Makes an empty folder what the root of the empty volume is.
fn as_golden(root: &File) {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps {
        last_access: zero,
        last_modification: zero,
    };
    fchmod(root, Mode::from_raw_mode(0o755)).expect("a mode");
    futimens(root, &times).expect("times");
}

fn layer(root: &dyn Folder) -> Vec<u8> {
    let mut tar = Vec::new();
    write_layer(None, root, &Everything, &Options::default(), &mut tar).expect("what came from a layer fits into one");
    tar
}
