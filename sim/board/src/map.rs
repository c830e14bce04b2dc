//! Where things are on the board.

pub(crate) const COM1: u16 = 0x3f8;
pub(crate) const COM2: u16 = 0x2f8;
pub(crate) const DEBUG_EXIT: u16 = 0xf4;
pub(crate) const FW_CFG: u16 = 0x510;
/// ACPI PM block: 16 bytes.
pub(crate) const PM: u16 = 0x600;
pub(crate) const SMI_CMD: u16 = 0xb2;
pub(crate) const RESET: u16 = 0xcf9;

pub(crate) const IOAPIC: u64 = 0xfec0_0000;
/// ECAM of bus 0.
pub(crate) const ECAM: u64 = 0xb000_0000;
pub(crate) const ECAM_BYTES: u64 = 1 << 20;
/// Where BARs are placed.
pub(crate) const PCI_WINDOW: u64 = 0xc000_0000;
pub(crate) const PCI_WINDOW_LAST: u64 = 0xfebf_ffff;

/// End of conventional memory; what follows up to 640 KiB belongs to firmware.
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The ACPI table that is written: in the firmware's part, 64-byte aligned.
pub(crate) const FACS: u64 = 0x9_ffc0;
/// The video window: no memory.
pub(crate) const VIDEO: u64 = 0xa_0000;
/// Option ROMs, firmware and its tables: read-only.
pub(crate) const FIRMWARE: u64 = 0xc_0000;
pub(crate) const FIRMWARE_END: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; the rest continues at 4 GiB.
pub(crate) const LOW_RAM_LIMIT: u64 = ECAM;
pub(crate) const HIGH_RAM: u64 = 1 << 32;

/// The interrupt lines of PCI.
pub(crate) const PIRQS: usize = 8;

/// The line that a PCI device's INTA# is on: PIRQA to PIRQH in turn.
pub(crate) fn pirq(device: u8) -> u8 {
    device % PIRQS as u8
}

/// Its I/O APIC input, as on a Q35.
pub(crate) fn pirq_gsi(pirq: u8) -> u8 {
    16 + pirq
}

/// Its 8259 input: where firmware routes it (10, 10, 11, 11, ..., as a PC's does that has two to spare).
pub(crate) fn pirq_isa(pirq: u8) -> u8 {
    10 + (pirq >> 1 & 1)
}
