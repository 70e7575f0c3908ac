//! Layers on their way in: kept, verified, inflated and hashed ahead of what applies them.
//!
//! ```text
//! copier thread     outside ─> sha256 ─> blob's file       (the original, as it came)
//! inflater thread   blob's file ─> inflate ─> pieces
//! hasher thread     pieces ─> sha256
//! the caller        pieces ─> confined child, one layer after the other
//! ```
//!
//! The threads go through the layers of an image in order, and on to the next one when they are done with one: they
//! work while the caller waits for a disk, or makes a layer of what it has. The inflater reads behind the copier,
//! from the blob's own file, which is still in the page cache; so a copier that is ahead costs no memory, and it may
//! be further ahead than the pieces, which do.
//!
//! Nothing is published here. What is ahead is temporary files, which go when they are dropped, or with `gc` after a
//! kill. A failure is told when it is its layer's turn, so it is the same that the layer would have alone.

mod copier;
mod hasher;
mod inflater;
mod road;

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvError, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use plywood_store::blob::{BlobWriter, Blobs};
use plywood_store::compress::Compression;
use plywood_store::{DiffId, Digest};

use self::copier::{Copier, mismatch};
use self::hasher::Hasher;
use self::inflater::{End, Inflater, Message};
use self::road::Road;
use super::Progress;
use super::budget::Budget;
use crate::error::{Context, Error, Kind, Result};

/// Bytes that are copied or inflated at a time.
const PIECE: usize = 256 << 10;
/// Pieces that may wait for the caller: 8 MiB.
const PIECES: usize = 32;
/// Pieces that may wait to be hashed.
const UNHASHED: usize = 4;
/// Packed bytes that the copier may be ahead of the inflater. More would only leave the page cache again: a
/// [`BlobWriter`] sees to that, 80 MiB behind the end.
const LEAD: u64 = 64 << 20;
/// Layers that may be begun beside the one that the caller is at. Each has an open file and a buffer.
const LAYERS: usize = 4;

/// Opens a layer's packed bytes, when it is their turn.
pub(super) type Open<'a> = Box<dyn FnOnce() -> Result<Box<dyn Read + Send>> + Send + 'a>;

/// A layer outside.
pub(super) struct Outside<'a> {
    /// Its packed bytes.
    pub(super) open: Open<'a>,
    /// What they must be, where that is known.
    pub(super) blob: Option<(Digest, u64)>,
}

/// A layer that was read to its end, applied, and is not yet a blob.
pub(super) struct Arrived {
    /// The packed bytes, verified.
    pub(super) writer: BlobWriter,
    pub(super) compression: Compression,
    pub(super) diff_id: DiffId,
    /// Unpacked bytes.
    pub(super) size: u64,
}

/// Has the threads begin with `layers`, and `work` take them one after the other. They end with it, however it ends.
///
/// # Errors
/// The work's; a thread that cannot be started.
pub(super) fn read_ahead<'a, T>(
    blobs: &'a Blobs,
    budget: &'a Budget,
    layers: Vec<Outside<'a>>,
    work: impl FnOnce(Ahead<'_>) -> Result<T>,
) -> Result<T> {
    let road = Road::default();
    let (to, from) = sync_channel(PIECES);
    thread::scope(|threads| {
        let ahead = Ahead {
            road: &road,
            from,
            expected: layers.iter().map(|layer| layer.blob).collect(),
            next: 0,
        };
        let (unhashed, hasher) = sync_channel(UNHASHED);
        let copier = Copier { road: &road, blobs };
        let inflater = Inflater {
            road: &road,
            budget,
            to: unhashed,
        };
        let hasher = Hasher { from: hasher, to };
        let running = [
            begin(threads, "copy", move || copier.run(layers))?,
            begin(threads, "inflate", move || inflater.run())?,
            begin(threads, "hash", move || hasher.run())?,
        ];
        let done = work(ahead);
        let ends = running.map(|thread| thread.join().is_ok());
        let whole = ends.iter().all(|whole| *whole);
        done.and_then(|done| if whole { Ok(done) } else { Err(ended_early()) })
    })
}

fn begin<'scope>(
    threads: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, ()>> {
    let thread = thread::Builder::new().name(name.to_owned());
    let begun = thread.spawn_scoped(threads, run);
    begun.context("start", "a thread that reads ahead")
}

fn ended_early() -> Error {
    Error::new(Kind::Io, "a thread that reads layers ahead ended early")
}

/// The near end. Dropping it ends the threads at their next piece.
pub(super) struct Ahead<'a> {
    road: &'a Road,
    from: Receiver<Message>,
    expected: Vec<Option<(Digest, u64)>>,
    next: usize,
}

impl Ahead<'_> {
    /// Has `apply` take the unpacked bytes of the next layer, telling `progress` of the packed ones.
    ///
    /// # Errors
    /// Why the layer could not be read; corrupt where it is not what was promised, which explains why it could not be
    /// applied; else what `apply` failed with.
    pub(super) fn next(
        &mut self,
        progress: &dyn Progress,
        apply: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<Arrived> {
        let number = self.next;
        let expected = self.expected.get(number).copied().flatten();
        self.next += 1;
        let mut pieces = Pieces::of(&self.from, self.road, progress);
        let applied = apply(&mut pieces);
        if applied.is_err() {
            self.road.refuse(number, expected.is_some());
        }
        let End {
            copied,
            compression,
            inside,
        } = pieces.end()?;
        self.road.change(|state| state.done = self.next);
        let mut writer = copied?;
        let (digest, bytes) = writer.so_far()?;
        if let Some(expected) = expected.filter(|expected| *expected != (digest, bytes)) {
            return Err(mismatch(expected, &format!("{digest} of {bytes} bytes")));
        }
        applied?;
        let compression = compression.ok_or_else(ended_early)?;
        let (diff_id, size) = inside.unwrap_or((DiffId(digest), bytes));
        Ok(Arrived {
            writer,
            compression,
            diff_id,
            size,
        })
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.road.refuse(0, false);
    }
}

/// One layer's pieces as a reader.
struct Pieces<'a> {
    from: &'a Receiver<Message>,
    road: &'a Road,
    progress: &'a dyn Progress,
    piece: io::Cursor<Vec<u8>>,
    end: Option<End>,
}

impl<'a> Pieces<'a> {
    fn of(from: &'a Receiver<Message>, road: &'a Road, progress: &'a dyn Progress) -> Self {
        Self {
            from,
            road,
            progress,
            piece: io::Cursor::default(),
            end: None,
        }
    }

    /// Passes over what is left.
    fn end(mut self) -> Result<End> {
        loop {
            match self.end.take() {
                Some(end) => return Ok(end),
                // The end says what became of it.
                None => drop(self.receive().map_err(|_| ended_early())?),
            }
        }
    }

    /// Takes the next message. The outer error: nobody sends any more.
    fn receive(&mut self) -> Result<io::Result<()>, RecvError> {
        match self.from.recv()? {
            Message::Piece { plain, packed, .. } => {
                self.progress.advance(packed);
                let done = std::mem::replace(&mut self.piece, io::Cursor::new(plain));
                // Nobody waits for one, so nobody is woken.
                self.road.state().spare.push(done.into_inner());
            }
            Message::Broken(cause) => return Ok(Err(cause)),
            Message::End(end) => self.end = Some(*end),
        }
        Ok(Ok(()))
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.end.is_some() {
                return Ok(count);
            }
            self.receive().map_err(|_| io::Error::other(ended_early()))??;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::time::Duration;

    use plywood_store::compress::Encoder;
    use plywood_store::{Driver, Store};

    use super::*;
    use crate::image::Silent;
    use crate::image::unpack::of_reader;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd { level: 1 }];

    fn content(number: usize, bytes: usize) -> Vec<u8> {
        let line = format!("layer {number}, and what it holds\n");
        line.bytes().cycle().take(bytes).collect()
    }

    fn packed(plain: &[u8], how: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), how).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn outside(bytes: Vec<u8>, blob: Option<(Digest, u64)>) -> Outside<'static> {
        let open: Open<'_> = Box::new(|| Ok(Box::new(io::Cursor::new(bytes))));
        Outside { open, blob }
    }

    fn named(bytes: Vec<u8>) -> Outside<'static> {
        let blob = (Digest::of(&bytes), bytes.len() as u64);
        outside(bytes, Some(blob))
    }

    /// A store, and what `work` makes of the layers. Nothing may be left of them.
    fn reading<T>(layers: Vec<Outside<'_>>, work: impl FnOnce(Ahead<'_>) -> Result<T>) -> Result<T> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), Driver::Overlay).unwrap();
        let budget = Budget::new(None, None);
        let done = read_ahead(&store.blobs, &budget, layers, work);
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
        assert!(store.blobs.list().unwrap().is_empty());
        done
    }

    fn taken(ahead: &mut Ahead<'_>) -> Result<(Vec<u8>, Arrived)> {
        let mut bytes = Vec::new();
        let arrived = ahead.next(&Silent, &mut |tar| {
            tar.read_to_end(&mut bytes).map(drop).map_err(of_reader)
        })?;
        Ok((bytes, arrived))
    }

    #[test]
    fn layers_come_whole_and_in_order_however_they_are_packed() {
        let sizes = [
            0,
            1,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            20 * PIECE + 77,
            3,
            PIECES * PIECE + 1,
            5,
        ];
        let plain: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| content(number, *size))
            .collect();
        let kept: Vec<(Compression, Vec<u8>)> = plain
            .iter()
            .zip(ALL.iter().cycle())
            .map(|(plain, how)| (*how, packed(plain, *how)))
            .collect();
        let layers = kept.iter().map(|(_, packed)| named(packed.clone())).collect();
        reading(layers, |mut ahead| {
            for (plain, (how, packed)) in plain.iter().zip(&kept) {
                let (bytes, mut arrived) = taken(&mut ahead)?;
                assert!(bytes == *plain);
                assert_eq!(
                    (arrived.diff_id.0, arrived.size),
                    (Digest::of(plain), plain.len() as u64)
                );
                assert_eq!(arrived.compression.layer_media_type(), how.layer_media_type());
                assert_eq!(arrived.writer.so_far()?, (Digest::of(packed), packed.len() as u64));
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn damage_is_told_when_it_is_its_turn_and_before_what_it_causes() {
        let good = packed(&content(0, 1 << 20), Compression::Gzip);
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        let promised = (Digest::of(&good), good.len() as u64);
        let longer = [&good[..], &[0; 3 * PIECE]].concat();
        let cases = [
            (outside(bad.clone(), Some(promised)), "came as sha256"),
            (outside(longer, Some(promised)), "more bytes"),
            (outside(good[..middle].to_vec(), Some(promised)), "came as sha256"),
            (outside(bad, None), "layer"),
            (outside(good[..middle].to_vec(), None), "ends too early"),
            (
                Outside {
                    open: Box::new(|| Err(Error::not_found("no such layer"))),
                    blob: None,
                },
                "no such layer",
            ),
        ];
        for (layer, says) in cases {
            let layers = vec![named(good.clone()), named(good.clone()), layer, named(good.clone())];
            let error = reading(layers, |mut ahead| {
                taken(&mut ahead)?;
                taken(&mut ahead)?;
                let Err(error) = taken(&mut ahead) else {
                    panic!("{says}: it came");
                };
                Err::<(), _>(error)
            });
            let error = error.unwrap_err();
            assert!(error.to_string().contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_refusal_is_told_unless_the_layer_came_damaged() {
        let refusing = |tar: &mut dyn Read| {
            tar.read_exact(&mut [0; 10]).map_err(of_reader)?;
            Err(Error::invalid("refused"))
        };
        let plain = content(0, 100 * PIECE);
        let mut bad = plain.clone();
        *bad.last_mut().unwrap() ^= 1;
        let promised = (Digest::of(&plain), plain.len() as u64);
        for (bytes, blob, says) in [
            (plain.clone(), Some(promised), "refused"),
            (plain, None, "refused"),
            (bad, Some(promised), "came as"),
        ] {
            let layers = vec![outside(bytes, blob), named(vec![1])];
            let error = reading(layers, |mut ahead| {
                ahead.next(&Silent, &mut |tar| refusing(tar)).map(drop)
            });
            let error = error.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    /// Never ends, and counts what is read of it.
    struct Endless<'a>(&'a AtomicU64);

    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            Ok(buffer.len())
        }
    }

    /// Waits until a figure does not grow any more.
    fn settled(figure: impl Fn() -> u64) -> u64 {
        let mut last = figure();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            match figure() {
                now if now == last && now > 0 => return now,
                now => last = now,
            }
        }
    }

    #[test]
    fn what_is_ahead_is_bounded_in_layers_and_bytes() {
        static READ: AtomicU64 = AtomicU64::new(0);
        let opened = AtomicUsize::new(0);
        let many = (0..50).map(|number| {
            let opened = &opened;
            let open: Open<'_> = Box::new(move || {
                opened.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(io::Cursor::new(content(number, 10))))
            });
            Outside { open, blob: None }
        });
        reading(many.collect(), |mut ahead| {
            assert_eq!(settled(|| opened.load(Ordering::Relaxed) as u64), 1 + LAYERS as u64);
            taken(&mut ahead)?;
            assert_eq!(settled(|| opened.load(Ordering::Relaxed) as u64), 2 + LAYERS as u64);
            Ok(())
        })
        .unwrap();
        let endless: Open<'_> = Box::new(|| Ok(Box::new(Endless(&READ))));
        let layer = Outside {
            open: endless,
            blob: None,
        };
        reading(vec![named(vec![0]), layer], |ahead| {
            let read = settled(|| READ.load(Ordering::Relaxed));
            assert!(
                (LEAD..LEAD + ((PIECES + UNHASHED + 4) * PIECE) as u64).contains(&read),
                "{read}"
            );
            drop(ahead);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_thread_that_panics_is_an_error() {
        let open: Open<'_> = Box::new(|| panic!("on purpose"));
        let layer = Outside { open, blob: None };
        let error = reading(vec![named(vec![0]), layer], |mut ahead| {
            taken(&mut ahead)?;
            taken(&mut ahead).map(drop)
        });
        assert!(error.unwrap_err().to_string().contains("ended early"));
    }
}
