//! Which data blocks a pool's volumes have, read from what `thin_dump` writes.
//!
//! Debian 12's `thin_trim` (0.9.0) is no way to give free blocks back: its last discard begins *at* the last
//! block in use instead of after it (`trim_iterator::complete`), and so destroys that block.

use std::io::BufRead;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::error::{Error, Result};

/// The data blocks of a pool, each used or free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    blocks: u64,
    /// A bit per block, set where a volume has it.
    used: Vec<u64>,
}

impl Mappings {
    /// Reads a whole dump of a pool with these sectors per block, of at most `most` blocks. The format is that of
    /// `thin-provisioning/xml_format.cc` (0.9) and `src/thin/xml.rs` (1.x) of thin-provisioning-tools.
    ///
    /// # Errors
    /// Corrupt where it is cut short, says something unknown, or a volume's mappings are not as many as it says.
    pub fn read(dump: impl BufRead, block_sectors: u32, most: u64) -> Result<Self> {
        let mut reader = Reader::from_reader(dump);
        let mut buffer = Vec::new();
        let mut seen = Seen::default();
        loop {
            buffer.clear();
            let ended = match reader.read_event_into(&mut buffer).map_err(corrupt)? {
                Event::Start(element) => seen.begin(&element, block_sectors, most)?,
                Event::Empty(element) => {
                    seen.begin(&element, block_sectors, most)?;
                    seen.end(element.name().as_ref())?;
                    false
                }
                Event::End(element) => seen.end(element.name().as_ref())?,
                Event::Eof => return Err(corrupt("it is cut short")),
                Event::Text(_) | Event::Decl(_) | Event::DocType(_) | Event::Comment(_) => false,
                other => return Err(corrupt(format!("{other:?} has no place in it"))),
            };
            if ended {
                return seen.mappings.ok_or_else(|| corrupt("it has no superblock"));
            }
        }
    }

    /// The runs of blocks that no volume has, in order.
    pub fn free(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let begin = (at..self.blocks).find(|block| !self.is_used(*block))?;
            let end = (begin..self.blocks).find(|block| self.is_used(*block));
            at = end.unwrap_or(self.blocks);
            Some(begin..at)
        })
    }

    fn is_used(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|at| self.used.get(at));
        word.is_none_or(|word| word & (1 << (block % 64)) != 0)
    }

    fn set_used(&mut self, blocks: Range<u64>) -> Result<()> {
        if blocks.end > self.blocks {
            return Err(corrupt(format!(
                "a volume has the block {}, past the end",
                blocks.end - 1
            )));
        }
        for block in blocks {
            let word = usize::try_from(block / 64).ok().and_then(|at| self.used.get_mut(at));
            *word.ok_or_else(|| corrupt("it names a block past the end"))? |= 1 << (block % 64);
        }
        Ok(())
    }
}

/// What has been read so far.
#[derive(Default)]
struct Seen {
    mappings: Option<Mappings>,
    /// Blocks that the volume being read said it has, and that were seen.
    volume: Option<(u64, u64)>,
}

impl Seen {
    fn begin(&mut self, element: &BytesStart<'_>, block_sectors: u32, most: u64) -> Result<bool> {
        match (element.name().as_ref(), &mut self.mappings, &mut self.volume) {
            ("superblock", None, None) => {
                let blocks = number(element, "nr_data_blocks")?;
                if number(element, "data_block_size")? != u64::from(block_sectors) || blocks > most {
                    return Err(corrupt("it is of a pool of another shape"));
                }
                let words = usize::try_from(blocks.div_ceil(64)).map_err(corrupt)?;
                let used = vec![0; words];
                self.mappings = Some(Mappings { blocks, used });
            }
            ("device", Some(_), volume @ None) => *volume = Some((number(element, "mapped_blocks")?, 0)),
            ("single_mapping", Some(mappings), Some((_, seen))) => {
                let block = number(element, "data_block")?;
                let end = block.checked_add(1).ok_or_else(|| corrupt("a block is past the end"))?;
                mappings.set_used(block..end)?;
                *seen += 1;
            }
            ("range_mapping", Some(mappings), Some((_, seen))) => {
                let (begin, length) = (number(element, "data_begin")?, number(element, "length")?);
                let end = begin.checked_add(length);
                mappings.set_used(begin..end.ok_or_else(|| corrupt("a range is past the end"))?)?;
                *seen = seen.saturating_add(length);
            }
            (name, ..) => return Err(corrupt(format!("<{name}> has no place there"))),
        }
        Ok(false)
    }

    /// Whether that was the end of it all.
    fn end(&mut self, name: &str) -> Result<bool> {
        match (name, self.volume) {
            ("device", Some((said, seen))) if said == seen => self.volume = None,
            ("device", Some((said, seen))) => {
                return Err(corrupt(format!("a volume has {seen} blocks and says {said}")));
            }
            ("superblock", None) => return Ok(true),
            _ => {}
        }
        Ok(false)
    }
}

fn number(element: &BytesStart<'_>, name: &str) -> Result<u64> {
    let attribute = element.try_get_attribute(name).map_err(corrupt)?;
    attribute
        .and_then(|attribute| attribute.value.parse().ok())
        .ok_or_else(|| corrupt(format!("<{:?}> has no number {name}", element.name())))
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("cannot read what thin_dump says: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"<superblock uuid="" time="1" transaction="7" flags="0" version="2" data_block_size="128" nr_data_blocks="130">
  <device dev_id="1" mapped_blocks="3" transaction="0" creation_time="0" snap_time="1">
    <range_mapping origin_begin="0" data_begin="2" length="2" time="0"/>
    <single_mapping origin_block="9" data_block="128" time="0"/>
  </device>
  <device dev_id="2" mapped_blocks="0" transaction="1" creation_time="1" snap_time="1">
  </device>
</superblock>
"#;

    fn read(dump: &str) -> Result<Vec<Range<u64>>> {
        Mappings::read(dump.as_bytes(), 128, 200).map(|mappings| mappings.free().collect())
    }

    #[test]
    fn free_is_what_lies_between() {
        assert_eq!(read(DUMP).unwrap(), [0..2, 4..128, 129..130]);
    }

    #[test]
    fn the_last_block_in_use_is_not_free() {
        let full = DUMP.replace("nr_data_blocks=\"130\"", "nr_data_blocks=\"129\"");
        assert_eq!(read(&full).unwrap(), [0..2, 4..128]);
    }

    #[test]
    fn what_is_not_a_whole_dump_frees_nothing() {
        for length in 0..DUMP.trim_end().len() {
            assert!(read(&DUMP[..length]).is_err(), "{length}");
        }
        for (good, bad) in [
            ("mapped_blocks=\"3\"", "mapped_blocks=\"4\""),
            ("data_block_size=\"128\"", "data_block_size=\"256\""),
            ("nr_data_blocks=\"130\"", "nr_data_blocks=\"201\""),
            ("nr_data_blocks=\"130\"", "nr_data_blocks=\"128\""),
            ("length=\"2\"", "length=\"18446744073709551615\""),
            ("data_block=\"128\"", "data_block=\"18446744073709551615\""),
            ("single_mapping", "ref"),
            ("<device dev_id=\"2\"", "<def name=\"2\""),
        ] {
            assert!(read(&DUMP.replacen(good, bad, 1)).is_err(), "{bad}");
        }
    }
}
