//! What the fuzzer does with a layer from outside, and what must then hold. The
//! corpora are replayed through the same functions by `store/tests/root_corpus_layers.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Component;

use plywood_store::compress::decoder;
use plywood_store::layer::Limits;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::read::Reader;

/// Small enough that nothing takes long.
fn limits() -> Limits {
    Limits {
        total_bytes: 1 << 20,
        file_bytes: 1 << 20,
        entries: 1000,
        ..Limits::default()
    }
}

/// A tar: refused, or entries with plain relative paths and as much content as they say at most.
pub(crate) fn tar(data: &[u8]) {
    let mut data = data;
    let mut reader = Reader::new(&mut data, &limits());
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.path.components().all(|part| matches!(part, Component::Normal(_))));
        let mut end = 0;
        while let Ok(Some((offset, piece))) = reader.content() {
            assert!(offset >= end);
            end = offset + piece.len() as u64;
        }
        assert!(end <= entry.size);
    }
}

/// A tar into an empty folder (as root): refused, or a tree whose own layer can be read.
pub(crate) fn plan(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let root = File::open(dir.path()).expect("its handle");
    let mut data = data;
    if apply(root.as_fd(), &mut data, &limits()).is_err() {
        return;
    }
    let mut written = Vec::new();
    if write_layer(None, root.as_fd(), &Everything, &Options::default(), &mut written).is_ok() {
        let mut written = &*written;
        let mut reader = Reader::new(&mut written, &Limits::default());
        while reader.next_entry().expect("our own tar can be read").is_some() {}
    }
}

/// A packed stream: refused, or bytes, in bounded memory.
pub(crate) fn packed(data: &[u8]) {
    if let Ok((_, plain)) = decoder(Box::new(data)) {
        let _ = std::io::copy(&mut plain.take(16 << 20), &mut std::io::sink());
    }
}
