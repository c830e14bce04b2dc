//! What is in a stream, a line for each record: `zstream dump` with all checksums verified.

use alloc::format;
use alloc::string::String;

use crate::parse::{Parsed, Parser};
use crate::record::{Record, TO_END};
use crate::{Feature, StreamError};

/// Lists the records of a stream that is fed in pieces.
#[derive(Debug, Default)]
pub struct Listing {
    parser: Parser,
    /// Records and payload bytes by type.
    counts: [(u64, u64); 8],
}

const TYPES: [&str; 8] = ["BEGIN", "OBJECT", "FREEOBJECTS", "WRITE", "FREE", "END", "SPILL", "WRITE_EMBEDDED"];

fn index(record: &Record) -> usize {
    match record {
        Record::Begin(_) => 0,
        Record::Object(_) => 1,
        Record::FreeObjects { .. } => 2,
        Record::Write(_) => 3,
        Record::Free { .. } => 4,
        Record::End { .. } => 5,
        Record::Spill { .. } => 6,
        Record::Embedded { .. } => 7,
    }
}

/// The names of the features whose bits are set.
#[must_use]
pub fn features(bits: u64) -> String {
    let mut out = String::new();
    for bit in (0..62).map(|bit| 1_u64 << bit).filter(|bit| bits & bit != 0) {
        out.push_str(&format!("{}{}", if out.is_empty() { "" } else { ", " }, Feature(bit)));
    }
    out
}

/// A record as one line.
#[must_use]
pub fn line(parsed: &Parsed) -> String {
    match &parsed.record {
        Record::Begin(begin) => {
            let kind = if begin.compound { "package" } else { "stream" };
            format!(
                "BEGIN {kind} {} to {:#x} from {:#x} type {} created {} flags {:#x} features [{}] list {} bytes",
                begin.name,
                begin.to_guid,
                begin.from_guid,
                begin.os_kind,
                begin.creation_time,
                begin.flags,
                features(begin.features),
                begin.payload
            )
        }
        Record::Object(object) => format!(
            "OBJECT {} type {} bonus type {} block {} bonus {} checksum {} compression {} slots {} flags {}",
            object.object, object.kind, object.bonus_kind, object.block_size, object.bonus_size, object.checksum, object.compression, object.slots, object.flags
        ),
        Record::FreeObjects { first, count } => format!("FREEOBJECTS {first} count {count}"),
        Record::Write(write) => {
            format!("WRITE object {} type {} offset {} size {} compression {} payload {}", write.object, write.kind, write.offset, write.size, write.compression, parsed.payload.len())
        }
        Record::Free { object, offset, length } if *length == TO_END => format!("FREE object {object} offset {offset} to the end"),
        Record::Free { object, offset, length } => format!("FREE object {object} offset {offset} length {length}"),
        Record::End { checksum } => format!("END checksum {:x}/{:x}/{:x}/{:x}", checksum[0], checksum[1], checksum[2], checksum[3]),
        Record::Spill { object, size, flags, .. } => format!("SPILL object {object} size {size} flags {flags}"),
        Record::Embedded { object, offset, length, compression, lsize, psize } => {
            format!("WRITE_EMBEDDED object {object} offset {offset} length {length} compression {compression} lsize {lsize} psize {psize}")
        }
    }
}

impl Listing {
    /// Takes the next bytes; `each` gets every record that is whole and verified.
    ///
    /// # Errors
    /// What is wrong with the stream, and where.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&Parsed)) -> Result<(), StreamError> {
        self.parser.feed(bytes);
        while let Some(parsed) = self.parser.take()? {
            let count = &mut self.counts[index(&parsed.record)];
            *count = (count.0 + 1, count.1 + parsed.payload.len() as u64);
            each(&parsed);
        }
        Ok(())
    }

    /// The stream ends here: the counts, a line for each type.
    ///
    /// # Errors
    /// It ended too early.
    pub fn finish(&self) -> Result<String, StreamError> {
        if !self.parser.is_idle() || self.counts[0].0 == 0 {
            return Err(self.parser.truncated());
        }
        let mut out = String::new();
        for (name, (count, bytes)) in TYPES.iter().zip(self.counts).filter(|(_, (count, _))| *count > 0) {
            out.push_str(&format!("{name:<14} {count:>8} records {bytes:>12} bytes of payload\n"));
        }
        out.push_str(&format!("{:<14} {:>8} records {:>12} bytes in all\n", "total", self.counts.iter().map(|(count, _)| count).sum::<u64>(), self.parser.offset()));
        Ok(out)
    }
}
