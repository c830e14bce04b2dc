//! The PCI function around the HBA.

use sim_bus::{DiskId, Region};

use super::chip::Hba;
use crate::pci::{Bar, Chip, Function, Identity, Messages, Msi, Shell};

/// BAR 5: the registers.
pub const REGISTERS: Region = Region(5);
const BAR_BYTES: u64 = 0x1000;

/// An AHCI controller on the bus.
pub type Ahci = Shell<Hba>;

impl Chip for Hba {
    const KIND: &'static str = "ahci";

    fn take_vectors(&mut self) -> u64 {
        u64::from(self.take_edge())
    }

    fn pin(&self) -> bool {
        Hba::pin(self)
    }
}

impl Shell<Hba> {
    /// With one disk behind it.
    pub fn with_disk(disk: DiskId, sectors: u64) -> Self {
        let identity = Identity { vendor: 0x8086, device: 0x2922, class: 0x01_0601, revision: 2, subsystem_vendor: 0x1af4, subsystem: 0x1100 };
        let mut function = Function::new(identity).with_bar(Bar::narrow(5, BAR_BYTES, REGISTERS)).with_pin();
        let msi = Msi::new(&mut function);
        Shell::new(function.with_power_management(), Messages::Msi(msi), Hba::new(disk, sectors))
    }
}
