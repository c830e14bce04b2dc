//! PCI Express: access to configuration space, and what all functions share.
//!
//! # Theory
//! PCI Local Bus 3.0 §3.2.2.3 (mechanism #1), §6 (configuration space) and §6.8 (MSI, MSI-X); PCI Express base 4.0 §7.2.2 (ECAM). A
//! function's configuration space is a [`Function`] inside its node; the board decodes the address ([`ConfigPorts`], [`ecam`]) and calls the
//! node's `config_read` and `config_write`. A change of a BAR or of the command register becomes an [`sim_bus::Effect::Window`].
//!
//! # Limits
//! Bus 0, function 0 of 32 devices. No expansion ROMs, no I/O BARs. Functions interrupt by MSI-X, MSI or INTA#, as each has them. MSI has one message: an HBA may
//! ask for more (AHCI 1.3.1, "Message Signaled Interrupt Capability"), which is optional; a NIC has MSI-X besides for its other queues. BARs are placed by the board
//! as firmware would; guests may move them.

mod config;
mod msi;
mod msix;
mod shell;
#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Fields, Node, Region, Reset, Token};

pub use config::{Bar, Function, Identity};
pub use msi::Msi;
pub use msix::{MsiX, TABLE_BYTES};
pub use shell::{Chip, Messages, Shell};

/// Where a configuration access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    pub bus: u8,
    pub device: u8,
    pub function: u8,
    pub register: u16,
}

/// Decodes an offset in the ECAM window.
pub fn ecam(offset: u64) -> ConfigAddress {
    ConfigAddress {
        bus: (offset >> 20) as u8,
        device: (offset >> 15 & 31) as u8,
        function: (offset >> 12 & 7) as u8,
        register: (offset & 0xfff) as u16,
    }
}

/// Ports 0xcf8 to 0xcff.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigPorts {
    address: u32,
}

impl ConfigPorts {
    /// What an access of `size` bytes at port 0xcf8 + `offset` addresses; `None`: the address register or nothing.
    pub fn target(&self, offset: u64, size: u8) -> Option<ConfigAddress> {
        if self.address >> 31 == 0 || !(4..8).contains(&offset) || offset + u64::from(size) > 8 {
            return None;
        }
        Some(ConfigAddress {
            bus: (self.address >> 16) as u8,
            device: (self.address >> 11 & 31) as u8,
            function: (self.address >> 8 & 7) as u8,
            register: (self.address & 0xfc) as u16 | (offset & 3) as u16,
        })
    }

    /// Reads the address register; anything else floats.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        if (offset, size) == (0, 4) { u64::from(self.address) } else { u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))) }
    }

    /// Writes the address register: only whole (PCI 3.0 §3.2.2.3.2). Narrower accesses are not for this register.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if (offset, size) == (0, 4) {
            self.address = value as u32 & 0x80ff_fffc;
        }
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u32("address", &mut self.address);
    }
}

/// The host bridge at 00:00.0: identity only (82G33 DRAM controller, as on Q35).
#[derive(Clone, Debug)]
pub struct HostBridge(Function);

impl Default for HostBridge {
    fn default() -> Self {
        Self(Function::new(Identity { vendor: 0x8086, device: 0x29c0, class: 0x06_0000, ..Identity::default() }))
    }
}

impl Node for HostBridge {
    fn kind(&self) -> &'static str {
        "pci-host"
    }
    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        cx.unimplemented(Access::read(region, offset, size));
        u64::MAX
    }
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        cx.unimplemented(Access::write(region, offset, size, value));
    }
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        self.0.reset(cx);
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        self.0.state(fields);
    }
    fn config_read(&mut self, register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.0.read(register, size)
    }
    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        self.0.write(register, size, value, cx);
    }
}
