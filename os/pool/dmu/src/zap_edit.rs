//! Changing ZAP objects.
//!
//! A ZAP starts as a micro ZAP and grows by 512 bytes; a long name, a value that is not one number, or 128 KiB make it a fat one. Fat leaves are rebuilt
//! whole on each change, micro ZAPs in place; a full leaf splits, and the pointer table doubles when a leaf needs more prefix bits than it has.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::zap::{self, Entry, Header, Root};
use pool_spa::Pool;

use crate::edit::{Edit, EditError, Slots};

const MICRO_MAX: usize = 128 << 10;
const FAT_SHIFT: u32 = 14;
const FAT_BLOCK: usize = 1 << FAT_SHIFT;
/// Salts keep nothing secret: the hash is linear, so names that share one are as easy to make for any ([`set_fat`] bears them). A constant keeps runs repeatable.
const SALT: u64 = 0x5A17_C0DE_0000_0001;

/// Most bits that tell leaves apart: hashes have 28, and a pointer table doubles with each.
const PREFIX_MAX: u32 = 26;
/// Entries of a full leaf may agree in so many bits more than its place among the leaves asks for: that many of few (large values) by chance, of many on purpose only.
const SKEW_MANY: u32 = 8;
const SKEW_FEW: u32 = 14;
const FEW: usize = 8;

/// Makes the object an empty micro ZAP of its block size.
pub fn format(edit: &mut Edit, normalisation: u64) {
    let size = usize::try_from(edit.dnode.block_size).unwrap_or(512);
    let empty = zap::encode_micro(&[], size, SALT, normalisation).expect("no entries always fit");
    edit.put_block(0, empty);
}

/// The entries of a ZAP being changed; `None` for `name` gives all.
///
/// # Errors
/// Unreadable, malformed.
pub fn entries(edit: &Edit, pool: &Pool, name: Option<&[u8]>) -> Result<Vec<Entry>, EditError> {
    if let Some(name) = name
        && let Some(found) = edit.look(pool, 0, |data| find_micro(data, name))?
    {
        return Ok(found.map(|(_, value)| Entry { name: name.to_vec(), integer_size: 8, value: vec![value] }).into_iter().collect());
    }
    let all = match root(edit, pool)? {
        Root::Micro(entries) => entries,
        Root::Fat(header) => match name {
            Some(name) => zap::parse_leaf(&edit.block(pool, leaf_number(edit, pool, &header, name)?)?, &header)?,
            None => {
                let mut leaves: Vec<u64> = if header.table_blocks == 0 { header.table.clone() } else { external_table(edit, pool, &header)? };
                leaves.sort_unstable();
                leaves.dedup();
                let mut out = Vec::new();
                for leaf in leaves.into_iter().filter(|leaf| *leaf != 0) {
                    out.extend(zap::parse_leaf(&edit.block(pool, leaf)?, &header)?);
                }
                out
            }
        },
    };
    Ok(all.into_iter().filter(|entry| name.is_none_or(|name| entry.name == name)).collect())
}

/// A part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Hashes with what is there.
    pub entries: Vec<(u64, T)>,
    /// The hash to go on from; `None`: that was all.
    pub next: Option<u64>,
}

/// Bits of a hash that no ZAP uses.
const HASH_UNUSED: u32 = 16;

/// Entries in the order of their hashes, from hash `from` on, at least `want` of them if there are so many. Hashes have 48 bits; entries of one hash come together. A ZAP is not read beyond what it takes.
///
/// # Errors
/// Unreadable, malformed.
pub fn entries_from(edit: &Edit, pool: &Pool, from: u64, want: usize) -> Result<Page<Entry>, EditError> {
    let mut out: Vec<(u64, Entry)> = Vec::new();
    let mut take = |header: &Header, entries: Vec<Entry>| {
        let mut part: Vec<(u64, Entry)> = entries.into_iter().map(|entry| (header.hash(&entry.name) >> HASH_UNUSED, entry)).filter(|(hash, _)| *hash >= from).collect();
        part.sort_unstable_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
        out.append(&mut part);
        out.len()
    };
    match root(edit, pool)? {
        Root::Micro(entries) => {
            let (salt, normalisation) = zap::micro_header(&edit.block(pool, 0)?)?;
            take(&Header::new(FAT_SHIFT, salt, normalisation), entries);
        }
        Root::Fat(header) => {
            let shift = header.table_shift;
            let size = 1_u64.checked_shl(shift).ok_or(FormatError::new("ZAP", "pointer table is too large", u64::from(shift)))?;
            let mut index = if shift == 0 { 0 } else { (from << HASH_UNUSED) >> (64 - shift) };
            while index < size {
                let data = edit.block(pool, leaf_at(edit, pool, &header, index)?)?;
                let (prefix, length) = zap::leaf_prefix(&data)?;
                let span_bits = shift.checked_sub(length).ok_or(FormatError::new("ZAP", "leaf prefix is longer than the table's", u64::from(length)))?;
                // A leaf stands for one prefix, so each is met once, whatever a table of 2^40 entries says.
                if prefix != index >> span_bits {
                    return Err(FormatError::new("ZAP", "leaf is not where its prefix belongs", prefix).into());
                }
                let span = 1 << span_bits;
                index = (index / span + 1) * span;
                if take(&header, zap::parse_leaf(&data, &header)?) >= want && index < size {
                    return Ok(Page { entries: out, next: Some(index << (64 - shift) >> HASH_UNUSED) });
                }
            }
        }
    }
    Ok(Page { entries: out, next: None })
}

/// The number called `name`, if there is one.
///
/// # Errors
/// Unreadable, malformed.
pub fn number(edit: &Edit, pool: &Pool, name: &[u8]) -> Result<Option<u64>, EditError> {
    Ok(entries(edit, pool, Some(name))?.first().and_then(Entry::number))
}

/// Sets `name` to one number.
///
/// # Errors
/// As [`set`].
pub fn set_number(edit: &mut Edit, pool: &Pool, name: &[u8], value: u64) -> Result<(), EditError> {
    set(edit, pool, Entry { name: name.to_vec(), integer_size: 8, value: vec![value] })
}

/// Adds to the number called `name`; an entry that reaches zero goes.
///
/// # Errors
/// As [`set`].
pub fn add(edit: &mut Edit, pool: &Pool, name: &[u8], by: i64) -> Result<(), EditError> {
    let value = number(edit, pool, name)?.unwrap_or(0).wrapping_add_signed(by);
    if value == 0 { remove(edit, pool, name).map(drop) } else { set_number(edit, pool, name, value) }
}

fn root(edit: &Edit, pool: &Pool) -> Result<Root, EditError> {
    // A table that was never written is an empty one.
    let parse = |data: &[u8]| if data.iter().all(|byte| *byte == 0) { Ok(Root::Micro(Vec::new())) } else { zap::parse_root(data) };
    Ok(edit.look(pool, 0, parse)??)
}

/// Slot and value of a name in a micro ZAP's block. `None`: it is none.
fn find_micro(data: &[u8], name: &[u8]) -> Option<Option<(usize, u64)>> {
    zap::micro_entries(data).map(|mut entries| entries.find(|(_, known, _)| *known == name).map(|(slot, _, value)| (slot, value)))
}

/// What is known of the names of a micro ZAP's block.
fn index_micro(data: &[u8], header: &Header) -> Slots {
    let mut slots = Slots { by_hash: BTreeMap::new(), first_free: 1 };
    for (slot, name, _) in zap::micro_entries(data).into_iter().flatten() {
        slots.by_hash.entry(header.hash(name)).or_default().push(slot);
        if slot == slots.first_free {
            slots.first_free += 1;
        }
    }
    slots
}

fn micro_hashes(data: &[u8]) -> Result<Header, EditError> {
    let (salt, normalisation) = zap::micro_header(data)?;
    Ok(zap::micro_hashes(salt, normalisation))
}

/// Sets an entry of a micro ZAP in place. False if it does not suit one or does not fit.
fn set_micro(edit: &mut Edit, pool: &Pool, entry: &Entry) -> Result<bool, EditError> {
    let Some(value) = zap::suits_micro(entry) else { return Ok(false) };
    let size = edit.dnode.block_size;
    let (data, index) = edit.change_first(pool, size)?;
    if zap::micro_entries(data).is_none() {
        // Never written: an empty one.
        *data = zap::encode_micro(&[], data.len(), SALT, 0).ok_or(EditError::Invalid("a micro ZAP without entries did not fit"))?;
    }
    let header = micro_hashes(data)?;
    let hash = header.hash(&entry.name);
    let slots = index.0.get_or_insert_with(|| index_micro(data, &header));
    let twins = slots.by_hash.get(&hash).map_or(&[][..], Vec::as_slice);
    let name_of = |slot: usize| data.get(slot * zap::MICRO_SLOT + 14..(slot + 1) * zap::MICRO_SLOT).and_then(|bytes| bytes.split(|byte| *byte == 0).next());
    if let Some(slot) = twins.iter().copied().find(|slot| name_of(*slot) == Some(&entry.name)) {
        let twin = zap::micro_twin(data, slot);
        zap::put_micro(data, slot, Some((&entry.name, value, twin)));
        return Ok(true);
    }
    let taken: Vec<u32> = twins.iter().map(|slot| zap::micro_twin(data, *slot)).collect();
    let twin = (0..).find(|twin| !taken.contains(twin)).unwrap_or(0);
    let count = data.len() / zap::MICRO_SLOT;
    let free = (slots.first_free..count).find(|slot| name_of(*slot).is_none_or(<[u8]>::is_empty));
    let slot = free.unwrap_or(count);
    if slot == count {
        let wanted = ((count + 1) * zap::MICRO_SLOT).next_multiple_of(512);
        if wanted > MICRO_MAX {
            return Ok(false);
        }
        edit.change_first(pool, wanted as u64)?;
    }
    let (data, index) = edit.change_first(pool, edit.dnode.block_size)?;
    zap::put_micro(data, slot, Some((&entry.name, value, twin)));
    if let Some(slots) = &mut index.0 {
        slots.by_hash.entry(hash).or_default().push(slot);
        slots.first_free = slot + 1;
    }
    Ok(true)
}

/// Sets an entry, replacing one of its name.
///
/// # Errors
/// Unreadable, malformed, or a value too large for a leaf.
pub fn set(edit: &mut Edit, pool: &Pool, entry: Entry) -> Result<(), EditError> {
    if !is_micro(edit, pool)? {
        return set_fat(edit, pool, entry);
    }
    if set_micro(edit, pool, &entry)? {
        return Ok(());
    }
    let Root::Micro(mut entries) = root(edit, pool)? else { return Err(EditError::Invalid("a micro ZAP became another")) };
    let (salt, normalisation) = micro_header(edit, pool)?;
    entries.retain(|old| old.name != entry.name);
    entries.push(entry);
    make_fat(edit, pool, entries, salt, normalisation)
}

/// True of a micro ZAP, and of a table that was never written.
fn is_micro(edit: &Edit, pool: &Pool) -> Result<bool, EditError> {
    Ok(edit.look(pool, 0, |data| zap::micro_entries(data).is_some() || data.iter().all(|byte| *byte == 0))?)
}

fn micro_header(edit: &Edit, pool: &Pool) -> Result<(u64, u64), EditError> {
    let (salt, normalisation) = edit.look(pool, 0, zap::micro_header)??;
    Ok((if salt == 0 { SALT } else { salt }, normalisation))
}

fn make_fat(edit: &mut Edit, pool: &Pool, entries: Vec<Entry>, salt: u64, normalisation: u64) -> Result<(), EditError> {
    edit.resize_block(pool, FAT_BLOCK as u64)?;
    let header = Header::new(FAT_SHIFT, salt, normalisation);
    edit.put_block(0, header.encode(FAT_BLOCK));
    edit.put_block(1, zap::encode_leaf(&[], &header, 0, 0, FAT_BLOCK).ok_or(EditError::Invalid("an empty leaf did not fit"))?);
    entries.into_iter().try_for_each(|entry| set_fat(edit, pool, entry))
}

fn fat_header(edit: &Edit, pool: &Pool) -> Result<Header, EditError> {
    match root(edit, pool)? {
        Root::Fat(header) if !header.word_keys => Ok(header),
        _ => Err(EditError::Invalid("this kind of ZAP cannot be changed")),
    }
}

fn external_table(edit: &Edit, pool: &Pool, header: &Header) -> Result<Vec<u64>, EditError> {
    let mut out = Vec::new();
    for block in 0..header.table_blocks.min(edit.dnode.last_block).min(1 << 14) {
        out.extend(zap::parse_table(&edit.block(pool, header.table_block.saturating_add(block))?));
    }
    out.truncate(1 << header.table_shift.min(40));
    Ok(out)
}

fn leaf_number(edit: &Edit, pool: &Pool, header: &Header, name: &[u8]) -> Result<u64, EditError> {
    leaf_at(edit, pool, header, header.table_index(name))
}

/// The leaf that an entry of the pointer table names.
fn leaf_at(edit: &Edit, pool: &Pool, header: &Header, index: u64) -> Result<u64, EditError> {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let leaf = if header.table_blocks == 0 {
        header.table.get(index).copied()
    } else {
        let per_block = usize::try_from(edit.dnode.block_size / 8).unwrap_or(1);
        let block = header.table_block.saturating_add((index / per_block) as u64);
        zap::parse_table(&edit.block(pool, block)?).get(index % per_block).copied()
    };
    leaf.filter(|leaf| *leaf != 0).ok_or_else(|| FormatError::new("ZAP", "pointer table has no leaf for a hash", index as u64).into())
}

fn set_fat(edit: &mut Edit, pool: &Pool, entry: Entry) -> Result<(), EditError> {
    let size = usize::try_from(edit.dnode.block_size).unwrap_or(FAT_BLOCK);
    // Each turn halves the part of the hash space that the leaf covers.
    for _ in 0..64 {
        let mut header = fat_header(edit, pool)?;
        let number = leaf_number(edit, pool, &header, &entry.name)?;
        let data = edit.block(pool, number)?;
        let (prefix, length) = zap::leaf_prefix(&data)?;
        let mut entries = zap::parse_leaf(&data, &header)?;
        let before = entries.len();
        entries.retain(|old| old.name != entry.name);
        let is_new = entries.len() == before;
        entries.push(entry.clone());
        if let Some(leaf) = zap::encode_leaf(&entries, &header, prefix, length, size) {
            edit.put_block(number, leaf);
            if is_new {
                header.entries += 1;
                edit.put_block(0, header.encode(size));
            }
            return Ok(());
        }
        // Names that were chosen so that their hashes agree would grow the table without end: honest ones part within a few bits of what so many leaves need.
        let hashes = |a: &Entry, b: &Entry| (header.hash(&a.name) ^ header.hash(&b.name)).leading_zeros();
        let agree = entries.iter().map(|old| hashes(old, &entry)).min().unwrap_or(0);
        let skew = if entries.len() > FEW { SKEW_MANY } else { SKEW_FEW };
        if agree >= (header.leaves.max(1).ilog2() + 1 + skew).min(PREFIX_MAX) {
            return Err(EditError::NoSpace);
        }
        entries.pop();
        if entries.len() + usize::from(!is_new) <= 1 {
            return Err(EditError::Invalid("a ZAP entry is too large for a leaf"));
        }
        split(edit, pool, &mut header, number, (prefix, length), size)?;
    }
    Err(EditError::Invalid("too many ZAP names share one hash"))
}

/// Splits leaf `number` in two by one more prefix bit.
fn split(edit: &mut Edit, pool: &Pool, header: &mut Header, number: u64, (prefix, length): (u64, u32), size: usize) -> Result<(), EditError> {
    let mut table = if header.table_blocks == 0 { header.table.clone() } else { external_table(edit, pool, header)? };
    if length == header.table_shift {
        // Every entry is written twice; past half a block the table moves to blocks of its own.
        table = table.into_iter().flat_map(|leaf| [leaf, leaf]).collect();
        header.table_shift += 1;
        let bytes = table.len() * 8;
        if bytes > size / 2 {
            header.table_block = header.free_block;
            header.table_blocks = bytes.div_ceil(size) as u64;
            header.free_block += header.table_blocks;
        }
    }
    let entries = zap::parse_leaf(&edit.block(pool, number)?, header)?;
    let sibling = header.free_block;
    header.free_block += 1;
    header.leaves += 1;
    let bit = 1_u64 << (63 - length);
    let (upper, lower): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| header.hash(&entry.name) & bit != 0);
    for (leaf, part, prefix) in [(number, lower, prefix << 1), (sibling, upper, prefix << 1 | 1)] {
        let data = zap::encode_leaf(&part, header, prefix, length + 1, size).ok_or(EditError::Invalid("half a leaf did not fit a leaf"))?;
        edit.put_block(leaf, data);
    }
    let span = 1_usize << (header.table_shift - length - 1);
    let first = usize::try_from(prefix << 1 | 1).unwrap_or(usize::MAX).saturating_mul(span);
    table.get_mut(first..first + span).ok_or(FormatError::new("ZAP", "leaf prefix leaves the pointer table", prefix))?.fill(sibling);
    if header.table_blocks == 0 {
        header.table = table;
    } else {
        header.table = Vec::new();
        let bytes: Vec<u8> = table.iter().flat_map(|leaf| leaf.to_le_bytes()).collect();
        for (index, chunk) in bytes.chunks(size).enumerate() {
            let mut block = chunk.to_vec();
            block.resize(size, 0);
            edit.put_block(header.table_block + index as u64, block);
        }
    }
    edit.put_block(0, header.encode(size));
    Ok(())
}

/// Removes `name`; tells whether it was there.
///
/// # Errors
/// Unreadable, malformed.
pub fn remove(edit: &mut Edit, pool: &Pool, name: &[u8]) -> Result<bool, EditError> {
    if is_micro(edit, pool)? {
        let Some((slot, _)) = edit.look(pool, 0, |data| find_micro(data, name))?.flatten() else { return Ok(false) };
        let size = edit.dnode.block_size;
        let (data, index) = edit.change_first(pool, size)?;
        zap::put_micro(data, slot, None);
        let hash = micro_hashes(data)?.hash(name);
        if let Some(slots) = &mut index.0 {
            if let Some(known) = slots.by_hash.get_mut(&hash) {
                known.retain(|known| *known != slot);
            }
            slots.first_free = slots.first_free.min(slot);
        }
        return Ok(true);
    }
    let mut header = fat_header(edit, pool)?;
    let size = usize::try_from(edit.dnode.block_size).unwrap_or(FAT_BLOCK);
    let number = leaf_number(edit, pool, &header, name)?;
    let data = edit.block(pool, number)?;
    let (prefix, length) = zap::leaf_prefix(&data)?;
    let mut entries = zap::parse_leaf(&data, &header)?;
    let before = entries.len();
    entries.retain(|entry| entry.name != name);
    if entries.len() == before {
        return Ok(false);
    }
    let leaf = zap::encode_leaf(&entries, &header, prefix, length, size).ok_or(EditError::Invalid("fewer entries did not fit a leaf"))?;
    edit.put_block(number, leaf);
    header.entries = header.entries.saturating_sub(1);
    edit.put_block(0, header.encode(size));
    Ok(true)
}
