//! Bad archives are refused by name, and change nothing.

use std::fs::File;
use std::io::Write;

use plywood_store::Digest;
use serde_json::{Value, json};

use crate::common::layout::Layout;
use crate::common::tars::files_tar;
use crate::common::{Plywood, listing};
use crate::samples::{FILE, FOLDER, LINK, layers, many_layers, tar_of, text, three_layers, written};

/// Wants an import to fail by name, and the store to be as it was.
#[track_caller]
fn refused(plywood: &Plywood, what: &str, bytes: &[u8], names: &str) {
    let path = written(plywood, "bad", bytes);
    let before = listing(plywood);
    for piped in [false, true] {
        let output = if piped {
            let input = File::open(&path).unwrap();
            plywood.command(["import", "-", "bad"]).stdin(input).output().unwrap()
        } else {
            plywood.run(["import", text(&path), "bad"])
        };
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains(names), "{what}: wanted {names:?} in {error}");
        assert!(!error.contains("panicked"), "{what}: {error}");
        assert_eq!(listing(plywood), before, "{what}");
    }
}

#[test]
fn root_bad_archives_are_named_and_change_nothing() {
    let (plywood, _) = three_layers();
    refused(&plywood, "empty", b"", "empty");
    refused(&plywood, "text", &b"hello\n".repeat(1000), "no tar");
    refused(&plywood, "zip", &[b"PK\x03\x04".as_slice(), &[0; 2000]].concat(), "zip");
    refused(&plywood, "xz", b"\xfd7zXZ\0\0\0", "xz");
    let mut ext4 = vec![0; 4096];
    ext4[0x438..0x43a].copy_from_slice(b"\x53\xef");
    ext4[0] = 1;
    refused(&plywood, "ext4", &ext4, "ext4");
    let hex = Digest::of(b"x").hex();
    let repositories = files_tar([("repositories", &b"{}"[..]), (&format!("{hex}/layer.tar"), b"x")]);
    refused(&plywood, "old docker", &repositories, "Docker 1.10");
    let docker = |manifest: &str| files_tar([("manifest.json", manifest.as_bytes()), (&format!("{hex}.json"), b"{}")]);
    refused(&plywood, "docker no list", &docker("{}"), "manifest.json");
    refused(&plywood, "docker empty", &docker("[]"), "no image");
    refused(
        &plywood,
        "docker no config",
        &docker(r#"[{"Config":"x.json","Layers":[]}]"#),
        "x.json",
    );
    refused(
        &plywood,
        "docker way out",
        &docker(r#"[{"Config":"../../etc/passwd","Layers":[]}]"#),
        "passwd",
    );
    refused(
        &plywood,
        "docker wrong config",
        &docker(&format!(r#"[{{"Config":"{hex}.json","Layers":[]}}]"#)),
        &hex,
    );
}

#[test]
fn root_bad_oci_archives_are_named_and_change_nothing() {
    let plywood = Plywood::new("overlay");
    let path = written(&plywood, "good", &Layout::of(&layers()).tar(false));
    let small = written(&plywood, "small", &tar_of(&[("x", FILE, 0o644, "x")]));
    plywood.ok(["import", text(&small), "small"]);
    let other = || json!(Digest::of(b"x").to_string());
    let path_of = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let index = |layout: &Layout, platform: Value| {
        let manifest = layout.manifest.to_string().into_bytes();
        let entry = json!({"mediaType": plywood::image::oci::MANIFEST, "digest": Digest::of(&manifest).to_string(), "size": manifest.len(), "platform": platform});
        json!({"schemaVersion": 2, "manifests": [entry]})
            .to_string()
            .into_bytes()
    };
    type Edit<'a> = (&'static str, bool, &'a dyn Fn(&mut Layout), &'static str);
    let cases: [Edit<'_>; 18] = [
        (
            "no layers in the config",
            false,
            &|l| l.config["rootfs"]["diff_ids"] = json!([]),
            "0 layers",
        ),
        (
            "a layer too many",
            false,
            &|l| l.config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(other()),
            "4 layers",
        ),
        (
            "DiffID of another",
            false,
            &|l| l.config["rootfs"]["diff_ids"][2] = other(),
            "came as",
        ),
        (
            "config missing",
            true,
            &|l| l.config["author"] = json!("x"),
            "not in the archive",
        ),
        (
            "config changed",
            false,
            &|l| {
                let good = l.config.to_string();
                drop(
                    l.files
                        .insert(path_of(good.as_bytes()), good.replace("linux", "linuz").into_bytes()),
                );
            },
            "came as",
        ),
        ("layer missing", false, &|l| drop(l.layers.pop()), "3 of 3"),
        (
            "layer of another digest",
            false,
            &|l| l.manifest["layers"][1]["digest"] = other(),
            "2 of 3",
        ),
        (
            "layer of another size",
            false,
            &|l| l.manifest["layers"][1]["size"] = json!(1),
            "came as",
        ),
        (
            "U20 digest is a path",
            false,
            &|l| l.manifest["layers"][1]["digest"] = json!("sha256:../../../etc/passwd"),
            "manifest",
        ),
        (
            "U20 another algorithm",
            false,
            &|l| l.manifest["layers"][1]["digest"] = json!("sha512:00"),
            "manifest",
        ),
        (
            "U21 layer changed",
            false,
            &|l| {
                let mut bad = l.layers[1].clone();
                bad[700] ^= 1;
                drop(l.files.insert(path_of(&l.layers[1]), bad));
            },
            "came as",
        ),
        (
            "U22 manifest and index",
            false,
            &|l| l.manifest["manifests"] = json!([]),
            "manifests",
        ),
        (
            "U22 another kind",
            false,
            &|l| l.manifest["mediaType"] = json!(plywood::image::oci::INDEX),
            "promised",
        ),
        (
            "U22 not an image",
            false,
            &|l| l.manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
            "helm",
        ),
        (
            "U23 many layers",
            false,
            &|l| {
                let one = l.manifest["layers"][0].clone();
                l.manifest["layers"] = json!(vec![one; 1001]);
            },
            "1001",
        ),
        (
            "U23 large index",
            false,
            &|l| drop(l.files.insert("index.json".to_owned(), vec![b' '; 5 << 20])),
            "4194304",
        ),
        (
            "layout of the future",
            false,
            &|l| {
                drop(
                    l.files
                        .insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec()),
                )
            },
            "2.0.0",
        ),
        (
            "another machine's",
            true,
            &|l| {
                let bytes = index(l, json!({"os": "linux", "architecture": "pdp11"}));
                drop(l.files.insert("index.json".to_owned(), bytes));
            },
            "linux/pdp11",
        ),
    ];
    for (what, keep, edit, names) in cases {
        let mut layout = Layout::of(&layers());
        edit(&mut layout);
        refused(&plywood, what, &layout.tar(keep), names);
    }
    plywood.ok(["import", text(&path), "good"]);
    plywood.sound();
}

#[test]
fn root_u21_a_changed_byte_anywhere_is_refused_or_harmless() {
    let plywood = Plywood::new("overlay");
    let small = written(&plywood, "small", &tar_of(&[("x", FILE, 0o644, "x")]));
    plywood.ok(["import", text(&small), "small"]);
    let mut layout = Layout::of(&layers());
    layout.layers[0] = tar_of(&[("bin/", FOLDER, 0o755, ""), ("bin/tool", FILE, 0o755, "tool")]);
    layout.config["rootfs"]["diff_ids"][0] = json!(Digest::of(&layout.layers[0]).to_string());
    layout.manifest["layers"][0]["digest"] = json!(Digest::of(&layout.layers[0]).to_string());
    layout.manifest["layers"][0]["size"] = json!(layout.layers[0].len());
    let tar = layout.tar(false);
    let good = Plywood::new("overlay");
    let id = good.ok(["import", text(&written(&good, "good", &tar)), "x"]);
    // A fixed stride that is odd to the block size reaches headers, JSON, content and padding.
    for at in (0..tar.len()).step_by(tar.len() / 40 + 7) {
        let mut bad = tar.clone();
        bad[at] ^= 0x10;
        let path = written(&plywood, "bad", &bad);
        let before = listing(&plywood);
        let output = plywood.run(["import", text(&path), "bad"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            // Padding, an owner or a date of the archive's own entries: nothing of the image.
            Some(0) => {
                let got = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                assert_eq!(got, id, "byte {at}");
                plywood.ok(["rmi", "bad"]);
                plywood.ok(["gc"]);
            }
            code => {
                assert_eq!(code, Some(1), "byte {at}: {error}");
                assert!(error.contains("rror"), "byte {at}: {error}");
                assert_eq!(listing(&plywood), before, "byte {at}: {error}");
            }
        }
    }
    for length in [
        1,
        511,
        512,
        513,
        1024,
        tar.len() / 3,
        tar.len() / 2,
        tar.len() - 1024 - 500,
    ] {
        let path = written(&plywood, "bad", &tar[..length]);
        let before = listing(&plywood);
        plywood.fails(1, ["import", text(&path), "bad"]);
        assert_eq!(listing(&plywood), before, "cut at {length}");
    }
    plywood.sound();
}

#[test]
fn root_damaged_layers_leave_nothing_behind() {
    let (plywood, _) = three_layers();
    let [base, ..] = layers();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&base).unwrap();
    let gzip = gzip.finish().unwrap();
    refused(&plywood, "cut tar", &base[..base.len() / 2], "");
    refused(&plywood, "cut gzip", &gzip[..gzip.len() / 2], "");
    let mut flipped = gzip.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 1;
    refused(&plywood, "gzip checksum", &flipped, "");
    refused(
        &plywood,
        "way out",
        &tar_of(&[("x", FILE, 0o644, "x"), ("y", LINK, 0o644, "no/such/file")]),
        "y",
    );
    plywood.fails(
        1,
        [
            "import",
            "--layer",
            "--parent",
            "nothing",
            text(&written(&plywood, "l", &base)),
            "x",
        ],
    );
    plywood.fails(1, ["import", "/nonexistent/file", "x"]);
    plywood.fails(2, ["import", "-c", "RUN x", text(&written(&plywood, "l", &base)), "x"]);
    plywood.fails(2, ["import", text(&written(&plywood, "l", &base)), "UPPER"]);
    plywood.sound();
}

#[test]
fn root_damage_in_a_layer_that_is_read_ahead_is_told_as_that_layer_s() {
    let plywood = Plywood::new("overlay");
    let small = written(&plywood, "small", &tar_of(&[("x", FILE, 0o644, "x")]));
    plywood.ok(["import", text(&small), "small"]);
    for number in [0, 4, 9, 13] {
        let (_, mut layout) = many_layers();
        let title = format!("layer {}/{}", number + 1, layout.layers.len());
        let (whole, digest) = (
            layout.layers[number].clone(),
            format!("blobs/sha256/{}", Digest::of(&layout.layers[number]).hex()),
        );
        let mut bad = whole.clone();
        bad[whole.len() / 2] ^= 1;
        for bytes in [&bad, &whole[..whole.len() / 2], &[&whole[..], b"more"].concat()] {
            layout.files.insert(digest.clone(), bytes.to_vec());
            let mut damaged = many_layers().1;
            damaged.files.clone_from(&layout.files);
            refused(&plywood, "damaged", &damaged.tar(false), &title);
        }
        let (_, mut other) = many_layers();
        other.config["rootfs"]["diff_ids"][number] = json!(Digest::of(b"another").to_string());
        refused(&plywood, "another DiffID", &other.tar(false), &title);
    }
    plywood.sound();
}
