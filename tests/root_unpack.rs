//! The confined child: what it must be able to do, and what it must not.

#[path = "common/environment.rs"]
mod environment;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use plywood::error::{Error, Kind, Result};
use plywood::image::unpack::Unpacker;
use plywood::snapshot::Mounted;
use plywood_store::layer::{Limits, apply::Applied, tree};
use tempfile::TempDir;

fn unpacker() -> Unpacker {
    Unpacker {
        program: env!("CARGO_BIN_EXE_plywood").into(),
        ..Unpacker::default()
    }
}

/// A root to unpack into, beside a sentinel that must stay as it is.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("sentinel")).unwrap();
        fs::write(folder.path().join("sentinel/file"), "untouched").unwrap();
        Self { folder }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn unpack(&self, unpacker: &Unpacker, tar: &mut dyn Read) -> Result<Applied> {
        let before = self.sentinel();
        let mounted = Mounted::new(self.root(), File::open(self.root()).unwrap().into(), || Ok(()));
        let result = unpacker.unpack(&mounted, tar, Path::new("layer.tar"));
        assert_eq!(self.sentinel(), before, "the host was reached");
        result
    }

    fn sentinel(&self) -> (plywood_store::Digest, Vec<String>) {
        let sentinel = File::open(self.folder.path().join("sentinel")).unwrap();
        let beside = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        (tree::digest(&sentinel.as_fd()).unwrap(), beside)
    }
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, name: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        // Set by hand: the crate would refuse the names that matter here.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        let field = &mut header.as_old_mut().linkname;
        field[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12345);
        header.set_gid(54321);
        header.set_mtime(1_500_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(name, tar::EntryType::Regular, 0o644, content, "")
    }

    fn xattrs(mut self, xattrs: &[(&str, &[u8])]) -> Self {
        let keys: Vec<(String, &[u8])> = xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value))
            .collect();
        self.0
            .append_pax_extensions(keys.iter().map(|(name, value)| (name.as_str(), *value)))
            .unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[test]
fn root_everything_that_a_layer_carries_arrives() {
    use tar::EntryType as Kind;
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs: &[(&str, &[u8])] = &[
        ("user.note", b"n"),
        ("trusted.mark", b"t"),
        ("security.capability", capability),
    ];
    let tar = Tar::new()
        .add("d/", Kind::Directory, 0o1777, b"", "")
        .xattrs(xattrs)
        .add("d/setuid", Kind::Regular, 0o6755, b"content", "")
        .add("d/twin", Kind::Link, 0o6755, b"", "d/setuid")
        .add("d/link", Kind::Symlink, 0o777, b"", "/nowhere")
        .add("d/null", Kind::Char, 0o666, b"", "")
        .add("d/block", Kind::Block, 0o600, b"", "")
        .add("d/fifo", Kind::Fifo, 0o600, b"", "")
        .done();
    let place = Place::new();
    let applied = place.unpack(&unpacker(), &mut tar.as_slice()).unwrap();
    assert_eq!((applied.bytes, applied.notes), (7, Vec::new()));
    let at = |name: &str| fs::symlink_metadata(place.root().join(name)).unwrap();
    assert_eq!(at("d").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(
        (
            at("d/setuid").mode() & 0o7777,
            at("d/setuid").uid(),
            at("d/setuid").gid()
        ),
        (0o6755, 12345, 54321)
    );
    assert_eq!((at("d/twin").ino(), at("d/twin").nlink()), (at("d/setuid").ino(), 2));
    assert!(at("d/link").is_symlink() && at("d/fifo").file_type().is_fifo());
    assert!(at("d/null").file_type().is_char_device() && at("d/block").file_type().is_block_device());
    assert_eq!(at("d/null").rdev(), 0x103);
    for (name, value) in xattrs {
        let mut got = [0; 64];
        let count = rustix::fs::lgetxattr(place.root().join("d/setuid"), *name, &mut got).unwrap();
        assert_eq!(&got[..count], *value, "{name}");
    }
}

#[test]
fn root_nothing_outside_is_reached() {
    use tar::EntryType as Kind;
    let sentinel = |place: &Place| place.folder.path().join("sentinel").to_str().unwrap().to_owned();
    for (what, tar) in [
        ("a name with ..", Tar::new().file("../sentinel/file", b"x").done()),
        ("an absolute name", Tar::new().file("/sentinel/file", b"x").done()),
        (
            "through a link",
            Tar::new()
                .add("out", Kind::Symlink, 0o777, b"", "../sentinel")
                .file("out/file", b"x")
                .done(),
        ),
        (
            "over the root",
            Tar::new()
                .add(".", Kind::Symlink, 0o777, b"", "../sentinel")
                .file("file", b"x")
                .done(),
        ),
        (
            "a hard link",
            Tar::new()
                .add("hard", Kind::Link, 0o777, b"", "../sentinel/file")
                .file("hard", b"x")
                .done(),
        ),
        (
            "a whiteout",
            Tar::new()
                .add("out", Kind::Symlink, 0o777, b"", "../sentinel")
                .file("out/.wh.file", b"")
                .done(),
        ),
        ("the whiteout of ..", Tar::new().file("x/.wh...", b"").done()),
    ] {
        let place = Place::new();
        // Refused or kept inside: the place itself checks the sentinel. Only the child may not die of it.
        if let Err(error) = place.unpack(&unpacker(), &mut tar.as_slice()) {
            assert!(!chain(&error).contains("without a report"), "{what}: {}", chain(&error));
        }
        let absolute = Tar::new()
            .add("way", Kind::Symlink, 0o777, b"", &sentinel(&place))
            .file("way/file", b"x")
            .done();
        let _ = place.unpack(&unpacker(), &mut absolute.as_slice());
    }
}

/// One long tar, each of its entries a race: `PLYWOOD_TEST_ROUNDS` says how many.
#[test]
fn root_u05_links_swapped_under_the_confined_child_lead_nowhere() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let rounds = environment::rounds(500);
    let place = Place::new();
    let root = File::open(place.root()).unwrap();
    fs::create_dir(place.root().join("swap")).unwrap();
    std::os::unix::fs::symlink(place.folder.path().join("sentinel"), place.root().join("out")).unwrap();
    let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut unpacked = 0;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let swapped = rustix::fs::renameat_with(&root, "swap", &root, "out", flags);
                swaps.fetch_add(swapped.is_ok().into(), Ordering::Relaxed);
            }
        });
        while unpacked < rounds {
            // Whiteouts are passed over where they lead nowhere, so that one lost race does not end it.
            let entries = (0..(rounds - unpacked).min(1000)).fold(Tar::new(), |tar, round| {
                let tar = tar.file("swap/.wh.file", b"").file(&format!("x{}", round % 7), b"");
                if round % 100 == 99 {
                    tar.file("swap/file", b"evil")
                } else {
                    tar
                }
            });
            let _ = place.unpack(&unpacker(), &mut entries.done().as_slice());
            unpacked += 1000;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(fs::read(place.folder.path().join("sentinel/file")).unwrap() == b"untouched");
    println!("{rounds} rounds, {} swaps", swaps.into_inner());
}

#[test]
fn root_u10_a_bare_folder_takes_no_device_that_overlayfs_calls_a_whiteout() {
    let mut header = tar::Header::new_gnu();
    header.set_path("hidden").unwrap();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o600);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut tar = Tar::new();
    tar.0.append(&header, &[][..]).unwrap();
    let tar = tar.done();
    let place = Place::new();
    let root = || File::open(place.root()).unwrap().into();
    let bare = Mounted::bare(place.root(), root(), || Ok(()));
    let refused = unpacker().unpack(&bare, &mut tar.as_slice(), Path::new("layer.tar"));
    assert!(chain(&refused.unwrap_err()).contains("whiteout"));
    assert!(!place.root().join("hidden").exists());
    let mounted = Mounted::new(place.root(), root(), || Ok(()));
    unpacker()
        .unpack(&mounted, &mut tar.as_slice(), Path::new("layer.tar"))
        .unwrap();
    assert!(
        place
            .root()
            .join("hidden")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn root_a_refusal_names_the_entry() {
    let place = Place::new();
    let tar = Tar::new()
        .file("good", b"x")
        .add("bad-link", tar::EntryType::Link, 0o644, b"", "missing")
        .done();
    let error = place.unpack(&unpacker(), &mut tar.as_slice()).unwrap_err();
    assert!(chain(&error).contains("bad-link"), "{}", chain(&error));
    let whole = Tar::new().file("first", b"x").file("second", &[7; 5000]).done();
    let error = place.unpack(&unpacker(), &mut &whole[..3000]).unwrap_err();
    assert!(chain(&error).contains("second"), "{}", chain(&error));
}

#[test]
fn root_u14_limits_hold_before_anything_more_is_written() {
    let small = Limits {
        total_bytes: 10_000,
        file_bytes: 6_000,
        entries: 5,
        ..Limits::default()
    };
    let unpacker = Unpacker {
        limits: small,
        ..unpacker()
    };
    let many = (0..6)
        .fold(Tar::new(), |tar, index| tar.file(&format!("f{index}"), b""))
        .done();
    for (what, tar) in [
        ("one file", Tar::new().file("large", &[0; 7000]).done()),
        (
            "all files",
            Tar::new().file("a", &[1; 5000]).file("b", &[1; 5001]).done(),
        ),
        ("entries", many),
    ] {
        let place = Place::new();
        let error = place.unpack(&unpacker, &mut tar.as_slice()).unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Invalid | Kind::NoSpace),
            "{what}: {}",
            chain(&error)
        );
        let written: u64 = fs::read_dir(place.root())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(written <= 10_000, "{what}: {written}");
    }
}

#[test]
fn root_a_child_that_dies_is_told_apart_from_one_that_refuses() {
    let place = Place::new();
    let tar = Tar::new().file("x", b"x").done();
    for (program, names) in [
        ("/bin/false", "without a report"),
        ("/no/such/program", "/no/such/program"),
    ] {
        let unpacker = Unpacker {
            program: program.into(),
            ..unpacker()
        };
        let error = place.unpack(&unpacker, &mut tar.as_slice()).unwrap_err();
        assert!(chain(&error).contains(names), "{}", chain(&error));
    }
    // More than a pipe holds, to a child that never reads: no hang.
    let large = Tar::new().file("large", &vec![1; 4 << 20]).done();
    let deaf = Unpacker {
        program: "/bin/true".into(),
        ..unpacker()
    };
    assert!(place.unpack(&deaf, &mut large.as_slice()).is_err());
}

#[test]
fn root_an_error_of_the_tar_itself_comes_first() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::corrupt("the very cause")))
        }
    }
    let place = Place::new();
    let tar = Tar::new().file("x", b"x").done();
    let error = place.unpack(&unpacker(), &mut tar[..512].chain(Broken)).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Corrupt, "the very cause".to_owned())
    );
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
