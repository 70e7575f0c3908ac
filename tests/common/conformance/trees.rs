//! What is to be seen in snapshots and layers: every change that can be made to a tree, and nobody else's.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use plywood::snapshot::Access;

use super::{Subject, names, read};

pub(super) fn empty(subject: &Subject) {
    subject.driver.prepare("a", None, None).unwrap();
    let (mode, uid, gid, mtime, count) = subject.look("a", |root| {
        let meta = fs::metadata(root).unwrap();
        (
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            names(root).len(),
        )
    });
    assert_eq!((mode, uid, gid, mtime, count), (0o755, 0, 0, 0, 0));
    subject.driver.remove("a").unwrap();
}

pub(super) fn committed_is_viewed(subject: &Subject) {
    let layer = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/file"), "content").unwrap();
    });
    assert_eq!(subject.view(&layer, |root| read(root, "dir/file")), "content");
    let above = subject.layer(Some(layer.chain_id), "two", |root| {
        assert_eq!(read(root, "dir/file"), "content");
        fs::write(root.join("dir/file"), "changed").unwrap();
        fs::write(root.join("more"), "more").unwrap();
    });
    assert_eq!(
        subject.view(&above, |root| read(root, "dir/file") + &read(root, "more")),
        "changedmore"
    );
    assert_eq!(
        subject.view(&layer, |root| (read(root, "dir/file"), names(root))),
        ("content".into(), vec!["dir".to_owned()])
    );
}

pub(super) fn changed_attributes(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        for name in ["a", "b", "dir/c"] {
            fs::write(root.join(name), name).unwrap();
        }
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        chown(root.join("a"), Some(1), Some(2)).unwrap();
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o4711)).unwrap();
        chown(root.join("dir"), Some(3), None).unwrap();
    });
    subject.view(&top, |root| {
        let meta = |name: &str| fs::metadata(root.join(name)).unwrap();
        assert_eq!((meta("a").uid(), meta("a").gid(), read(root, "a")), (1, 2, "a".into()));
        assert_eq!((meta("b").mode() & 0o7777, read(root, "b")), (0o4711, "b".into()));
        assert_eq!((meta("dir").uid(), read(root, "dir/c")), (3, "dir/c".into()));
    });
    assert_eq!(
        subject.view(&base, |root| fs::metadata(root.join("a")).unwrap().uid()),
        0
    );
}

pub(super) fn changed_kinds(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/sub/file"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("dir"), "now a file").unwrap();
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
        symlink("file", root.join("file/link")).unwrap();
    });
    subject.view(&top, |root| {
        assert_eq!(read(root, "dir"), "now a file");
        assert_eq!(names(&root.join("file")), ["link"]);
    });
    assert_eq!(subject.view(&base, |root| read(root, "dir/sub/file")), "x");
}

pub(super) fn deleted_above(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        for name in ["dir/sub/file", "dir/file", "file"] {
            fs::write(root.join(name), "x").unwrap();
        }
    });
    let middle = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir/sub")).unwrap();
        fs::remove_file(root.join("file")).unwrap();
    });
    let top = subject.layer(Some(middle.chain_id), "three", |root| {
        assert_eq!(
            (names(root), names(&root.join("dir"))),
            (vec!["dir".to_owned()], vec!["file".to_owned()])
        );
        fs::write(root.join("file"), "again").unwrap();
    });
    assert_eq!(subject.view(&top, |root| read(root, "file")), "again");
    assert_eq!(subject.view(&middle, names), ["dir"]);
    assert_eq!(
        subject.view(&base, |root| read(root, "dir/sub/file") + &read(root, "file")),
        "xx"
    );
}

pub(super) fn made_again(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/old"), "x").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/new"), "x").unwrap();
    });
    assert_eq!(subject.view(&top, |root| names(&root.join("dir"))), ["new"]);
    assert_eq!(subject.view(&base, |root| names(&root.join("dir"))), ["old", "sub"]);
}

pub(super) fn renamed(subject: &Subject) {
    let base = subject.layer(None, "one", |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("a"), "a").unwrap();
        fs::write(root.join("b"), "b").unwrap();
    });
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        fs::rename(root.join("a"), root.join("dir/moved")).unwrap();
        fs::rename(root.join("b"), root.join("c")).unwrap();
        fs::write(root.join("b"), "new b").unwrap();
    });
    subject.view(&top, |root| {
        assert_eq!(names(root), ["b", "c", "dir"]);
        assert_eq!(
            [read(root, "dir/moved"), read(root, "b"), read(root, "c")],
            ["a", "new b", "b"]
        );
    });
}

pub(super) fn odd_things(subject: &Subject) {
    let long = "n".repeat(255);
    let raw = std::ffi::OsStr::from_bytes(b"not \xff unicode\n");
    let layer = subject.layer(None, "one", |root| {
        fs::write(root.join("one"), "shared").unwrap();
        fs::hard_link(root.join("one"), root.join("two")).unwrap();
        symlink("/nowhere/../at all", root.join("link")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        fs::write(root.join(&long), "long").unwrap();
        fs::write(root.join(raw), "raw").unwrap();
        set_xattr(&root.join("one"), "user.plywood", b"\0\xffvalue");
    });
    subject.view(&layer, |root| {
        let one = fs::metadata(root.join("one")).unwrap();
        assert_eq!(
            (one.nlink(), one.ino()),
            (2, fs::metadata(root.join("two")).unwrap().ino())
        );
        assert_eq!(
            fs::read_link(root.join("link")).unwrap(),
            Path::new("/nowhere/../at all")
        );
        assert!(fs::symlink_metadata(root.join("fifo")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
        assert_eq!(fs::read(root.join(raw)).unwrap(), b"raw");
        assert_eq!(get_xattr(&root.join("two"), "user.plywood"), b"\0\xffvalue");
    });
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn get_xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 256];
    let name = CString::new(name).unwrap();
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

pub(super) fn untouched(subject: &Subject) {
    let base = subject.layer(None, "one", |root| fs::write(root.join("file"), "x").unwrap());
    let before = subject.view(&base, |root| fs::metadata(root.join("file")).unwrap().mtime_nsec());
    let top = subject.layer(Some(base.chain_id), "two", |root| {
        assert_eq!(read(root, "file"), "x");
        fs::write(root.join("other"), "y").unwrap();
    });
    assert_eq!(
        subject.view(&top, |root| fs::metadata(root.join("file")).unwrap().mtime_nsec()),
        before
    );
}

pub(super) fn siblings(subject: &Subject) {
    let base = subject.layer(None, "base", |root| fs::write(root.join("file"), "x").unwrap());
    for key in ["a", "b"] {
        subject.driver.prepare(key, Some(&base.chain_id), None).unwrap();
    }
    let a = subject.driver.mount("a", Access::ReadWrite).unwrap();
    let b = subject.driver.mount("b", Access::ReadWrite).unwrap();
    fs::write(a.path().join("file"), "a").unwrap();
    fs::remove_file(b.path().join("file")).unwrap();
    assert_eq!((read(a.path(), "file"), names(b.path()).len()), ("a".into(), 0));
    a.close().unwrap();
    b.close().unwrap();
    assert_eq!(subject.view(&base, |root| read(root, "file")), "x");
}

pub(super) fn deep_stack(subject: &Subject, layers: usize) {
    let mut top = subject.layer(None, "0", |root| fs::write(root.join("counter"), "0").unwrap());
    for number in 1..layers {
        top = subject.layer(Some(top.chain_id), &number.to_string(), |root| {
            assert_eq!(read(root, "counter"), (number - 1).to_string());
            fs::write(root.join("counter"), number.to_string()).unwrap();
            fs::write(root.join(format!("layer-{number}")), "x").unwrap();
        });
    }
    assert_eq!(subject.view(&top, |root| names(root).len()), layers);
}
