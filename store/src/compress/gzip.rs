//! One gzip member that several threads deflate.
//!
//! ```text
//! write ──1 MiB pieces──> workers (deflate, ended at a byte boundary) ──in order──> inner
//! ```
//!
//! A piece refers to nothing before it, so the bytes are the same however many workers there are.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};

use super::workers;

/// The level that `gzip` itself takes.
const GZIP_LEVEL: u32 = 6;
/// Input bytes of a piece; a part of the output format, as another number gives other bytes.
pub(super) const PIECE: usize = 1 << 20;

/// One gzip member whose pieces are deflated by several threads.
pub(super) struct Gzip<W: Write> {
    inner: W,
    piece: Vec<u8>,
    /// Pieces under way, oldest first.
    queue: VecDeque<Receiver<io::Result<Piece>>>,
    /// None once the stream is at its end.
    jobs: Option<SyncSender<Job>>,
    threads: usize,
    crc: Crc,
}

struct Job {
    plain: Vec<u8>,
    reply: SyncSender<io::Result<Piece>>,
}

struct Piece {
    packed: Vec<u8>,
    crc: Crc,
}

impl<W: Write> Gzip<W> {
    /// Starts the threads, and writes the header.
    pub(super) fn begin(mut inner: W) -> io::Result<Self> {
        let threads = workers();
        let (jobs, work) = sync_channel::<Job>(threads);
        let work = Arc::new(Mutex::new(work));
        for _ in 0..threads {
            let work = Arc::clone(&work);
            thread::Builder::new().name("deflate".to_owned()).spawn(move || {
                while let Some(job) = next_job(&work) {
                    // Whoever asked may be gone.
                    let _ = job.reply.send(deflate(&job.plain));
                }
            })?;
        }
        // Magic, deflate, no flags, no time, no extra flags, unknown system (RFC 1952, 2.3).
        inner.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self {
            inner,
            piece: Vec::with_capacity(PIECE),
            queue: VecDeque::new(),
            jobs: Some(jobs),
            threads,
            crc: Crc::new(),
        })
    }

    fn submit(&mut self) -> io::Result<()> {
        let plain = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let (reply, answer) = sync_channel(1);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Job { plain, reply }));
        if !matches!(sent, Some(Ok(()))) {
            return Err(io::Error::other("the threads that deflate have ended"));
        }
        self.queue.push_back(answer);
        while self.queue.len() > 2 * self.threads {
            self.write_oldest()?;
        }
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(answer) = self.queue.pop_front() else {
            return Ok(());
        };
        let piece = answer
            .recv()
            .map_err(|_| io::Error::other("a thread that deflates ended early"))??;
        self.crc.combine(&piece.crc);
        self.inner.write_all(&piece.packed)
    }

    /// Waits for the pieces under way, and ends the member.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.piece.is_empty() {
            self.submit()?;
        }
        while !self.queue.is_empty() {
            self.write_oldest()?;
        }
        self.jobs = None;
        // An empty last block, then the check sum and the length modulo 2^32.
        self.inner.write_all(&[3, 0])?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = buffer.len().min(PIECE - self.piece.len());
        self.piece.extend(buffer.iter().take(count));
        if self.piece.len() == PIECE {
            self.submit()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn next_job(work: &Mutex<Receiver<Job>>) -> Option<Job> {
    work.lock().ok()?.recv().ok()
}

/// One piece as deflate blocks that end at a byte boundary and refer to nothing before it.
fn deflate(plain: &[u8]) -> io::Result<Piece> {
    let mut state = Compress::new(Level::new(GZIP_LEVEL), false);
    let mut packed = Vec::with_capacity(plain.len() / 2 + 64);
    loop {
        let taken = usize::try_from(state.total_in()).unwrap_or(plain.len());
        let rest = plain.get(taken..).unwrap_or_default();
        let status = state
            .compress_vec(rest, &mut packed, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // Room that is left says that everything is out, the marker at the end included.
        if packed.len() < packed.capacity() || status == Status::StreamEnd {
            break;
        }
        packed.reserve(plain.len() / 4 + 64);
    }
    let mut crc = Crc::new();
    crc.update(plain);
    Ok(Piece { packed, crc })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn incompressible_pieces_grow_and_still_unpack() {
        let mut state = 7_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let plain: Vec<u8> = (0..PIECE / 4).flat_map(|_| noise()).collect();
        let mut gzip = Gzip::begin(Vec::new()).unwrap();
        for part in plain.chunks(4096) {
            gzip.write_all(part).unwrap();
        }
        let packed = gzip.finish().unwrap();
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, plain);
    }
}
