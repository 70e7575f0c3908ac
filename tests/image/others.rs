//! Other tools on both sides: skopeo and umoci read what is exported, and make what is imported.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use plywood_store::layer::tree;
use serde_json::Value;

use crate::common::Plywood;
use crate::samples::{diff_ids, text, three_layers, tree_of};

/// A tool of another project; it must be there.
#[track_caller]
fn tool(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .unwrap_or_else(|error| panic!("{} (Debian package {}): {error}", words[0], words[0]));
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn root_skopeo_and_umoci_read_what_is_exported() {
    let (plywood, id) = three_layers();
    let tree = tree_of(&plywood, &id);
    let here = |name: &str| text(&plywood.beside(name)).to_owned();
    for (format, transport, compress) in [
        ("oci-archive", "oci-archive", "none"),
        ("oci-archive", "oci-archive", "gzip"),
        ("oci-archive", "oci-archive", "zstd"),
        ("oci-dir", "oci", "gzip"),
        ("docker-archive", "docker-archive", "none"),
    ] {
        let name = format!("{format}-{compress}");
        plywood.ok([
            "export",
            "--format",
            format,
            "--compress",
            compress,
            "-o",
            &here(&name),
            "example.org/three:3",
        ]);
        let from = format!("{transport}:{}", here(&name));
        let inspected: Value = serde_json::from_str(&tool(&["skopeo", "inspect", &from])).unwrap();
        assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(3), "{name}");
        assert_eq!(inspected["Labels"]["a"], "b");
        let layout = here(&format!("{name}-layout"));
        tool(&["skopeo", "copy", &from, &format!("oci:{layout}:x")]);
        let bundle = here(&format!("{name}-bundle"));
        if compress == "zstd" {
            // Debian's umoci does not know zstd; skopeo has read every blob of it.
            continue;
        }
        tool(&["umoci", "unpack", "--image", &format!("{layout}:x"), &bundle]);
        let root = File::open(Path::new(&bundle).join("rootfs")).unwrap();
        assert_eq!(tree::digest(&root.as_fd()).unwrap(), tree, "{name}");
    }
}

#[test]
fn root_what_skopeo_and_umoci_make_comes_in() {
    let (plywood, id) = three_layers();
    let here = |name: &str| text(&plywood.beside(name)).to_owned();
    let tree = tree_of(&plywood, &id);
    plywood.ok(["export", "-o", &here("ours"), "example.org/three:3"]);
    let ours = format!("oci-archive:{}", here("ours"));
    for to in [
        "docker-archive:{}:docker.io/library/three:3",
        "oci-archive:{}:three:3",
        "oci:{}:three:3",
    ] {
        let path = here(&to.replace([':', '/', '{', '}'], "-"));
        tool(&["skopeo", "copy", "--dest-compress", &ours, &to.replace("{}", &path)]);
        let other = Plywood::new("overlay");
        let imported = other.ok(["import", &path, "three"]);
        assert_eq!(tree_of(&other, &imported), tree, "{to}");
        assert_eq!(diff_ids(&other, "three"), diff_ids(&plywood, &id), "{to}");
        assert_eq!(imported, id, "{to}");
        other.sound();
    }
    let layout = here("umoci");
    let (image, bundle) = (format!("{layout}:made"), here("bundle"));
    tool(&["umoci", "init", "--layout", &layout]);
    tool(&["umoci", "new", "--image", &image]);
    for (step, content) in ["first", "second"].iter().enumerate() {
        let bundle = format!("{bundle}{step}");
        tool(&["umoci", "unpack", "--image", &image, &bundle]);
        fs::write(Path::new(&bundle).join("rootfs").join(content), content).unwrap();
        tool(&["umoci", "repack", "--image", &image, &bundle]);
    }
    tool(&["umoci", "config", "--image", &image, "--config.cmd", "/first"]);
    let other = Plywood::new("overlay");
    other.ok(["import", &layout, "made"]);
    assert_eq!(diff_ids(&other, "made").len(), 2);
    tool(&["umoci", "unpack", "--image", &image, &format!("{bundle}-last")]);
    let root = File::open(Path::new(&format!("{bundle}-last/rootfs"))).unwrap();
    assert_eq!(tree_of(&other, "made"), tree::digest(&root.as_fd()).unwrap());
}
