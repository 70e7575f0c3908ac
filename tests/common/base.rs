//! The base system: a shell and little else, from which nearly every test's image `base` is made.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use super::Plywood;

/// A base system with a shell: busybox (Debian's busybox-static), as a tar with fixed times.
pub fn busybox_tar(path: &Path) {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let list = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("busybox runs")
        .stdout;
    let applets = String::from_utf8(list).expect("UTF-8");
    let mut tar = tar::Builder::new(File::create(path).expect("a file"));
    let mut entry = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>| {
        add_entry(&mut tar, path, kind, mode, content, link);
    };
    for (folder, mode) in [
        ("./", 0o755),
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("run/", 0o755),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/share/", 0o755),
        ("usr/share/doc/", 0o755),
        ("var/", 0o755),
        ("var/log/", 0o755),
    ] {
        entry(folder, tar::EntryType::Directory, mode, b"", None);
    }
    entry("bin/busybox", tar::EntryType::Regular, 0o755, &busybox, None);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        entry(
            &format!("bin/{applet}"),
            tar::EntryType::Link,
            0o755,
            b"",
            Some("bin/busybox"),
        );
    }
    entry(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nops:x:1000:1000:ops:/home:/bin/sh\n",
        None,
    );
    entry(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:\nops:x:1000:\nadm:x:4:ops\n",
        None,
    );
    entry("etc/resolv.conf", tar::EntryType::Regular, 0o644, b"", None);
    entry("etc/hostname", tar::EntryType::Regular, 0o644, b"base\n", None);
    entry(
        "etc/hosts",
        tar::EntryType::Regular,
        0o644,
        b"127.0.0.1 localhost\n",
        None,
    );
    for name in ["a", "b", "c", "d"] {
        entry(
            &format!("usr/share/doc/{name}"),
            tar::EntryType::Regular,
            0o644,
            format!("document {name}\n").repeat(1000).as_bytes(),
            None,
        );
    }
    entry(
        "usr/share/twin",
        tar::EntryType::Link,
        0o644,
        b"",
        Some("usr/share/doc/a"),
    );
    entry("usr/share/link", tar::EntryType::Symlink, 0o777, b"", Some("doc/b"));
    tar.finish().expect("an archive");
}

/// Adds an entry of root's, with a fixed time.
pub fn add_entry(
    tar: &mut tar::Builder<File>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
    link: Option<&str>,
) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(1_500_000_000);
    match link {
        Some(link) => tar.append_link(&mut header, path, link).expect("an entry"),
        None => tar.append_data(&mut header, path, content).expect("an entry"),
    }
}

/// Imports the base system as `base`.
#[track_caller]
pub fn import_base(plywood: &Plywood) {
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
}

/// A store with the image `base`.
#[track_caller]
pub fn with_base() -> Plywood {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok([
        "import",
        "-c",
        "CMD [\"cat\", \"/etc/hostname\"]",
        base.to_str().expect("works"),
        "base",
    ]);
    plywood
}
