//! ELF headers (System V ABI, chapters 4 and 5; x86-64 psABI): bytes in, a checked plan out. Reads nothing and maps nothing itself.

use alloc::vec::Vec;

use linux_abi::{field_u16, field_u32, field_u64};
use vm::{Protection, USER_END};

/// Bytes of the file header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one program header.
pub const ENTRY_BYTES: usize = 56;
/// Most program headers we read.
const ENTRIES_MAX: usize = 128;
/// Longest path of an interpreter.
pub const INTERPRETER_MAX: u64 = 4096;
const PAGE: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// It is not a program for this machine, or its headers contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadImage;

/// What the file header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// It may be placed anywhere.
    pub movable: bool,
    pub entry: u64,
    pub table_offset: u64,
    pub entries: usize,
}

/// One part of the file to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Page-aligned start, relative to the base.
    pub start: u64,
    /// Bytes mapped from the file, whole pages; may be 0.
    pub file_bytes: u64,
    /// First page of the file.
    pub first_page: u64,
    /// Where the file's contents end and zeros begin.
    pub data_end: u64,
    /// End of the segment in memory.
    pub end: u64,
    pub protection: Protection,
}

/// The plan of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub movable: bool,
    /// Relative to the base.
    pub entry: u64,
    pub loads: Vec<Load>,
    /// Lowest page and end of all loads.
    pub span: (u64, u64),
    /// Offset and length of the interpreter's path.
    pub interpreter: Option<(u64, u64)>,
    /// Address of the program headers in memory, relative to the base; 0 if not mapped.
    pub table_address: u64,
    pub entries: u64,
    pub executable_stack: bool,
}

/// Reads the file header.
///
/// # Errors
/// [`BadImage`].
pub fn header(bytes: &[u8]) -> Result<Header, BadImage> {
    let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(BadImage)?;
    // Magic, 64 bits, little-endian, version 1; System V or Linux.
    if head[..7] != *b"\x7fELF\x02\x01\x01" || !matches!(head[7], 0 | 3) {
        return Err(BadImage);
    }
    let movable = match field_u16(head, 16) {
        2 => false,
        3 => true,
        _ => return Err(BadImage),
    };
    let entries = usize::from(field_u16(head, 56));
    if field_u16(head, 18) != 62 || usize::from(field_u16(head, 54)) != ENTRY_BYTES || entries == 0 || entries > ENTRIES_MAX {
        return Err(BadImage);
    }
    Ok(Header { movable, entry: field_u64(head, 24), table_offset: field_u64(head, 32), entries })
}

/// Makes the plan from the header and the program-header table (`header.entries` of [`ENTRY_BYTES`] each).
///
/// # Errors
/// [`BadImage`]: no loads, sizes or addresses that contradict or leave the user part.
pub fn plan(header: &Header, table: &[u8]) -> Result<Plan, BadImage> {
    let mut plan = Plan {
        movable: header.movable,
        entry: header.entry,
        loads: Vec::new(),
        span: (u64::MAX, 0),
        interpreter: None,
        table_address: 0,
        entries: header.entries as u64,
        executable_stack: false,
    };
    if table.len() < header.entries * ENTRY_BYTES {
        return Err(BadImage);
    }
    for entry in table.chunks_exact(ENTRY_BYTES).take(header.entries) {
        let flags = field_u32(entry, 4);
        let [offset, address, file_size, size] = [8, 16, 32, 40].map(|at| field_u64(entry, at));
        match field_u32(entry, 0) {
            PT_LOAD => plan.add(flags, offset, address, file_size, size, header)?,
            PT_INTERP => {
                if plan.interpreter.is_some() || !(2..=INTERPRETER_MAX).contains(&file_size) {
                    return Err(BadImage);
                }
                plan.interpreter = Some((offset, file_size));
            }
            PT_PHDR => plan.table_address = address,
            PT_GNU_STACK => plan.executable_stack = flags & 1 != 0,
            _ => {}
        }
    }
    if plan.loads.is_empty() || plan.entry >= USER_END {
        return Err(BadImage);
    }
    if !plan.movable && plan.span.0 < vm::MMAP_MIN {
        return Err(BadImage);
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, flags: u32, offset: u64, address: u64, file_size: u64, size: u64, header: &Header) -> Result<(), BadImage> {
        if size == 0 {
            return Ok(());
        }
        let end = address.checked_add(size).filter(|end| *end <= USER_END).ok_or(BadImage)?;
        offset.checked_add(file_size).filter(|end| *end <= i64::MAX as u64).ok_or(BadImage)?;
        if file_size > size || address % PAGE != offset % PAGE {
            return Err(BadImage);
        }
        let start = address & !(PAGE - 1);
        let data_end = address + file_size;
        let file_bytes = if file_size == 0 { 0 } else { data_end.next_multiple_of(PAGE) - start };
        let protection = Protection { read: flags & 4 != 0, write: flags & 2 != 0, execute: flags & 1 != 0 };
        let table_end = header.table_offset.saturating_add((header.entries * ENTRY_BYTES) as u64);
        if self.table_address == 0 && offset <= header.table_offset && table_end <= offset + file_size {
            self.table_address = address + (header.table_offset - offset);
        }
        self.loads.push(Load { start, file_bytes, first_page: (offset - address % PAGE) / PAGE, data_end, end, protection });
        self.span = (self.span.0.min(start), self.span.1.max(end.next_multiple_of(PAGE)));
        Ok(())
    }
}

/// The interpreter and its argument in a `#!` line, if `head` (the first bytes of the file) is one (`execve(2)`).
#[must_use]
pub fn script(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = head.strip_prefix(b"#!")?;
    // Without a newline in what was read the name may be cut off: refused, unless the file ends there.
    let end = line.iter().position(|byte| *byte == b'\n' || *byte == 0).unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let split = line.iter().position(|byte| *byte == b' ' || *byte == b'\t').unwrap_or(line.len());
    let (program, rest) = line.split_at(split);
    let argument = rest.trim_ascii();
    if program.is_empty() {
        return None;
    }
    Some((program, (!argument.is_empty()).then_some(argument)))
}
