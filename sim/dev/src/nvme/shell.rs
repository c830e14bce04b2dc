//! The PCI function around the controller.

use sim_bus::{Cx, DiskId, Region};

use super::chip::Controller;
use super::regs::IO_QUEUES;
use crate::pci::{Bar, Chip, Function, Identity, Messages, MsiX, Shell, TABLE_BYTES};

/// BAR 0: registers and doorbells.
pub const REGISTERS: Region = Region(0);
/// BAR 4: the MSI-X table.
pub const TABLE: Region = Region(4);

const BAR_BYTES: u64 = 0x4000;

/// An NVMe controller on the bus.
pub type Nvme = Shell<Controller>;

impl Chip for Controller {
    const KIND: &'static str = "nvme";
    /// §3.1.24.
    const DOORBELLS: Option<u64> = Some(0x1000);

    fn take_vectors(&mut self) -> u64 {
        Controller::take_vectors(self)
    }

    fn pin(&self) -> bool {
        Controller::pin(self)
    }

    fn doorbell(&mut self, index: u64, value: u32, cx: &mut Cx<'_>) {
        Controller::doorbell(self, index, value, cx);
    }
}

impl Shell<Controller> {
    /// With one namespace.
    pub fn with_namespace(disk: DiskId, sectors: u64, read_only: bool) -> Self {
        let identity = Identity { vendor: 0x1b36, device: 0x0010, class: 0x01_0802, revision: 2, subsystem_vendor: 0x1af4, subsystem: 0x1100 };
        let mut function = Function::new(identity)
            .with_bar(Bar::wide(0, BAR_BYTES, REGISTERS))
            .with_bar(Bar::wide(4, TABLE_BYTES, TABLE))
            .with_pin()
            .with_power_management()
            .with_express();
        let msix = MsiX::new(&mut function, 4, IO_QUEUES + 1);
        Shell::new(function, Messages::MsiX(msix, TABLE), Controller::new(disk, sectors, read_only))
    }
}
