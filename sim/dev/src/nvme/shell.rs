//! The PCI function around the controller: decode, vectors, the pin.

use sim_bus::{Access, Cx, DiskId, Fields, Node, Region, Reset, Token};

use super::chip::Controller;
use super::regs::IO_QUEUES;
use crate::pci::{Bar, Function, Identity, MsiX, TABLE_BYTES};

/// BAR 0: registers and doorbells.
pub const REGISTERS: Region = Region(0);
/// BAR 4: the MSI-X table.
pub const TABLE: Region = Region(4);

/// Doorbells begin here (§3.1.24).
const DOORBELLS: u64 = 0x1000;
const BAR_BYTES: u64 = 0x4000;

/// An NVMe controller on the bus.
#[derive(Clone, Debug)]
pub struct Nvme {
    function: Function,
    msix: MsiX,
    controller: Controller,
    pin: bool,
}

impl Nvme {
    pub fn new(disk: DiskId, sectors: u64, read_only: bool) -> Self {
        let identity =
            Identity { vendor: 0x1b36, device: 0x0010, class: 0x01_0802, revision: 2, subsystem_vendor: 0x1af4, subsystem: 0x1100 };
        let mut function = Function::new(identity)
            .with_bar(Bar::wide(0, BAR_BYTES, REGISTERS))
            .with_bar(Bar::wide(4, TABLE_BYTES, TABLE))
            .with_pin()
            .with_power_management()
            .with_express();
        let msix = MsiX::new(&mut function, 4, IO_QUEUES + 1);
        Self { function, msix, controller: Controller::new(disk, sectors, read_only), pin: false }
    }

    /// The configuration space, for the board to place BARs.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    /// Carries the controller's interrupts out: vectors with MSI-X, else the pin.
    fn interrupts(&mut self, cx: &mut Cx<'_>) {
        let vectors = self.controller.take_vectors();
        let msix = self.msix.is_enabled(&self.function);
        if msix {
            for vector in (0..=IO_QUEUES).filter(|vector| vectors >> vector & 1 != 0) {
                self.msix.raise(vector, &self.function, cx);
            }
        }
        let pin = !msix && self.controller.pin();
        if pin != self.pin {
            self.pin = pin;
            self.function.interrupt(pin, cx);
        }
    }
}

impl Node for Nvme {
    fn kind(&self) -> &'static str {
        "nvme"
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if region == TABLE {
            return self.msix.read(region, offset, size, cx);
        }
        if offset >= DOORBELLS {
            // Doorbells read as nothing in particular (§3.1.24).
            return 0;
        }
        Node::read(&mut self.controller, region, offset, size, cx)
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if region == TABLE {
            self.msix.write(region, offset, size, value, &self.function, cx);
            return;
        }
        if offset < DOORBELLS {
            Node::write(&mut self.controller, region, offset, size, value, cx);
        } else if size == 4 && offset.is_multiple_of(4) {
            self.controller.doorbell((offset - DOORBELLS) / 4, value as u32, cx);
        } else {
            cx.unimplemented(Access::write(region, offset, size, value));
        }
        self.interrupts(cx);
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        if self.function.is_master() {
            Node::event(&mut self.controller, what, cx);
        } else {
            Node::event(&mut self.controller, what, &mut cx.without_dma());
        }
        self.interrupts(cx);
    }

    fn input(&mut self, _cx: &mut Cx<'_>) {}

    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        Node::reset(&mut self.controller, how, cx);
        self.msix.reset();
        self.pin = false;
        self.function.reset(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.function.state(fields);
        self.msix.state(fields);
        Node::state(&mut self.controller, fields);
        fields.flag("pin", &mut self.pin);
    }

    fn windows(&self) -> Vec<(Region, Option<u64>, u64)> {
        self.function.windows().map(|(bar, base)| (bar.region, base, bar.size)).collect()
    }

    fn config_read(&mut self, register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.function.read(register, size)
    }

    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        self.function.write(register, size, value, cx);
        self.msix.settle(&self.function, cx);
        self.interrupts(cx);
    }
}
