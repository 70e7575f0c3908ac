//! gzip and zstd, recognised by content, decoded in order, encoded on other threads.

use std::io::{Read, Write};

use crate::Result;

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
    /// Recognises a stream by its first bytes (at least 4, fewer at its end).
    pub fn sniff(head: &[u8]) -> Self {
        let _ = head;
        todo!()
    }
    /// The OCI media type of a layer packed like this.
    pub fn layer_media_type(self) -> &'static str {
        todo!()
    }
}

/// Unpacks `packed`, whatever it is: sniffs its head, then decodes. Bounded
/// memory whatever the stream claims (zstd windows up to 2^27 bytes).
pub fn decoder<'a>(packed: Box<dyn Read + Send + 'a>) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let _ = packed;
    todo!()
}

/// Packs what is written. [`Encoder::finish`] ends the stream and gives back what is underneath.
#[derive(Debug)]
pub struct Encoder<W: Write> {
    inner: W,
}

impl<W: Write> Encoder<W> {
    /// Begins a stream. Same input, same bytes: no time, no name in the header.
    pub fn new(inner: W, how: Compression) -> Result<Self> {
        let _ = how;
        Ok(Self { inner })
    }
    /// Ends the stream.
    pub fn finish(self) -> Result<W> {
        Ok(self.inner)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.inner.write(buffer)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
