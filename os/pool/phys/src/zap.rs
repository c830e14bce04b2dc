//! ZAP objects: names to integer arrays.
//!
//! A micro ZAP is one block of 64-byte entries. A fat ZAP is a header block with a pointer table (embedded, or in blocks of its
//! own), and leaf blocks whose 24-byte chunks form entries, names and values.

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
    /// Keys are arrays of u64 words.
    pub word_keys: bool,
    /// 48 instead of 28 hash bits.
    pub long_hash: bool,
    /// Embedded pointer table (empty if external).
    pub table: Vec<u64>,
}

impl Header {
    /// Table index of a name.
    #[must_use]
    pub fn table_index(&self, name: &[u8]) -> u64 {
        let bits = if self.long_hash { 48 } else { 28 };
        let hash = codec::zap_hash(self.salt, name) & !(u64::MAX >> bits);
        if self.table_shift == 0 { 0 } else { hash >> (64 - self.table_shift) }
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
        salt: view.u64(80)?,
        word_keys: flags & 2 != 0,
        long_hash: flags & 1 != 0,
        table,
    })
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
    let count = data.len().saturating_sub(leaf.chunks_at) / CHUNK;
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
