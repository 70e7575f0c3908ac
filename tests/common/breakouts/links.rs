//! U1 to U4: names, symbolic links and hard links that lead out.

use std::path::Path;

use super::End::{Inside, Refused};
use super::Node::{Device, Directory, Link, Nothing, Same};
use super::{Case, and, and_nodes, content, etc, to};
use crate::common::tars::{device, directory, file, hard_link, long_link, raw, symlink, with};

pub(super) fn cases(outside: &Path) -> Vec<Case> {
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
