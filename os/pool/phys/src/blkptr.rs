//! Block pointers and DVAs.
//!
//! ```text
//! word  0 1  2 3  4 5   6      7 8   9             10             11    12..15
//!       DVA0 DVA1 DVA2  prop   pad   physical txg  logical txg    fill  checksum
//! ```

use crate::bytes::View;
use crate::{BLOCK_MAX, FormatError, SECTOR};

/// Bytes of a block pointer on disk.
pub const SIZE: usize = 128;
/// Bytes an embedded block pointer can hold.
pub const EMBEDDED_MAX: usize = 112;

/// Checksum algorithm of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Off,
    Label,
    GangHeader,
    Zilog,
    Fletcher2,
    Fletcher4,
    Sha256,
    Zilog2,
    NoParity,
    Sha512,
    /// Salted algorithms (skein, edonr, blake3) that we can name but not verify.
    Foreign(u8),
}

/// Compression of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Off,
    Lzjb,
    /// Level 1 to 9; the decoder does not care.
    Gzip(u8),
    Zle,
    Lz4,
    Zstd,
}

/// A data virtual address: where one copy of a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dva {
    /// Top-level vdev.
    pub vdev: u32,
    /// Byte offset in the vdev's allocatable space.
    pub offset: u64,
    /// Allocated bytes, parity and padding included.
    pub asize: u64,
    /// The address holds a gang header.
    pub gang: bool,
}

/// What a block pointer points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Never written, or punched: reads as zeros.
    Hole,
    /// The (compressed) payload itself; `psize` bytes are in use.
    Embedded([u8; EMBEDDED_MAX]),
    /// One to three copies; unused slots are `None`.
    Stored([Option<Dva>; 3]),
}

/// A parsed block pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPointer {
    pub target: Target,
    /// Logical size in bytes.
    pub lsize: u64,
    /// Stored size in bytes, before padding to the allocation unit.
    pub psize: u64,
    pub compression: Compression,
    pub checksum: Checksum,
    /// Object type (`docs`: section "Object types" of the format).
    pub kind: u8,
    /// 0 = data.
    pub level: u8,
    pub encrypted: bool,
    pub dedup: bool,
    pub physical_birth: u64,
    pub birth: u64,
    pub fill: u64,
    pub words: codec::Words,
}

/// Pointers that are looked at together: none is written in most of an indirect block.
const PAGE: usize = 32;
static NOTHING: [u8; PAGE * SIZE] = [0; PAGE * SIZE];

/// The pointers of an indirect block with their places in it, without the holes that were never written: in the last block of a file nearly all are.
pub fn written(data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let pages = (0..).zip(data.chunks(PAGE * SIZE)).filter(|(_, page)| **page != NOTHING[..page.len()]);
    let numbered = pages.flat_map(|(page, data): (u64, &[u8])| (page * PAGE as u64..).zip(data.chunks_exact(SIZE)));
    numbered.filter(|(_, pointer)| **pointer != NOTHING[..SIZE])
}

/// The pointers of an indirect block of level `level`, as [`written`] has them.
///
/// # Errors
/// Of each: it is malformed, or does not lead to a block one level below, as the format has it.
pub fn below(level: u8, data: &[u8]) -> impl Iterator<Item = Result<(u64, BlockPointer), FormatError>> {
    written(data).map(move |(index, bytes)| {
        let child = BlockPointer::parse(bytes)?;
        if child.is_hole() || child.level + 1 == level { Ok((index, child)) } else { Err(FormatError::new("indirect block", "child is not one level below", u64::from(child.level))) }
    })
}

/// Sum of the fill counts of an indirect block's pointers; `None` if all of them are holes.
#[must_use]
pub fn fill_of_all(data: &[u8]) -> Option<u64> {
    let mut sum = None;
    for words in data.as_chunks::<8>().0.as_chunks::<16>().0 {
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let is_embedded = word(6) >> 39 & 1 == 1;
        if is_embedded || word(0) != 0 || word(1) != 0 {
            let fill = if is_embedded { 1 } else { word(11) };
            sum = Some(sum.unwrap_or(0_u64).wrapping_add(fill));
        }
    }
    sum
}

impl BlockPointer {
    /// A hole that was never written.
    #[must_use]
    pub const fn hole() -> Self {
        Self {
            target: Target::Hole,
            lsize: 0,
            psize: 0,
            compression: Compression::Off,
            checksum: Checksum::Off,
            kind: 0,
            level: 0,
            encrypted: false,
            dedup: false,
            physical_birth: 0,
            birth: 0,
            fill: 0,
            words: [0; 4],
        }
    }

    /// True for holes.
    #[must_use]
    pub const fn is_hole(&self) -> bool {
        matches!(self.target, Target::Hole)
    }

    /// Parses the 128 bytes of a block pointer.
    ///
    /// # Errors
    /// Big-endian blocks, unknown algorithms, impossible sizes.
    pub fn parse(data: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("block pointer", data);
        let word = view.words::<16>(0)?;
        let prop = word[6];
        let field = |shift: u32, bits: u32| (prop >> shift) & ((1 << bits) - 1);
        let embedded = field(39, 1) == 1;
        if !embedded && word[0] == 0 && word[1] == 0 {
            let described = word[10] != 0;
            let lsize = if described { (field(0, 16) + 1) * SECTOR } else { 0 };
            if lsize > BLOCK_MAX {
                return Err(view.error("impossible block size", lsize));
            }
            let (kind, level) = if described { (field(48, 8), field(56, 5)) } else { (0, 0) };
            return Ok(Self {
                birth: word[10],
                lsize,
                kind: kind.to_le_bytes()[0],
                level: level.to_le_bytes()[0],
                ..Self::hole()
            });
        }
        if field(63, 1) == 0 {
            return Err(view.error("big-endian blocks are not supported", prop));
        }
        let byte = |value: u64| value.to_le_bytes()[0];
        let compression = compression(byte(field(32, 7))).ok_or_else(|| view.error("unknown compression", field(32, 7)))?;
        let (kind, level) = (byte(field(48, 8)), byte(field(56, 5)));
        if embedded {
            let (lsize, psize) = (field(0, 25) + 1, field(25, 7) + 1);
            if lsize > BLOCK_MAX {
                return Err(view.error("impossible block size", lsize));
            }
            if psize > EMBEDDED_MAX as u64 {
                return Err(view.error("embedded payload is too long", psize));
            }
            let mut payload = [0; EMBEDDED_MAX];
            payload[..48].copy_from_slice(view.slice(0, 48)?);
            payload[48..72].copy_from_slice(view.slice(56, 24)?);
            payload[72..].copy_from_slice(view.slice(88, 40)?);
            return Ok(Self {
                target: Target::Embedded(payload),
                lsize,
                psize,
                compression,
                checksum: Checksum::Off,
                kind,
                level,
                encrypted: false,
                dedup: false,
                physical_birth: 0,
                birth: word[10],
                fill: 1,
                words: [0; 4],
            });
        }
        let (lsize, psize) = ((field(0, 16) + 1) * SECTOR, (field(16, 16) + 1) * SECTOR);
        if lsize > BLOCK_MAX || psize > lsize {
            return Err(view.error("impossible block size", psize));
        }
        let mut dvas = [None; 3];
        for (index, dva) in dvas.iter_mut().enumerate() {
            let (first, second) = (word[index * 2], word[index * 2 + 1]);
            let asize = (first & 0xFF_FFFF) * SECTOR;
            if asize != 0 {
                let [_, _, _, _, b0, b1, b2, _] = first.to_le_bytes();
                *dva = Some(Dva {
                    vdev: u32::from_le_bytes([b0, b1, b2, 0]),
                    offset: (second & (u64::MAX >> 1)).checked_mul(SECTOR).ok_or_else(|| view.error("offset overflows", second))?,
                    asize,
                    gang: second >> 63 == 1,
                });
            }
        }
        let checksum = checksum(byte(field(40, 8))).ok_or_else(|| view.error("unknown checksum", field(40, 8)))?;
        Ok(Self {
            target: Target::Stored(dvas),
            lsize,
            psize,
            compression,
            checksum,
            kind,
            level,
            encrypted: field(61, 1) == 1,
            dedup: field(62, 1) == 1,
            physical_birth: if word[9] == 0 { word[10] } else { word[9] },
            birth: word[10],
            fill: word[11],
            words: [word[12], word[13], word[14], word[15]],
        })
    }

    /// The 128 bytes on disk.
    ///
    /// # Panics
    /// If sizes are not multiples of a sector within the format's limits: our own broken invariant.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        let mut word = [0_u64; 16];
        word[10] = self.birth;
        let sectors = |bytes: u64| {
            assert!(bytes.is_multiple_of(SECTOR) && bytes > 0 && bytes <= BLOCK_MAX, "block of {bytes} bytes");
            bytes / SECTOR - 1
        };
        let common = u64::from(compression_id(self.compression)) << 32
            | u64::from(self.kind) << 48
            | u64::from(self.level & 31) << 56
            | u64::from(self.encrypted) << 61
            | u64::from(self.dedup) << 62
            | 1 << 63;
        match &self.target {
            Target::Hole => {
                // A hole keeps what describes it only where `hole_birth` gives it a birth.
                if self.birth != 0 {
                    word[6] = u64::from(self.kind) << 48 | u64::from(self.level & 31) << 56 | 1 << 63 | sectors(self.lsize);
                }
            }
            Target::Embedded(payload) => {
                word[6] = (self.lsize - 1) | (self.psize - 1) << 25 | common | 1 << 39;
                let packed = payload.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
                let slots = (0..6).chain(7..10).chain(11..16);
                for (slot, value) in slots.zip(packed) {
                    word[slot] = value;
                }
            }
            Target::Stored(dvas) => {
                for (index, dva) in dvas.iter().enumerate() {
                    if let Some(dva) = dva {
                        word[index * 2] = (dva.asize / SECTOR) | (u64::from(dva.vdev) << 32);
                        word[index * 2 + 1] = (dva.offset / SECTOR) | (u64::from(dva.gang) << 63);
                    }
                }
                word[6] = sectors(self.lsize) | sectors(self.psize) << 16 | common | u64::from(checksum_id(self.checksum)) << 40;
                word[9] = if self.physical_birth == self.birth { 0 } else { self.physical_birth };
                word[11] = self.fill;
                word[12..].copy_from_slice(&self.words);
            }
        }
        let mut out = [0; SIZE];
        for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(word) {
            *bytes = word.to_le_bytes();
        }
        out
    }

    /// The copies in use.
    pub fn copies(&self) -> impl Iterator<Item = Dva> + '_ {
        let dvas: &[Option<Dva>] = if let Target::Stored(dvas) = &self.target { dvas } else { &[] };
        dvas.iter().flatten().copied()
    }
}

impl Compression {
    /// The number in block pointers and send streams.
    #[must_use]
    pub const fn id(self) -> u8 {
        compression_id(self)
    }
    /// The algorithm of a number; `None` for those no block may have.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        compression(id)
    }
}

impl Checksum {
    /// The number in block pointers and send streams.
    #[must_use]
    pub const fn id(self) -> u8 {
        checksum_id(self)
    }
}

const fn checksum(id: u8) -> Option<Checksum> {
    Some(match id {
        2 => Checksum::Off,
        3 => Checksum::Label,
        4 => Checksum::GangHeader,
        5 => Checksum::Zilog,
        6 => Checksum::Fletcher2,
        7 => Checksum::Fletcher4,
        8 => Checksum::Sha256,
        9 => Checksum::Zilog2,
        10 => Checksum::NoParity,
        11 => Checksum::Sha512,
        12..=14 => Checksum::Foreign(id),
        _ => return None,
    })
}

const fn checksum_id(checksum: Checksum) -> u8 {
    match checksum {
        Checksum::Off => 2,
        Checksum::Label => 3,
        Checksum::GangHeader => 4,
        Checksum::Zilog => 5,
        Checksum::Fletcher2 => 6,
        Checksum::Fletcher4 => 7,
        Checksum::Sha256 => 8,
        Checksum::Zilog2 => 9,
        Checksum::NoParity => 10,
        Checksum::Sha512 => 11,
        Checksum::Foreign(id) => id,
    }
}

const fn compression_id(compression: Compression) -> u8 {
    match compression {
        Compression::Off => 2,
        Compression::Lzjb => 3,
        Compression::Gzip(level) => 4 + level,
        Compression::Zle => 14,
        Compression::Lz4 => 15,
        Compression::Zstd => 16,
    }
}

const fn compression(id: u8) -> Option<Compression> {
    Some(match id {
        2 => Compression::Off,
        3 => Compression::Lzjb,
        5..=13 => Compression::Gzip(id - 4),
        14 => Compression::Zle,
        15 => Compression::Lz4,
        16 => Compression::Zstd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_can_be_written() {
        for (sectors, is_there) in [(BLOCK_MAX / SECTOR, true), (BLOCK_MAX / SECTOR + 1, false), (1 << 16, false)] {
            // A hole with a birth, and an embedded block, of so many sectors.
            for (properties, birth) in [(1 << 63 | 19 << 48 | (sectors - 1), 7_u64), (1 << 63 | 1 << 39 | 19 << 48 | 2 << 32 | (sectors * SECTOR - 1), 7)] {
                let mut raw = [0; SIZE];
                raw[48..56].copy_from_slice(&u64::to_le_bytes(properties));
                raw[80..88].copy_from_slice(&birth.to_le_bytes());
                let pointer = BlockPointer::parse(&raw);
                assert_eq!(pointer.as_ref().is_ok_and(|pointer| pointer.encode() == raw), is_there, "{pointer:?}");
            }
        }
    }
}
