//! What the fuzzer does with a document or archive from outside, and what must
//! then hold. The corpora are replayed through the same functions by
//! `tests/corpus_image.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::io::{Read, Write};

use plywood::image::archive::{Archive, first_name};
use plywood::image::change::{self, Change};
use plywood::image::oci::{self, ImageConfig, Index, Manifest, RunConfig};

/// A config: refused, or the same when it is written and read again.
pub(crate) fn config(data: &[u8]) {
    if let Ok(config) = ImageConfig::parse(data) {
        let bytes = config.to_bytes().expect("what was read can be written");
        let again = ImageConfig::parse(&bytes).expect("what was written can be read");
        assert_eq!(again, config);
        assert_eq!(again.to_bytes().ok(), Some(bytes));
    }
}

/// A manifest or an index: refused, or the same again, and never both.
pub(crate) fn manifest(data: &[u8]) {
    let manifest = Manifest::parse(data, oci::MANIFEST).ok();
    let index = Index::parse(data, oci::INDEX).ok();
    assert!(manifest.is_none() || index.is_none(), "one document, two readings");
    if let Some(manifest) = manifest {
        let bytes = manifest.to_bytes().expect("what was read can be written");
        assert_eq!(Manifest::parse(&bytes, oci::MANIFEST).ok(), Some(manifest));
    }
    if let Some(index) = index {
        let bytes = index.to_bytes().expect("what was read can be written");
        assert_eq!(Index::parse(&bytes, oci::INDEX).ok(), Some(index));
    }
}

/// A Dockerfile word: refused, or it can be put onto a config.
pub(crate) fn change(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(change) = Change::parse(text) {
        let mut config = RunConfig {
            env: vec!["A=b".into(), "PATH=/bin".into()],
            ..RunConfig::default()
        };
        // With other values of variables it may still be refused, by name.
        let _ = change::apply(&[change], &mut config);
    }
}

/// An image archive's tar: refused, or every part can be read to its end.
pub(crate) fn archive(data: &[u8]) {
    let _ = first_name(data);
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data).expect("room for it");
    if let Ok(archive) = Archive::index(file, 0) {
        for name in ["index.json", "manifest.json", "oci-layout", "a/layer.tar"] {
            if let Ok(Some(mut part)) = archive.open(name) {
                let mut content = Vec::new();
                part.reader.read_to_end(&mut content).expect("a place in the file");
                assert_eq!(content.len() as u64, part.size);
            }
        }
    }
}
