//! Cutting a stream into records, with every checksum verified.

use alloc::vec::Vec;

use codec::Words;

use crate::record::{self, Record, SIZE};
use crate::{StreamError, Why};

/// A record as it was found.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub record: Record,
    /// The snapshot it says it is of.
    pub guid: u64,
    pub payload: Vec<u8>,
    /// Its place: bytes before it, and its number.
    pub offset: u64,
    pub number: u64,
}

/// Takes bytes in, gives records out.
///
/// A payload is covered only by the checksum of the record behind it, so a record comes out when that one's was verified.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes not used yet.
    buffer: Vec<u8>,
    /// Start of what is not used yet.
    used: usize,
    sum: Words,
    /// Bytes and records consumed.
    offset: u64,
    number: u64,
    /// The record read last, until the next one vouches for its payload.
    held: Option<Parsed>,
    /// A stream has begun and not ended.
    within: bool,
}

impl Parser {
    /// Takes more of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn error(&self, why: Why) -> StreamError {
        StreamError { offset: self.offset, record: self.number, why }
    }

    /// Bytes consumed.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// True at the end of a stream, and before one: nothing is half read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.within && self.held.is_none() && self.used == self.buffer.len()
    }

    /// The error of a stream that ended here.
    #[must_use]
    pub fn truncated(&self) -> StreamError {
        self.error(Why::Truncated)
    }

    /// The next record; `None`: more bytes are needed. The END of a package's head and of a package have no checksums of their own; between streams they
    /// come out as they are.
    ///
    /// # Errors
    /// Checksum, and what [`Record::parse`] says.
    pub fn take(&mut self) -> Result<Option<Parsed>, StreamError> {
        loop {
            let rest = &self.buffer[self.used..];
            let Some(bytes) = rest.first_chunk::<SIZE>() else { return Ok(None) };
            let bytes = *bytes;
            let (record, guid) = Record::parse(&bytes).map_err(|why| self.error(why))?;
            if !record.is_sound() {
                return Err(self.error(Why::Field("payload size", record.payload())));
            }
            let (is_begin, is_end) = (matches!(record, Record::Begin(_)), matches!(record, Record::End { .. }));
            // Between streams there may be a BEGIN, or the END of a package.
            if is_begin == self.within && (self.within || !is_end) {
                return Err(self.error(Why::Order(if is_begin { "a stream begins within another" } else { "a record before the stream begins" })));
            }
            // A bare END: of a package, or of a package's head.
            let stored = record::checksum(&bytes);
            let bare = is_end && stored == [0; 4] && guid == 0;
            if is_begin {
                self.sum = [0; 4];
            }
            let sum = codec::fletcher4_continue(self.sum, &bytes[..record::CHECKSUM_AT]);
            if self.within && !bare && stored != sum {
                return Err(self.error(Why::Checksum));
            }
            if let Record::End { checksum } = &record
                && self.within
                && *checksum != self.sum
            {
                return Err(self.error(Why::Checksum));
            }
            // What came before is vouched for now.
            if let Some(held) = self.held.take() {
                return Ok(Some(held));
            }
            let Some(size) = usize::try_from(record.payload()).ok().and_then(|size| size.checked_add(SIZE)) else {
                return Err(self.error(Why::Field("payload size", record.payload())));
            };
            if rest.len() < size {
                return Ok(None);
            }
            let payload = rest[SIZE..size].to_vec();
            let sum = codec::fletcher4_continue(sum, &bytes[record::CHECKSUM_AT..]);
            self.sum = codec::fletcher4_continue(sum, &payload);
            let parsed = Parsed { record, guid, payload, offset: self.offset, number: self.number };
            self.used += size;
            self.offset += size as u64;
            self.number += 1;
            self.within = !is_end;
            if is_end {
                return Ok(Some(parsed));
            }
            self.held = Some(parsed);
        }
    }
}
