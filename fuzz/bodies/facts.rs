//! What the fuzzer does with a text from outside, and what must then hold. The
//! corpora are replayed through the same functions by `store/tests/corpus.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::fmt::Debug;
use std::path::Path;

use plywood_store::record::{
    self, ContainerRecord, ImageRecord, LayerRecord, NameRecord, PoolRecord, Record, SnapshotRecord,
};
use plywood_store::{Digest, Reference, index};
use serde_json::value::RawValue;

/// A record's file, or its body alone, or a value of the index.
pub(crate) fn record(data: &[u8]) {
    each::<LayerRecord>(data);
    each::<SnapshotRecord>(data);
    each::<ImageRecord>(data);
    each::<NameRecord>(data);
    each::<ContainerRecord>(data);
    each::<PoolRecord>(data);
    let _ = index::parse_any(data);
}

/// A record of one kind. As a body it comes under a right checksum, which no fuzzer would hit upon.
fn each<T: Record + PartialEq + Debug>(data: &[u8]) {
    same_again::<T>(data);
    if let Ok(body) = serde_json::from_slice::<&RawValue>(data)
        && let Ok(file) = record::encode(T::KIND, &body)
    {
        same_again::<T>(&file);
    }
}

/// Refused, or the same when it is written and read again.
fn same_again<T: Record + PartialEq + Debug>(file: &[u8]) {
    let path = Path::new("fuzzed");
    if let Ok(read) = record::decode::<T>(T::KIND, file, path) {
        let again = record::encode(T::KIND, &read).expect("what was read can be written");
        let again = record::decode::<T>(T::KIND, &again, path).expect("what was written can be read");
        assert_eq!((again.key(), again.links()), (read.key(), read.links()));
        assert_eq!(again, read);
    }
}

/// An image name or a digest: refused, or it says the same when it is read again.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.to_string().parse::<Reference>().ok().as_ref(), Some(&name));
        assert!(record::key_is_valid(&record::name_key(&name)));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}
