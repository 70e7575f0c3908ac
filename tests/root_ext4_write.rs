//! A base layer written without a mount is the tree that applying it to a mounted volume makes, and the kernel
//! goes on with it as with its own. Needs root.

mod common;
#[path = "common/volume.rs"]
mod volume;

use common::as_many;
use common::edits::Dice;
use common::tars::{archive, device, directory, file, hard_link, raw, symlink, with};
use plywood::ext4::write::Filled;
use plywood::sys::mount::enter_private_namespace;
use volume::Place;

const GIB: u64 = 1 << 30;

fn place() -> Place {
    enter_private_namespace().unwrap();
    Place::new(GIB)
}

/// Wants the same of both ways, and that the kernel can go on with what was written.
fn check(place: &Place, tar: &[u8], seed: u64) {
    let oracle = place.volume("oracle").mount().emptied();
    oracle.apply(tar).unwrap();
    let written = place.volume("written").filled(tar).mount();
    written.assert_like(&oracle);
    let mut dice = Dice::new(seed);
    dice.edits(&written.at, 200);
    written.unmount().checked();
}

#[test]
fn root_random_trees_are_written_as_they_are_applied() {
    let place = place();
    for seed in 1..=as_many(8, 2) {
        let source = place.volume("source").mount().emptied();
        Dice::new(seed).edits(&source.at, 400);
        let tar = source.layer(None);
        drop(source);
        check(&place, &tar, seed);
    }
}

/// Archives as no tree gives them: names twice, parents through links, attributes after the children.
fn random_tar(dice: &mut Dice) -> Vec<u8> {
    const FOLDERS: [&str; 7] = ["", "a/", "b/", "a/d/", "l/", "l/d/", "new/er/"];
    const LINKS: [&str; 4] = ["a", "/a", "b/../a", "a/d/.."];
    let mut entries = vec![directory("b/"), directory("a/d/"), symlink("l", LINKS[dice.below(4)])];
    let mut made: Vec<String> = Vec::new();
    for number in 0..dice.below(30) {
        let folder = FOLDERS[dice.below(FOLDERS.len())];
        let name = format!("{folder}{}", ["f", "g", "h"][dice.below(3)]);
        let entry = match dice.below(30) {
            0..8 => raw(name.as_bytes(), b'0', b"", 0o4755, &vec![b'x'; dice.below(9000)]),
            8..14 => directory(&folder.replace('l', "a")),
            14..18 => symlink(&name, ["f", "../a", "/b"][dice.below(3)]),
            18..23 if !made.is_empty() => hard_link(&name, &made[dice.below(made.len())]),
            23..26 => raw(name.as_bytes(), b'6', b"", 0o600, b""),
            26..28 => device(&name, 5, 1),
            28 => raw(folder.trim_end_matches('/').as_bytes(), b'0', b"", 0o644, b"in the way"),
            _ => directory(&name),
        };
        if entry.len() == 512 && entry[156] == b'5' && entry[0] == 0 {
            continue;
        }
        made.push(name);
        let uid = (dice.below(3) * 70_000).to_string();
        let mtime = format!("{number}.5");
        let mut records: Vec<(&str, &[u8])> = vec![("uid", uid.as_bytes()), ("mtime", mtime.as_bytes())];
        if dice.below(8) == 0 {
            records.push(("SCHILY.xattr.trusted.t", b"value"));
        }
        // A link has records of its own.
        entries.push(match entry[156] {
            b'x' => entry,
            _ => with(&records, &entry),
        });
    }
    archive(&entries)
}

#[test]
fn root_random_archives_mean_the_same_both_ways() {
    let place = place();
    let (mut same, mut declined, mut refused) = (0, 0, 0);
    let seeds = as_many(120, 12);
    for seed in 0..seeds {
        let tar = random_tar(&mut Dice::new(seed));
        let oracle = place.volume("oracle").mount().emptied();
        let applied = oracle.apply(&tar);
        let written = place.volume("written");
        match (written.fill(&tar), applied) {
            (Ok(Filled::Whole(_)), Ok(())) => {
                written.checked().mount().assert_like(&oracle);
                same += 1;
            }
            (Ok(Filled::Declined(_)), Ok(())) => declined += 1,
            (Ok(Filled::Declined(_)) | Err(_), Err(_)) => refused += 1,
            (written, applied) => panic!("seed {seed}: {written:?} but {applied:?}"),
        }
    }
    assert!(
        same > seeds / 6 && declined < same,
        "{same} same, {declined} declined, {refused} refused"
    );
}

#[test]
fn root_the_unusual_is_written_as_it_is_applied() {
    let place = place();
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let named = acl(&[
        (1, 7, !0),
        (2, 5, 70_000),
        (4, 5, !0),
        (8, 1, 9),
        (0x10, 5, !0),
        (0x20, 0, !0),
    ]);
    let plain = acl(&[(1, 6, !0), (4, 4, !0), (0x20, 0, !0)]);
    let xattr = |name: &str| format!("SCHILY.xattr.{name}");
    let (access, default) = (xattr("system.posix_acl_access"), xattr("system.posix_acl_default"));
    let (small, large) = (xattr("user.small"), xattr("trusted.large"));
    let mut entries = vec![
        with(&[(&default, &named), (&access, &named)], &directory("acl/")),
        file("acl/inherits-nothing", ""),
        with(&[(&access, &named)], &raw(b"acl/file", b'0', b"", 0o6755, b"x")),
        with(&[(&access, &plain)], &raw(b"acl/mode", b'0', b"", 0o777, b"x")),
        with(
            &[(&small, b"v"), (&large, &[9; 3800]), (&xattr("user.empty"), b"")],
            &file("xattrs", ""),
        ),
        with(&[("mtime", b"-3000000000.25")], &file("before-1901", "")),
        with(&[("mtime", b"-2000000000.25")], &file("1906", "")),
        with(&[("mtime", b"7000000000.999999999")], &directory("2191/")),
        with(&[("mtime", b"99000000000.5")], &file("after-2446", "")),
        with(&[("uid", b"4294967294"), ("gid", b"65536")], &file("owned", "")),
        device("large-device", 300, 70_000),
        device("small-device", 1, 3),
        with(&[("path", &[b'\xff'; 255])], &file("x", "no UTF-8")),
        symlink("59", "x".repeat(59)),
        symlink("60", "x".repeat(60)),
        symlink("4095", "x".repeat(4095)),
        directory("usr/lib/"),
        symlink("lib", "usr/lib"),
        file("lib/through/a/link", "y"),
        file("twice", "one"),
        hard_link("kept", "twice"),
        file("twice", "another one"),
        directory("later/"),
        file("later/child", ""),
        with(
            &[("mtime", b"5"), (&small, b"v")],
            &raw(b"later/", b'5', b"", 0o1700, b""),
        ),
    ];
    let deep: String = (0..500).map(|_| "d/").collect();
    entries.push(with(&[("path", format!("{deep}file").as_bytes())], &file("x", "deep")));
    check(&place, &archive(&entries), 1);
}

#[test]
fn root_large_directories_and_files_are_written_as_they_are_applied() {
    let place = place();
    let mut entries = Vec::new();
    for number in 0..as_many(10_000, 1_000) {
        entries.push(file(&format!("many/name-{number}"), ""));
    }
    // More leaves than a root of a hash tree holds.
    for number in 0..as_many(8_000, 400) {
        let path = format!("long/{number:0>255}");
        entries.push(with(&[("path", path.as_bytes())], &file("x", "")));
    }
    for size in [1, 4095, 4096, 4097, 65_535, 1 << 20, (1 << 20) + 1] {
        entries.push(raw(
            format!("size-{size}").as_bytes(),
            b'0',
            b"",
            0o644,
            &vec![b's'; size],
        ));
    }
    // Extents in one level of blocks, and in two.
    for pieces in [4_u32, 5, 1000, 1500] {
        let content: Vec<u8> = (0..2 * pieces)
            .flat_map(|block| [u8::from(block % 2 == 1); 4096])
            .collect();
        entries.push(raw(format!("pieces-{pieces}").as_bytes(), b'0', b"", 0o644, &content));
    }
    entries.push(raw(b"zeros", b'0', b"", 0o644, &vec![0; 1 << 20]));
    entries.push(raw(b"large", b'0', b"", 0o644, &vec![b'l'; as_many(200, 20) << 20]));
    check(&place, &archive(&entries), 2);
}
