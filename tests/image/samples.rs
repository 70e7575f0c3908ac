//! Images to import and export, and what they are once they are in a store.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use plywood_store::Digest;
use plywood_store::layer::{Limits, apply::apply, tree};
use serde_json::json;

use crate::common::Plywood;
use crate::common::layout::Layout;

/// A tar entry: name, kind, mode, content or link target.
pub type Entry<'a> = (&'a str, tar::EntryType, u32, &'a str);

/// Kinds of entries.
pub const FILE: tar::EntryType = tar::EntryType::Regular;

pub const FOLDER: tar::EntryType = tar::EntryType::Directory;

pub const LINK: tar::EntryType = tar::EntryType::Link;

pub const SYMLINK: tar::EntryType = tar::EntryType::Symlink;

/// A layer's tar.
pub fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, mode, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_500_000_000);
        header.set_size(0);
        header.set_uid(if *name == "home/me" { 1000 } else { 0 });
        match *kind {
            LINK | SYMLINK => tar.append_link(&mut header, name, content).unwrap(),
            _ => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// Three layers: everything that a layer can do to the one below.
pub fn layers() -> [Vec<u8>; 3] {
    let large = "0123456789".repeat(100_000);
    [
        tar_of(&[
            ("./", FOLDER, 0o755, ""),
            ("bin/", FOLDER, 0o755, ""),
            ("bin/tool", FILE, 0o4755, &large),
            ("bin/twin", LINK, 0o4755, "bin/tool"),
            ("bin/link", SYMLINK, 0o777, "../bin/tool"),
            ("etc/", FOLDER, 0o755, ""),
            ("etc/conf", FILE, 0o600, "a"),
            ("etc/gone", FILE, 0o644, "b"),
            ("var/", FOLDER, 0o755, ""),
            ("var/old", FILE, 0o644, "c"),
            ("home/", FOLDER, 0o755, ""),
            ("home/me", FOLDER, 0o700, ""),
        ]),
        tar_of(&[
            ("etc/", FOLDER, 0o755, ""),
            ("etc/.wh.gone", FILE, 0, ""),
            ("etc/conf", FILE, 0o640, "changed"),
            ("bin/link", FILE, 0o755, "a file now"),
        ]),
        tar_of(&[
            ("var/", FOLDER, 0o711, ""),
            ("var/.wh..wh..opq", FILE, 0, ""),
            ("var/new", FILE, 0o644, "d"),
        ]),
    ]
}

/// A store with the image `three`, and its id.
pub fn three_layers() -> (Plywood, String) {
    let plywood = Plywood::new("overlay");
    let paths: Vec<PathBuf> = layers()
        .iter()
        .enumerate()
        .map(|(index, tar)| written(&plywood, &format!("layer{index}.tar"), tar))
        .collect();
    plywood.ok([
        "import",
        "-c",
        "CMD [\"/bin/tool\"]",
        "-m",
        "base",
        text(&paths[0]),
        "one",
    ]);
    plywood.ok(["import", "--layer", "--parent", "one", text(&paths[1]), "two"]);
    let id = plywood.ok([
        "import",
        "--layer",
        "--parent",
        "two",
        "-c",
        "LABEL a=b",
        text(&paths[2]),
        "example.org/three:3",
    ]);
    (plywood, id)
}

/// The layers of an image, and the image: more of them than are read ahead, packed in all ways by turns.
pub fn many_layers() -> (Vec<Vec<u8>>, Layout) {
    let tars: Vec<Vec<u8>> = (0..14)
        .map(|number| {
            let own = format!("own/{number}");
            let large = format!("layer {number}\n").repeat(if number % 5 == 0 { 400_000 } else { 10 });
            let gone = format!("own/.wh.{}", number - 1);
            let mut entries = vec![("own/", FOLDER, 0o755, ""), (own.as_str(), FILE, 0o644, large.as_str())];
            if number % 3 == 1 {
                entries.push((gone.as_str(), FILE, 0, ""));
            }
            tar_of(&entries)
        })
        .collect();
    let mut layout = Layout::of(&tars);
    for (number, tar) in tars.iter().enumerate() {
        let packed = match number % 3 {
            0 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                gzip.finish().unwrap()
            }
            1 => zstd::encode_all(&tar[..], 1).unwrap(),
            _ => tar.clone(),
        };
        layout.manifest["layers"][number]["digest"] = json!(Digest::of(&packed).to_string());
        layout.manifest["layers"][number]["size"] = json!(packed.len());
        layout.layers[number] = packed;
    }
    (tars, layout)
}

/// Writes a file beside the store.
pub fn written(plywood: &Plywood, name: &str, content: &[u8]) -> PathBuf {
    let path = plywood.beside(name);
    fs::write(&path, content).unwrap();
    path
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The DiffIDs of an image, base first.
pub fn diff_ids(plywood: &Plywood, image: &str) -> Vec<String> {
    let document = plywood.json(["inspect", image]);
    document[0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["diff_id"].as_str().unwrap().to_owned())
        .collect()
}

/// The digest of the tree that an image is, by way of its rootfs export.
pub fn tree_of(plywood: &Plywood, image: &str) -> Digest {
    let path = plywood.beside("tree.tar");
    plywood.ok(["export", "--format", "rootfs", "-o", text(&path), image]);
    let folder = tempfile::tempdir().unwrap();
    let root = File::open(folder.path()).unwrap();
    apply(root.as_fd(), &mut File::open(path).unwrap(), &Limits::default()).unwrap();
    tree::digest(&root.as_fd()).unwrap()
}
