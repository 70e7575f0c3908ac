//! U13 and U15 to U18: attributes, and archives that two readers could read as two.

use std::path::Path;

use super::End::{Inside, Refused, RefusedBy};
use super::Node::Nothing;
use super::{Case, content, etc};
use crate::common::tars::{archive, device, directory, file, gnu_long, raw, symlink, with};

pub(super) fn cases(_outside: &Path) -> Vec<Case> {
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
