//! GUID partition tables (UEFI specification 2.10, section 5.3): what OpenZFS writes on a whole disk, and where to find the pool on one.
//!
//! # Layout
//! ```text
//! LBA 0             protective MBR: one partition of type 0xEE over everything
//! LBA 1             header; its CRC covers itself and, by a field, the entries
//! LBA 2...          128 entries of 128 bytes
//! 1 MiB...          partition 1, the pool's, up to the reserved one, whole MiB
//! ...               partition 9, 8 MiB, reserved
//! last - 33 sectors the entries again (with 512-byte sectors), and the header in the last sector
//! ```

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::{View, index};

/// A GUID as it is stored.
pub type Guid = [u8; 16];

/// Type of a partition that holds a pool's vdev (6A898CC3-1DD2-11B2-99A6-080020736631).
pub const POOL: Guid = [0xC3, 0x8C, 0x89, 0x6A, 0xD2, 0x1D, 0xB2, 0x11, 0x99, 0xA6, 0x08, 0x00, 0x20, 0x73, 0x66, 0x31];
/// Type of the partition that is set aside beside it (6A945A3B-1DD2-11B2-99A6-080020736631).
pub const RESERVED: Guid = [0x3B, 0x5A, 0x94, 0x6A, 0xD2, 0x1D, 0xB2, 0x11, 0x99, 0xA6, 0x08, 0x00, 0x20, 0x73, 0x66, 0x31];

const MAGIC: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER: usize = 92;
const ENTRY: usize = 128;
const ENTRIES: u32 = 128;
/// Tables larger than this make no sense, in bytes.
const TABLE_MAX: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
const RESERVED_BYTES: u64 = 8 << 20;
/// Name of the pool's partition.
const NAME: &str = "zfs";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 1, as device names count.
    pub number: u32,
    pub kind: Guid,
    /// Where it begins, and how long it is, in bytes.
    pub offset: u64,
    pub size: u64,
}

/// What the header says.
struct Header {
    entries_at: u64,
    count: u64,
    entry_size: u64,
    table_crc: u32,
}

fn parse_header(data: &[u8], lba: u64) -> Result<Header, FormatError> {
    let view = View::new("partition table", data);
    if view.slice(0, 8)? != MAGIC {
        return Err(view.error("no header at sector", lba));
    }
    let size = index(u64::from(view.u32(12)?));
    if !(HEADER..=data.len()).contains(&size) {
        return Err(view.error("impossible header size", size as u64));
    }
    let mut copy = data[..size].to_vec();
    copy[16..20].fill(0);
    if crc32fast::hash(&copy) != view.u32(16)? {
        return Err(view.error("checksum of the header does not match at sector", lba));
    }
    if view.u64(24)? != lba {
        return Err(view.error("header of another place, sector", view.u64(24)?));
    }
    let header = Header { entries_at: view.u64(72)?, count: u64::from(view.u32(80)?), entry_size: u64::from(view.u32(84)?), table_crc: view.u32(88)? };
    let whole = header.count.saturating_mul(header.entry_size);
    if header.entry_size < ENTRY as u64 || whole > TABLE_MAX {
        return Err(view.error("impossible size of the entries", whole));
    }
    Ok(header)
}

/// Reads the partitions of a device of `size` bytes. `read` fills a buffer from a byte offset. If the first table is damaged the one at the end is taken.
///
/// # Errors
/// Neither is whole; a partition that leaves the device.
pub fn partitions(size: u64, sector: u32, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> Result<Vec<Partition>, FormatError> {
    let unit = u64::from(sector.max(512));
    let last = (size / unit).saturating_sub(1);
    table(1, size, unit, read).or_else(|error| table(last, size, unit, read).map_err(|_| error))
}

fn table(lba: u64, size: u64, unit: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> Result<Vec<Partition>, FormatError> {
    let error = |why, value| FormatError::new("partition table", why, value);
    let mut data = vec![0; index(unit)];
    if !read(lba.saturating_mul(unit), &mut data) {
        return Err(error("cannot be read at sector", lba));
    }
    let header = parse_header(&data, lba)?;
    let mut entries = vec![0; index(header.count * header.entry_size)];
    if !read(header.entries_at.saturating_mul(unit), &mut entries) {
        return Err(error("entries cannot be read at sector", header.entries_at));
    }
    if crc32fast::hash(&entries) != header.table_crc {
        return Err(error("checksum of the entries does not match", header.entries_at));
    }
    let mut out = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(index(header.entry_size))) {
        let view = View::new("partition", entry);
        let mut kind = Guid::default();
        kind.copy_from_slice(view.slice(0, 16)?);
        if kind == Guid::default() {
            continue;
        }
        let (first, end) = (view.u64(32)?, view.u64(40)?.checked_add(1).ok_or_else(|| view.error("ends nowhere", number.into()))?);
        let bytes = end.checked_mul(unit).filter(|bytes| first < end && *bytes <= size).ok_or_else(|| view.error("leaves the device", number.into()))?;
        out.push(Partition { number, kind, offset: first * unit, size: bytes - first * unit });
    }
    Ok(out)
}

/// A table for a whole disk: what to write where, in bytes, and the pool's partition.
#[derive(Clone, Debug)]
pub struct Plan {
    pub writes: Vec<(u64, Vec<u8>)>,
    pub pool: Partition,
}

/// Plans the table of a disk that a pool gets whole. `random` gives the guids.
///
/// # Errors
/// The disk has no room for tables, reserved partition and a vdev.
pub fn plan(size: u64, sector: u32, random: &mut dyn FnMut() -> u64) -> Result<Plan, FormatError> {
    let unit = u64::from(sector.max(512));
    let sectors = size / unit;
    let table = u64::from(ENTRIES) * ENTRY as u64 / unit;
    let last_usable = sectors.checked_sub(table + 2).filter(|last| *last * unit > crate::label::LEAF_MIN + RESERVED_BYTES + 2 * MIB);
    let last_usable = last_usable.ok_or(FormatError::new("partition table", "the disk is too small, bytes", size))?;
    let end = (last_usable + 1) * unit;
    let reserved = (end - RESERVED_BYTES) / MIB * MIB;
    let mut guid = || {
        let mut out = Guid::default();
        out[..8].copy_from_slice(&random().to_le_bytes());
        out[8..].copy_from_slice(&random().to_le_bytes());
        // Version 4, variant 1 (RFC 9562 section 5.4).
        out[7] = out[7] & 0x0F | 0x40;
        out[8] = out[8] & 0x3F | 0x80;
        out
    };
    let disk = guid();
    let mut entries = vec![0; index(u64::from(ENTRIES)) * ENTRY];
    let mut put = |number: usize, kind: Guid, from: u64, bytes: u64, name: &str| {
        let entry = &mut entries[(number - 1) * ENTRY..number * ENTRY];
        entry[..16].copy_from_slice(&kind);
        entry[16..32].copy_from_slice(&guid());
        entry[32..40].copy_from_slice(&(from / unit).to_le_bytes());
        entry[40..48].copy_from_slice(&((from + bytes) / unit - 1).to_le_bytes());
        for (slot, letter) in entry[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
            slot.copy_from_slice(&letter.to_le_bytes());
        }
    };
    put(1, POOL, MIB, reserved - MIB, NAME);
    put(9, RESERVED, reserved, RESERVED_BYTES, "");
    let table_crc = crc32fast::hash(&entries);
    let header = |own: u64, other: u64, entries_at: u64| {
        let mut out = vec![0; index(unit)];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &REVISION.to_le_bytes());
        put(12, &92_u32.to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &(2 + table).to_le_bytes());
        put(48, &last_usable.to_le_bytes());
        put(56, &disk);
        put(72, &entries_at.to_le_bytes());
        put(80, &ENTRIES.to_le_bytes());
        put(84, &128_u32.to_le_bytes());
        put(88, &table_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER]);
        out[16..20].copy_from_slice(&crc.to_le_bytes());
        out
    };
    let last = sectors - 1;
    let mut mbr = vec![0; index(unit)];
    mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xAA]);
    let writes = vec![
        (0, mbr),
        (unit, header(1, last, 2)),
        (2 * unit, entries.clone()),
        ((last - table) * unit, entries),
        (last * unit, header(last, 1, last - table)),
    ];
    Ok(Plan { writes, pool: Partition { number: 1, kind: POOL, offset: MIB, size: reserved - MIB } })
}

/// Name of a disk's partition as the host's device names have it: `/dev/sda1`, `/dev/nvme0n1p1`.
#[must_use]
pub fn partition_name(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    alloc::format!("{disk}{between}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(size: usize, sector: u32) -> (Vec<u8>, Plan) {
        let mut count = 0;
        let plan = plan(size as u64, sector, &mut || {
            count += 1;
            count
        });
        let plan = plan.expect("room for a table");
        let mut bytes = vec![0; size];
        for (offset, data) in &plan.writes {
            let at = index(*offset);
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        (bytes, plan)
    }

    fn read(bytes: &[u8], sector: u32) -> Result<Vec<Partition>, FormatError> {
        partitions(bytes.len() as u64, sector, &mut |offset, out| {
            let Some(part) = bytes.get(index(offset)..).and_then(|rest| rest.get(..out.len())) else { return false };
            out.copy_from_slice(part);
            true
        })
    }

    #[test]
    fn what_is_planned_is_found_with_either_table() {
        for sector in [512, 4096] {
            let (mut bytes, plan) = disk(96 << 20, sector);
            let found = read(&bytes, sector).expect("a whole table");
            assert_eq!(found[0], plan.pool);
            assert_eq!((found[1].number, found[1].size), (9, RESERVED_BYTES));
            assert_eq!(found[0].offset + found[0].size, found[1].offset);
            bytes[index(u64::from(sector)) + 50] ^= 1;
            assert_eq!(read(&bytes, sector).expect("the second table"), found);
            let end = bytes.len() - 60;
            bytes[end - 4096 * 3..].fill(0xA5);
            assert!(read(&bytes, sector).is_err());
        }
    }

    #[test]
    fn damaged_tables_are_errors() {
        let (bytes, _) = disk(80 << 20, 512);
        let head = bytes[..64 << 10].to_vec();
        for at in 0..2000 {
            let mut copy = head.clone();
            copy[512 + at * 7 % 17000] ^= 1 << (at % 8);
            let all = partitions(bytes.len() as u64, 512, &mut |offset, out| {
                let Some(part) = copy.get(index(offset)..).and_then(|rest| rest.get(..out.len())) else { return false };
                out.copy_from_slice(part);
                true
            });
            if let Ok(all) = all {
                assert!(all.iter().all(|partition| partition.offset + partition.size <= bytes.len() as u64));
            }
        }
        assert!(plan(70 << 20, 512, &mut || 1).is_err());
    }
}
