//! Hostile layers: whatever a tar says, nothing outside the root is touched.
//!
//! Each test stands for a known attack and is named after it (U1 to U19: unpack
//! attacks that other tools have fallen for). Beside the root lies a sentinel tree whose
//! digest is compared before and after.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not go on")]

#[path = "../../tests/common/environment.rs"]
mod environment;
#[path = "../../tests/common/tars.rs"]
mod tars;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plywood_store::layer::apply::{Applied, apply};
use plywood_store::layer::read::Reader;
use plywood_store::layer::{Limits, tree};
use plywood_store::{Digest, Result};
use tars::{archive, directory, file, global, hard_link, long_link, pax, raw, symlink};

/// A root, and beside it what must never change.
struct Arena {
    dir: tempfile::TempDir,
    before: Digest,
}

impl Arena {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/lower/deep")).unwrap();
        fs::write(dir.path().join("root/lower/deep/file"), "lower").unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        fs::set_permissions(dir.path().join("outside/secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let before = tree::digest(&File::open(dir.path().join("outside")).unwrap().as_fd()).unwrap();
        Self { dir, before }
    }

    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn apply(&self, tar: &[u8]) -> Result<Applied> {
        let root = File::open(self.root("")).unwrap();
        let applied = apply(root.as_fd(), &mut &*tar, &Limits::default());
        self.check();
        applied
    }

    fn check(&self) {
        let after = tree::digest(&File::open(self.outside()).unwrap().as_fd()).unwrap();
        assert_eq!(self.before, after, "the tree beside the root was touched");
        let beside: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
    }
}

/// How a hostile archive may end: refused by name, or brought in without harm.
enum End {
    Refused,
    Harmless,
}

#[test]
fn root_u01_u02_u03_u04_breakouts() {
    use End::{Harmless, Refused};
    type Shape = fn(&Path) -> Vec<Vec<u8>>;
    let shapes: &[(&str, End, Shape)] = &[
        ("absolute symlink", Refused, |o| {
            vec![symlink("l", o), file("l/secret", "evil")]
        }),
        ("symlink up and out", Refused, |_| {
            vec![symlink("l", Path::new("../../outside")), file("l/secret", "evil")]
        }),
        ("symlink up and out, to what is inside too", Harmless, |_| {
            vec![
                directory("outside"),
                symlink("l", Path::new("../../outside")),
                file("l/secret", "evil"),
            ]
        }),
        ("several hops", Harmless, |_| {
            vec![
                symlink("a", Path::new("..")),
                symlink("b", Path::new("a/../..")),
                file("b/outside/secret", "evil"),
            ]
        }),
        ("hops through folders", Refused, |_| {
            vec![
                directory("d"),
                symlink("d/a", Path::new("..")),
                symlink("b", Path::new("d/a/../../outside")),
                file("b/secret", "evil"),
            ]
        }),
        ("absolute name", Harmless, |_| vec![file("/etc/x", "evil")]),
        ("doubled slashes", Harmless, |_| vec![file("//etc//x", "evil")]),
        ("dot dot", Refused, |_| vec![file("../outside/secret", "evil")]),
        ("dot dot later", Refused, |_| {
            vec![directory("a"), file("a/../../outside/secret", "evil")]
        }),
        ("dot dot at the end", Refused, |_| {
            vec![directory("a"), directory("a/..")]
        }),
        ("nothing but dots", Refused, |_| vec![directory("..")]),
        ("folder overridden by a link", Refused, |o| {
            vec![directory("d"), symlink("d", o), file("d/secret", "evil")]
        }),
        ("folder with files overridden", Refused, |o| {
            vec![
                directory("d"),
                file("d/x", "x"),
                symlink("d", o),
                file("d/secret", "evil"),
            ]
        }),
        ("a parent overridden", Refused, |o| {
            vec![
                directory("p"),
                directory("p/q"),
                symlink("p", o),
                file("p/q/secret", "evil"),
            ]
        }),
        ("file through a link to a file", Harmless, |o| {
            vec![symlink("l", o.join("secret")), file("l", "evil")]
        }),
        ("folder through a link", Harmless, |o| {
            vec![symlink("l", o), directory("l")]
        }),
        ("folder through a link and a dot", Harmless, |o| {
            vec![symlink("l", o), directory("l/.")]
        }),
        ("folder through a link and a slash", Harmless, |o| {
            vec![symlink("l", o), directory("l/")]
        }),
        ("name that ends with a slash", Refused, |o| {
            vec![directory("e/"), symlink("e/", o), file("e/secret", "evil")]
        }),
        ("file that ends with a slash", Refused, |_| vec![file("f/", "evil")]),
        ("empty name", Refused, |_| vec![file("", "evil")]),
        ("root as a link", Refused, |o| {
            vec![symlink(".", o), file("secret", "evil")]
        }),
        ("root as a link, otherwise", Refused, |o| {
            vec![symlink("/", o), file("secret", "evil")]
        }),
        ("root as a file", Refused, |_| vec![file(".", "evil")]),
        ("root as a hard link", Refused, |_| {
            vec![hard_link("./", "lower/deep/file")]
        }),
        ("hard link to what is outside", Refused, |o| {
            vec![long_link("h", b'1', o.join("secret"))]
        }),
        ("hard link up and out", Refused, |_| {
            vec![hard_link("h", "../outside/secret"), file("h", "evil")]
        }),
        ("hard link through a link", Refused, |o| {
            vec![symlink("l", o), hard_link("h", "l/secret")]
        }),
        ("hard link to a link, written", Harmless, |o| {
            vec![symlink("l", o.join("secret")), hard_link("h", "l"), file("h", "evil")]
        }),
        ("hard link to a link, its mode", Harmless, |o| {
            vec![symlink("l", o.join("secret")), hard_link("h", "l")]
        }),
        ("hard link to itself", Refused, |_| vec![hard_link("h", "h")]),
        ("hard link to what comes later", Refused, |_| {
            vec![hard_link("h", "later"), file("later", "x")]
        }),
        ("hard link to a folder", Refused, |_| vec![hard_link("h", "lower")]),
        ("hard link to the root", Refused, |_| vec![hard_link("h", ".")]),
        ("a file as a folder", Refused, |_| {
            vec![file("f", "x"), file("f/x", "evil")]
        }),
        ("links in a circle", Refused, |_| {
            vec![
                symlink("a", Path::new("b")),
                symlink("b", Path::new("a")),
                file("a/x", "evil"),
            ]
        }),
        ("magic links", Refused, |_| {
            vec![symlink("m", Path::new("/proc/self/root")), file("m/x", "evil")]
        }),
        ("a link to the root", Harmless, |_| {
            vec![symlink("r", Path::new("/")), file("r/x", "inside")]
        }),
        ("a FIFO in a link's place", Harmless, |o| {
            vec![symlink("l", o.join("secret")), raw(b"l", b'6', b"", 0o666, b"")]
        }),
        ("a device in a link's place", Harmless, |o| {
            vec![symlink("l", o.join("secret")), raw(b"l", b'3', b"", 0o666, b"")]
        }),
        ("an attribute through a link", Harmless, |o| {
            let mut link = pax(&[
                ("linkpath", o.as_os_str().as_bytes()),
                ("SCHILY.xattr.trusted.x", b"evil"),
            ]);
            link.extend(raw(b"l", b'2', b"x", 0o777, b""));
            vec![link]
        }),
    ];
    for (name, end, shape) in shapes {
        let arena = Arena::new();
        let applied = arena.apply(&archive(&shape(&arena.outside())));
        match end {
            Refused => {
                let error = applied.expect_err(name);
                assert!(
                    matches!(error.kind(), plywood_store::Kind::Invalid),
                    "{name}: {error:?}"
                );
            }
            Harmless => drop(applied.unwrap_or_else(|error| panic!("{name}: {error:?}"))),
        }
    }
}

#[test]
fn root_u01_what_replaces_a_link_is_inside() {
    let arena = Arena::new();
    let secret = arena.outside().join("secret");
    arena
        .apply(&archive(&[
            symlink("l", &secret),
            file("l", "mine"),
            symlink("r", Path::new("/")),
            file("r/x", "inside"),
        ]))
        .unwrap();
    assert_eq!(fs::read_to_string(arena.root("l")).unwrap(), "mine");
    assert!(fs::symlink_metadata(arena.root("l")).unwrap().is_file());
    assert_eq!(fs::read_to_string(arena.root("x")).unwrap(), "inside");
}

/// `PLYWOOD_TEST_ROUNDS` says how many.
#[test]
fn root_u05_links_swapped_during_apply_lead_nowhere() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let rounds = environment::rounds(500);
    let arena = Arena::new();
    let secret = arena.outside().join("secret");
    let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = File::open(arena.root("")).unwrap();
    // What is a folder or a name of ours now, and a way out the next moment.
    let lay = || {
        let _ = fs::create_dir(arena.root("swap"));
        let _ = std::os::unix::fs::symlink(arena.outside(), arena.root("out"));
        let _ = std::os::unix::fs::symlink(&secret, arena.root("way"));
    };
    let tars = [
        vec![
            directory("swap"),
            file("swap/secret", "evil"),
            hard_link("swap/h", "swap/secret"),
        ],
        vec![file("swap/.wh.secret", ""), file("swap/.wh..wh..opq", "")],
        vec![file("swap/a/b/c/d", "evil"), file(".wh.swap", ""), directory("swap/a")],
        vec![
            raw(b"node", b'6', b"", 0o777, b""),
            raw(b"node", b'3', b"", 0o6777, b""),
        ],
        vec![file("node", "evil"), raw(b"node", b'0', b"", 0o6777, b"evil")],
        vec![
            hard_link("h", "node"),
            file("h", "evil"),
            symlink("swap/l", Path::new("x")),
        ],
    ]
    .map(|entries| archive(&entries));
    let mut refused = 0;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (one, other) in [("swap", "out"), ("node", "way")] {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let swapped = rustix::fs::renameat_with(&root, one, &root, other, flags);
                    swaps.fetch_add(swapped.is_ok().into(), Ordering::Relaxed);
                }
            }
        });
        for round in 0..rounds {
            lay();
            // Refused or not: only what lies outside counts.
            let applied = apply(root.as_fd(), &mut &*tars[round % tars.len()], &Limits::default());
            refused += usize::from(applied.is_err());
            if round % 1000 == 0 {
                arena.check();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    arena.check();
    println!("{rounds} rounds, {refused} refused, {} swaps", swaps.into_inner());
}

#[test]
fn root_u07_whiteouts_stay_inside() {
    for bad in [
        ".wh.",
        ".wh..",
        ".wh...",
        "lower/.wh...",
        "lower/.wh.",
        ".wh.a/b",
        "dne/../.wh.lower",
    ] {
        let arena = Arena::new();
        let error = arena.apply(&archive(&[file(bad, "")])).expect_err(bad);
        assert_eq!(error.kind(), plywood_store::Kind::Invalid, "{bad}");
        assert!(arena.root("lower/deep/file").exists());
    }
    let arena = Arena::new();
    let out = arena.outside();
    arena
        .apply(&archive(&[
            symlink("l", &out),
            file("l/.wh.secret", ""),
            file("l/.wh..wh..opq", ""),
            symlink("up", Path::new("../../outside")),
            file("up/.wh.secret", ""),
            symlink("dead", Path::new("nowhere")),
            file("dead/.wh.x", ""),
            file("nowhere/.wh.x", ""),
            file(".wh.l2", ""),
        ]))
        .unwrap();
    let error = arena.apply(&archive(&[directory(".wh.x")])).unwrap_err();
    assert!(error.to_string().contains("whiteout"), "{error}");
}

#[test]
fn root_u08_the_place_of_a_whiteout_does_not_matter() {
    let opaque = || file("lower/.wh..wh..opq", "");
    let gone = || file(".wh.lower", "");
    let made = || vec![directory("lower"), file("lower/new", "n"), file("lower/deep/mine", "m")];
    let digest = |entries: Vec<Vec<u8>>| {
        let arena = Arena::new();
        arena.apply(&archive(&entries)).unwrap();
        assert!(arena.root("lower/new").exists() && arena.root("lower/deep/mine").exists());
        assert!(!arena.root("lower/deep/file").exists(), "what was lower is hidden");
        tree::digest(&File::open(arena.root("")).unwrap().as_fd()).unwrap()
    };
    let first = |mark: Vec<u8>| digest([vec![mark], made()].concat());
    let last = |mark: Vec<u8>| digest([made(), vec![mark]].concat());
    assert_eq!(first(opaque()), last(opaque()));
    assert_eq!(first(gone()), last(gone()));
    assert_eq!(first(opaque()), first(gone()));
    let implied = || vec![file("lower/new", "n"), file("lower/deep/mine", "m")];
    assert_eq!(
        digest([vec![gone()], implied()].concat()),
        digest([implied(), vec![gone()]].concat())
    );
}

#[test]
fn root_u09_foreign_marks_are_passed_over() {
    let arena = Arena::new();
    arena
        .apply(&archive(&[
            directory(".wh..wh.plnk"),
            file(".wh..wh.plnk/1.2", "x"),
            file(".wh..wh.aufs", ""),
        ]))
        .unwrap();
    assert_eq!(fs::read_dir(arena.root("")).unwrap().count(), 1);
}

#[test]
fn root_u12_u13_attributes_are_kept_or_told() {
    let arena = Arena::new();
    let v3 = [
        1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 1, 0,
    ];
    let mut entry = pax(&[
        ("SCHILY.xattr.security.capability", &v3),
        ("SCHILY.xattr.user.a", b"\0binary\xff"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u"),
    ]);
    entry.extend(file("f", "x"));
    let applied = arena.apply(&archive(&[entry])).unwrap();
    assert_eq!(applied.notes.len(), 2, "{:?}", applied.notes);
    let get = |name: &str| {
        let mut value = vec![0; 100];
        rustix::fs::lgetxattr(arena.root("f"), name, &mut value).map(|length| value[..length].to_vec())
    };
    assert_eq!(get("security.capability").unwrap(), v3);
    assert_eq!(get("user.a").unwrap(), b"\0binary\xff");
    assert!(get("trusted.overlay.opaque").is_err());
    for bad in [&b"short"[..], &[9; 20]] {
        let mut entry = pax(&[("SCHILY.xattr.security.capability", bad)]);
        entry.extend(file("bad", "x"));
        let error = arena.apply(&archive(&[entry])).unwrap_err();
        assert!(error.to_string().contains("security.capability"), "{error}");
    }
}

#[test]
fn root_u15_sparse_files_within_their_logical_size() {
    let arena = Arena::new();
    let sparse = |size: &str, map: &str, content: &[u8]| {
        let pieces = map.split(',').count().div_ceil(2).to_string();
        let mut entry = pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.numblocks", pieces.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ]);
        entry.extend(raw(b"s", b'0', b"", 0o644, content));
        archive(&[entry])
    };
    arena.apply(&sparse("1000000", "10,3,500000,3", b"abcdef")).unwrap();
    let content = fs::read(arena.root("s")).unwrap();
    assert_eq!(
        (content.len(), &content[10..13], &content[500_000..500_003]),
        (1_000_000, &b"abc"[..], &b"def"[..])
    );
    assert!(fs::metadata(arena.root("s")).unwrap().blocks() < 100);
    for (size, map) in [
        ("9223372036854775807", "0,6"),
        ("99999999999999999999", "0,6"),
        ("5", "0,6"),
        ("100", "50,3,0,3"),
        ("100", "0,4,3,2"),
        ("100", "0,3"),
        ("100", "18446744073709551615,6"),
    ] {
        assert!(arena.apply(&sparse(size, map, b"abcdef")).is_err(), "{size} {map}");
    }
    let mut one = pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"one"),
        ("GNU.sparse.realsize", b"100000"),
    ]);
    let mut content = b"1\n70000\n4\n".to_vec();
    content.resize(512, 0);
    content.extend(b"data");
    one.extend(raw(b"GNUSparseFile.0/one", b'0', b"", 0o644, &content));
    arena.apply(&archive(&[one])).unwrap();
    assert_eq!(&fs::read(arena.root("one")).unwrap()[70_000..70_004], b"data");
}

#[test]
fn root_u16_of_two_entries_the_last_counts() {
    let arena = Arena::new();
    let secret = arena.outside().join("secret");
    let applied = arena
        .apply(&archive(&[
            file("x", "one"),
            symlink("x", &secret),
            file("x", "three"),
            file("x", "four"),
        ]))
        .unwrap();
    assert_eq!(fs::read_to_string(arena.root("x")).unwrap(), "four");
    assert!(
        applied.notes.iter().any(|note| note.contains("named twice")),
        "{:?}",
        applied.notes
    );
}

fn entries(tar: &[u8]) -> Result<Vec<(PathBuf, u64)>> {
    let mut tar = tar;
    let tar: &mut dyn Read = &mut tar;
    let mut reader = Reader::new(tar, &Limits::default());
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        found.push((entry.path, entry.size));
    }
    Ok(found)
}

#[test]
fn u17_no_two_readers_can_disagree() {
    // A size in the PAX header and none in the ustar header: what follows is content, not an entry.
    let inner = archive(&[file("smuggled", "evil")]);
    let mut outer = pax(&[("size", inner.len().to_string().as_bytes())]);
    outer.extend(raw(b"outer", b'0', b"", 0o644, b""));
    outer.extend(&inner);
    outer.extend(file("after", ""));
    let found = entries(&archive(&[outer])).unwrap();
    assert_eq!(
        found,
        [
            (PathBuf::from("outer"), inner.len() as u64),
            (PathBuf::from("after"), 0)
        ]
    );

    let good = archive(&[file("a", "x")]);
    for (name, bad) in [
        (
            "content of a link",
            archive(&[raw(b"l", b'2', b"x", 0o777, b"content")]),
        ),
        (
            "content of a folder",
            archive(&[raw(b"d", b'5', b"", 0o777, b"content")]),
        ),
        (
            "two PAX headers",
            archive(&[pax(&[("path", b"a")]), pax(&[("path", b"b")]), file("c", "")]),
        ),
        ("a PAX header for nothing", archive(&[pax(&[("path", b"a")])])),
        ("a global path", archive(&[global(&[("path", b"evil")]), file("a", "")])),
        ("a global size", archive(&[global(&[("size", b"512")]), file("a", "")])),
        ("a global owner", archive(&[global(&[("uid", b"0")]), file("a", "")])),
        ("a global time", archive(&[global(&[("mtime", b"0")]), file("a", "")])),
        (
            "a global attribute",
            archive(&[global(&[("SCHILY.xattr.user.a", b"b")]), file("a", "")]),
        ),
        (
            "a lone zero block",
            [file("a", ""), vec![0; 512], file("b", ""), vec![0; 1024]].concat(),
        ),
        (
            "data after the end",
            [good.clone(), file("b", ""), vec![0; 1024]].concat(),
        ),
        ("no end", file("a", "x")),
        ("nothing", Vec::new()),
        ("no tar", vec![b'x'; 2048]),
        ("an unknown type", archive(&[raw(b"v", b'V', b"", 0o644, b"")])),
        ("a NUL in a path", archive(&[pax(&[("path", b"a\0b")]), file("c", "")])),
    ] {
        assert!(entries(&bad).is_err(), "{name}");
    }
    assert_eq!(
        entries(&archive(&[global(&[("comment", b"x")]), file("a", "")]))
            .unwrap()
            .len(),
        1
    );
    for end in 1..good.len() - 1023 {
        assert!(entries(&good[..end.min(good.len() - 1024)]).is_err(), "cut at {end}");
    }
    for at in 0..512 {
        let mut flipped = good.clone();
        flipped[at] ^= 0x40;
        assert!(entries(&flipped).is_err(), "a header with byte {at} flipped");
    }
}

#[test]
fn u18_names_have_limits_and_keep_their_bytes() {
    let named = |path: &[u8]| entries(&archive(&[pax(&[("path", path)]), file("short", "")]));
    let name = [&b"dir/"[..], b"\x01\x1b[31m\xff\xfe"].concat();
    assert_eq!(named(&name).unwrap()[0].0, Path::new(OsStr::from_bytes(&name)));
    assert!(named(&[b'n'; 255]).is_ok());
    assert!(named(&[b'n'; 256]).is_err());
    let long: Vec<u8> = b"ab/".iter().copied().cycle().take(4095).collect();
    assert!(named(&long[..2999]).is_ok());
    assert!(named(&long).is_err(), "more folders than the limit");
    assert!(named(&b"abcdefgh/".repeat(500)).is_err(), "more bytes than the limit");
    let mut huge = tar::Header::new_gnu();
    huge.as_old_mut().linkflag = [b'L'];
    huge.set_size(1 << 30);
    huge.set_cksum();
    let error = entries(huge.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("extended headers"), "{error}");
    let error = named(b"a/../\x1b[2J").unwrap_err().to_string();
    assert!(!error.contains('\x1b'), "no control characters in messages");
    let gnu = [
        raw(b"././@LongLink", b'L', b"", 0o644, &[&[b'g'; 150][..], b"\0"].concat()),
        file("short", ""),
    ]
    .concat();
    assert_eq!(entries(&archive(&[gnu])).unwrap()[0].0, PathBuf::from("g".repeat(150)));
}

#[test]
fn u19_numbers_out_of_range_are_refused() {
    for (key, value) in [
        ("uid", &b"-1"[..]),
        ("uid", b"4294967295"),
        ("gid", b"4294967296"),
        ("mtime", b"99999999999999999999"),
        ("size", b"-5"),
        ("size", b"18446744073709551615"),
    ] {
        assert!(
            entries(&archive(&[pax(&[(key, value)]), file("a", "")])).is_err(),
            "{key}={value:?}"
        );
    }
    let field = |change: &dyn Fn(&mut tar::Header)| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&file("a", ""));
        change(&mut header);
        header.set_cksum();
        entries(&archive(&[header.as_bytes().to_vec()]))
    };
    assert!(field(&|_| ()).is_ok());
    assert!(field(&|header| header.as_old_mut().uid = [0xff; 8]).is_err());
    assert!(field(&|header| header.as_old_mut().size = [0xff; 12]).is_err());
    assert!(field(&|header| header.as_old_mut().size = *b"999999999999").is_err());
    assert!(
        field(&|header| header.as_old_mut().mode = *b"0100644\0").is_ok(),
        "the kind in the mode is passed over"
    );
    assert!(
        field(&|header| header.as_old_mut().mtime = [0xff; 12]).is_ok(),
        "a second before 1970"
    );
}

#[test]
fn root_u10_special_files_come_in_as_such() {
    let arena = Arena::new();
    arena
        .apply(&archive(&[
            raw(b"fifo", b'6', b"", 0o666, b""),
            raw(b"null", b'3', b"", 0o4666, b""),
        ]))
        .unwrap();
    assert!(fs::symlink_metadata(arena.root("fifo")).unwrap().file_type().is_fifo());
    let null = fs::symlink_metadata(arena.root("null")).unwrap();
    assert_eq!((null.mode() & 0o7777, null.rdev()), (0o4666, rustix::fs::makedev(1, 3)));
}

#[test]
fn root_u14_limits_are_met_before_anything_is_written() {
    let arena = Arena::new();
    let root = File::open(arena.root("")).unwrap();
    let tar = archive(&[file("a", "12345"), file("b", "12345"), file("c", "")]);
    let with = |limits: Limits| apply(root.as_fd(), &mut &*tar, &limits).unwrap_err().to_string();
    let whole = Limits::default;
    assert!(
        with(Limits {
            file_bytes: 4,
            ..whole()
        })
        .contains("a file of 5 bytes")
    );
    assert!(!arena.root("a").exists());
    assert!(
        with(Limits {
            total_bytes: 9,
            ..whole()
        })
        .contains("more than 9 bytes")
    );
    assert!(with(Limits { entries: 2, ..whole() }).contains("more than 2 entries"));
    assert!(!arena.root("c").exists());
}
