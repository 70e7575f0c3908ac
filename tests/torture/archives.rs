//! What the stories import: small trees, packed in every way that plywood reads.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::story::{KEEP, Model};
use crate::common::{Plywood, add_entry};

/// How many names [`crowd`] gives to one image: above it plywood uses its index.
pub const CROWD: usize = 420;

/// Something to import.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Archive {
    /// The arguments, but for the name.
    pub args: Vec<String>,
    /// The image that it is.
    pub id: String,
}

/// Makes the archives beside the root, and the image [`KEEP`] in it.
pub fn prepare(plywood: &Plywood, model: &mut Model) -> Vec<Archive> {
    let (base, other) = (plywood.beside("base.tar"), plywood.beside("other.tar"));
    small_tar(&base, "base");
    small_tar(&other, "other");
    let base = base.to_str().expect("UTF-8").to_owned();
    let other = other.to_str().expect("UTF-8").to_owned();
    if plywood.driver() == "thin" && !plywood.root().join("pool/metadata").exists() {
        plywood.ok(["pool", "init", "--data-size", "4G", "--volume-size", "1G"]);
    }
    let mut archives = Vec::new();
    let mut import = |args: &[&str]| {
        let mut words: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        words.insert(0, "import".to_owned());
        let id = plywood.ok(words.iter().map(String::as_str).chain(["tried:1"]));
        archives.push(Archive { args: words, id });
    };
    import(&[&base]);
    plywood.ok(["tag", "tried:1", KEEP]);
    import(&[&other]);
    import(&["-c", "LABEL like=base", &base]);

    plywood.ok([
        "run",
        "--name",
        "first",
        KEEP,
        "sh",
        "-c",
        "echo site > /srv/site; rm /etc/motd",
    ]);
    let site = plywood.ok(["commit", "first", "site:1"]);
    plywood.ok(["rm", "first"]);
    for (format, compress, file) in [
        ("docker-archive", "none", "site.docker.tar"),
        ("oci-archive", "zstd", "site.oci.tar"),
        ("oci-dir", "gzip", "site.oci"),
        ("layer", "none", "site.layer.tar"),
    ] {
        let path = plywood.beside(file);
        let path = path.to_str().expect("UTF-8");
        let mut args = vec!["export", "--format", format, "-o", path, "site:1"];
        if format != "layer" {
            args.extend(["--compress", compress]);
        }
        plywood.ok(args);
        match format {
            "layer" => import(&["--layer", "--parent", KEEP, path]),
            _ => import(&[path]),
        }
    }
    assert!(
        archives[3..6].iter().all(|archive| archive.id == site),
        "an image comes back under its own id: {archives:?}"
    );
    plywood.ok(["rmi", "tried:1", "site:1"]);
    plywood.ok(["gc"]);
    model.names.insert(KEEP.to_owned(), archives[0].id.clone());
    archives
}

/// Gives [`KEEP`] so many names that look-ups go through the index.
pub fn crowd(plywood: &Plywood) {
    let archive = plywood.beside("crowd.tar");
    let path = archive.to_str().expect("UTF-8");
    plywood.ok(["export", "--format", "docker-archive", "-o", path, KEEP]);
    let mut packed = tar::Archive::new(std::fs::File::open(&archive).expect("the archive"));
    let mut again = tar::Builder::new(Vec::new());
    for entry in packed.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).expect("content");
        let name = entry.path().expect("a name").into_owned();
        if name == Path::new("manifest.json") {
            let mut images: serde_json::Value = serde_json::from_slice(&content).expect("JSON");
            let names: Vec<String> = (0..CROWD).map(|number| format!("crowd:{number}")).collect();
            images[0]["RepoTags"] = serde_json::json!(names);
            content = serde_json::to_vec(&images).expect("JSON");
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        again
            .append_data(&mut header, name, content.as_slice())
            .expect("an entry");
    }
    std::fs::write(&archive, again.into_inner().expect("an archive")).expect("the archive");
    plywood.ok(["import", path]);
    plywood.ok(["check", "--rebuild"]);
}

/// A root filesystem of a few files in which `sh` runs (Debian's busybox-static).
pub fn small_tar(path: &Path, what: &str) {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a file"));
    let mut entry = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>| {
        add_entry(&mut tar, path, kind, mode, content, link);
    };
    for folder in ["bin/", "dev/", "etc/", "proc/", "srv/", "sys/", "tmp/"] {
        entry(folder, tar::EntryType::Directory, 0o755, b"", None);
    }
    entry("bin/busybox", tar::EntryType::Regular, 0o755, &busybox, None);
    for applet in ["sh", "cat", "ln", "mkdir", "rm", "sleep", "true"] {
        entry(
            &format!("bin/{applet}"),
            tar::EntryType::Link,
            0o755,
            b"",
            Some("bin/busybox"),
        );
    }
    entry("etc/motd", tar::EntryType::Regular, 0o644, what.as_bytes(), None);
    entry("etc/twin", tar::EntryType::Link, 0o644, b"", Some("etc/motd"));
    entry("etc/link", tar::EntryType::Symlink, 0o777, b"", Some("motd"));
    tar.finish().expect("an archive");
}
