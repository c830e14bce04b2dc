//! Records of a send stream: 312 bytes each, some with a payload behind them (format section 21).
//!
//! ```text
//! 0      4             8                              280          312
//! type   payload size  body (by type)                 checksum     payload ...
//! ```
//! The checksum is the Fletcher-4 of the whole stream from its BEGIN up to the field itself; the field and the payload enter it then.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use codec::Words;
use pool_phys::BLOCK_MAX;

use crate::{Feature, Why};

/// Bytes of a record.
pub const SIZE: usize = 312;
/// Where the running checksum stands.
pub const CHECKSUM_AT: usize = 280;
/// To the end of the object: the length of a FREE.
pub const TO_END: u64 = u64::MAX;
const MAGIC: u64 = 0x2_F5BA_CBAC;
/// Longest list behind a BEGIN. OpenZFS has none; this is more than a hundred thousand snapshots take.
const LIST_MAX: u64 = 64 << 20;
/// Largest bonus buffer (a dnode of 16 KiB).
const BONUS_MAX: u64 = 16 << 10;
const NAME_SIZE: usize = 256;

/// What a stream starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// A package of several streams; its list is the payload.
    pub compound: bool,
    /// Feature bits, as [`Feature`] numbers them.
    pub features: u64,
    pub creation_time: u64,
    /// What is sent: 2 ZPL, 3 zvol.
    pub os_kind: u32,
    pub flags: u32,
    pub to_guid: u64,
    pub from_guid: u64,
    pub name: String,
    pub payload: u32,
}

/// Bits of [`Begin::flags`].
pub mod flag {
    /// The base is the origin of a clone.
    pub const CLONE: u32 = 1;
    /// Everything that is not there is said to be free.
    pub const FREE_RECORDS: u32 = 4;
    /// OBJECT records tell whether there is a spill block.
    pub const SPILL_BLOCK: u32 = 8;
}
/// OBJECT has a spill block; SPILL was sent though it did not change.
pub const SPILL_FLAG: u8 = 4;

/// A dnode without its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    pub object: u64,
    pub kind: u8,
    pub bonus_kind: u8,
    pub block_size: u32,
    pub bonus_size: u32,
    pub checksum: u8,
    pub compression: u8,
    pub slots: u8,
    pub flags: u8,
}

/// A block of data. `packed` is the size of the payload where it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
    pub size: u64,
    pub checksum: u8,
    /// Compression id of the payload, 0 = none.
    pub compression: u8,
    pub packed: u64,
    /// Checksum of the block, for receivers that deduplicate.
    pub key: Words,
    pub key_prop: u64,
}

/// A record without what all have: the guid of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Begin(Begin),
    Object(ObjectRecord),
    FreeObjects { first: u64, count: u64 },
    Write(WriteRecord),
    Free { object: u64, offset: u64, length: u64 },
    /// The checksum of everything before.
    End { checksum: Words },
    Spill { object: u64, size: u64, flags: u8, compression: u8, packed: u64, kind: u8 },
    Embedded { object: u64, offset: u64, length: u64, compression: u8, lsize: u32, psize: u32 },
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }
    fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
    fn words(&self, at: usize) -> Words {
        [0, 8, 16, 24].map(|step| self.u64(at + step))
    }
    /// An object type, stored in four bytes.
    fn kind(&self, at: usize) -> Result<u8, Why> {
        u8::try_from(self.u32(at)).map_err(|_| Why::Field("object type", u64::from(self.u32(at))))
    }
}

/// The checksum field of a record.
#[must_use]
pub fn checksum(bytes: &[u8; SIZE]) -> Words {
    Fields(bytes).words(CHECKSUM_AT)
}

impl Record {
    /// Parses a record; gives the guid it is for.
    ///
    /// # Errors
    /// An unknown type, big-endian writers, sizes that no stream has.
    pub fn parse(bytes: &[u8; SIZE]) -> Result<(Self, u64), Why> {
        let f = Fields(bytes);
        let object = f.u64(8);
        let parsed = match f.u32(0) {
            0 => (Self::begin(&f)?, f.u64(40)),
            1 => {
                let record = ObjectRecord {
                    object,
                    kind: f.kind(16)?,
                    bonus_kind: f.kind(20)?,
                    block_size: f.u32(24),
                    bonus_size: f.u32(28),
                    checksum: f.u8(32),
                    compression: f.u8(33),
                    slots: f.u8(34).max(1),
                    flags: f.u8(35),
                };
                if record.kind == 0 || object == 0 || object >= 1 << 48 {
                    return Err(Why::Field("object", object));
                }
                if record.block_size == 0 || u64::from(record.block_size) > BLOCK_MAX || !record.block_size.is_multiple_of(512) {
                    return Err(Why::Field("block size", u64::from(record.block_size)));
                }
                (Self::Object(record), f.u64(40))
            }
            2 => (Self::FreeObjects { first: object, count: f.u64(16) }, f.u64(24)),
            3 => {
                let record = WriteRecord {
                    object,
                    kind: f.kind(16)?,
                    offset: f.u64(24),
                    size: f.u64(32),
                    checksum: f.u8(48),
                    compression: f.u8(50),
                    packed: f.u64(96),
                    key: f.words(56),
                    key_prop: f.u64(88),
                };
                if record.size == 0 || record.size > BLOCK_MAX || !record.size.is_multiple_of(512) || record.packed > BLOCK_MAX || !record.packed.is_multiple_of(512) {
                    return Err(Why::Field("block size", record.size));
                }
                (Self::Write(record), f.u64(40))
            }
            4 => (Self::Free { object, offset: f.u64(16), length: f.u64(24) }, f.u64(32)),
            5 => (Self::End { checksum: f.words(8) }, f.u64(40)),
            7 => {
                let (size, packed) = (f.u64(16), f.u64(40));
                if !(512..=BLOCK_MAX).contains(&size) || !size.is_multiple_of(512) || packed > BLOCK_MAX || !packed.is_multiple_of(8) {
                    return Err(Why::Field("spill block size", size));
                }
                (Self::Spill { object, size, flags: f.u8(32), compression: f.u8(33), packed, kind: f.kind(84)? }, f.u64(24))
            }
            8 => {
                let (lsize, psize) = (f.u32(48), f.u32(52));
                if f.u8(41) != 0 {
                    return Err(Why::Field("kind of embedded block", u64::from(f.u8(41))));
                }
                if psize == 0 || psize > 112 || lsize == 0 || u64::from(lsize) > BLOCK_MAX {
                    return Err(Why::Field("embedded block size", u64::from(psize)));
                }
                (Self::Embedded { object, offset: f.u64(16), length: f.u64(24), compression: f.u8(40), lsize, psize }, f.u64(32))
            }
            6 => return Err(Why::Feature(Feature::DEDUP)),
            9 => return Err(Why::Feature(Feature::RAW)),
            10 => return Err(Why::Feature(Feature::REDACTED)),
            other => return Err(Why::Type(other)),
        };
        if parsed.0.payload() > if matches!(parsed.0, Self::Begin(_)) { LIST_MAX } else { BLOCK_MAX } {
            return Err(Why::Field("payload size", parsed.0.payload()));
        }
        Ok(parsed)
    }

    fn begin(f: &Fields<'_>) -> Result<Self, Why> {
        let magic = f.u64(8);
        if magic != MAGIC {
            return Err(if magic.swap_bytes() == MAGIC { Why::BigEndian } else { Why::Magic });
        }
        let version = f.u64(16);
        if !matches!(version & 3, 1 | 2) {
            return Err(Why::Field("stream type", version & 3));
        }
        let name = &f.0[56..56 + NAME_SIZE];
        let end = name.iter().position(|byte| *byte == 0).ok_or(Why::Field("name without an end", 0))?;
        let name = core::str::from_utf8(&name[..end]).map_err(|_| Why::Field("name is not UTF-8", 0))?;
        Ok(Self::Begin(Begin {
            compound: version & 3 == 2,
            features: version >> 2,
            creation_time: f.u64(24),
            os_kind: f.u32(32),
            flags: f.u32(36),
            to_guid: f.u64(40),
            from_guid: f.u64(48),
            name: name.into(),
            payload: f.u32(4),
        }))
    }

    /// Bytes that follow the record.
    #[must_use]
    pub fn payload(&self) -> u64 {
        match self {
            Self::Begin(begin) => u64::from(begin.payload),
            Self::Object(object) => u64::from(object.bonus_size).next_multiple_of(8),
            Self::Write(write) => if write.compression == 0 { write.size } else { write.packed },
            Self::Spill { size, packed, .. } => if *packed == 0 { *size } else { *packed },
            Self::Embedded { psize, .. } => u64::from(*psize).next_multiple_of(8),
            Self::FreeObjects { .. } | Self::Free { .. } | Self::End { .. } => 0,
        }
    }

    /// True if the payload's size is one that the record's kind may have.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        match self {
            Self::Object(object) => object.bonus_size as u64 <= BONUS_MAX,
            Self::Write(write) => write.compression == 0 || write.packed > 0,
            _ => true,
        }
    }

    /// The record's bytes, with the checksum still to be put in.
    #[must_use]
    pub fn encode(&self, guid: u64) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let (number, guid_at) = match self {
            Self::Begin(begin) => {
                put(4, &begin.payload.to_le_bytes());
                put(8, &MAGIC.to_le_bytes());
                put(16, &(begin.features << 2 | if begin.compound { 2 } else { 1 }).to_le_bytes());
                put(24, &begin.creation_time.to_le_bytes());
                put(32, &begin.os_kind.to_le_bytes());
                put(36, &begin.flags.to_le_bytes());
                put(48, &begin.from_guid.to_le_bytes());
                put(56, &begin.name.as_bytes()[..begin.name.len().min(NAME_SIZE - 1)]);
                (0_u32, 40)
            }
            Self::Object(object) => {
                put(8, &object.object.to_le_bytes());
                put(16, &u32::from(object.kind).to_le_bytes());
                put(20, &u32::from(object.bonus_kind).to_le_bytes());
                put(24, &object.block_size.to_le_bytes());
                put(28, &object.bonus_size.to_le_bytes());
                put(32, &[object.checksum, object.compression, object.slots, object.flags]);
                (1, 40)
            }
            Self::FreeObjects { first, count } => {
                put(8, &first.to_le_bytes());
                put(16, &count.to_le_bytes());
                (2, 24)
            }
            Self::Write(write) => {
                put(8, &write.object.to_le_bytes());
                put(16, &u32::from(write.kind).to_le_bytes());
                put(24, &write.offset.to_le_bytes());
                put(32, &write.size.to_le_bytes());
                put(48, &[write.checksum, 0, write.compression]);
                for (index, word) in write.key.iter().enumerate() {
                    put(56 + index * 8, &word.to_le_bytes());
                }
                put(88, &write.key_prop.to_le_bytes());
                put(96, &write.packed.to_le_bytes());
                (3, 40)
            }
            Self::Free { object, offset, length } => {
                put(8, &object.to_le_bytes());
                put(16, &offset.to_le_bytes());
                put(24, &length.to_le_bytes());
                (4, 32)
            }
            Self::End { checksum } => {
                for (index, word) in checksum.iter().enumerate() {
                    put(8 + index * 8, &word.to_le_bytes());
                }
                (5, 40)
            }
            Self::Spill { object, size, flags, compression, packed, kind } => {
                put(8, &object.to_le_bytes());
                put(16, &size.to_le_bytes());
                put(32, &[*flags, *compression]);
                put(40, &packed.to_le_bytes());
                put(84, &u32::from(*kind).to_le_bytes());
                (7, 24)
            }
            Self::Embedded { object, offset, length, compression, lsize, psize } => {
                put(8, &object.to_le_bytes());
                put(16, &offset.to_le_bytes());
                put(24, &length.to_le_bytes());
                put(40, &[*compression, 0]);
                put(48, &lsize.to_le_bytes());
                put(52, &psize.to_le_bytes());
                (8, 32)
            }
        };
        put(0, &number.to_le_bytes());
        put(guid_at, &guid.to_le_bytes());
        out
    }
}

/// Puts records into a stream: keeps the running checksum.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    sum: Words,
    /// Bytes so far.
    pub bytes: u64,
}

impl Writer {
    /// Appends a record and its payload, whose size is what the record says.
    pub fn put(&mut self, out: &mut Vec<u8>, record: &Record, guid: u64, payload: &[u8]) {
        assert_eq!(record.payload(), payload.len() as u64, "a record says how long its payload is");
        let record = match record {
            Record::End { .. } => &Record::End { checksum: self.sum },
            other => other,
        };
        let mut bytes = record.encode(guid);
        self.sum = codec::fletcher4_continue(self.sum, &bytes[..CHECKSUM_AT]);
        // A name is longer than the place of the checksum: BEGIN has none.
        if !matches!(record, Record::Begin(_)) {
            for (field, word) in bytes[CHECKSUM_AT..].as_chunks_mut::<8>().0.iter_mut().zip(self.sum) {
                *field = word.to_le_bytes();
            }
        }
        self.sum = codec::fletcher4_continue(self.sum, &bytes[CHECKSUM_AT..]);
        self.sum = codec::fletcher4_continue(self.sum, payload);
        out.extend_from_slice(&bytes);
        out.extend_from_slice(payload);
        self.bytes += (SIZE + payload.len()) as u64;
    }

    /// The two ENDs of a package's head carry no checksum of their own: appends one that says `checksum`.
    pub fn put_bare_end(&mut self, out: &mut Vec<u8>, with_checksum: bool) {
        let checksum = if with_checksum { self.sum } else { [0; 4] };
        out.extend_from_slice(&Record::End { checksum }.encode(0));
        self.bytes += SIZE as u64;
        self.sum = [0; 4];
    }
}

/// A payload padded as its record demands.
#[must_use]
pub fn padded(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}
