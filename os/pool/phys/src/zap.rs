//! ZAP objects: names to integer arrays.
//!
//! A micro ZAP is one block of 64-byte entries. A fat ZAP is a header block with a pointer table (embedded, or in blocks of its
//! own), and leaf blocks whose 24-byte chunks form entries, names and values.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::{View, index};

const MICRO: u64 = 0x8000_0000_0000_0003;
const HEADER: u64 = 0x8000_0000_0000_0001;
const LEAF: u64 = 0x8000_0000_0000_0000;
const HEADER_MAGIC: u64 = 0x2_F52A_B2AB;
const LEAF_MAGIC: u32 = 0x2AB_1EAF;
const END_OF_CHAIN: u16 = 0xFFFF;
const CHUNK: usize = 24;
const CHUNK_DATA: usize = 21;
const CHUNK_ENTRY: u8 = 252;
const CHUNK_ARRAY: u8 = 251;
const CHUNK_FREE: u8 = 253;
/// Longest name of a micro ZAP entry, in bytes.
pub const MICRO_NAME_MAX: usize = 49;

/// An entry: the name's bytes without NUL (or the raw key words, big-endian, of a `UINT64_KEY` ZAP) and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Bytes of one integer: 1, 2, 4 or 8.
    pub integer_size: u8,
    /// The integers, widened.
    pub value: Vec<u64>,
}

impl Entry {
    /// The name as text, damaged UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
    /// The value if it is a single integer.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        if let [value] = self.value[..] { Some(value) } else { None }
    }
    /// The value as bytes without the closing NUL, if its integers are bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let bytes: Vec<u8> = self.value.iter().map(|value| value.to_le_bytes()[0]).collect();
        (self.integer_size == 1).then(|| bytes.strip_suffix(&[0]).unwrap_or(&bytes).to_vec())
    }
}

/// What block 0 of a ZAP is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// All entries of a micro ZAP.
    Micro(Vec<Entry>),
    Fat(Header),
}

/// Header of a fat ZAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// First block and number of blocks of the external pointer table; 0 blocks = embedded.
    pub table_block: u64,
    pub table_blocks: u64,
    /// log2 of the number of table entries.
    pub table_shift: u32,
    /// Next never-used block: an upper bound of leaf numbers.
    pub free_block: u64,
    pub salt: u64,
    pub leaves: u64,
    pub entries: u64,
    /// Normalisation of names; bit 1 = folded to upper case before hashing.
    pub normalisation: u64,
    pub flags: u64,
    /// Keys are arrays of u64 words.
    pub word_keys: bool,
    /// 48 instead of 28 hash bits.
    pub long_hash: bool,
    /// Embedded pointer table (empty if external).
    pub table: Vec<u64>,
}

impl Header {
    /// Hash of a name as entries store it.
    #[must_use]
    pub fn hash(&self, name: &[u8]) -> u64 {
        let bits = if self.long_hash { 48 } else { 28 };
        let folded;
        let name = if self.normalisation & 2 != 0 {
            folded = name.to_ascii_uppercase();
            &folded
        } else {
            name
        };
        codec::zap_hash(self.salt, name) & !(u64::MAX >> bits)
    }

    /// Table index of a name.
    #[must_use]
    pub fn table_index(&self, name: &[u8]) -> u64 {
        if self.table_shift == 0 { 0 } else { self.hash(name) >> (64 - self.table_shift) }
    }

    /// Header of a new fat ZAP of one leaf (block 1) for blocks of `1 << block_shift` bytes.
    #[must_use]
    pub fn new(block_shift: u32, salt: u64, normalisation: u64) -> Self {
        let table_shift = block_shift - 4;
        Self {
            table_block: 0,
            table_blocks: 0,
            table_shift,
            free_block: 2,
            salt,
            leaves: 1,
            entries: 0,
            normalisation,
            flags: 0,
            word_keys: false,
            long_hash: false,
            table: alloc::vec![1; 1 << table_shift],
        }
    }

    /// Block 0 of `size` bytes.
    #[must_use]
    pub fn encode(&self, size: usize) -> Vec<u8> {
        let mut out = alloc::vec![0; size];
        let words = [
            HEADER,
            HEADER_MAGIC,
            self.table_block,
            self.table_blocks,
            u64::from(self.table_shift),
            0,
            0,
            self.free_block,
            self.leaves,
            self.entries,
            self.salt,
            self.normalisation,
            self.flags,
        ];
        let embedded: &[u64] = if self.table_blocks == 0 { &self.table } else { &[] };
        let (head, half) = out.split_at_mut(size / 2);
        for (slot, word) in head.chunks_exact_mut(8).zip(words).chain(half.chunks_exact_mut(8).zip(embedded.iter().copied())) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// Parses block 0.
///
/// # Errors
/// Not a ZAP, or a header that contradicts itself.
pub fn parse_root(data: &[u8]) -> Result<Root, FormatError> {
    let view = View::new("ZAP", data);
    match view.u64(0)? {
        MICRO => parse_micro(&view).map(Root::Micro),
        HEADER => parse_header(&view).map(Root::Fat),
        other => Err(view.error("block 0 has the wrong type", other)),
    }
}

fn parse_micro(view: &View<'_>) -> Result<Vec<Entry>, FormatError> {
    let mut entries = Vec::new();
    for at in (64..view.data.len()).step_by(64) {
        let field = view.slice(at + 14, 50)?;
        let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
        if !name.is_empty() {
            entries.push(Entry { name: name.to_vec(), integer_size: 8, value: [view.u64(at)?].to_vec() });
        }
    }
    Ok(entries)
}

fn parse_header(view: &View<'_>) -> Result<Header, FormatError> {
    if view.u64(8)? != HEADER_MAGIC {
        return Err(view.error("wrong header magic", view.u64(8)?));
    }
    let shift = view.u64(32)?;
    let table_shift = u32::try_from(shift).ok().filter(|shift| *shift <= 40).ok_or_else(|| view.error("pointer table too large", shift))?;
    let (table_block, table_blocks) = (view.u64(16)?, view.u64(24)?);
    let half = view.data.len() / 2;
    let mut table = Vec::new();
    if table_blocks == 0 {
        let entries = 1_usize << table_shift.min(31);
        if entries * 8 > half {
            return Err(view.error("embedded pointer table too large", shift));
        }
        for entry in 0..entries {
            table.push(view.u64(half + entry * 8)?);
        }
    }
    let flags = view.u64(96)?;
    Ok(Header {
        table_block,
        table_blocks,
        table_shift,
        free_block: view.u64(56)?,
        leaves: view.u64(64)?,
        entries: view.u64(72)?,
        normalisation: view.u64(88)?,
        flags,
        salt: view.u64(80)?,
        word_keys: flags & 2 != 0,
        long_hash: flags & 1 != 0,
        table,
    })
}

/// Encodes a micro ZAP of `size` bytes. `None` if an entry does not suit one (not a single number, a long name) or there are too many.
#[must_use]
pub fn encode_micro(entries: &[Entry], size: usize, salt: u64, normalisation: u64) -> Option<Vec<u8>> {
    let mut out = alloc::vec![0; size];
    for (slot, word) in out.chunks_exact_mut(8).zip([MICRO, salt, normalisation]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    let header = micro_hashes(salt, normalisation);
    let mut hashes: BTreeMap<u64, u32> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let slot = out.get_mut((index + 1) * 64..(index + 2) * 64)?;
        let value = entry.number().filter(|_| entry.integer_size == 8 && entry.name.len() <= MICRO_NAME_MAX)?;
        // Entries whose hashes collide are told apart by rising numbers.
        let twins = hashes.entry(header.hash(&entry.name)).or_insert(0);
        slot[..8].copy_from_slice(&value.to_le_bytes());
        slot[8..12].copy_from_slice(&twins.to_le_bytes());
        *twins += 1;
        slot[14..14 + entry.name.len()].copy_from_slice(&entry.name);
    }
    Some(out)
}

/// Bytes of a micro ZAP's header, and of each entry.
pub const MICRO_SLOT: usize = 64;

/// The entries of a micro ZAP's block: slot, name, value. `None` if it is none.
pub fn micro_entries(data: &[u8]) -> Option<impl Iterator<Item = (usize, &[u8], u64)>> {
    let (slots, _) = data.as_chunks::<MICRO_SLOT>();
    let (header, slots) = slots.split_first()?;
    if header.first_chunk() != Some(&MICRO.to_le_bytes()) {
        return None;
    }
    Some((1..).zip(slots).filter_map(|(slot, bytes)| {
        let name = bytes[14..].split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
        Some((slot, name, u64::from_le_bytes(*bytes.first_chunk()?)))
    }))
}

/// What tells an entry of a micro ZAP from others of its hash.
#[must_use]
pub fn micro_twin(data: &[u8], slot: usize) -> u32 {
    let bytes = data.get(slot * MICRO_SLOT + 8..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// True if an entry suits a micro ZAP: one number, and a name that is not long.
#[must_use]
pub fn suits_micro(entry: &Entry) -> Option<u64> {
    entry.number().filter(|_| entry.integer_size == 8 && (1..=MICRO_NAME_MAX).contains(&entry.name.len()) && !entry.name.contains(&0))
}

/// Puts an entry into a slot of a micro ZAP's block, or takes it out.
///
/// # Panics
/// If there is no such slot.
pub fn put_micro(data: &mut [u8], slot: usize, entry: Option<(&[u8], u64, u32)>) {
    let bytes = &mut data[slot * MICRO_SLOT..(slot + 1) * MICRO_SLOT];
    bytes.fill(0);
    if let Some((name, value, twin)) = entry {
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..12].copy_from_slice(&twin.to_le_bytes());
        bytes[14..14 + name.len()].copy_from_slice(name);
    }
}

/// How a micro ZAP with this header tells its names apart.
#[must_use]
pub fn micro_hashes(salt: u64, normalisation: u64) -> Header {
    Header { normalisation, ..Header::new(9, salt, 0) }
}

/// Salt and normalisation of a micro ZAP's block.
///
/// # Errors
/// Too short.
pub fn micro_header(data: &[u8]) -> Result<(u64, u64), FormatError> {
    let view = View::new("ZAP", data);
    Ok((view.u64(8)?, view.u64(16)?))
}

/// Prefix and its length in bits of a leaf.
///
/// # Errors
/// Too short.
pub fn leaf_prefix(data: &[u8]) -> Result<(u64, u32), FormatError> {
    let view = View::new("ZAP leaf", data);
    Ok((view.u64(16)?, u32::from(view.u16(32)?)))
}

/// Encodes a leaf of `size` bytes afresh. `None` if the entries do not fit: the leaf must be split.
#[must_use]
pub fn encode_leaf(entries: &[Entry], header: &Header, prefix: u64, prefix_length: u32, size: usize) -> Option<Vec<u8>> {
    let block_shift = size.trailing_zeros();
    let buckets = size / 32;
    let chunks_at = 48 + buckets * 2;
    let count = chunk_count(size);
    let mut out = alloc::vec![0; size];
    out[..8].copy_from_slice(&LEAF.to_le_bytes());
    out[16..24].copy_from_slice(&prefix.to_le_bytes());
    out[24..28].copy_from_slice(&LEAF_MAGIC.to_le_bytes());
    out[32..34].copy_from_slice(&u16::try_from(prefix_length).ok()?.to_le_bytes());
    out[36] = 1;
    out[48..chunks_at].fill(0xFF);
    let mut sorted: Vec<(u64, &Entry)> = entries.iter().map(|entry| (header.hash(&entry.name), entry)).collect();
    sorted.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let mut next = 0_usize;
    // Appends an array as a chain of chunks; returns its first chunk.
    let array = |out: &mut Vec<u8>, next: &mut usize, data: &[u8]| -> Option<u16> {
        let first = u16::try_from(*next).ok()?;
        let pieces = data.len().div_ceil(CHUNK_DATA).max(1);
        for (index, piece) in (0..pieces).zip(data.chunks(CHUNK_DATA).chain(core::iter::once(&[][..]))) {
            if *next == count {
                return None;
            }
            let at = chunks_at + *next * CHUNK;
            *next += 1;
            out[at] = CHUNK_ARRAY;
            out[at + 1..at + 1 + piece.len()].copy_from_slice(piece);
            let link = if index + 1 == pieces { END_OF_CHAIN } else { u16::try_from(*next).ok()? };
            out[at + 22..at + 24].copy_from_slice(&link.to_le_bytes());
        }
        Some(first)
    };
    let mut last_of_bucket: alloc::collections::BTreeMap<usize, usize> = alloc::collections::BTreeMap::new();
    let mut twins = (0, 0_u32);
    for (position, (hash, entry)) in sorted.iter().enumerate() {
        twins = if position > 0 && twins.0 == *hash { (*hash, twins.1 + 1) } else { (*hash, 0) };
        if next == count {
            return None;
        }
        let chunk = next;
        next += 1;
        let mut name = entry.name.clone();
        name.push(0);
        let value: Vec<u8> = entry.value.iter().flat_map(|value| value.to_be_bytes()[8 - usize::from(entry.integer_size)..].to_vec()).collect();
        let name_at = array(&mut out, &mut next, &name)?;
        let value_at = array(&mut out, &mut next, &value)?;
        let at = chunks_at + chunk * CHUNK;
        out[at] = CHUNK_ENTRY;
        out[at + 1] = entry.integer_size;
        out[at + 2..at + 4].copy_from_slice(&END_OF_CHAIN.to_le_bytes());
        out[at + 4..at + 6].copy_from_slice(&name_at.to_le_bytes());
        out[at + 6..at + 8].copy_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        out[at + 8..at + 10].copy_from_slice(&value_at.to_le_bytes());
        out[at + 10..at + 12].copy_from_slice(&u16::try_from(entry.value.len()).ok()?.to_le_bytes());
        out[at + 12..at + 16].copy_from_slice(&twins.1.to_le_bytes());
        out[at + 16..at + 24].copy_from_slice(&hash.to_le_bytes());
        let bucket = index(*hash << prefix_length >> (64 - (block_shift - 5)));
        let link = u16::try_from(chunk).ok()?.to_le_bytes();
        match last_of_bucket.insert(bucket, chunk) {
            None => out[48 + bucket * 2..50 + bucket * 2].copy_from_slice(&link),
            Some(before) => out[chunks_at + before * CHUNK + 2..chunks_at + before * CHUNK + 4].copy_from_slice(&link),
        }
    }
    out[28..30].copy_from_slice(&u16::try_from(count - next).ok()?.to_le_bytes());
    out[30..32].copy_from_slice(&u16::try_from(sorted.len()).ok()?.to_le_bytes());
    let freelist = if next == count { END_OF_CHAIN } else { u16::try_from(next).ok()? };
    out[34..36].copy_from_slice(&freelist.to_le_bytes());
    for chunk in next..count {
        let at = chunks_at + chunk * CHUNK;
        out[at] = CHUNK_FREE;
        let link = if chunk + 1 == count { END_OF_CHAIN } else { u16::try_from(chunk + 1).ok()? };
        out[at + 22..at + 24].copy_from_slice(&link.to_le_bytes());
    }
    Some(out)
}

/// Parses all entries of a leaf block.
///
/// # Errors
/// Wrong magic, chunk numbers or chains that leave the block or run in circles.
pub fn parse_leaf(data: &[u8], header: &Header) -> Result<Vec<Entry>, FormatError> {
    let view = View::new("ZAP leaf", data);
    if view.u64(0)? != LEAF || view.u32(24)? != LEAF_MAGIC {
        return Err(view.error("wrong magic", view.u64(0)?));
    }
    let leaf = Leaf { chunks_at: 48 + data.len() / 32 * 2, view };
    let count = chunk_count(data.len());
    let mut entries = Vec::new();
    for chunk in 0..count {
        let at = leaf.chunks_at + chunk * CHUNK;
        if view.u8(at)? != CHUNK_ENTRY {
            continue;
        }
        let integer_size = view.u8(at + 1)?;
        if ![1, 2, 4, 8].contains(&integer_size) {
            return Err(view.error("impossible integer size", u64::from(integer_size)));
        }
        let name_length = usize::from(view.u16(at + 6)?) * if header.word_keys { 8 } else { 1 };
        let mut name = leaf.array(view.u16(at + 4)?, name_length, count)?;
        if !header.word_keys {
            name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        }
        let value_bytes = usize::from(view.u16(at + 10)?) * usize::from(integer_size);
        let value = leaf.array(view.u16(at + 8)?, value_bytes, count)?;
        let widen = |bytes: &[u8]| bytes.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        entries.push(Entry { name, integer_size, value: value.chunks_exact(usize::from(integer_size)).map(widen).collect() });
    }
    Ok(entries)
}

/// Chunks in a leaf of `size` bytes: 638 for 16 KiB.
const fn chunk_count(size: usize) -> usize {
    ((size - size / 16) / CHUNK).saturating_sub(2)
}

struct Leaf<'a> {
    view: View<'a>,
    chunks_at: usize,
}

impl Leaf<'_> {
    /// Collects `size` bytes from the chain of array chunks that starts at `chunk`.
    fn array(&self, mut chunk: u16, size: usize, count: usize) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        while out.len() < size {
            if chunk == END_OF_CHAIN || usize::from(chunk) >= count || out.len() > count * CHUNK_DATA {
                return Err(self.view.error("array chain breaks at chunk", u64::from(chunk)));
            }
            let at = self.chunks_at + usize::from(chunk) * CHUNK;
            if self.view.u8(at)? != CHUNK_ARRAY {
                return Err(self.view.error("array chain meets another kind of chunk", u64::from(chunk)));
            }
            let data = self.view.slice(at + 1, CHUNK_DATA)?;
            out.extend_from_slice(&data[..CHUNK_DATA.min(size - out.len())]);
            chunk = self.view.u16(at + 22)?;
        }
        Ok(out)
    }
}

/// Splits an external pointer-table block into its entries.
#[must_use]
pub fn parse_table(data: &[u8]) -> Vec<u64> {
    data.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// Largest number of leaf blocks a reader visits: each lies below the header's free block.
#[must_use]
pub fn leaf_limit(header: &Header) -> usize {
    index(header.free_block)
}
