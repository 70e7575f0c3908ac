//! Hostile layers through the whole of `plywood import`: whatever they say, it ends inside the image.
//!
//! One table for both drivers. Names in capitals at the end of a case's name
//! are those of containerd's archive tests that stand for the same attack.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plywood_store::layer::Limits;
use plywood_store::layer::read::{EntryKind, Reader};

use crate::common::layout::Layout;
use crate::common::tars::{archive, device, directory, file, gnu_long, hard_link, long_link, raw, symlink, with};
use crate::common::{Plywood, listing};
use crate::sentinel::Sentinel;

/// What is at a path of the image in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(String),
    Directory,
    Link(PathBuf),
    /// Another name of the file at this path.
    Same(&'static str),
    Device,
    Nothing,
}

/// How an attack may end.
pub enum End {
    /// By an error that says this.
    Refused(&'static str),
    /// In an image that has this.
    Inside(Vec<(&'static str, Node)>),
    /// On this driver refused, on others inside.
    RefusedBy(&'static str, &'static str),
}

use End::{Inside, Refused, RefusedBy};
use Node::{Device, Directory, Link, Nothing, Same};

/// A name, the layers, base first, and the end.
pub type Case = (&'static str, Vec<Vec<Vec<u8>>>, End);

fn content(text: &str) -> Node {
    Node::File(text.to_owned())
}

fn to(target: &str) -> Node {
    Link(target.into())
}

/// `/etc` with a file, as most attacks want it.
fn etc() -> Vec<Vec<u8>> {
    vec![directory("etc"), file("etc/passwd", "inside")]
}

fn and(mut base: Vec<Vec<u8>>, more: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    base.extend(more);
    base
}

/// U1 to U4: names, symbolic links and hard links that lead out.
fn links(outside: &Path) -> Vec<Case> {
    let up = format!("{}{}", "../".repeat(40), outside.strip_prefix("/").unwrap().display());
    let secret = outside.join("secret");
    let passwd = || ("etc/passwd", content("inside"));
    let twin = |name| vec![(name, Same("etc/passwd")), passwd()];
    vec![
        (
            "u01 root as a symlink",
            vec![vec![symlink(".", outside), file("secret", "evil")]],
            Refused("root"),
        ),
        (
            "u01 root as a symlink, absolute",
            vec![vec![symlink("/", outside)]],
            Refused("root"),
        ),
        (
            "u01 root as a symlink in a later layer",
            vec![etc(), vec![symlink("./", outside), file("secret", "evil")]],
            Refused("root"),
        ),
        (
            "u01 up and out",
            vec![vec![file("../outside/secret", "evil")]],
            Refused(".."),
        ),
        (
            "u01 down, up and out",
            vec![vec![directory("a"), file("a/../../outside/secret", "evil")]],
            Refused(".."),
        ),
        (
            "u01 absolute names",
            vec![vec![file("/etc/x", "mine")]],
            Inside(vec![("etc/x", content("mine"))]),
        ),
        (
            "u02 SymlinkAbsolute",
            vec![and(etc(), [symlink("l", "/etc"), file("/l/x", "mine")])],
            Inside(vec![("etc/x", content("mine")), ("l", to("/etc"))]),
        ),
        (
            "u02 SymlinkUpAndOut",
            vec![and(
                etc(),
                [directory("d"), symlink("l", "/d/../etc"), file("/l/x", "mine")],
            )],
            Inside(vec![("etc/x", content("mine"))]),
        ),
        (
            "u02 SymlinkMultipleAbsolute",
            vec![and(
                etc(),
                [
                    directory("d"),
                    symlink("/d/e", "/etc"),
                    symlink("l", "/d/e"),
                    file("/l/x", "mine"),
                ],
            )],
            Inside(vec![("etc/x", content("mine"))]),
        ),
        (
            "u02 SymlinkMultipleRelative",
            vec![and(
                etc(),
                [
                    directory("d"),
                    symlink("/d/e", "/etc"),
                    symlink("l", "./d/e"),
                    file("/d/e/x", "mine"),
                ],
            )],
            Inside(vec![("etc/x", content("mine"))]),
        ),
        (
            "u02 SymlinkEmptyFile",
            vec![and(etc(), [symlink("l", "/etc"), file("/l/passwd", "")])],
            Inside(vec![("etc/passwd", content(""))]),
        ),
        (
            "u02 SymlinkParentDirectory",
            vec![and(etc(), [symlink("..", "/etc/")])],
            Refused(".."),
        ),
        (
            "u02 SymlinkEmptyFilename",
            vec![and(etc(), [symlink("", "/etc/")])],
            Refused("without a name"),
        ),
        (
            "u02 SymlinkParentRelative",
            vec![and(etc(), [symlink("l/sub/..", "/etc/")])],
            Refused(".."),
        ),
        (
            "u02 SymlinkSlashEnded",
            vec![and(etc(), [directory("l/"), hard_link("/l/p", "/etc/passwd")])],
            Inside(twin("l/p")),
        ),
        (
            "u02 SymlinkOverrideDirectory",
            vec![
                and(etc(), [directory("l")]),
                vec![symlink("l", "/etc"), hard_link("/l/p", "/etc/passwd")],
            ],
            Inside(twin("etc/p")),
        ),
        (
            "u02 SymlinkOverrideDirectoryRelative",
            vec![
                and(etc(), [directory("l")]),
                vec![symlink("l", "../../etc"), hard_link("/l/p", "/etc/passwd")],
            ],
            Inside(twin("etc/p")),
        ),
        (
            "u02 DirectoryOverrideSymlink",
            vec![
                and(etc(), [symlink("l", "/etc")]),
                vec![directory("/l/"), hard_link("/l/p", "/etc/passwd")],
            ],
            Inside(and_nodes(twin("l/p"), [("l", Directory), ("etc/p", Nothing)])),
        ),
        (
            "u02 DirectoryOverrideSymlinkAndHardlink",
            vec![
                and(etc(), [symlink("l", "etc"), hard_link("/l/p", "/etc/passwd")]),
                vec![directory("/l/"), file("/l/p", "other")],
            ],
            Inside(vec![("l/p", content("other")), passwd(), ("etc/p", Same("etc/passwd"))]),
        ),
        (
            "u02 DirectoryCreation",
            vec![
                vec![directory("/etc/")],
                vec![
                    directory("/etc/a"),
                    directory("/etc/b/"),
                    directory("/etc/b/c"),
                    directory("/o/p/q"),
                ],
            ],
            Inside(vec![("etc/a", Directory), ("etc/b/c", Directory), ("o/p/q", Directory)]),
        ),
        (
            "u02 a file through a link",
            vec![vec![symlink("l", outside), file("l/secret", "evil")]],
            Refused("leads"),
        ),
        (
            "u02 a file through a link, up",
            vec![vec![symlink("l", &up), file("l/secret", "evil")]],
            Refused("leads"),
        ),
        (
            "u02 a file through the kernel's links",
            vec![vec![symlink("m", "/proc/self/root"), file("m/x", "evil")]],
            Refused("leads"),
        ),
        (
            "u02 a file through what an earlier layer linked",
            vec![
                vec![symlink("l", outside), symlink("m", &up)],
                vec![file("l/secret", "evil")],
            ],
            Refused("leads"),
        ),
        (
            "u02 a folder over an earlier layer's link",
            vec![
                vec![symlink("l", outside)],
                vec![directory("l"), file("l/secret", "mine")],
            ],
            Inside(vec![("l/secret", content("mine"))]),
        ),
        (
            "u02 a file through an earlier layer's link to a link",
            vec![
                vec![symlink("a", ".."), symlink("b", "a/../..")],
                vec![file("b/x", "mine")],
            ],
            Inside(vec![("x", content("mine"))]),
        ),
        (
            "u03 HardlinkRelative",
            vec![and(
                etc(),
                [
                    directory("b"),
                    symlink("b/d", "../../etc"),
                    hard_link("b/p", "/b/d/passwd"),
                ],
            )],
            Inside(twin("b/p")),
        ),
        (
            "u03 HardlinkDownAndOut",
            vec![and(
                etc(),
                [
                    directory("b"),
                    directory("o"),
                    symlink("b/d", "../o/../../etc"),
                    hard_link("b/p", "/b/d/passwd"),
                ],
            )],
            Inside(twin("b/p")),
        ),
        (
            "u03 HardlinkAbsolute",
            vec![and(etc(), [symlink("l", "/etc"), hard_link("p", "/l/passwd")])],
            Inside(twin("p")),
        ),
        (
            "u03 HardlinkRelativeLong",
            vec![and(
                etc(),
                [symlink("l", "../../../../../../../etc"), hard_link("p", "/l/passwd")],
            )],
            Inside(twin("p")),
        ),
        (
            "u03 HardlinkRelativeUpAndOut",
            vec![and(
                etc(),
                [symlink("l", "o/../../../etc"), hard_link("p", "/l/passwd")],
            )],
            Refused("not there"),
        ),
        (
            "u03 HardlinkDirectRelative",
            vec![and(etc(), [hard_link("p", "../../../../../etc/passwd")])],
            Refused(".."),
        ),
        (
            "u03 HardlinkDirectAbsolute",
            vec![and(etc(), [hard_link("p", "/etc/passwd")])],
            Inside(twin("p")),
        ),
        (
            "u03 HardlinkSymlinkBeforeCreateTarget",
            vec![and(
                etc(),
                [symlink("l", "/etc/new"), hard_link("p", "l"), file("/etc/new", "after")],
            )],
            Inside(vec![("p", Same("l")), ("etc/new", content("after"))]),
        ),
        (
            "u03 HardlinkSymlinkRelative",
            vec![and(
                etc(),
                [symlink("l", "../../../../../etc/passwd"), hard_link("p", "/l")],
            )],
            Inside(vec![("p", Same("l")), passwd()]),
        ),
        (
            "u03 HardlinkSymlinkAbsolute",
            vec![and(etc(), [symlink("l", "/etc/passwd"), hard_link("p", "/l")])],
            Inside(vec![("p", Same("l")), passwd()]),
        ),
        (
            "u04 HardlinkSymlinkChmod",
            vec![vec![symlink("l", &secret), raw(b"p", b'1', b"l", 0o777, b"")]],
            Inside(vec![("p", Same("l"))]),
        ),
        (
            "u03 what lies outside",
            vec![vec![long_link("h", b'1', &secret)]],
            Refused("not there"),
        ),
        ("u03 itself", vec![vec![hard_link("h", "h")]], Refused("not there")),
        (
            "u03 what comes later",
            vec![vec![hard_link("h", "later"), file("later", "x")]],
            Refused("not there"),
        ),
        (
            "u03 an earlier layer's link, then written",
            vec![
                vec![symlink("l", &secret)],
                vec![hard_link("h", "l"), file("h", "mine")],
            ],
            Inside(vec![("h", content("mine")), ("l", Link(secret.clone()))]),
        ),
        (
            "u03 an earlier layer's device, then written",
            vec![
                vec![device("null", 1, 3)],
                vec![hard_link("h", "null"), file("h", "mine")],
            ],
            Inside(vec![("h", content("mine")), ("null", Device)]),
        ),
        (
            "u03 an earlier layer's file, then written",
            vec![etc(), vec![hard_link("h", "etc/passwd"), file("h", "mine")]],
            Inside(vec![("h", content("mine")), passwd()]),
        ),
        (
            "u04 a folder's mode through a link",
            vec![vec![
                symlink("l", outside),
                directory("l/."),
                raw(b"l/", b'5', b"", 0o7777, b""),
            ]],
            Inside(vec![("l", Directory)]),
        ),
        (
            "u04 an attribute on a link",
            vec![vec![with(
                &[("SCHILY.xattr.trusted.x", b"evil")],
                &raw(b"l", b'2', b"/etc", 0o777, b""),
            )]],
            Inside(vec![("l", to("/etc"))]),
        ),
        (
            "u04 a FIFO and a device in a link's place",
            vec![
                vec![symlink("f", &secret), symlink("d", &secret)],
                vec![raw(b"f", b'6', b"", 0o666, b""), device("d", 1, 3)],
            ],
            Inside(vec![("d", Device)]),
        ),
    ]
}

fn and_nodes(
    mut nodes: Vec<(&'static str, Node)>,
    more: impl IntoIterator<Item = (&'static str, Node)>,
) -> Vec<(&'static str, Node)> {
    nodes.extend(more);
    nodes
}

/// U7 to U9: whiteouts.
fn whiteouts(outside: &Path) -> Vec<Case> {
    let kept = || vec![("etc/passwd", content("inside"))];
    let link = |target: &str| and(etc(), [file("etc/gone", "x"), symlink("l", target)]);
    let upper = |entries: &[Vec<u8>]| vec![etc(), entries.to_vec()];
    vec![
        (
            "u07 WhiteoutRootParent",
            upper(&[file(".wh...", "")]),
            Refused("whiteout"),
        ),
        (
            "u07 WhiteoutParent",
            upper(&[file("etc/.wh...", "")]),
            Refused("whiteout"),
        ),
        ("u07 WhiteoutRoot", upper(&[file(".wh..", "")]), Refused("whiteout")),
        (
            "u07 WhiteoutCurrentDirectory",
            upper(&[file("etc/.wh..", "")]),
            Refused("whiteout"),
        ),
        (
            "u07 WhiteoutSymlink",
            vec![link("/etc"), vec![file(".wh.l", "")]],
            Inside(and_nodes(kept(), [("l", Nothing)])),
        ),
        (
            "u07 WhiteoutSymlinkPath",
            vec![link("/etc"), vec![file("l/.wh.gone", "")]],
            Inside(and_nodes(kept(), [("etc/gone", Nothing)])),
        ),
        (
            "u07 WhiteoutDirectoryName",
            upper(&[file(".wh.etc/file", "x")]),
            Refused("whiteout"),
        ),
        (
            "u07 WhiteoutDeadSymlinkParent",
            vec![link("/nowhere"), vec![file("l/.wh.etc", "")]],
            Inside(kept()),
        ),
        (
            "u07 WhiteoutRelativePath",
            upper(&[file("d/../.wh.etc", "")]),
            Refused(".."),
        ),
        (
            "u07 through an earlier layer's link",
            vec![
                vec![symlink("l", outside)],
                vec![file("l/.wh.secret", ""), file("l/.wh..wh..opq", "")],
            ],
            Inside(vec![("l", Link(outside.to_owned()))]),
        ),
        (
            "u07 of what a hard link names",
            vec![and(etc(), [hard_link("h", "etc/passwd")]), vec![file(".wh.h", "")]],
            Inside(and_nodes(kept(), [("h", Nothing)])),
        ),
        (
            "u07 as a hard link",
            upper(&[hard_link(".wh.etc", "etc/passwd")]),
            Refused("whiteout"),
        ),
        (
            "u07 as a link out",
            upper(&[symlink(".wh.etc", outside)]),
            Refused("whiteout"),
        ),
        (
            "u08 opaque root",
            upper(&[file("new", "n"), file(".wh..wh..opq", "")]),
            Inside(vec![("etc", Nothing), ("new", content("n"))]),
        ),
        (
            "u08 gone and made again",
            upper(&[file("etc/new", "n"), file(".wh.etc", "")]),
            Inside(vec![("etc/passwd", Nothing), ("etc/new", content("n"))]),
        ),
        (
            "u08 opaque as a folder",
            upper(&[directory("etc/.wh..wh..opq")]),
            Refused("whiteout"),
        ),
        (
            "u09 other tools' marks",
            upper(&[
                directory(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", "x"),
                file(".wh..wh.aufs", ""),
            ]),
            Inside(and_nodes(kept(), [(".wh..wh.aufs", Nothing)])),
        ),
    ]
}

/// U13 and U15 to U18: attributes, and archives that two readers could read as two.
fn contents(_outside: &Path) -> Vec<Case> {
    let marked = |key: &str, value: &[u8], entry: Vec<u8>| with(&[(&format!("SCHILY.xattr.{key}"), value)], &entry);
    let overlay = |key: &str, value: &'static str| {
        let entries = vec![
            marked(key, value.as_bytes(), directory("etc")),
            marked(key, value.as_bytes(), directory(".")),
        ];
        vec![etc(), entries]
    };
    let kept = || Inside(vec![("etc/passwd", content("inside"))]);
    let inner = archive(&[file("smuggled", "evil")]);
    let size = inner.len().to_string();
    let hidden = [
        with(&[("size", size.as_bytes())], &raw(b"outer", b'0', b"", 0o644, b"")),
        inner,
    ]
    .concat();
    let sparse = |size: &str| {
        with(
            &[
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.numblocks", b"1"),
                ("GNU.sparse.map", b"0,1"),
            ],
            &file("s", "x"),
        )
    };
    vec![
        (
            "u13 trusted.overlay.opaque",
            overlay("trusted.overlay.opaque", "y"),
            kept(),
        ),
        (
            "u13 trusted.overlay.redirect",
            overlay("trusted.overlay.redirect", "/../../../../etc"),
            kept(),
        ),
        (
            "u13 trusted.overlay.metacopy",
            vec![
                etc(),
                vec![marked("trusted.overlay.metacopy", b"", file("etc/passwd", "mine"))],
            ],
            Inside(vec![("etc/passwd", content("mine"))]),
        ),
        (
            "u13 trusted.overlay.whiteout",
            vec![
                etc(),
                vec![marked("trusted.overlay.whiteout", b"y", file("etc/passwd", ""))],
            ],
            Inside(vec![("etc/passwd", content(""))]),
        ),
        ("u13 user.overlay.opaque", overlay("user.overlay.opaque", "y"), kept()),
        (
            "u13 overlay's whiteout device",
            vec![etc(), vec![device("etc/passwd", 0, 0)]],
            RefusedBy("overlay", "etc/passwd"),
        ),
        (
            "u10 a device number that Linux has not",
            vec![vec![device("d", 4096, 0)]],
            Refused("device number"),
        ),
        (
            "u15 eight exbibytes of hole",
            vec![vec![sparse("9223372036854775807")]],
            Refused("bytes"),
        ),
        ("u15 a map beyond its file", vec![vec![sparse("0")]], Refused("sparse")),
        (
            "u16 a file, a link, and a file again",
            vec![vec![file("x", "one"), symlink("x", "/etc/passwd"), file("x", "two")]],
            Inside(vec![("x", content("two"))]),
        ),
        ("u16 one layer twice", vec![etc(), etc(), etc()], kept()),
        (
            "u17 a size in PAX alone",
            vec![vec![hidden, file("after", "x")]],
            Inside(vec![("smuggled", Nothing), ("after", content("x"))]),
        ),
        (
            "u17 a malformed record",
            vec![vec![
                raw(b"PaxHeader", b'x', b"", 0o644, b"12 size=5\n"),
                file("x", "x"),
            ]],
            Refused("PAX"),
        ),
        (
            "u17 two names at once",
            vec![vec![
                gnu_long(b'L', b"one"),
                with(&[("path", b"two")], &file("three", "x")),
            ]],
            Refused("two"),
        ),
        (
            "u17 two targets at once",
            vec![vec![
                gnu_long(b'K', b"one"),
                with(&[("linkpath", b"two")], &symlink("l", "three")),
            ]],
            Refused("two"),
        ),
        (
            "u18 line breaks in a name",
            vec![vec![with(&[("path", b"a\nb\x1b[2J")], &file("x", "x"))]],
            Inside(vec![("a\nb\x1b[2J", content("x"))]),
        ),
        (
            "u18 a name of 256 bytes",
            vec![vec![with(&[("path", &[b'n'; 256])], &file("x", "x"))]],
            Refused("255"),
        ),
        (
            "u18 a NUL in a name",
            vec![vec![with(&[("path", b"a\0b")], &file("x", "x"))]],
            Refused("PAX"),
        ),
        (
            "u19 an owner that is none",
            vec![vec![with(&[("uid", b"4294967295")], &file("x", "x"))]],
            Refused("uid"),
        ),
    ]
}

/// Runs every case on a store with this driver, beside a tree that must stay as it is.
pub fn run(driver: &'static str) {
    let plywood = Plywood::new(driver);
    let sentinel = Sentinel::new(&plywood.beside("outside"));
    let base = plywood.beside("archive");
    fs::write(&base, Layout::of(&[archive(&etc())]).tar(false)).unwrap();
    plywood.ok(["import", base.to_str().unwrap(), "bystander"]);
    let bystander = tree_of(&plywood, "bystander");
    let all = [links, whiteouts, contents].map(|cases| cases(sentinel.path()));
    for (name, layers, end) in all.into_iter().flatten() {
        let layers: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
        fs::write(&base, Layout::of(&layers).tar(false)).unwrap();
        let before = listing(&plywood);
        let output = plywood.run(["import", base.to_str().unwrap(), "attack"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused = match end {
            Refused(why) => Some(why),
            RefusedBy(by, why) if by == driver => Some(why),
            _ => None,
        };
        if let Some(why) = refused {
            assert_eq!(output.status.code(), Some(1), "{name}: {error}");
            assert!(
                error.contains(why) && !error.contains("without a report"),
                "{name}: {error}"
            );
            assert_eq!(listing(&plywood), before, "{name}");
        } else {
            assert!(output.status.success(), "{name}: {error}");
        }
        if let Inside(wanted) = end {
            let found = tree_of(&plywood, "attack");
            for (path, node) in wanted {
                found.check(name, path, &node);
            }
        }
        sentinel.check(name);
    }
    assert_eq!(tree_of(&plywood, "bystander"), bystander);
    plywood.sound();
}

/// An image's tree: each path's node and the first of its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, (Node, PathBuf)>);

impl Tree {
    #[track_caller]
    fn check(&self, name: &str, path: &str, wanted: &Node) {
        let found = self.0.get(Path::new(path));
        match wanted {
            Nothing => assert_eq!(found, None, "{name}: {path:?}"),
            Same(other) => {
                let first = |path: &str| self.0.get(Path::new(path)).map(|(_, first)| first);
                assert!(
                    found.is_some() && first(path) == first(other),
                    "{name}: {path:?} in {self:?}"
                );
            }
            wanted => assert_eq!(found.map(|(node, _)| node), Some(wanted), "{name}: {path:?}"),
        }
    }
}

/// An image's tree, through its export.
pub fn tree_of(plywood: &Plywood, image: &str) -> Tree {
    let path = plywood.beside("rootfs.tar");
    plywood.ok(["export", "--format", "rootfs", "-o", path.to_str().unwrap(), image]);
    let mut file = File::open(path).unwrap();
    let mut reader = Reader::new(&mut file, &Limits::default());
    let mut found = BTreeMap::<_, (Node, PathBuf)>::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut bytes = Vec::new();
        while let Some((_, piece)) = reader.content().unwrap() {
            bytes.extend_from_slice(piece);
        }
        let node = match entry.kind {
            EntryKind::File => Node::File(String::from_utf8(bytes).unwrap()),
            EntryKind::Directory => Directory,
            EntryKind::Symlink(target) => Link(target),
            EntryKind::HardLink(first) => {
                let same = found[&first].clone();
                found.insert(entry.path, same);
                continue;
            }
            EntryKind::Character(_) | EntryKind::Block(_) | EntryKind::Fifo => Device,
        };
        found.insert(entry.path.clone(), (node, entry.path));
    }
    Tree(found)
}
