//! Attacks on `plywood import` and on what stands after it, on the overlay driver.
//!
//! Each test is named after the attacks of docs/attacks.md that it makes. What lies beside the root
//! stays as it is, a refused archive leaves the store as it was, and `check --data` finds nothing.

mod common;

#[path = "common/attack.rs"]
mod attack;
#[path = "common/breakouts.rs"]
mod breakouts;
#[path = "common/sentinel.rs"]
mod sentinel;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use attack::{gzip, refused, refused_as, with_base, with_bystander};
use common::layout::Layout;
use common::tars::{
    archive, device, directory, file, files_tar, gnu_long, header, pax, raw, records_of, symlink, with,
};
use common::{Plywood, listing};
use serde_json::json;

#[test]
fn u01_u02_u03_u04_u07_u08_u09_u13_u15_u16_u17_u18_u19_breakouts() {
    breakouts::run("overlay");
}

/// One layer more, as the image `name`.
fn layer(plywood: &Plywood, parent: &str, name: &str, entries: &[Vec<u8>]) {
    let path = plywood.beside("layer.tar");
    fs::write(&path, archive(entries)).unwrap();
    plywood.ok(["import", "--layer", "--parent", parent, path.to_str().unwrap(), name]);
}

#[test]
fn u06_imports_of_the_same_layers_at_the_same_time_all_succeed() {
    let plywood = with_bystander();
    let layers: Vec<_> = (0..4)
        .map(|n| archive(&[directory("d"), file(&format!("d/{n}"), &"x".repeat(100_000))]))
        .collect();
    let path = plywood.beside("archive");
    fs::write(&path, Layout::of(&layers).tar(false)).unwrap();
    let children: Vec<_> = (0..4)
        .map(|n| {
            let mut command = plywood.command(["import", path.to_str().unwrap(), &format!("image{n}")]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut ids: Vec<_> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        })
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(
        plywood.json(["inspect", "image0"])[0]["layers"]
            .as_array()
            .map(Vec::len),
        Some(4)
    );
    plywood.sound();
}

#[test]
fn u10_devices_and_fifos_of_an_image_come_in_but_open_nothing() {
    let plywood = with_base();
    let mut disk = raw(b"disk", b'4', b"", 0o666, b"");
    disk[329..345].copy_from_slice(b"0000010\x000000000\0");
    common::tars::seal(&mut disk);
    layer(&plywood, "base", "devices", &[disk, device("memory", 1, 1)]);
    layer(&plywood, "base", "fifo", &[raw(b"etc/passwd", b'6', b"", 0o666, b"")]);
    // No hang over what should name the user.
    plywood.fails(125, ["run", "--rm", "-u", "ops", "fifo", "true"]);
    for name in ["/disk", "/memory"] {
        let script = format!("test -e {name} && dd if={name} of=/dev/null bs=1 count=1");
        let output = plywood.run(["run", "--rm", "devices", "sh", "-c", &script]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && (error.contains("denied") || error.contains("not permitted")),
            "{name}: {error}"
        );
    }
    plywood.sound();
}

#[test]
fn u11_nobody_else_gets_into_the_store() {
    let plywood = with_base();
    layer(&plywood, "base", "setuid", &[raw(b"su", b'0', b"", 0o6755, b"x")]);
    plywood.ok(["run", "--name", "c", "setuid", "true"]);
    let root = fs::metadata(plywood.root()).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o700, 0, 0));
    // The folder around is open: only the root's own mode keeps others out.
    fs::set_permissions(plywood.root().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut folders = vec![plywood.root()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        folders.extend(
            entries
                .filter(|entry| entry.file_type().unwrap().is_dir())
                .map(|entry| entry.path()),
        );
        let seen = Command::new("/bin/busybox")
            .args(["ls", "-d"])
            .arg(folder.join("."))
            .uid(1000)
            .gid(1000)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!seen.success(), "{}", folder.display());
        if folders.len() > 60 {
            break;
        }
    }
}

#[test]
fn u12_a_capability_of_another_root_goes_through_unchanged_or_not_at_all() {
    let plywood = with_bystander();
    let version3 = [
        1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 1, 0,
    ];
    let marked = |value: &[u8]| archive(&[with(&[("SCHILY.xattr.security.capability", value)], &file("f", "x"))]);
    let path = plywood.beside("archive");
    fs::write(&path, Layout::of(&[marked(&version3)]).tar(false)).unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "caps"]);
    let out = plywood.beside("out.tar");
    plywood.ok(["export", "--format", "rootfs", "-o", out.to_str().unwrap(), "caps"]);
    let record = records_of(&[("SCHILY.xattr.security.capability", &version3)]);
    let found = fs::read(out).unwrap();
    assert!(found.windows(record.len()).any(|window| window == record));
    refused(
        &plywood,
        "a short one",
        &Layout::of(&[marked(b"short")]).tar(false),
        "security.capability",
    );
    plywood.sound();
}

/// Frames of zstd, which say "so many times this byte" in a few of their own.
fn zstd_bomb(entry: &[u8; 512], mebibytes: usize, byte: u8) -> Vec<u8> {
    let piece = zstd::encode_all([byte].repeat(1 << 20).as_slice(), 1).unwrap();
    [zstd::encode_all(entry.as_slice(), 1).unwrap(), piece.repeat(mebibytes)].concat()
}

#[test]
fn u14_bombs_are_stopped_before_they_fill_the_disk() {
    const GIB: usize = 1 << 30;
    let plywood = with_bystander();
    let bomb = zstd_bomb(&header(b"bomb", b'0', b"", 0o644, 64 * GIB as u64), 64 << 10, b'A');
    let within = |layer: &[u8]| {
        let mut layout = Layout::of(&[layer.to_vec()]);
        layout.manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
        layout.tar(false)
    };
    // Packed once more, 64 KiB come to 64 GiB.
    let nested = gzip(&within(&bomb));
    assert!(nested.len() < 96 << 10, "{}", nested.len());
    let archive_itself = zstd_bomb(
        &header(b"oci-layout", b'0', b"", 0o644, 64 * GIB as u64),
        64 << 10,
        b'A',
    );
    for (what, bytes) in [
        ("a tree", bomb.clone()),
        ("a layer in an archive", nested),
        ("an archive", archive_itself),
    ] {
        let path = plywood.beside("bomb");
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let error = refused_as(
            &plywood,
            what,
            &["import", "--max-unpacked", "32M", path, "bomb"],
            "33554432",
        );
        assert!(error.contains("--max-unpacked"), "{what}: {error}");
        let mut piped = plywood.command(["import", "--max-unpacked", "32M", "-", "bomb"]);
        let output = piped.stdin(fs::File::open(path).unwrap()).output().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("33554432"),
            "{what}, piped"
        );
    }
    // Without a word from the user: 4 GiB. It costs some seconds, and the test of that is the budget's own.
    if std::env::var_os("PLYWOOD_TEST_ROUNDS").is_some() {
        refused(&plywood, "64 GiB", &bomb, "4294967296");
    }
    plywood.sound();
}

#[test]
fn u14_a_large_image_comes_in_where_the_user_says_so() {
    let plywood = with_bystander();
    let tar = [
        &header(b"large", b'0', b"", 0o644, 64 << 20)[..],
        &vec![0; (64 << 20) + 1024],
    ]
    .concat();
    let path = plywood.beside("large");
    fs::write(&path, gzip(&tar)).unwrap();
    plywood.ok(["import", "--max-unpacked", "65M", path.to_str().unwrap(), "large"]);
    plywood.ok(["import", path.to_str().unwrap(), "large"]);
    plywood.sound();
}

#[test]
fn u18_headers_take_no_more_memory_than_they_may() {
    let plywood = with_bystander();
    let long = |name: &[u8]| {
        let mut tar = raw(name, b'0', b"", 0o644, b"{}");
        tar.extend(header(b"././@LongLink", b'L', b"", 0o644, 1 << 30));
        tar.resize(tar.len() + (300 << 20), b'a');
        gzip(&tar)
    };
    refused(&plywood, "a long name in a tree", &long(b"x"), "extended headers");
    refused(
        &plywood,
        "a long name in an archive",
        &long(b"oci-layout"),
        "extended headers",
    );
    let many = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
        let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b"v"[..])).collect();
        archive(&[with(&records, &file("f", "x"))])
    };
    refused(&plywood, "100,000 attributes", &many(100_000), "extended headers");
    let path = plywood.beside("attack");
    fs::write(&path, many(30_000)).unwrap();
    let output = plywood.run(["import", path.to_str().unwrap(), "many"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // The disk's filesystem decides how many there may be.
    assert!(output.status.success() || error.contains("user."), "{error}");
    let big = archive(&[with(&[("SCHILY.xattr.user.big", &[b'v'; 900_000])], &file("f", "x"))]);
    refused(&plywood, "a large attribute", &big, "user.big");
    let all: Vec<_> = (0..200)
        .map(|n| common::tars::global(&[(&format!("SCHILY.xattr.user.{n}"), &[b'v'; 1_000_000])]))
        .collect();
    refused(&plywood, "attributes for all", &gzip(&archive(&all)), "global header");
    plywood.sound();
}

#[test]
fn u18_links_cannot_build_a_tree_deeper_than_a_path() {
    let plywood = with_bystander();
    let mut entries = Vec::new();
    let mut above = String::new();
    for n in 0..30 {
        let way = format!("{above}{}", ["a"; 900].join("/"));
        entries.push(with(&[("path", format!("{way}/").as_bytes())], &directory("d")));
        entries.push(symlink(&format!("l{n}"), format!("/{way}")));
        above = format!("l{n}/");
    }
    refused(
        &plywood,
        "a chain of links",
        &archive(&entries),
        "1024 directories deep",
    );
    // As deep as may be, and out again.
    let path = plywood.beside("deep");
    fs::write(&path, archive(&entries[..1])).unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "deep"]);
    plywood.ok(["export", "--format", "rootfs", "-o", "/dev/null", "deep"]);
    plywood.ok(["rmi", "deep"]);
    plywood.sound();
}

#[test]
fn u18_names_in_messages_neither_drive_the_terminal_nor_begin_a_line() {
    let plywood = with_bystander();
    let name = "x\x1b[2J\nError: y";
    let hostile = json!([{"Config": name, "Layers": []}]).to_string();
    let long = [gnu_long(b'L', name.as_bytes()), file("z", "")].concat();
    for (what, bytes) in [
        ("a config's name", files_tar([("manifest.json", hostile.as_bytes())])),
        (
            "a name twice",
            archive(&[file("manifest.json", "[]"), long.clone(), long.clone()]),
        ),
        (
            "a link",
            archive(&[with(
                &[("path", name.as_bytes()), ("linkpath", name.as_bytes())],
                &raw(b"l", b'1', b"x", 0, b""),
            )]),
        ),
        (
            "a name as a folder",
            archive(&[
                long.clone(),
                with(&[("path", format!("{name}/z").as_bytes())], &file("z", "")),
            ]),
        ),
    ] {
        let error = refused(&plywood, what, &bytes, "x\\u{1b}[2J\\nError: y");
        assert!(
            !error.trim_end().contains(|c: char| c.is_control() && c != '\n'),
            "{what}: {error:?}"
        );
        assert_eq!(error.matches("\nError").count(), 0, "{what}: {error}");
    }
}

#[test]
fn u25_filesystem_images_are_refused_by_name() {
    let plywood = with_bystander();
    let at = |offset: usize, magic: &[u8]| {
        let mut image = vec![0; 128 << 10];
        image[offset..offset + magic.len()].copy_from_slice(magic);
        image
    };
    let made = plywood.beside("made.ext4");
    fs::write(&made, vec![0; 1 << 20]).unwrap();
    let output = Command::new("mkfs.ext4").arg("-q").arg(&made).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let before = fs::read(&made).unwrap();
    for (name, image) in [
        ("ext4", before.clone()),
        ("ext4", gzip(&before)),
        ("squashfs", at(0, b"hsqs")),
        ("xfs", at(0, b"XFSB")),
        ("erofs", at(1024, &[0xe2, 0xe1, 0xf5, 0xe0])),
        ("btrfs", at(0x10040, b"_BHRfS_M")),
        ("ISO 9660", at(0x8001, b"CD001")),
        ("partition table", at(510, &[0x55, 0xaa])),
        ("qcow2", at(0, b"QFI\xfb")),
    ] {
        let error = refused(&plywood, name, &image, name);
        assert!(error.contains("import a tar"), "{name}: {error}");
    }
    plywood.sound();
}

#[test]
fn u26_what_a_container_leaves_can_neither_block_nor_flood_a_commit() {
    let plywood = with_base();
    let hostile =
        "mkfifo /pipe; mknod /null c 1 3; ln -s /proc/kcore /core; chmod 0 /etc/passwd; nc -lU /socket & sleep 0.2;
        mkdir -m 0 /closed; echo x > /closed/file; truncate -s 32M /var/log/hole";
    plywood.ok(["run", "--name", "odd", "base", "sh", "-c", hostile]);
    plywood.ok(["commit", "odd", "odd"]);
    let seen = plywood.ok([
        "run",
        "--rm",
        "odd",
        "sh",
        "-c",
        "test -p /pipe && cat /closed/file && stat -c %s /var/log/hole",
    ]);
    assert_eq!(seen, "x\n33554432");
    plywood.ok([
        "run",
        "--name",
        "flood",
        "base",
        "truncate",
        "-s",
        "15360G",
        "/var/log/flood",
    ]);
    let before = listing(&plywood);
    let error = plywood.fails(1, ["commit", "flood", "flood"]);
    assert!(error.contains("the store's disk"), "{error}");
    plywood.ok(["gc"]);
    assert_eq!(listing(&plywood), before);
    plywood.ok(["rm", "odd", "flood"]);
    plywood.ok(["rmi", "odd"]);
    plywood.ok(["gc"]);
    plywood.sound();
}

/// The PAX header is only the binary's business here: it must not be taken for the first name.
#[test]
fn u17_a_tar_that_begins_with_a_large_header_is_still_one() {
    let plywood = with_bystander();
    let entries = [pax(&[("comment", &[b'c'; 900_000])]), directory("."), file("x", "x")].concat();
    let path = plywood.beside("archive");
    fs::write(&path, gzip(&archive(&[entries]))).unwrap();
    plywood.ok(["import", path.to_str().unwrap(), "x"]);
    plywood.sound();
}
