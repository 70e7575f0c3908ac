//! Import and export on the overlay driver: every format there and back, other
//! tools on both sides, and bad archives that must change nothing.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::layout::Layout;
use common::tars::files_tar;
use common::{Plywood, listing};
use plywood_store::layer::{Limits, apply::apply, tree};
use plywood_store::{ChainId, DiffId, Digest};
use serde_json::{Value, json};

/// A tar entry: name, kind, mode, content or link target.
type Entry<'a> = (&'a str, tar::EntryType, u32, &'a str);

const FILE: tar::EntryType = tar::EntryType::Regular;
const FOLDER: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Link;
const SYMLINK: tar::EntryType = tar::EntryType::Symlink;

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
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
fn layers() -> [Vec<u8>; 3] {
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
fn three_layers() -> (Plywood, String) {
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

fn written(plywood: &Plywood, name: &str, content: &[u8]) -> PathBuf {
    let path = plywood.beside(name);
    fs::write(&path, content).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn diff_ids(plywood: &Plywood, image: &str) -> Vec<String> {
    let document = plywood.json(["inspect", image]);
    document[0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["diff_id"].as_str().unwrap().to_owned())
        .collect()
}

/// The digest of the tree that an image is, by way of its rootfs export.
fn tree_of(plywood: &Plywood, image: &str) -> Digest {
    let path = plywood.beside("tree.tar");
    plywood.ok(["export", "--format", "rootfs", "-o", text(&path), image]);
    let folder = tempfile::tempdir().unwrap();
    let root = File::open(folder.path()).unwrap();
    apply(root.as_fd(), &mut File::open(path).unwrap(), &Limits::default()).unwrap();
    tree::digest(&root.as_fd()).unwrap()
}

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

/// The layers of an image, and the image: more of them than are read ahead, packed in all ways by turns.
fn many_layers() -> (Vec<Vec<u8>>, Layout) {
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
