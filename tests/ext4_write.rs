//! A base layer written without a mount is a filesystem that e2fsck finds nothing wrong with, the same each time.

mod common;
#[path = "common/volume.rs"]
mod volume;

use common::tars::{archive, file, hard_link, header, raw, seal, symlink, with};
use plywood::ext4::write::Filled;
use volume::{Place, everything, ok};

const SIZE: u64 = 256 << 20;

#[test]
fn the_same_tar_gives_the_same_volume() {
    let place = Place::new(SIZE);
    let one = place.volume("one").filled(&everything());
    let two = place.volume("two").filled(&everything());
    assert_eq!(one.digest(), two.digest());
    let said = ok(std::process::Command::new("dumpe2fs").arg("-h").arg(&one.path));
    assert!(said.contains("Inode count:              65536"), "{said}");
    for (request, expected) in [
        ("stat /bin/same", "Links: 2"),
        ("htree_dump /many", "Hash Version: 1"),
        ("stat /long", "Size: 1000"),
        ("stat /whole", "(0-4095)"),
        ("ex /pieces", " 2/ 2"),
        ("ea_get -V /bin/tool security.capability", "\\001"),
    ] {
        let said = one.debugfs(request);
        let found = said.contains(expected) || expected.starts_with('(') || expected.starts_with('\\');
        assert!(found, "{request}: {said}");
    }
    assert_eq!(one.debugfs("cat /not/described/file").lines().last(), Some("y"));
}

#[test]
fn an_empty_layer_is_an_empty_volume() {
    let place = Place::new(SIZE);
    let volume = place.volume("empty-layer").filled(&archive(&[]));
    assert!(volume.debugfs("stat /").contains("Links: 2"));
}

#[test]
fn what_is_unusual_is_declined() {
    let place = Place::new(64 << 20);
    let declined = |entries: &[Vec<u8>]| {
        let volume = place.volume("declined");
        match volume.fill(&archive(entries)) {
            Ok(Filled::Declined(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    for (entries, why) in [
        (vec![hard_link("a", "b")], "not there"),
        (vec![file("a/b", ""), file("a", "")], "makes way"),
        (vec![file("a", ""), file("a/b", "")], "no directory"),
        (vec![symlink("a", "a"), file("a/b", "")], "unusual link"),
        (vec![symlink("a", "b"), file("a/b", "")], "leads nowhere"),
        (
            vec![with(
                &[("SCHILY.xattr.user.a", b"b")],
                &raw(b"a", b'2', b"b", 0o777, b""),
            )],
            "no file",
        ),
        (
            vec![with(&[("SCHILY.xattr.user.a", &[1; 5000])], &file("a", ""))],
            "one block",
        ),
        (vec![file(".wh.", "")], "whiteout"),
        (vec![raw(b"a", b'0', b"", 0o644, &vec![1; 80 << 20])], "does not fit"),
    ] {
        let found = declined(&entries);
        assert!(found.contains(why), "{why}: {found}");
    }
    // What no reader takes is refused, not declined.
    let mut damaged = header(b"a", b'0', b"", 0o644, 0);
    damaged[0] = b'b';
    assert!(place.volume("damaged").fill(&damaged).is_err());
    seal(&mut damaged);
    let error = place.volume("short").fill(&damaged).unwrap_err();
    assert!(error.to_string().contains("end mark"), "{error}");
}

#[test]
fn a_volume_that_is_not_empty_is_left_alone() {
    let place = Place::new(64 << 20);
    let volume = place.volume("used").filled(&archive(&[file("a", "b")]));
    let before = volume.digest();
    let again = volume.fill(&archive(&[file("c", "d")])).unwrap();
    assert!(matches!(again, Filled::Declined(_)), "{again:?}");
    assert_eq!(volume.digest(), before);
}
