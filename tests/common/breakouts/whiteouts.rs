//! U7 to U9: whiteouts.

use std::path::Path;

use super::End::{Inside, Refused};
use super::Node::{Link, Nothing};
use super::{Case, and, and_nodes, content, etc};
use crate::common::tars::{directory, file, hard_link, symlink};

pub(super) fn cases(outside: &Path) -> Vec<Case> {
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
