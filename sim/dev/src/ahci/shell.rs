//! The PCI function around the HBA: decode, MSI, the pin.

use sim_bus::{Cx, DiskId, Fields, Node, Region, Reset, Token};

use super::chip::Hba;
use crate::pci::{Bar, Function, Identity, Msi};

/// BAR 5: the registers.
pub const REGISTERS: Region = Region(5);
const BAR_BYTES: u64 = 0x1000;

/// An AHCI controller on the bus.
#[derive(Clone, Debug)]
pub struct Ahci {
    function: Function,
    msi: Msi,
    hba: Hba,
    pin: bool,
}

impl Ahci {
    pub fn new(disk: DiskId, sectors: u64) -> Self {
        let identity =
            Identity { vendor: 0x8086, device: 0x2922, class: 0x01_0601, revision: 2, subsystem_vendor: 0x1af4, subsystem: 0x1100 };
        let mut function = Function::new(identity).with_bar(Bar::narrow(5, BAR_BYTES, REGISTERS)).with_pin();
        let msi = Msi::new(&mut function);
        Self { function: function.with_power_management(), msi, hba: Hba::new(disk, sectors), pin: false }
    }

    /// The configuration space, for the board to place BARs.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    fn interrupts(&mut self, cx: &mut Cx<'_>) {
        let edge = self.hba.take_edge();
        let msi = self.msi.is_enabled(&self.function);
        if msi && edge {
            self.msi.raise(&self.function, cx);
        }
        let pin = !msi && self.hba.pin();
        if pin != self.pin {
            self.pin = pin;
            self.function.interrupt(pin, cx);
        }
    }
}

impl Node for Ahci {
    fn kind(&self) -> &'static str {
        "ahci"
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        Node::read(&mut self.hba, region, offset, size, cx)
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        Node::write(&mut self.hba, region, offset, size, value, cx);
        self.interrupts(cx);
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        if self.function.is_master() {
            Node::event(&mut self.hba, what, cx);
        } else {
            Node::event(&mut self.hba, what, &mut cx.without_dma());
        }
        self.interrupts(cx);
    }

    fn input(&mut self, _cx: &mut Cx<'_>) {}

    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        Node::reset(&mut self.hba, how, cx);
        self.pin = false;
        self.function.reset(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.function.state(fields);
        Node::state(&mut self.hba, fields);
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
        self.interrupts(cx);
    }
}
