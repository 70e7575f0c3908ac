//! A disk that fills up under the binary: told by name, and the store is as it was.

mod common;

use std::path::Path;

use common::{Plywood, busybox_tar};
use nix::mount::{MsFlags, mount, umount};

fn small_disk(target: &Path, options: &str) {
    std::fs::create_dir(target).expect("a folder");
    mount(Some("small"), target, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
}

/// A tar of one file of so many bytes, at the end of the list of what fits.
fn tar_of(bytes: u64, out: impl std::io::Write) {
    let mut tar = tar::Builder::new(out);
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o644);
    let content = std::io::Read::take(std::io::repeat(7), bytes);
    tar.append_data(&mut header, "blob.bin", content).expect("an entry");
    tar.finish().expect("an archive");
}

#[test]
fn root_a_full_disk_is_told_by_name_and_changes_nothing() {
    plywood::sys::mount::enter_private_namespace().expect("a namespace");
    let plywood = Plywood::new("overlay");
    let (root, out) = (plywood.root(), plywood.beside("out"));
    small_disk(&root, "size=48m");
    small_disk(&out, "size=1m");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let (large, packed) = (plywood.beside("large.tar"), plywood.beside("packed.tar.gz"));
    tar_of(30 << 20, std::fs::File::create(&large).expect("a file"));
    let file = std::fs::File::create(&packed).expect("a file");
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    tar_of(200 << 20, &mut gzip);
    gzip.finish().expect("a gzip");
    plywood.ok([
        "run",
        "--name",
        "big",
        "base",
        "sh",
        "-c",
        "dd if=/dev/urandom of=/big bs=1M count=15 2>/dev/null",
    ]);

    let before = plywood.json(["df"]);
    let root = root.to_str().expect("UTF-8").to_owned();
    for (disk, args) in [
        (root.as_str(), vec!["import", large.to_str().expect("UTF-8"), "large"]),
        (root.as_str(), vec!["import", packed.to_str().expect("UTF-8"), "packed"]),
        (root.as_str(), vec!["commit", "big", "big"]),
        (out.to_str().expect("UTF-8"), vec!["export", "-o", "", "base"]),
    ] {
        let archive = out.join("base.oci.tar");
        let args: Vec<&str> = args
            .into_iter()
            .map(|arg| {
                if arg.is_empty() {
                    archive.to_str().expect("UTF-8")
                } else {
                    arg
                }
            })
            .collect();
        let error = plywood.fails(1, &args);
        assert!(
            error.contains(&format!("on the disk under {disk}")),
            "{args:?}: {error}"
        );
        assert!(
            error.contains("MiB left") || error.contains("KiB left"),
            "{args:?}: {error}"
        );
        assert!(error.contains("Hint: "), "{args:?}: {error}");
        assert_eq!(plywood.json(["df"]), before, "{args:?}");
    }
    assert_eq!(std::fs::read_dir(&out).expect("a folder").count(), 0);
    assert_eq!(plywood.json(["gc"])["blobs"], serde_json::json!([]));
    plywood.sound();
    plywood.ok(["rm", "big"]);
    plywood.ok(["run", "--rm", "base", "true"]);
    for disk in [Path::new(&root), &out] {
        umount(disk).expect("unmounting");
    }
}
