//! gzip and zstd, recognised by content, decoded in order, encoded on other threads.
//!
//! ```text
//! Encoder, gzip:   threads of our own, each a piece at a time (`gzip`)
//! Encoder, zstd:   the library's own workers
//! decoder:         head sniffed, then decoded on the caller's thread; read_ahead() puts it on another
//! ```
//!
//! Same input, same bytes: the headers carry no time and no name, and the
//! pieces do not depend on how many workers there are. A packed stream that
//! ends early or goes on with something else is an error, never a short read.

mod gzip;

use std::io::{self, BufReader, Read, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

use self::gzip::Gzip;
use crate::error::Context;
use crate::piece::refill;
use crate::{Error, Kind, Result};

/// The largest zstd window that is decoded, as a power of two: what `zstd -d` takes without being asked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes read from what is packed at once.
const READ: usize = 256 << 10;
/// Buffers that a [`ReadAhead`] may be ahead.
const AHEAD: usize = 4;

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip (RFC 1952), several members allowed.
    Gzip,
    /// zstd (RFC 8878), several frames allowed.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: i32,
    },
}

impl Compression {
    /// The zstd level where nobody names one, and what [`Compression::sniff`] gives.
    pub const ZSTD_LEVEL: i32 = zstd::DEFAULT_COMPRESSION_LEVEL;

    /// Recognises a stream by its first bytes (at least 4, fewer at its end).
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd {
                level: Self::ZSTD_LEVEL,
            },
            _ => Self::None,
        }
    }

    /// The OCI media type of a layer packed like this (image-spec, media-types.md).
    pub fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Unpacks `packed`, whatever it is: sniffs its head, then decodes. Bounded
/// memory whatever the stream claims (zstd windows up to 2^27 bytes).
///
/// # Errors
/// Where the head cannot be read. Damage further on is an [`io::Error`] of the reader.
pub fn decoder<'a>(mut packed: Box<dyn Read + Send + 'a>) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut head = Vec::with_capacity(4);
    packed
        .by_ref()
        .take(4)
        .read_to_end(&mut head)
        .context("read the head of", "a packed stream")?;
    let how = Compression::sniff(&head);
    let whole = io::Cursor::new(head).chain(packed);
    let plain: Box<dyn Read + Send + 'a> = match how {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(
            READ, whole,
        ))),
        Compression::Zstd { .. } => {
            let mut frames =
                zstd::Decoder::with_buffer(BufReader::with_capacity(READ, whole)).context("decode", "a zstd stream")?;
            frames
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .context("limit the window of", "a zstd stream")?;
            Box::new(frames)
        }
    };
    Ok((how, plain))
}

/// Reads on another thread, up to a few buffers ahead, so that what makes the
/// bytes (inflating, hashing) overlaps with what takes them. Buffers that were
/// read come back, and are filled again.
pub fn read_ahead(mut inner: Box<dyn Read + Send>) -> Result<ReadAhead> {
    let (to, from) = sync_channel::<io::Result<Vec<u8>>>(AHEAD);
    let (back, spare) = channel::<Vec<u8>>();
    let run = move || {
        loop {
            let mut buffer = spare.try_recv().unwrap_or_default();
            let last = match refill(&mut inner, &mut buffer, READ) {
                Ok(()) => buffer.len() < READ,
                Err(cause) => {
                    // The one who would read it may be gone: then nobody waits for the cause.
                    let _ = to.send(Err(cause));
                    return;
                }
            };
            if to.send(Ok(buffer)).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("read-ahead".to_owned())
        .spawn(run)
        .context("start", "a thread that reads ahead")?;
    Ok(ReadAhead {
        from,
        back,
        current: io::Cursor::new(Vec::new()),
        ended: false,
    })
}

/// The near end of [`read_ahead`]. Dropping it ends the thread at its next buffer.
#[derive(Debug)]
pub struct ReadAhead {
    from: Receiver<io::Result<Vec<u8>>>,
    back: Sender<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.ended {
                return Ok(count);
            }
            match self.from.recv() {
                Ok(next) => {
                    let next = next?;
                    self.ended = next.len() < READ;
                    let done = std::mem::replace(&mut self.current, io::Cursor::new(next));
                    // The thread may have read all there is.
                    let _ = self.back.send(done.into_inner());
                }
                Err(_) => return Err(io::Error::other("the thread that reads ahead ended early")),
            }
        }
    }
}

/// Packs what is written. [`Encoder::finish`] ends the stream and gives back what is underneath.
#[derive(Debug)]
pub struct Encoder<W: Write> {
    inner: Packer<W>,
}

enum Packer<W: Write> {
    None(W),
    Gzip(Box<Gzip<W>>),
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None(_) => "None",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<W: Write> Encoder<W> {
    /// Begins a stream. Same input, same bytes: no time, no name in the header.
    ///
    /// # Errors
    /// A zstd level outside 1 to 19; a thread that cannot be started; a failed write.
    pub fn new(inner: W, how: Compression) -> Result<Self> {
        let inner = match how {
            Compression::None => Packer::None(inner),
            Compression::Gzip => Packer::Gzip(Box::new(Gzip::begin(inner).context("begin", "a gzip stream")?)),
            Compression::Zstd { level } => Packer::Zstd(Box::new(zstd_encoder(inner, level)?)),
        };
        Ok(Self { inner })
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// The failed write of what was still on its way.
    pub fn finish(self) -> Result<W> {
        let ended = match self.inner {
            Packer::None(inner) => Ok(inner),
            Packer::Gzip(gzip) => gzip.finish(),
            Packer::Zstd(frame) => frame.finish(),
        };
        ended.context("end", "a packed stream")
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Packer::None(inner) => inner.write(buffer),
            Packer::Gzip(gzip) => gzip.write(buffer),
            Packer::Zstd(frame) => frame.write(buffer),
        }
    }

    /// Flushes what is underneath only: ending a block early would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Packer::None(inner) => inner.flush(),
            Packer::Gzip(gzip) => gzip.flush(),
            Packer::Zstd(frame) => frame.get_mut().flush(),
        }
    }
}

/// Threads that one stream is packed by.
fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Bytes that a worker takes at a time. What the library takes by itself, four windows, is kept several times
/// over: more than a hundred MiB for some levels.
const ZSTD_JOB: u32 = 2 << 20;

fn zstd_encoder<W: Write>(inner: W, level: i32) -> Result<zstd::Encoder<'static, W>> {
    if !(1..=19).contains(&level) {
        return Err(Error::invalid(format!("zstd has no level {level}")).hinted("take 1 (fast) to 19 (small)"));
    }
    let what = "a zstd stream";
    let mut frame = zstd::Encoder::new(inner, level).context("begin", what)?;
    frame.include_checksum(true).context("begin", what)?;
    // One worker gives the same bytes as many; none at all gives others.
    let workers = u32::try_from(workers()).unwrap_or(1);
    frame.multithread(workers).context("begin", what)?;
    frame
        .set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB))
        .context("begin", what)?;
    Ok(frame)
}

/// The error for a stream whose `source` is a decoder's: damage is the data's fault, not the disk's.
pub(crate) fn broken(what: &str, source: io::Error) -> Error {
    let ours = source.get_ref().is_some_and(|inner| inner.is::<Error>());
    if source.raw_os_error().is_some() || ours {
        return Error::io("read", what, source);
    }
    let kind = match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Kind::Invalid,
        _ => Kind::Io,
    };
    Error::new(kind, format!("cannot read {what}: it ends too early or is damaged")).caused_by(source)
}

#[cfg(test)]
mod tests {
    use super::gzip::PIECE;
    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd { level: 3 }];

    /// Words that repeat, with noise between: neither trivial nor incompressible.
    fn sample(bytes: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut sample = Vec::with_capacity(bytes + 16);
        while sample.len() < bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sample.extend_from_slice(format!("{:x} layer ", state >> 20).as_bytes());
        }
        sample.truncate(bytes);
        sample
    }

    fn pack(plain: &[u8], how: Compression, step: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), how).unwrap();
        for part in plain.chunks(step) {
            encoder.write_all(part).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let (_, mut plain) = decoder(Box::new(packed)).unwrap();
        let mut out = Vec::new();
        plain.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_is_packed_unpacks_whatever_its_size_and_steps() {
        for how in ALL {
            for size in [0, 1, 511, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77] {
                let plain = sample(size);
                let packed = pack(&plain, how, 70_001);
                assert_eq!(
                    packed,
                    pack(&plain, how, 1 << 20),
                    "{how:?} {size}: same input, same bytes"
                );
                assert_eq!(unpack(&packed).unwrap(), plain, "{how:?} {size}");
                assert_eq!(
                    Compression::sniff(&packed) == Compression::None,
                    how == Compression::None
                );
            }
        }
    }

    #[test]
    fn members_and_frames_one_after_the_other_are_one_stream() {
        for how in [Compression::Gzip, Compression::Zstd { level: 1 }] {
            let mut packed = pack(b"one ", how, 10);
            packed.extend(pack(b"two", how, 10));
            assert_eq!(unpack(&packed).unwrap(), b"one two");
        }
    }

    #[test]
    fn u14_truncated_or_flipped_streams_are_errors() {
        for how in [Compression::Gzip, Compression::Zstd { level: 3 }] {
            let packed = pack(&sample(5000), how, 5000);
            for end in 5..packed.len() {
                assert!(unpack(&packed[..end]).is_err(), "{how:?} cut at {end}");
            }
            let last = packed.len() - 1;
            let mut flipped = packed.clone();
            flipped[last / 2] ^= 0x10;
            assert!(unpack(&flipped).is_err(), "{how:?}");
            let mut trailed = packed;
            trailed.extend_from_slice(b"trailing");
            assert!(unpack(&trailed).is_err(), "{how:?}");
        }
    }

    #[test]
    fn u14_a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&sample(1000)).unwrap();
        assert!(unpack(&encoder.finish().unwrap()).is_err());
    }

    #[test]
    fn read_ahead_gives_the_same_bytes_and_the_error() {
        for size in [0, 1, READ - 1, READ, READ + 1, 9 * READ] {
            let plain = sample(size);
            let mut out = Vec::new();
            let mut ahead = read_ahead(Box::new(io::Cursor::new(plain.clone()))).unwrap();
            ahead.read_to_end(&mut out).unwrap();
            assert_eq!(out, plain);
        }
        let packed = pack(&sample(READ * 2), Compression::Gzip, 4096);
        let cut = io::Cursor::new(packed[..packed.len() - 9].to_vec());
        let (_, plain) = decoder(Box::new(cut)).unwrap();
        let mut ahead = read_ahead(plain).unwrap();
        assert!(ahead.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        for level in [0, -1, 20, 23] {
            assert!(Encoder::new(Vec::new(), Compression::Zstd { level }).is_err());
        }
    }
}
