//! Reads what is kept, behind the copier, and passes on what is inside.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use plywood_store::DiffId;
use plywood_store::blob::BlobWriter;
use plywood_store::compress::{self, Compression};
use plywood_store::piece::refill;

use super::road::Road;
use super::{PIECE, ended_early};
use crate::error::Result;
use crate::image::budget::Budget;

/// What the inflater sends, by way of the hasher: for each layer pieces, and its end.
pub(super) enum Message {
    /// Unpacked bytes.
    Piece {
        plain: Vec<u8>,
        /// How many packed ones were read for them.
        packed: u64,
        /// Whether they were packed at all: else they were hashed by the copier.
        was_packed: bool,
    },
    /// Why there are no more.
    Broken(io::Error),
    End(Box<End>),
}

pub(super) struct End {
    pub(super) copied: Result<BlobWriter>,
    /// How it was packed; none where it could not be inflated to its end.
    pub(super) compression: Option<Compression>,
    /// What was inside, where that is not the same as outside: the hasher's.
    pub(super) inside: Option<(DiffId, u64)>,
}

/// Reads the kept originals, and passes on what is inside.
pub(super) struct Inflater<'a> {
    pub(super) road: &'a Road,
    pub(super) budget: &'a Budget,
    pub(super) to: SyncSender<Message>,
}

impl Inflater<'_> {
    pub(super) fn run(&self) {
        for number in 0.. {
            let Some(file) = self.road.begun(number) else { return };
            let inflated = match file {
                Some(file) => self.inflate(number, file),
                None => Err(io::Error::other(ended_early())),
            };
            let compression = match inflated {
                Ok(compression) => Some(compression),
                Err(cause) => {
                    // The caller may be gone: then nobody waits for the cause.
                    let _ = self.to.send(Message::Broken(cause));
                    None
                }
            };
            let end = End {
                copied: self.road.copied(number),
                compression,
                inside: None,
            };
            if self.to.send(Message::End(Box::new(end))).is_err() {
                return;
            }
        }
    }

    fn inflate(&self, number: usize, file: File) -> io::Result<Compression> {
        let read = AtomicU64::new(0);
        let mut packed = Following {
            road: self.road,
            number,
            file,
            read: &read,
        };
        let inflated = self.pass_on(number, &mut packed, &read);
        if inflated.is_err() {
            // The copier goes on to the end, and must not wait for who reads behind it.
            let _ = io::copy(&mut packed, &mut io::sink());
        }
        inflated
    }

    fn pass_on(&self, number: usize, packed: &mut Following<'_>, read: &AtomicU64) -> io::Result<Compression> {
        let (compression, tar) = compress::decoder(Box::new(packed)).map_err(io::Error::other)?;
        let was_packed = compression != Compression::None;
        let mut tar = self.budget.unpacking(tar, was_packed);
        let mut told = 0;
        loop {
            let (is_wanted, spare) = {
                let mut state = self.road.state();
                (state.inflated_to.is_none_or(|end| number < end), state.spare.pop())
            };
            if !is_wanted {
                return Err(io::Error::other("the layer was refused"));
            }
            let mut plain = spare.unwrap_or_default();
            refill(&mut tar, &mut plain, PIECE)?;
            let is_last = plain.is_empty();
            let packed = read.load(Ordering::Relaxed);
            let piece = Message::Piece {
                plain,
                packed: packed - std::mem::replace(&mut told, packed),
                was_packed,
            };
            self.to.send(piece).map_err(|_| io::Error::other(ended_early()))?;
            if is_last {
                return Ok(compression);
            }
        }
    }
}

/// A blob's file, read behind the copier.
struct Following<'a> {
    road: &'a Road,
    number: usize,
    file: File,
    /// Bytes read so far: who reads through a decoder wants to know, too.
    read: &'a AtomicU64,
}

impl Read for Following<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read.load(Ordering::Relaxed);
        let there = usize::try_from(self.road.more(self.number, read)?).unwrap_or(usize::MAX);
        let most = there.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            return Err(io::Error::other("a temporary file was cut off"));
        }
        self.read.store(read + count as u64, Ordering::Relaxed);
        self.road.change(|state| state.taken += count as u64);
        Ok(count)
    }
}
