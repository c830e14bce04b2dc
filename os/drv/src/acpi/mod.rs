//! ACPI tables: what the machine has and how it is switched off (ACPI 6.5, chapter 5).
//!
//! # Theory
//! We read tables; we do not run AML. The one thing we take out of the DSDT is the sleep type of `\_S5`, whose definition has one shape in practice:
//! `Name (_S5, Package {a, b, ..})` with small integers.
//!
//! # Failure
//! Tables are bytes from outside. A table with a wrong checksum or length is ignored and named in [`Tables::ignored`]; what the machine then lacks (interrupt
//! wiring, power-off) is missing in [`Tables`], and the kernel says so.
//!
//! # Limits
//! Tables of at most [`MAX_TABLE`] bytes; at most [`MAX_TABLES`] of them.

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;

/// Longest table that is read (a DSDT of a server is below 1 MiB).
pub const MAX_TABLE: usize = 4 << 20;
/// Tables that are looked at.
pub const MAX_TABLES: usize = 256;

/// Reads physical memory; `None` if there is none.
pub type ReadPhysical<'r> = &'r dyn Fn(u64, &mut [u8]) -> Option<()>;

/// A register that is reached by port or by memory (ACPI 6.5, section 5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Memory(u64),
    Port(u16),
}

/// How a legacy interrupt is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    pub isa: u8,
    pub global: u32,
    pub active_low: bool,
    pub level: bool,
}

/// An IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    pub address: u64,
    /// Its first global interrupt.
    pub first: u32,
}

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Physical address of the local APICs; 0: not said.
    pub local_apic: u64,
    /// APIC ids of the processors that can be used.
    pub processors: Vec<u32>,
    pub io_apics: Vec<IoApic>,
    pub overrides: Vec<Override>,
    /// Port of the PM timer.
    pub pm_timer: Option<u16>,
    /// Physical address of the HPET.
    pub hpet: Option<u64>,
    /// PM1a and PM1b control ports.
    pub pm1_control: Option<(u16, Option<u16>)>,
    /// SLP_TYPa and SLP_TYPb of `\_S5`.
    pub soft_off: Option<(u8, u8)>,
    /// Port and value that turn ACPI on, if the firmware starts in legacy mode.
    pub enable: Option<(u16, u8)>,
    /// Register and value that reset the machine.
    pub reset: Option<(Address, u8)>,
    /// CMOS register of the century; 0: none.
    pub century: u8,
    /// Tables that made no sense: their signatures.
    pub ignored: Vec<[u8; 4]>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// Reads a table: header, length, checksum.
fn load(read: ReadPhysical<'_>, address: u64, ignored: &mut Vec<[u8; 4]>) -> Option<Vec<u8>> {
    let mut header = [0; 36];
    read(address, &mut header)?;
    let signature = [header[0], header[1], header[2], header[3]];
    let len = u32_at(&header, 4).and_then(|len| usize::try_from(len).ok())?;
    let table = (36..=MAX_TABLE).contains(&len).then(|| {
        let mut table = vec![0; len];
        read(address, &mut table).map(|()| table)
    });
    let table = table.flatten().filter(|table| table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0);
    if table.is_none() {
        ignored.push(signature);
    }
    table
}

/// Reads all tables from the root pointer.
#[must_use]
pub fn tables(rsdp: &[u8; 36], read: ReadPhysical<'_>) -> Tables {
    let mut out = Tables::default();
    let xsdt = if rsdp[15] >= 2 { u64_at(rsdp, 24).filter(|address| *address != 0) } else { None };
    let (root, width) = match xsdt {
        Some(address) => (Some(address), 8),
        None => (u32_at(rsdp, 16).map(u64::from), 4),
    };
    let Some(root) = root.and_then(|address| load(read, address, &mut out.ignored)) else { return out };
    for entry in root[36..].chunks_exact(width).take(MAX_TABLES) {
        let address = if width == 8 { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) };
        let Some(table) = address.and_then(|address| load(read, address, &mut out.ignored)) else { continue };
        match &table[..4] {
            b"FACP" => fadt(&mut out, &table, read),
            b"APIC" => madt(&mut out, &table),
            // Address space id 0 is memory (IA-PC HPET 1.0a, section 3.2.4).
            b"HPET" if table.get(40) == Some(&0) => out.hpet = u64_at(&table, 44),
            b"SSDT" if out.soft_off.is_none() => out.soft_off = soft_off(&table[36..]),
            _ => {}
        }
    }
    out
}

/// Fixed ACPI description table (section 5.2.9).
fn fadt(out: &mut Tables, table: &[u8], read: ReadPhysical<'_>) {
    let port = |at: usize| u32_at(table, at).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    out.pm_timer = port(76);
    out.pm1_control = port(64).map(|a| (a, port(68)));
    out.enable = port(48).zip(table.get(52).copied()).filter(|(_, value)| *value != 0);
    out.century = table.get(108).copied().unwrap_or(0);
    // RESET_REG_SUP: bit 10 of the flags; the register is a generic address structure at 116, its value at 128.
    if u32_at(table, 112).is_some_and(|flags| flags & 1 << 10 != 0) && table.len() > 128 {
        let address = u64_at(table, 120).unwrap_or(0);
        let place = match table[116] {
            0 => Some(Address::Memory(address)),
            1 => u16::try_from(address).ok().map(Address::Port),
            _ => None,
        };
        out.reset = place.map(|place| (place, table[128]));
    }
    let dsdt = u64_at(table, 140).filter(|address| *address != 0).or_else(|| u32_at(table, 40).map(u64::from));
    if let Some(dsdt) = dsdt.and_then(|address| load(read, address, &mut out.ignored)) {
        out.soft_off = soft_off(&dsdt[36..]).or(out.soft_off);
    }
}

/// Multiple APIC description table (section 5.2.12).
fn madt(out: &mut Tables, table: &[u8]) {
    out.local_apic = u32_at(table, 36).map_or(0, u64::from);
    let mut at = 44;
    while let (Some(kind), Some(len)) = (table.get(at), table.get(at + 1)) {
        let Some(entry) = table.get(at..at + usize::from(*len)).filter(|entry| entry.len() >= 2) else { break };
        match kind {
            // Processor local APIC: enabled, or can be.
            0 if entry.len() >= 8 && entry[4] & 3 != 0 => out.processors.push(entry[3].into()),
            1 => {
                if let (Some(address), Some(first)) = (u32_at(entry, 4), u32_at(entry, 8)) {
                    out.io_apics.push(IoApic { address: address.into(), first });
                }
            }
            2 => {
                if let (Some(isa), Some(global), Some(flags)) = (entry.get(3), u32_at(entry, 4), u16_at(entry, 8)) {
                    out.overrides.push(Override { isa: *isa, global, active_low: flags & 3 == 3, level: flags >> 2 & 3 == 3 });
                }
            }
            5 => out.local_apic = u64_at(entry, 4).unwrap_or(out.local_apic),
            // Processor local x2APIC.
            9 if entry.len() >= 12 && entry[8] & 3 != 0 => out.processors.extend(u32_at(entry, 4)),
            _ => {}
        }
        at += entry.len();
    }
}

impl Tables {
    /// How a legacy interrupt reaches us: edge, active high and the same number, unless an override says otherwise.
    #[must_use]
    pub fn isa(&self, isa: u8) -> Override {
        let plain = Override { isa, global: isa.into(), active_low: false, level: false };
        self.overrides.iter().find(|entry| entry.isa == isa).copied().unwrap_or(plain)
    }
}

/// Finds `Name (_S5, Package {..})` and its first two elements (AML: section 20.2.5).
fn soft_off(aml: &[u8]) -> Option<(u8, u8)> {
    let mut from = 0;
    loop {
        let at = from + aml.get(from..)?.windows(4).position(|four| four == b"_S5_")?;
        from = at + 4;
        // NameOp, perhaps with a root prefix.
        let named = at >= 1 && aml[at - 1] == 0x08 || at >= 2 && aml[at - 1] == b'\\' && aml[at - 2] == 0x08;
        if named && let Some(types) = package(aml.get(at + 4..)?) {
            return Some(types);
        }
    }
}

/// The first two integers of a package.
fn package(aml: &[u8]) -> Option<(u8, u8)> {
    let rest = aml.strip_prefix(&[0x12])?;
    // PkgLength: the top two bits of its first byte say how many bytes follow.
    let follow = usize::from(rest.first()? >> 6);
    let elements = rest.get(1 + follow..)?;
    let count = *elements.first()?;
    let mut at = 1;
    let mut integer = || {
        let value = match elements.get(at)? {
            0x00 => 0,
            0x01 => 1,
            0xff => 0xff,
            0x0a => {
                at += 1;
                *elements.get(at)?
            }
            0x0b => {
                at += 2;
                *elements.get(at - 1)?
            }
            0x0c => {
                at += 4;
                *elements.get(at - 3)?
            }
            _ => return None,
        };
        at += 1;
        Some(value)
    };
    if count == 0 {
        return None;
    }
    let a = integer()?;
    Some((a, if count > 1 { integer().unwrap_or(0) } else { 0 }))
}
