//! Snapshots in files.
//!
//! | section | holds |
//! |---|---|
//! | `board` | the board, as TOML |
//! | `point` | payload: tick, virtual time, receipt, and how many of everything there are |
//! | `cpu N` | payload: architectural state of a vCPU |
//! | `part N` | payload: state of a part of the board; its kind is the part's name |
//! | `network` | payload: state of the network, if there is one |
//! | `memory N` | pages of 2 MiB that are not all zeros: count, their numbers, their bytes |
//! | `disk N` | payload: size of a disk, whether it is read-only |
//! | `disk N at M` | 2 MiB of it from block M on, as for memory |
//! | `inputs` | what had entered from outside |

use std::collections::BTreeMap;
use std::sync::Arc;

use sim_board::{Board, Machine, Snapshot, SnapshotParts};
use sim_bus::DiskBackend;
use sim_core::{Payload, Receipt};
use sim_cpu::CpuState;
use sim_host::{MemoryDisk, SECTOR};

use crate::file::{FileError, FileKind, Reader, Writer};
use crate::recording;

const PAGE: usize = 4096;
/// Pages or blocks in a section.
const GROUP: u64 = 512;
/// Sectors of the largest disk: 8 PiB.
const SECTORS_MAX: u64 = 1 << 44;
const POINT: &str = "point";

/// Writes a snapshot. `commit` names the program that does.
pub fn save(snapshot: &Snapshot, commit: &str) -> Result<Vec<u8>, FileError> {
    let mut file = Writer::new(FileKind::Snapshot, commit);
    let board = snapshot.board().to_toml().map_err(|error| FileError::content("board", error))?;
    file.section("board", board.as_bytes());
    let media = snapshot.media();
    let mut point = Payload::new(POINT, 1);
    point.number("ticks", snapshot.ticks()).number("ns", snapshot.ns());
    point.bytes("receipt", &snapshot.receipt().hash()).number("links", snapshot.receipt().links());
    point.number("cpus", snapshot.cpus().len() as u64).number("parts", snapshot.parts().len() as u64).number("disks", media.len() as u64);
    file.section(POINT, &point.encode());
    for (index, cpu) in snapshot.cpus().iter().enumerate() {
        file.section(&format!("cpu {index}"), &cpu.save().encode());
    }
    for (index, part) in snapshot.parts().iter().enumerate() {
        file.section(&format!("part {index}"), &part.encode());
    }
    if let Some(network) = snapshot.network() {
        file.section("network", &network.encode());
    }
    let mut group = Group::default();
    for (page, bytes) in snapshot.pages() {
        group.add(u64::from(page), bytes, |first, content| file.section(&format!("memory {first}"), content));
    }
    group.finish(|first, content| file.section(&format!("memory {first}"), content));
    for (index, mut medium) in media.into_iter().enumerate() {
        save_disk(&mut file, index, medium.as_mut())?;
    }
    file.section("inputs", &recording::encode(snapshot.inputs()));
    Ok(file.finish())
}

/// Reads a snapshot.
pub fn load(bytes: &[u8]) -> Result<Snapshot, FileError> {
    let file = Reader::open(bytes, FileKind::Snapshot)?;
    let board = board_of(&file)?;
    let point = payload(&file, POINT)?;
    point.expect(POINT, 1).map_err(FileError::load(POINT))?;
    let number = |name: &str| point.get_number(name).map_err(FileError::load(POINT));
    let hash = point.get_bytes("receipt").ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let hash = hash.ok_or_else(|| FileError::content(POINT, "the receipt is not 32 bytes"))?;
    let receipt = Receipt::from_parts(hash, number("links")?);
    let mut cpus = Vec::new();
    for index in 0..number("cpus")? {
        let name = format!("cpu {index}");
        cpus.push(CpuState::load(&payload(&file, &name)?).map_err(FileError::load(&name))?);
    }
    let parts = (0..number("parts")?).map(|index| payload(&file, &format!("part {index}"))).collect::<Result<_, _>>()?;
    let network = file.optional("network")?.map(|bytes| Payload::decode(&bytes).map_err(FileError::load("network"))).transpose()?;
    let mut pages = BTreeMap::new();
    for name in file.names().filter(|name| name.starts_with("memory ")) {
        for (page, bytes) in ungroup(name, &file.section(name)?)? {
            let page = u32::try_from(page).map_err(|_| FileError::content(name, "a page number is too large"))?;
            pages.insert(page, bytes);
        }
    }
    let disks = (0..number("disks")?).map(|index| load_disk(&file, index)).collect::<Result<_, _>>()?;
    let inputs = recording::decode(&file.section("inputs")?)?;
    let parts = SnapshotParts { board, ticks: number("ticks")?, ns: number("ns")?, cpus, parts, pages, disks, network, receipt, inputs };
    let snapshot = Snapshot::assemble(parts).map_err(|error| FileError::content("board", error))?;
    Ok(snapshot)
}

/// Reads a snapshot and makes a machine that stands there.
pub fn resume(bytes: &[u8]) -> Result<Machine, FileError> {
    let snapshot = load(bytes)?;
    let mut machine = Machine::fork(&snapshot).map_err(|error| FileError::content("board", error))?;
    machine.forget_future();
    Ok(machine)
}

pub(crate) fn board_of(file: &Reader<'_>) -> Result<Board, FileError> {
    Board::from_toml(&file.text("board")?).map_err(|error| FileError::content("board", error))
}

fn payload(file: &Reader<'_>, name: &str) -> Result<Payload, FileError> {
    Payload::decode(&file.section(name)?).map_err(FileError::load(name))
}

/// Pages or blocks on their way into a section.
#[derive(Debug, Default)]
struct Group {
    numbers: Vec<u64>,
    bytes: Vec<u8>,
}

impl Group {
    fn add(&mut self, number: u64, bytes: &[u8], write: impl FnMut(u64, &[u8])) {
        if self.numbers.first().is_some_and(|first| first / GROUP != number / GROUP) {
            self.finish(write);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            self.numbers.push(number);
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self, mut write: impl FnMut(u64, &[u8])) {
        if let Some(first) = self.numbers.first() {
            let mut content = (self.numbers.len() as u32).to_le_bytes().to_vec();
            self.numbers.iter().for_each(|number| content.extend_from_slice(&number.to_le_bytes()));
            content.append(&mut self.bytes);
            write(first / GROUP * GROUP, &content);
            self.numbers.clear();
        }
    }
}

fn ungroup(name: &str, content: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, FileError> {
    let wrong = || FileError::content(name, "its length does not fit its count");
    let (count, rest) = content.split_first_chunk::<4>().ok_or_else(wrong)?;
    let count = u32::from_le_bytes(*count) as usize;
    let (numbers, bytes) = count.checked_mul(8).and_then(|length| rest.split_at_checked(length)).ok_or_else(wrong)?;
    if count.checked_mul(PAGE) != Some(bytes.len()) {
        return Err(wrong());
    }
    let numbers = numbers.chunks_exact(8).map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    Ok(numbers.zip(bytes.chunks_exact(PAGE).map(<[u8]>::to_vec)).collect())
}

/// Writes a disk's content.
pub(crate) fn save_disk(file: &mut Writer, index: usize, disk: &mut dyn DiskBackend) -> Result<(), FileError> {
    let mut head = Payload::new("disk", 1);
    head.number("sectors", disk.sectors()).number("read_only", u64::from(disk.read_only()));
    file.section(&format!("disk {index}"), &head.encode());
    let per_block = (PAGE / SECTOR) as u64;
    let mut group = Group::default();
    let mut block = vec![0; PAGE];
    let write = |file: &mut Writer, first: u64, content: &[u8]| file.section(&format!("disk {index} at {first}"), content);
    for number in 0..disk.sectors().div_ceil(per_block) {
        let count = (disk.sectors() - number * per_block).min(per_block) as usize * SECTOR;
        block[count..].fill(0);
        disk.read(number * per_block, &mut block[..count])
            .map_err(|error| FileError::content(&format!("disk {index}"), format!("block {number} cannot be read: {error:?}")))?;
        group.add(number, &block, |first, content| write(file, first, content));
    }
    group.finish(|first, content| write(file, first, content));
    Ok(())
}

/// Reads a disk's content.
pub(crate) fn load_disk(file: &Reader<'_>, index: u64) -> Result<Box<dyn DiskBackend>, FileError> {
    let name = format!("disk {index}");
    let head = payload(file, &name)?;
    head.expect("disk", 1).map_err(FileError::load(&name))?;
    let sectors = head.get_number("sectors").map_err(FileError::load(&name))?;
    if sectors > SECTORS_MAX {
        return Err(FileError::content(&name, format!("{sectors} sectors are more than any disk has")));
    }
    let read_only = head.get_number("read_only").map_err(FileError::load(&name))? != 0;
    let mut disk = MemoryDisk::new(Arc::from([]), sectors, false);
    let prefix = format!("{name} at ");
    for section in file.names().filter(|section| section.starts_with(&prefix)) {
        for (block, mut bytes) in ungroup(section, &file.section(section)?)? {
            let first = block.saturating_mul((PAGE / SECTOR) as u64);
            let count = sectors.saturating_sub(first).min((PAGE / SECTOR) as u64) as usize;
            bytes.truncate(count * SECTOR);
            disk.write(first, &bytes).map_err(|_| FileError::content(section, "a block lies past the end of the disk"))?;
        }
    }
    Ok(if read_only { Box::new(disk.sealed()) } else { Box::new(disk) })
}
