//! Space maps: logs of allocations and frees of one metaslab.

use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::View;

/// Longest run of a one-word entry, in units.
const RUN_MAX: u64 = 1 << 15;
const OFFSET_MAX: u64 = 1 << 47;
/// The vdev in the first word of a two-word entry.
const VDEV_MASK: u64 = (1 << 24) - 1;

/// One log entry, in units of the vdev's allocation size, relative to the metaslab's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub free: bool,
    pub offset: u64,
    pub run: u64,
}

/// The bonus buffer of a space map object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes of log in use.
    pub length: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// The bonus holds a histogram (320 bytes) that must be kept.
    pub histogram: bool,
}

impl Header {
    /// Parses the bonus buffer.
    ///
    /// # Errors
    /// Too short.
    pub fn parse(bonus: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("space map header", bonus);
        Ok(Self { length: view.u64(8)?, allocated: view.u64(16)?, histogram: bonus.len() >= 320 })
    }
}

/// Reads a log, whichever it is: entries, and the vdev where one names it.
fn read<'a>(name: &'static str, data: &'a [u8]) -> Result<impl Iterator<Item = Result<(Option<u32>, Entry), FormatError>> + use<'a>, FormatError> {
    let (words, rest) = data.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(FormatError::new(name, "length is not a multiple of eight", data.len() as u64));
    }
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    Ok(core::iter::from_fn(move || {
        loop {
            let word = words.next()?;
            match word >> 62 {
                0 | 1 => return Some(Ok((None, Entry { free: word >> 15 & 1 == 1, offset: word >> 16 & (OFFSET_MAX - 1), run: (word & (RUN_MAX - 1)) + 1 }))),
                2 => {}
                _ => {
                    let vdev = u32::try_from(word & VDEV_MASK).ok();
                    return Some(words.next().map(|second| (vdev, two_words(word, second))).ok_or(FormatError::new(name, "two-word entry is cut", word)));
                }
            }
        }
    }))
}

/// Reads a log, entry by entry: nobody keeps a list of a length that a disk chose.
///
/// # Errors
/// Length not a multiple of eight; in place of an entry: a two-word entry cut in half.
pub fn parse(data: &[u8]) -> Result<impl Iterator<Item = Result<Entry, FormatError>> + use<'_>, FormatError> {
    Ok(read("space map", data)?.map(|read| read.map(|(_, entry)| entry)))
}

/// An entry of a log space map (feature `log_spacemap`): in sectors, from the start of the vdev's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub vdev: u32,
    pub entry: Entry,
}

/// Reads a log space map, entry by entry: entries of two words, which name their vdev.
///
/// # Errors
/// Length not a multiple of eight; in place of an entry: one cut in half, or of one word.
pub fn parse_log(data: &[u8]) -> Result<impl Iterator<Item = Result<LogEntry, FormatError>> + use<'_>, FormatError> {
    let named = |(vdev, entry): (Option<u32>, Entry)| vdev.map(|vdev| LogEntry { vdev, entry }).ok_or(FormatError::new("log space map", "an entry names no vdev", entry.offset));
    Ok(read("log space map", data)?.map(move |read| read.and_then(named)))
}

const fn two_words(first: u64, second: u64) -> Entry {
    Entry {
        free: second >> 63 == 1,
        offset: second & (u64::MAX >> 1),
        run: (first >> 24 & ((1 << 36) - 1)) + 1,
    }
}

/// Encodes entries as one-word entries (long runs are split), preceded by the debug word of sync pass 1 of `txg`.
///
/// # Panics
/// If an offset does not fit: metaslabs are at most 2^47 units.
#[must_use]
pub fn encode(entries: impl IntoIterator<Item = Entry>, txg: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut debug = Some(1 << 63 | 1 << 50 | (txg & ((1 << 50) - 1)));
    for entry in entries {
        let (mut offset, mut left) = (entry.offset, entry.run);
        while left > 0 {
            let run = left.min(RUN_MAX);
            assert!(offset < OFFSET_MAX, "space map offset {offset:#x}");
            if let Some(word) = debug.take() {
                out.extend_from_slice(&u64::to_le_bytes(word));
            }
            let word = offset << 16 | u64::from(entry.free) << 15 | (run - 1);
            out.extend_from_slice(&word.to_le_bytes());
            (offset, left) = (offset + run, left - run);
        }
    }
    out
}
