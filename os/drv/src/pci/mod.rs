//! PCI: finding functions and their capabilities (PCI Local Bus 3.0, chapter 6; PCI-to-PCI bridges 1.2, section 3.2).
//!
//! # Theory
//! Firmware, or the board, has placed the BARs; we read where and change nothing but the command register and MSI-X. Interrupts are messages: a
//! function without MSI-X has no driver here.
//!
//! # Structures
//! [`ConfigSpace`] reaches configuration registers, [`Machine`] is everything a driver asks of the kernel, [`Function`] is one function as found.
//!
//! # Failure
//! Configuration space is input from outside: capability lists that loop or leave the header end there, a BAR that is not memory or was
//! not placed is an error of the driver that wants it.
//!
//! # Limits
//! Configuration mechanism #1: 256 bytes of each function, segment 0. At most [`MAX_FUNCTIONS`] functions.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Functions that are looked at.
pub const MAX_FUNCTIONS: usize = 1024;

/// Offsets of the header (PCI 3.0, figure 6-1).
const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER: u16 = 0x0c;
const BARS: u16 = 0x10;
const BUSES: u16 = 0x18;
const CAPABILITIES: u16 = 0x34;
/// Bits of the command register: memory decoding, bus master, INTx off.
const COMMAND_ON: u32 = 1 << 1 | 1 << 2 | 1 << 10;
/// The status register's bit that there is a capability list, as it lies in the dword at `COMMAND`.
const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Identifier of the MSI-X capability (PCI 3.0, section 6.8.2).
const MSIX: u8 = 0x11;

/// Where a function is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    pub bus: u8,
    /// 0..=31.
    pub device: u8,
    /// 0..=7.
    pub function: u8,
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// Access to configuration registers, 32 bits at offsets that are multiples of 4.
pub trait ConfigSpace: Send + Sync {
    fn read32(&self, at: Address, offset: u16) -> u32;
    fn write32(&self, at: Address, offset: u16, value: u32);
}

/// Device registers in memory. Offsets are multiples of the access's size and inside what was mapped.
pub trait Mmio: Send + Sync {
    fn read8(&self, offset: u64) -> u8;
    fn read16(&self, offset: u64) -> u16;
    fn read32(&self, offset: u64) -> u32;
    fn write8(&self, offset: u64, value: u8);
    fn write16(&self, offset: u64, value: u16);
    fn write32(&self, offset: u64, value: u32);
    /// Two halves, low one first: what devices with 64-bit registers accept as well.
    fn write64(&self, offset: u64, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// A message that raises an interrupt: where a device writes what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// What a PCI driver asks of the kernel.
pub trait Machine: Send + Sync {
    fn config(&self) -> &dyn ConfigSpace;
    /// Maps device registers, for the life of the kernel.
    ///
    /// # Errors
    /// No memory for a table.
    fn map(&self, physical: u64, len: u64) -> Result<Box<dyn Mmio>, kif::OutOfMemory>;
    /// Installs an interrupt handler (runs with interrupts off, must not block) and says which message calls it. `None`: no vector is left.
    fn interrupt(&self, handler: Box<dyn Fn() + Send + Sync>) -> Option<Message>;
}

/// Why a function cannot be driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PciError {
    /// The BAR is absent, in port space, or was not placed.
    NoBar(u8),
    /// It has no MSI-X capability or no such vector.
    NoMsix,
    /// A structure leaves its BAR or wraps around.
    BadStructure,
    /// No memory to map it.
    NoMemory,
    /// No interrupt vector is left.
    NoVector,
}

impl From<kif::OutOfMemory> for PciError {
    fn from(_: kif::OutOfMemory) -> Self {
        Self::NoMemory
    }
}

/// A function that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    pub address: Address,
    pub vendor: u16,
    pub device: u16,
    /// Class, subclass, programming interface: 24 bits.
    pub class: u32,
    /// Capabilities: identifier and offset, in the order of the list.
    pub capabilities: Vec<(u8, u8)>,
}

impl Function {
    /// Where a memory BAR was placed (PCI 3.0, section 6.2.5.1).
    ///
    /// # Errors
    /// [`PciError::NoBar`].
    pub fn bar(&self, config: &dyn ConfigSpace, index: u8) -> Result<u64, PciError> {
        if index > 5 {
            return Err(PciError::NoBar(index));
        }
        let offset = BARS + 4 * u16::from(index);
        let low = config.read32(self.address, offset);
        let base = match low & 7 {
            0 | 2 => u64::from(low & !0xf),
            4 if index < 5 => u64::from(low & !0xf) | u64::from(config.read32(self.address, offset + 4)) << 32,
            _ => 0,
        };
        if base == 0 { Err(PciError::NoBar(index)) } else { Ok(base) }
    }

    /// Maps `len` bytes at `offset` of a BAR.
    ///
    /// # Errors
    /// See [`PciError`].
    pub fn map(&self, machine: &dyn Machine, bar: u8, offset: u64, len: u64) -> Result<Box<dyn Mmio>, PciError> {
        let base = self.bar(machine.config(), bar)?;
        let start = base.checked_add(offset).ok_or(PciError::BadStructure)?;
        // 52 bits is as far as physical addresses go.
        if len == 0 || len > 1 << 24 || start >> 52 != 0 {
            return Err(PciError::BadStructure);
        }
        Ok(machine.map(start, len)?)
    }

    /// Lets the function decode memory and master the bus.
    pub fn enable(&self, config: &dyn ConfigSpace) {
        let command = config.read32(self.address, COMMAND) & 0xffff;
        config.write32(self.address, COMMAND, command | COMMAND_ON);
    }

    /// Connects MSI-X vector `index` of the function with a handler and turns MSI-X on.
    ///
    /// # Errors
    /// See [`PciError`].
    pub fn connect(&self, machine: &dyn Machine, index: u16, handler: Box<dyn Fn() + Send + Sync>) -> Result<(), PciError> {
        let config = machine.config();
        let (_, at) = self.capabilities.iter().find(|(id, _)| *id == MSIX).ok_or(PciError::NoMsix)?;
        let at = u16::from(*at);
        let control = config.read32(self.address, at);
        if index > (control >> 16 & 0x7ff) as u16 {
            return Err(PciError::NoMsix);
        }
        let table = config.read32(self.address, at + 4);
        let offset = u64::from(table & !7) + 16 * u64::from(index);
        let entry = self.map(machine, (table & 7) as u8, offset, 16)?;
        let message = machine.interrupt(handler).ok_or(PciError::NoVector)?;
        // Masked while it changes; then MSI-X enable on, function mask off.
        entry.write32(12, 1);
        entry.write32(0, message.address as u32);
        entry.write32(4, (message.address >> 32) as u32);
        entry.write32(8, message.data);
        entry.write32(12, 0);
        config.write32(self.address, at, (control | 1 << 31) & !(1 << 30));
        Ok(())
    }
}

/// Finds all functions, in order of their addresses per bus, behind bridges too.
#[must_use]
pub fn scan(config: &dyn ConfigSpace) -> Vec<Function> {
    let mut found = Vec::new();
    let mut buses = Vec::from([0_u8]);
    let mut next = 0;
    while let Some(bus) = buses.get(next).copied() {
        next += 1;
        for device in 0..32 {
            let first = Address { bus, device, function: 0 };
            if config.read32(first, 0) & 0xffff == 0xffff {
                continue;
            }
            let functions = if config.read32(first, HEADER) >> 16 & 0x80 != 0 { 8 } else { 1 };
            for function in 0..functions {
                let at = Address { function, ..first };
                let identity = config.read32(at, 0);
                if identity & 0xffff == 0xffff || found.len() == MAX_FUNCTIONS {
                    continue;
                }
                // A bridge: its secondary bus, unless firmware gave it none or one that was seen.
                if config.read32(at, HEADER) >> 16 & 0x7f == 1 {
                    let secondary = (config.read32(at, BUSES) >> 8) as u8;
                    if !buses.contains(&secondary) {
                        buses.push(secondary);
                    }
                }
                found.push(Function {
                    address: at,
                    vendor: identity as u16,
                    device: (identity >> 16) as u16,
                    class: config.read32(at, CLASS) >> 8,
                    capabilities: capabilities(config, at),
                });
            }
        }
    }
    found
}

fn capabilities(config: &dyn ConfigSpace, at: Address) -> Vec<(u8, u8)> {
    let mut list = Vec::new();
    if config.read32(at, COMMAND) & STATUS_CAPABILITIES == 0 {
        return list;
    }
    let mut next = config.read32(at, CAPABILITIES) as u8 & !3;
    // 48 capabilities of 4 bytes fill the space behind the header: a longer list loops.
    while next >= 0x40 && list.len() < 48 {
        let head = config.read32(at, u16::from(next));
        list.push((head as u8, next));
        next = (head >> 8) as u8 & !3;
    }
    list
}
