//! What the fuzzer does with a text from outside, and what must then hold. The
//! corpora are replayed through the same functions by `store/tests/corpus.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::path::Path;

use plywood_store::record::{self, ContainerRecord, ImageRecord, LayerRecord};
use plywood_store::{Digest, Reference, index};

/// A record's file: refused, or read and written again as the same bytes.
pub(crate) fn record(data: &[u8]) {
    let path = Path::new("fuzzed");
    if let Ok(layer) = record::decode::<LayerRecord>("layer", data, path) {
        let again = record::encode("layer", &layer).expect("what was read can be written");
        assert_eq!(record::decode::<LayerRecord>("layer", &again, path).ok(), Some(layer));
    }
    let _ = record::decode::<ImageRecord>("image", data, path);
    let _ = record::decode::<ContainerRecord>("container", data, path);
}

/// An image name: refused, or it says the same when it is read again.
pub(crate) fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.to_string().parse::<Reference>().ok().as_ref(), Some(&name));
        assert!(record::key_is_valid(&record::name_key(&name)));
    }
}

/// A digest: refused, or exactly what was read.
pub(crate) fn digest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// A value in the index, of whichever kind.
pub(crate) fn index(data: &[u8]) {
    let _ = index::parse_any(data);
}
