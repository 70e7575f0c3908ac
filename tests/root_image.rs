//! Import and export on the overlay driver: every format there and back with the same ids, [`others`]' tools on
//! both sides, and [`damage`] that must change nothing.

mod common;
#[path = "image/damage.rs"]
mod damage;
#[path = "image/others.rs"]
mod others;
#[path = "image/samples.rs"]
mod samples;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

use common::{Plywood, listing};
use plywood_store::layer::{Limits, apply::apply, tree};
use plywood_store::{ChainId, DiffId, Digest};
use samples::{diff_ids, layers, many_layers, text, three_layers, tree_of, written};
use serde_json::{Value, json};

#[test]
fn root_layers_are_what_they_say() {
    let (plywood, id) = three_layers();
    let expected: Vec<String> = layers().iter().map(|tar| Digest::of(tar).to_string()).collect();
    assert_eq!(diff_ids(&plywood, "example.org/three:3"), expected);
    let top = plywood.beside("top.tar");
    plywood.ok(["export", "--format", "layer", "-o", text(&top), &id]);
    assert_eq!(Digest::of(&fs::read(top).unwrap()).to_string(), expected[2]);
    plywood.sound();
}

#[test]
fn root_every_format_comes_back_with_the_same_ids() {
    let (plywood, id) = three_layers();
    let expected = diff_ids(&plywood, &id);
    let tree = tree_of(&plywood, &id);
    for format in ["oci-archive", "oci-dir", "docker-archive"] {
        for compress in [None, Some("gzip"), Some("zstd:2")] {
            let how = format!("{format} {compress:?}");
            let path = plywood.beside(&how);
            let mut args = vec![
                "export",
                "--format",
                format,
                "-o",
                text(&path),
                "example.org/three:3",
                "two",
            ];
            args.extend(compress.iter().flat_map(|compress| ["--compress", compress]));
            plywood.ok(&args);
            if format != "oci-dir" {
                let once = Digest::of(&fs::read(&path).unwrap());
                plywood.ok(&args);
                assert_eq!(Digest::of(&fs::read(&path).unwrap()), once, "{how}");
            }
            let other = Plywood::new("overlay");
            let ids = other.ok(["import", text(&path)]);
            assert_eq!(ids.lines().next(), Some(id.as_str()), "{how}");
            assert_eq!(diff_ids(&other, "example.org/three:3"), expected, "{how}");
            assert_eq!(diff_ids(&other, "two"), expected[..2], "{how}");
            assert_eq!(tree_of(&other, &id), tree, "{how}");
            other.sound();
            // Once more changes nothing.
            let before = listing(&other);
            assert_eq!(other.ok(["import", text(&path)]), ids, "{how}");
            assert_eq!(listing(&other), before, "{how}");
        }
    }
}

#[test]
fn root_packed_and_piped_archives_are_recognised() {
    let (plywood, id) = three_layers();
    let mut archives = vec![("rootfs", layers()[0].clone())];
    for format in ["oci-archive", "docker-archive"] {
        let path = plywood.beside(format);
        plywood.ok(["export", "--format", format, "-o", text(&path), &id]);
        archives.push((format, fs::read(path).unwrap()));
    }
    for (format, plain) in archives {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let packed = [
            plain.clone(),
            gzip.finish().unwrap(),
            zstd::encode_all(plain.as_slice(), 1).unwrap(),
        ];
        let mut ids = Vec::new();
        for bytes in &packed {
            let other = Plywood::new("overlay");
            let path = written(&other, "archive", bytes);
            ids.push(other.ok(["import", text(&path), "name"]));
            assert_eq!(other.fed(["import", "-", "name"], bytes), ids[0], "{format}");
            other.ok([
                "import",
                "--digest",
                &Digest::of(bytes).to_string(),
                text(&path),
                "name",
            ]);
            let before = listing(&other);
            assert!(
                other
                    .fails(
                        1,
                        [
                            "import",
                            "--digest",
                            &Digest::of(b"x").to_string(),
                            text(&path),
                            "other"
                        ]
                    )
                    .contains(&Digest::of(b"x").to_string())
            );
            assert_eq!(listing(&other), before);
            other.sound();
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{format}: the same image however packed");
        if format != "rootfs" {
            assert_eq!(ids[0], id);
        }
    }
}

#[test]
fn root_since_leaves_out_what_the_other_side_has() {
    let (plywood, id) = three_layers();
    let base = plywood.beside("base.tar");
    plywood.ok(["export", "-o", text(&base), "one"]);
    for format in ["oci-archive", "oci-dir", "docker-archive"] {
        let path = plywood.beside(format);
        plywood.ok([
            "export",
            "--format",
            format,
            "--since",
            "one",
            "-o",
            text(&path),
            "example.org/three:3",
        ]);
        if format != "oci-dir" {
            assert!(fs::metadata(&path).unwrap().len() < 100_000, "{format}");
        }
        let other = Plywood::new("overlay");
        other.ok(["import", text(&base)]);
        assert_eq!(other.ok(["import", text(&path)]), id, "{format}");
        assert_eq!(tree_of(&other, &id), tree_of(&plywood, &id), "{format}");
        other.sound();
        let without = Plywood::new("overlay");
        let missing = Digest::of(&layers()[0]).to_string();
        let error = without.fails(1, ["import", text(&path)]);
        assert!(error.contains(&missing) && error.contains("--since"), "{error}");
        assert_eq!(without.json(["images"]), json!([]));
    }
}

#[test]
fn root_layers_that_are_read_ahead_come_in_their_order() {
    let plywood = Plywood::new("overlay");
    let (tars, layout) = many_layers();
    let path = written(&plywood, "many.tar", &layout.tar(false));
    plywood.ok(["import", text(&path), "many"]);
    plywood.sound();
    let folder = tempfile::tempdir().unwrap();
    let root = File::open(folder.path()).unwrap();
    for tar in &tars {
        apply(root.as_fd(), &mut tar.as_slice(), &Limits::default()).unwrap();
    }
    assert_eq!(tree_of(&plywood, "many"), tree::digest(&root.as_fd()).unwrap());
}

#[test]
fn root_importing_again_repairs_what_is_damaged() {
    let (plywood, id) = three_layers();
    let archive = plywood.beside("archive");
    plywood.ok(["export", "-o", text(&archive), "example.org/three:3"]);
    let good = listing(&plywood);
    let document = plywood.json(["inspect", &id]);
    let hex = |text: &Value| text.as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blobs = [
        hex(&document[0]["layers"][0]["diff_id"]),
        hex(&json!(id)),
        hex(&document[0]["manifest"]),
    ];
    for (index, blob) in blobs.iter().enumerate() {
        let path = plywood.root().join("blobs/sha256").join(blob);
        let content = fs::read(&path).unwrap();
        let mut bad = content.clone();
        bad[content.len() / 2] ^= 1;
        for damage in [Some(bad), Some(Vec::new()), None] {
            match &damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            plywood.fails(1, ["check", "--data"]);
            assert_eq!(plywood.ok(["import", text(&archive)]), id, "blob {index}");
            plywood.sound();
        }
    }
    let blobs = |listing: &BTreeMap<PathBuf, Option<Digest>>| {
        listing
            .iter()
            .filter(|(path, _)| path.starts_with(plywood.root().join("blobs")))
            .map(|(path, digest)| (path.clone(), *digest))
            .collect::<Vec<_>>()
    };
    assert_eq!(blobs(&listing(&plywood)), blobs(&good));
}

#[test]
fn root_a_layer_stands_on_its_parent() {
    let (plywood, id) = three_layers();
    let document = plywood.json(["inspect", &id]);
    let ids: Vec<DiffId> = layers().iter().map(|tar| DiffId(Digest::of(tar))).collect();
    let chain: Vec<Value> = ChainId::stack(&ids)
        .iter()
        .map(|chain| json!(chain.to_string()))
        .collect();
    let got: Vec<Value> = document[0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["chain_id"].clone())
        .collect();
    assert_eq!(got, chain);
    assert_eq!(document[0]["config"]["Cmd"], json!(["/bin/tool"]));
    assert_eq!(document[0]["history"].as_array().map(Vec::len), Some(3));
}
