//! Frame information structures (Serial ATA 3.1 §10.3) and physical region descriptors (AHCI §4.2.3.3).

use sim_bus::Cx;

/// Host to device.
const REGISTER_H2D: u8 = 0x27;

/// Where received FISes lie in the port's area (§4.2.1).
pub const PIO_SETUP_AT: u64 = 0x20;
pub const D2H_AT: u64 = 0x40;
pub const SET_BITS_AT: u64 = 0x58;

/// A register FIS from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The C bit: a command, else device control.
    pub is_command: bool,
    pub command: u8,
    pub features: u16,
    pub lba: u64,
    pub device: u8,
    pub count: u16,
    pub control: u8,
}

impl Registers {
    /// `None`: another FIS.
    pub fn parse(bytes: &[u8; 20]) -> Option<Self> {
        if bytes[0] != REGISTER_H2D {
            return None;
        }
        let lba = [4, 5, 6, 8, 9, 10].iter().rev().fold(0u64, |lba, at| lba << 8 | u64::from(bytes[*at]));
        Some(Self {
            is_command: bytes[1] & 0x80 != 0,
            command: bytes[2],
            features: u16::from_le_bytes([bytes[3], bytes[11]]),
            lba,
            device: bytes[7],
            count: u16::from_le_bytes([bytes[12], bytes[13]]),
            control: bytes[15],
        })
    }
    /// The 28-bit address of commands without EXT.
    pub fn lba28(&self) -> u64 {
        self.lba & 0xff_ffff | u64::from(self.device & 0xf) << 24
    }
}

/// What the device's registers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskFile {
    pub status: u8,
    pub error: u8,
    pub lba: u64,
    pub device: u8,
    pub count: u16,
}

impl TaskFile {
    fn registers(&self, kind: u8, interrupt: bool) -> [u8; 20] {
        let lba = self.lba.to_le_bytes();
        let count = self.count.to_le_bytes();
        let mut fis = [0; 20];
        fis[..4].copy_from_slice(&[kind, u8::from(interrupt) << 6, self.status, self.error]);
        fis[4..8].copy_from_slice(&[lba[0], lba[1], lba[2], self.device]);
        fis[8..11].copy_from_slice(&lba[3..6]);
        fis[12..14].copy_from_slice(&count);
        fis
    }
    /// Register FIS, device to host.
    pub fn d2h(&self, interrupt: bool) -> [u8; 20] {
        self.registers(0x34, interrupt)
    }
    /// PIO Setup FIS for data to the host, `bytes` long: the status now says DRQ, this one comes after the data.
    pub fn pio_setup(&self, bytes: u16) -> [u8; 20] {
        let mut fis = TaskFile { status: super::regs::status::GOOD | super::regs::status::REQUEST, ..*self }.registers(0x5f, true);
        fis[1] |= 1 << 5; // device to host
        fis[15] = self.status;
        fis[16..18].copy_from_slice(&bytes.to_le_bytes());
        fis
    }
    /// Set Device Bits FIS: these queued commands are done.
    pub fn set_bits(&self, done: u32) -> [u8; 8] {
        let done = done.to_le_bytes();
        [0xa1, 1 << 6, self.status & 0x77, self.error, done[0], done[1], done[2], done[3]]
    }
}

/// A piece of guest memory.
pub type Segment = (u64, u32);

/// Why a transfer cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The table or the data is not in RAM.
    Unreachable,
    /// The table describes less than the command moves.
    Short,
}

/// The first `bytes` bytes that a table of `entries` descriptors at `table` describes.
pub fn segments(table: u64, entries: u16, bytes: u64, cx: &mut Cx<'_>) -> Result<Vec<Segment>, Broken> {
    let mut found = Vec::new();
    let mut left = bytes;
    for index in 0..u64::from(entries) {
        if left == 0 {
            break;
        }
        let mut entry = [0; 16];
        cx.dma_read(table.wrapping_add(16 * index), &mut entry).map_err(|_| Broken::Unreachable)?;
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let address = u64::from(word(0) & !1) | u64::from(word(4)) << 32;
        let length = u64::from((word(12) & 0x3f_ffff | 1) + 1);
        let part = left.min(length);
        found.push((address, part as u32));
        left -= part;
    }
    if left == 0 { Ok(found) } else { Err(Broken::Short) }
}

pub fn gather(segments: &[Segment], cx: &mut Cx<'_>) -> Result<Vec<u8>, Broken> {
    let mut data = Vec::new();
    for &(address, length) in segments {
        let start = data.len();
        data.resize(start + length as usize, 0);
        cx.dma_read(address, &mut data[start..]).map_err(|_| Broken::Unreachable)?;
    }
    Ok(data)
}

pub fn scatter(data: &[u8], segments: &[Segment], cx: &mut Cx<'_>) -> Result<(), Broken> {
    let mut rest = data;
    for &(address, length) in segments {
        let (part, left) = rest.split_at(rest.len().min(length as usize));
        cx.dma_write(address, part).map_err(|_| Broken::Unreachable)?;
        rest = left;
    }
    Ok(())
}
