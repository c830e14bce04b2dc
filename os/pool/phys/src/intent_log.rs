//! The intent log: its header in the object set, its blocks, its records (format section 16).

use alloc::vec::Vec;

use crate::FormatError;
use crate::blkptr::{self, BlockPointer, Checksum, Compression, Dva, Target};
use crate::bytes::View;

/// Byte offset of the header in an object set, and its size.
pub const HEADER_AT: usize = 512;
pub const HEADER_SIZE: usize = 192;
/// Bytes in front of a block's records.
pub const BLOCK_HEADER: usize = 184;
/// Smallest and largest block.
pub const BLOCK_MIN: usize = 4 << 10;
pub const BLOCK_MAX: usize = 128 << 10;
/// Object type of log blocks.
pub const KIND: u8 = 9;
const ECK_MAGIC: u64 = 0x0210_DA7A_B10C_7A11;
const NEXT_AT: usize = 8;
const USED_AT: usize = 136;
const ECK_AT: usize = 144;
const SUM_AT: usize = 152;
/// Bytes of a record's common part.
const RECORD_HEADER: usize = 32;

/// The header of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub claim_txg: u64,
    pub replay_seq: u64,
    /// First block; a hole for an empty log.
    pub first: BlockPointer,
    pub claim_block_seq: u64,
    pub flags: u64,
    pub claim_record_seq: u64,
}

impl Header {
    /// An empty log that starts (if at all) at `first`.
    #[must_use]
    pub const fn new(first: BlockPointer) -> Self {
        Self { claim_txg: 0, replay_seq: 0, first, claim_block_seq: 0, flags: 0, claim_record_seq: 0 }
    }

    /// Parses the header of an object-set block.
    ///
    /// # Errors
    /// Too short, or a bad block pointer.
    pub fn parse(objset: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("intent log header", objset);
        Ok(Self {
            claim_txg: view.u64(HEADER_AT)?,
            replay_seq: view.u64(HEADER_AT + 8)?,
            first: BlockPointer::parse(view.slice(HEADER_AT + 16, blkptr::SIZE)?)?,
            claim_block_seq: view.u64(HEADER_AT + 144)?,
            flags: view.u64(HEADER_AT + 152)?,
            claim_record_seq: view.u64(HEADER_AT + 160)?,
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        let mut put = |at: usize, value: u64| out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, self.claim_txg);
        put(8, self.replay_seq);
        put(144, self.claim_block_seq);
        put(152, self.flags);
        put(160, self.claim_record_seq);
        out[16..144].copy_from_slice(&self.first.encode());
        out
    }
}

/// The pointer to a log block: its checksum words name the log and the block's place in it.
#[must_use]
pub fn pointer(dvas: [Option<Dva>; 3], size: usize, birth: u64, words: codec::Words) -> BlockPointer {
    BlockPointer {
        target: Target::Stored(dvas),
        lsize: size as u64,
        psize: size as u64,
        compression: Compression::Off,
        checksum: Checksum::Zilog2,
        kind: KIND,
        level: 0,
        encrypted: false,
        dedup: false,
        physical_birth: birth,
        birth,
        fill: 0,
        words,
    }
}

fn sum(block: &[u8], used: usize, words: codec::Words) -> codec::Words {
    let end = used.next_multiple_of(BLOCK_MIN).min(block.len());
    // The pointer's words stand where the sum will be.
    let place = words.map(u64::to_le_bytes);
    [&block[..SUM_AT], place.as_flattened(), &block[SUM_AT + 32..end]].into_iter().fold([0; 4], codec::fletcher4_continue)
}

/// The block is the one that the pointer with these checksum words means.
#[must_use]
pub fn is_sealed(block: &[u8], words: codec::Words) -> bool {
    let view = View::new("intent log block", block);
    let (Ok(magic), Ok(used), Ok(found)) = (view.u64(ECK_AT), view.u64(USED_AT), view.words::<4>(SUM_AT)) else { return false };
    let used = crate::bytes::index(used);
    magic == ECK_MAGIC && (BLOCK_HEADER..=block.len()).contains(&used) && sum(block, used, words) == found
}

/// A sealed block of `size` bytes with `records`, for the pointer with these checksum words.
///
/// # Panics
/// If the records do not fit: the caller measured them.
#[must_use]
pub fn seal(size: usize, records: &[Vec<u8>], next: &BlockPointer, words: codec::Words) -> Vec<u8> {
    let used = BLOCK_HEADER + records.iter().map(Vec::len).sum::<usize>();
    assert!(used <= size, "{used} bytes of records for a log block of {size}");
    let mut out = alloc::vec![0; size];
    out[NEXT_AT..NEXT_AT + blkptr::SIZE].copy_from_slice(&next.encode());
    out[USED_AT..USED_AT + 8].copy_from_slice(&(used as u64).to_le_bytes());
    out[ECK_AT..ECK_AT + 8].copy_from_slice(&ECK_MAGIC.to_le_bytes());
    let mut at = BLOCK_HEADER;
    for record in records {
        out[at..at + record.len()].copy_from_slice(record);
        at += record.len();
    }
    let found = sum(&out, used, words);
    for (slot, word) in out[SUM_AT..SUM_AT + 32].chunks_exact_mut(8).zip(found) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// A verified block: the next one's pointer and the records.
///
/// # Errors
/// A bad block pointer; a record that leaves the block.
pub fn parse_block(block: &[u8]) -> Result<(BlockPointer, Vec<Record>), FormatError> {
    let view = View::new("intent log block", block);
    let next = BlockPointer::parse(view.slice(NEXT_AT, blkptr::SIZE)?)?;
    let used = crate::bytes::index(view.u64(USED_AT)?);
    let records = View::new("intent log record", view.slice(0, used)?);
    let (mut at, mut out) = (BLOCK_HEADER, Vec::new());
    while at < used {
        let length = crate::bytes::index(records.u64(at + 8)?);
        if length < RECORD_HEADER || !length.is_multiple_of(8) {
            return Err(records.error("has an impossible length", length as u64));
        }
        let body = records.slice(at, length)?;
        out.push(Record { kind: records.u64(at)?, txg: records.u64(at + 16)?, seq: records.u64(at + 24)?, body: body.to_vec() });
        at += length;
    }
    Ok((next, out))
}

/// A record as stored; `body` includes the 32 bytes that every record starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Type; bit 63 says that names fold case.
    pub kind: u64,
    pub txg: u64,
    pub seq: u64,
    pub body: Vec<u8>,
}

/// What a record says was done. Objects are numbers in the dataset; times are seconds and nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file, directory or symbolic link (with target) was made.
    Create { parent: u64, object: u64, mode: u64, uid: u64, gid: u64, generation: u64, time: (u64, u64), rdev: u64, name: Vec<u8>, target: Option<Vec<u8>> },
    Remove { parent: u64, name: Vec<u8>, is_directory: bool },
    Link { parent: u64, object: u64, name: Vec<u8> },
    Rename { from: u64, to: u64, old: Vec<u8>, new: Vec<u8> },
    Write { object: u64, offset: u64, data: Vec<u8> },
    /// The data is a block of its own in the pool: the whole block of the object that has `offset` in it.
    WriteIndirect { object: u64, offset: u64, length: u64, block: BlockPointer },
    /// A write whose data came with the block of an indirect one: the object reaches to its end at least.
    Extend { object: u64, offset: u64, length: u64 },
    Truncate { object: u64, offset: u64, length: u64 },
    /// Mask bits: 1 mode, 2 uid, 4 gid, 8 size, 16 atime, 32 mtime.
    SetAttributes { object: u64, mask: u64, mode: u64, uid: u64, gid: u64, size: u64, accessed: (u64, u64), modified: (u64, u64) },
}

/// Bytes of a change's record around its data (for [`Change::Write`]).
pub const WRITE_HEADER: usize = 192;

fn text(data: &[u8]) -> (Vec<u8>, &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    (data[..end].to_vec(), data.get(end + 1..).unwrap_or(&[]))
}

impl Change {
    /// What `record` says.
    ///
    /// # Errors
    /// Too short, or of a type that we cannot replay.
    pub fn parse(record: &Record) -> Result<Self, FormatError> {
        let view = View::new("intent log record", &record.body);
        let word = |at: usize| view.u64(at);
        let pair = |at: usize| -> Result<(u64, u64), FormatError> { Ok((view.u64(at)?, view.u64(at + 8)?)) };
        let rest = |at: usize| record.body.get(at..).unwrap_or(&[]);
        const OBJECT: u64 = (1 << 48) - 1;
        Ok(match record.kind & !(1 << 63) {
            1 | 2 | 4 => {
                let (name, after) = text(rest(104));
                let target = (record.kind & 0xFF == 4).then(|| text(after).0);
                Self::Create {
                    parent: word(32)?,
                    object: word(40)? & OBJECT,
                    mode: word(48)?,
                    uid: word(56)?,
                    gid: word(64)?,
                    generation: word(72)?,
                    time: pair(80)?,
                    rdev: word(96)?,
                    name,
                    target,
                }
            }
            5 | 6 => Self::Remove { parent: word(32)?, name: text(rest(40)).0, is_directory: record.kind & 0xFF == 6 },
            7 => Self::Link { parent: word(32)?, object: word(40)?, name: text(rest(48)).0 },
            8 => {
                let (old, after) = text(rest(48));
                Self::Rename { from: word(32)?, to: word(40)?, old, new: text(after).0 }
            }
            9 => {
                let (object, offset, length) = (word(32)?, word(40)?, word(48)?);
                let block = BlockPointer::parse(view.slice(64, blkptr::SIZE)?)?;
                if record.body.len() > WRITE_HEADER {
                    Self::Write { object, offset, data: view.slice(WRITE_HEADER, crate::bytes::index(length))?.to_vec() }
                } else {
                    Self::WriteIndirect { object, offset, length, block }
                }
            }
            10 => Self::Truncate { object: word(32)?, offset: word(40)?, length: word(48)? },
            11 => Self::SetAttributes {
                object: word(32)?,
                mask: word(40)?,
                mode: word(48)?,
                uid: word(56)?,
                gid: word(64)?,
                size: word(72)?,
                accessed: pair(80)?,
                modified: pair(96)?,
            },
            20 => Self::Extend { object: word(32)?, offset: word(40)?, length: word(48)? },
            other => return Err(FormatError::new("intent log record", "of a type that cannot be replayed", other)),
        })
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self, txg: u64, seq: u64) -> Vec<u8> {
        let mut words: Vec<u64> = Vec::new();
        let mut tail: Vec<u8> = Vec::new();
        let mut put_text = |text: &[u8]| {
            tail.extend_from_slice(text);
            tail.push(0);
        };
        let kind = match self {
            Self::Create { parent, object, mode, uid, gid, generation, time, rdev, name, target } => {
                words.extend([*parent, *object, *mode, *uid, *gid, *generation, time.0, time.1, *rdev]);
                put_text(name);
                if let Some(target) = target {
                    put_text(target);
                }
                match mode >> 12 {
                    4 => 2,
                    _ if target.is_some() => 4,
                    _ => 1,
                }
            }
            Self::Remove { parent, name, is_directory } => {
                words.push(*parent);
                put_text(name);
                if *is_directory { 6 } else { 5 }
            }
            Self::Link { parent, object, name } => {
                words.extend([*parent, *object]);
                put_text(name);
                7
            }
            Self::Rename { from, to, old, new } => {
                words.extend([*from, *to]);
                put_text(old);
                put_text(new);
                8
            }
            Self::Write { object, offset, data } => {
                words.extend([*object, *offset, data.len() as u64, 0]);
                words.extend([0; blkptr::SIZE / 8]);
                tail.extend_from_slice(data);
                9
            }
            Self::WriteIndirect { object, offset, length, block } => {
                words.extend([*object, *offset, *length, 0]);
                words.extend(block.encode().as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)));
                9
            }
            Self::Extend { object, offset, length } => {
                words.extend([*object, *offset, *length, 0]);
                words.extend([0; blkptr::SIZE / 8]);
                20
            }
            Self::Truncate { object, offset, length } => {
                words.extend([*object, *offset, *length]);
                10
            }
            Self::SetAttributes { object, mask, mode, uid, gid, size, accessed, modified } => {
                words.extend([*object, *mask, *mode, *uid, *gid, *size, accessed.0, accessed.1, modified.0, modified.1]);
                11
            }
        };
        let length = (RECORD_HEADER + words.len() * 8 + tail.len()).next_multiple_of(8);
        let mut out = Vec::with_capacity(length);
        for word in [kind, length as u64, txg, seq].into_iter().chain(words) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&tail);
        out.resize(length, 0);
        out
    }
}
