//! What the fuzzer does with a layer from outside, and what must then hold. The
//! corpora are replayed through the same functions by `store/tests/root_corpus_layers.rs`.

#![allow(dead_code, reason = "each target uses one of them")]

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Component;

use plywood_store::compress::{Compression, decoder};
use plywood_store::layer::Limits;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use plywood_store::layer::read::Reader;

mod program;
mod scratch;

use program::Code;
use scratch::{Lower, Scratch};

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

/// A tar into a tree, as root; the first byte says into which.
pub(crate) fn plan(data: &[u8]) {
    let mut code = Code(data);
    let lower = Lower::of(code.byte());
    carry_out(code.0, lower);
}

/// The tar of a program, likewise.
pub(crate) fn build(data: &[u8]) {
    let mut code = Code(data);
    let lower = Lower::of(code.byte());
    let plain = lower == Lower::Plain;
    let layer = SCRATCH.with(|scratch| program::Layer::new(code, &scratch.outside(), plain));
    let tar = layer.tar();
    self::tar(&tar);
    carry_out(&tar, lower);
    // Through links a whiteout may not lead where it would have led before.
    if plain {
        all_the_same(&tar, &layer.whiteouts_first().tar());
    }
}

thread_local! {
    static SCRATCH: Scratch = Scratch::new();
}

/// Refused, or carried out: the same each time, and what it changed is a layer that changes the same.
/// In any case nothing beside the root is touched.
fn carry_out(tar: &[u8], lower: Lower) {
    SCRATCH.with(|scratch| {
        let root = scratch.root(lower);
        if root.apply(tar, &limits()).is_err() {
            scratch.check(1);
            return;
        }
        let again = scratch.root(lower);
        again.apply(tar, &limits()).expect("what was applied once");
        assert_eq!(again.digest(), root.digest(), "the same layer, two trees");
        let before = scratch.root(lower);
        let mut layer = Vec::new();
        let (old, new) = (before.open(), root.open());
        write_layer(
            Some(&old.as_fd()),
            &new.as_fd(),
            &Everything,
            &Options::default(),
            &mut layer,
        )
        .expect("what came from a layer fits into one");
        before.apply(&layer, &Limits::default()).expect("a layer of our own");
        assert_eq!(
            before.digest(),
            root.digest(),
            "the layer of what changed changes something else"
        );
        scratch.check(3);
    });
}

/// Wherever a layer's whiteouts stand: one of both is refused, or they give the same tree.
fn all_the_same(tar: &[u8], other: &[u8]) {
    SCRATCH.with(|scratch| {
        let (root, again) = (scratch.root(Lower::Plain), scratch.root(Lower::Plain));
        if root.apply(tar, &limits()).is_ok() && again.apply(other, &limits()).is_ok() {
            assert_eq!(root.digest(), again.digest(), "the place of a whiteout matters");
        }
    });
}

/// A packed stream: refused, or bytes, in bounded memory; and none that is cut off passes for a whole one.
pub(crate) fn packed(data: &[u8]) {
    let unpack = |data: &[u8]| {
        let (how, plain) = decoder(Box::new(data)).ok()?;
        let count = std::io::copy(&mut plain.take(16 << 20), &mut std::io::sink()).ok()?;
        Some((how, count))
    };
    let Some((how, count)) = unpack(data) else { return };
    if how == Compression::None || count == 16 << 20 {
        return;
    }
    if let Some((cut, _)) = unpack(&data[..data.len() - 1]) {
        assert_eq!(cut, Compression::None, "a stream without its last byte is whole");
    }
}
