//! Commands, statuses, and where their data is.

use sim_bus::Cx;

/// Bytes of a memory page (CC.MPS is 0).
pub const PAGE: u64 = 4096;
/// Bytes one command may move: MDTS in [`super::identify`] says the same.
pub const TRANSFER_MAX: u64 = 512 << 10;

/// Status field of a completion: type in bits 8 to 10, code below, DNR at bit 14 (§4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    const DO_NOT_RETRY: u16 = 1 << 14;
    const fn generic(code: u16) -> Self {
        Self(code | Self::DO_NOT_RETRY)
    }
    const fn specific(code: u16) -> Self {
        Self(0x100 | code | Self::DO_NOT_RETRY)
    }
    pub const OK: Self = Self(0);
    pub const INVALID_OPCODE: Self = Self::generic(0x01);
    pub const INVALID_FIELD: Self = Self::generic(0x02);
    pub const ID_CONFLICT: Self = Self::generic(0x03);
    pub const DATA_TRANSFER: Self = Self(0x04);
    pub const INTERNAL: Self = Self(0x06);
    pub const ABORTED: Self = Self(0x07);
    pub const ABORTED_WITH_QUEUE: Self = Self(0x08);
    pub const INVALID_NAMESPACE: Self = Self::generic(0x0b);
    pub const PRP_OFFSET: Self = Self::generic(0x13);
    pub const WRITE_PROTECTED: Self = Self::generic(0x20);
    pub const LBA_RANGE: Self = Self::generic(0x80);
    /// May be ready again later.
    pub const NOT_READY: Self = Self(0x82);
    pub const INVALID_COMPLETION_QUEUE: Self = Self::specific(0x00);
    pub const INVALID_QUEUE: Self = Self::specific(0x01);
    pub const INVALID_QUEUE_SIZE: Self = Self::specific(0x02);
    pub const EVENT_LIMIT: Self = Self::specific(0x05);
    pub const INVALID_VECTOR: Self = Self::specific(0x08);
    pub const INVALID_LOG: Self = Self::specific(0x09);
    pub const QUEUE_DELETION: Self = Self::specific(0x0c);
    pub const NOT_SAVEABLE: Self = Self::specific(0x0d);
    pub const WRITE_FAULT: Self = Self(0x280);
    pub const UNRECOVERED_READ: Self = Self(0x281);
    pub const COMPARE_FAILURE: Self = Self(0x285 | Self::DO_NOT_RETRY);

    pub fn is_ok(self) -> bool {
        self == Self::OK
    }
}

/// A submission queue entry, taken apart (§4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub opcode: u8,
    /// Fused operation and PRP or SGL selector.
    pub flags: u8,
    pub id: u16,
    pub namespace: u32,
    pub prp1: u64,
    pub prp2: u64,
    /// Command dwords 10 to 15.
    pub dwords: [u32; 6],
}

/// Bytes of a submission queue entry.
pub const ENTRY: usize = 64;

impl Command {
    pub fn parse(bytes: &[u8; ENTRY]) -> Self {
        let dword = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let qword = |at: usize| u64::from(dword(at)) | u64::from(dword(at + 4)) << 32;
        Self {
            opcode: bytes[0],
            flags: bytes[1],
            id: u16::from_le_bytes([bytes[2], bytes[3]]),
            namespace: dword(4),
            prp1: qword(24),
            prp2: qword(32),
            dwords: std::array::from_fn(|index| dword(40 + 4 * index)),
        }
    }
    /// Command dword `number`, 10 to 15.
    pub fn dword(&self, number: usize) -> u32 {
        self.dwords.get(number.wrapping_sub(10)).copied().unwrap_or(0)
    }
    /// No fused operation, PRPs: all that is supported.
    pub fn is_plain(&self) -> bool {
        self.flags == 0
    }
}

/// A piece of guest memory.
pub type Segment = (u64, u32);

/// The memory a command's PRPs name (§4.3), `length` bytes of it, at most [`TRANSFER_MAX`].
pub fn segments(command: &Command, length: u64, cx: &mut Cx<'_>) -> Result<Vec<Segment>, Status> {
    assert!(length <= TRANSFER_MAX, "{length} bytes in a command");
    let mut found = Vec::new();
    if length == 0 {
        return Ok(found);
    }
    let offset = command.prp1 % PAGE;
    if !offset.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET);
    }
    let first = length.min(PAGE - offset);
    found.push((command.prp1, first as u32));
    let mut left = length - first;
    if left == 0 {
        return Ok(found);
    }
    if left <= PAGE {
        if !command.prp2.is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET);
        }
        found.push((command.prp2, left as u32));
        return Ok(found);
    }
    // A list; its last entry on a page points to the next list if more than that one page remains.
    let mut at = command.prp2;
    if !at.is_multiple_of(8) {
        return Err(Status::PRP_OFFSET);
    }
    while left > 0 {
        let last_on_page = at % PAGE == PAGE - 8;
        let mut entry = [0; 8];
        cx.dma_read(at, &mut entry).map_err(|_| Status::DATA_TRANSFER)?;
        let entry = u64::from_le_bytes(entry);
        if last_on_page && left > PAGE {
            if !entry.is_multiple_of(PAGE) {
                return Err(Status::PRP_OFFSET);
            }
            // Each list page but the first holds 511 entries that move data: the loop ends.
            at = entry;
            continue;
        }
        if !entry.is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET);
        }
        let part = left.min(PAGE);
        found.push((entry, part as u32));
        left -= part;
        at = at.wrapping_add(8);
    }
    Ok(found)
}

/// Reads what the segments name.
pub fn gather(segments: &[Segment], cx: &mut Cx<'_>) -> Result<Vec<u8>, Status> {
    let mut data = Vec::new();
    for &(address, length) in segments {
        let start = data.len();
        data.resize(start + length as usize, 0);
        cx.dma_read(address, &mut data[start..]).map_err(|_| Status::DATA_TRANSFER)?;
    }
    Ok(data)
}

/// Writes `data` to the segments, as far as it goes.
pub fn scatter(data: &[u8], segments: &[Segment], cx: &mut Cx<'_>) -> Result<(), Status> {
    let mut rest = data;
    for &(address, length) in segments {
        let (part, left) = rest.split_at(rest.len().min(length as usize));
        cx.dma_write(address, part).map_err(|_| Status::DATA_TRANSFER)?;
        rest = left;
    }
    Ok(())
}

/// A submission queue as the controller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submission {
    pub base: u64,
    /// Entries.
    pub size: u16,
    pub head: u16,
    pub tail: u16,
    pub completion: u16,
}

/// A completion queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    pub base: u64,
    pub size: u16,
    pub head: u16,
    pub tail: u16,
    /// The phase tag of the next entry.
    pub phase: bool,
    pub vector: u16,
    pub interrupts: bool,
}

impl Submission {
    pub fn new(base: u64, size: u16, completion: u16) -> Self {
        Self { base, size, head: 0, tail: 0, completion }
    }
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }
}

impl Completion {
    pub fn new(base: u64, size: u16, vector: u16, interrupts: bool) -> Self {
        Self { base, size, head: 0, tail: 0, phase: true, vector, interrupts }
    }
    pub fn is_full(&self) -> bool {
        (self.tail + 1) % self.size == self.head
    }
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }
    /// Writes an entry and moves on. `Err`: the queue is not in RAM.
    pub fn post(&mut self, result: u32, queue: u16, queue_head: u16, id: u16, status: Status, cx: &mut Cx<'_>) -> Result<(), Status> {
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&result.to_le_bytes());
        entry[8..10].copy_from_slice(&queue_head.to_le_bytes());
        entry[10..12].copy_from_slice(&queue.to_le_bytes());
        entry[12..14].copy_from_slice(&id.to_le_bytes());
        entry[14..16].copy_from_slice(&(status.0 << 1 | u16::from(self.phase)).to_le_bytes());
        let at = self.base.wrapping_add(16 * u64::from(self.tail));
        cx.dma_write(at, &entry).map_err(|_| Status::DATA_TRANSFER)?;
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase = !self.phase;
        }
        Ok(())
    }
}
