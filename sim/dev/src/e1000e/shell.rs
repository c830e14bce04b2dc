//! The PCI function: decode, and what writes set going.

use sim_bus::{Access, Cx, Fields, Nanos, Node, Region, Reset, Token, WireId};

use super::interrupt::{Interrupts, LINK_CHANGE, VECTORS, Wires};
use super::phy::{self, NVM_WORDS, Phy};
use super::receive::Receive;
use super::regs::{
    CTRL, CTRL_MASTER_DISABLE, CTRL_PHY_RESET, CTRL_RESET, CTRL_SET_LINK_UP, EECD, EERD, EEWR, ICR, ICS, IMC, IMS, MDIC, MRQC, RAH, RAL, RCTL, RCTL_TYPE, RDBAL,
    RDT, RDTR, Registers, STATISTICS, STATISTICS_END, STATUS, SWSM, SYSTIMH, SYSTIML, TADV, TCTL, TDBAL, TDT, TIDV, TIMINCA,
};
use super::stats::{INTERRUPTS, Statistics};
use super::transmit::Transmit;
use super::{LINK, RECEIVE, RECEIVE_DELAY, THROTTLE, TRANSMIT, TRANSMIT_DELAY};
use crate::pci::{Bar, Function, Identity, Msi, MsiX, TABLE_BYTES};

/// BAR 0: registers.
const REGISTERS: Region = Region(0);
/// BAR 3: the MSI-X table.
const TABLE: Region = Region(3);
const REGISTER_BYTES: u64 = 0x2_0000;

const NOTICE_NS: Nanos = 300;
/// In EECD (§10.2.2.3): request and grant, an NVM is there, auto-read is done.
const EECD_REQUEST: u32 = 1 << 6;
const EECD_GRANT: u32 = 1 << 7;
const EECD_PRESENT: u32 = 1 << 8 | 1 << 9;
/// SPI pins, which lead nowhere here.
const EECD_SPI: u32 = 0x07;
const WORD_START: u32 = 1;
const WORD_DONE: u32 = 2;
/// A tick of the clock for time stamps: 25 MHz.
const CLOCK_NS: u64 = 40;

/// The controller.
#[derive(Clone, Debug)]
pub struct E1000e {
    function: Function,
    msi: Msi,
    msix: MsiX,
    wire: WireId,
    mac: [u8; 6],
    nvm: [u16; NVM_WORDS],
    registers: Registers,
    interrupts: Interrupts,
    statistics: Statistics,
    phy: Phy,
    transmit: Transmit,
    receive: Receive,
    /// What STATUS says of the link.
    link: bool,
    eecd: u32,
    eerd: u32,
    eewr: u32,
    mdic: u32,
    /// The time-stamp clock: its value at `clock_at`.
    clock: u64,
    clock_at: Nanos,
    clock_high: u32,
}

impl E1000e {
    /// `link`: whether the wire has one at power-on.
    pub fn new(wire: WireId, mac: [u8; 6], link: bool) -> Self {
        let identity = Identity { vendor: 0x8086, device: 0x10d3, class: 0x02_0000, revision: 0, subsystem_vendor: 0x8086, subsystem: 0 };
        let mut function = Function::new(identity)
            .with_bar(Bar::narrow(0, REGISTER_BYTES, REGISTERS))
            .with_bar(Bar::narrow(3, TABLE_BYTES, TABLE))
            .with_power_management()
            .with_pin();
        let msi = Msi::new(&mut function);
        let mut function = function.with_express();
        let msix = MsiX::new(&mut function, 3, VECTORS);
        let mut chip = Self {
            function,
            msi,
            msix,
            wire,
            mac,
            nvm: phy::nvm(mac),
            registers: Registers::default(),
            interrupts: Interrupts::default(),
            statistics: Statistics::default(),
            phy: Phy::new(link),
            transmit: Transmit::default(),
            receive: Receive::default(),
            link: false,
            eecd: 0,
            eerd: 0,
            eewr: 0,
            mdic: 1 << 28,
            clock: 0,
            clock_at: 0,
            clock_high: 0,
        };
        chip.load_address();
        chip
    }

    /// The configuration space, for the board to place BARs.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    /// The NVM's address goes into the first receive address (§10.2.5.22).
    fn load_address(&mut self) {
        let [a, b, c, d, e, f] = self.mac;
        self.registers.set(RAL, u32::from_le_bytes([a, b, c, d]));
        self.registers.set(RAH, u32::from_le_bytes([e, f, 0, 0x80]));
    }

    /// CTRL.RST: everything but the PHY and the configuration space.
    fn reset_chip(&mut self, cx: &mut Cx<'_>) {
        self.registers = Registers::default();
        self.interrupts = Interrupts::default();
        self.statistics = Statistics::default();
        self.transmit = Transmit::default();
        self.receive = Receive::default();
        (self.eecd, self.eerd, self.eewr, self.mdic) = (0, 0, 0, 1 << 28);
        self.load_address();
        for token in [TRANSMIT, TRANSMIT_DELAY, RECEIVE, RECEIVE_DELAY] {
            cx.cancel(token);
        }
        for vector in 0..=VECTORS {
            cx.cancel(Token(THROTTLE + vector));
        }
        self.settle(cx);
    }

    fn wires<'a>(registers: &'a Registers, function: &'a mut Function, msi: Msi, msix: &'a mut MsiX) -> Wires<'a> {
        Wires { registers, function, msi, msix }
    }

    fn raise(&mut self, causes: u32, cx: &mut Cx<'_>) {
        if causes != 0 {
            let fired = self.interrupts.raise(causes, Self::wires(&self.registers, &mut self.function, self.msi, &mut self.msix), cx);
            self.statistics.add(INTERRUPTS, fired);
        }
    }

    fn settle(&mut self, cx: &mut Cx<'_>) {
        let fired = self.interrupts.settle(Self::wires(&self.registers, &mut self.function, self.msi, &mut self.msix), cx);
        self.statistics.add(INTERRUPTS, fired);
    }

    /// Brings STATUS.LU up to date; a change is an interrupt.
    fn update_link(&mut self, cx: &mut Cx<'_>) {
        let link = self.phy.is_up(cx.now()) && self.registers.get(CTRL) & CTRL_SET_LINK_UP != 0;
        if self.phy.cable && cx.now() < self.phy.done_at {
            cx.at(self.phy.done_at, LINK);
        }
        if std::mem::replace(&mut self.link, link) != link {
            self.raise(LINK_CHANGE, cx);
        }
    }

    /// The clock for time stamps: TIMINCA says how much it grows in how many ticks (§10.2.9).
    fn time(&self, now: Nanos) -> u64 {
        let step = self.registers.get(TIMINCA);
        let (value, period) = (u64::from(step & 0xff_ffff), u64::from(step >> 24));
        match period {
            0 => self.clock,
            _ => self.clock.wrapping_add((now - self.clock_at.min(now)).div_euclid(CLOCK_NS * period).wrapping_mul(value)),
        }
    }

    fn read_register(&mut self, offset: u32, cx: &mut Cx<'_>) -> Option<u32> {
        Some(match offset {
            STATUS => {
                let master = self.registers.get(CTRL) & CTRL_MASTER_DISABLE == 0;
                // Full duplex, 1000 Mbit/s; PHY reset asserted is not shown; master enable.
                0x81 | if self.link { 2 } else { 0 } | if master { 1 << 19 } else { 0 }
            }
            EECD => self.eecd | EECD_PRESENT | if self.eecd & EECD_REQUEST != 0 { EECD_GRANT } else { 0 },
            EERD => self.eerd,
            EEWR => self.eewr,
            MDIC => self.mdic,
            ICR => {
                let value = self.interrupts.read_causes(&self.registers);
                self.settle(cx);
                value
            }
            // Write only: reads as the causes would, without their effects.
            ICS => self.interrupts.causes,
            IMS => self.interrupts.mask,
            IMC => 0,
            SWSM => {
                // Reading takes the semaphore (§10.2.2.17).
                let value = self.registers.get(SWSM);
                self.registers.set(SWSM, value | 1);
                value
            }
            SYSTIML => {
                let time = self.time(cx.now());
                self.clock_high = (time >> 32) as u32;
                time as u32
            }
            SYSTIMH => self.clock_high,
            STATISTICS..STATISTICS_END => self.statistics.read(offset),
            _ => return self.registers.read(offset),
        })
    }

    /// `false`: nothing is there, or what was asked for is not.
    fn write_register(&mut self, offset: u32, value: u32, cx: &mut Cx<'_>) -> bool {
        match offset {
            CTRL => {
                if value & CTRL_RESET != 0 {
                    self.reset_chip(cx);
                }
                if value & CTRL_PHY_RESET != 0 {
                    self.phy.reset(cx.now());
                }
                if value & CTRL_RESET == 0 {
                    self.registers.write(CTRL, value);
                }
                self.update_link(cx);
            }
            EECD => {
                self.eecd = value & EECD_REQUEST;
                return value & EECD_SPI == 0;
            }
            EERD => {
                let word = self.nvm.get((value >> 2 & 0x3fff) as usize).copied().unwrap_or(0xffff);
                self.eerd = if value & WORD_START != 0 { u32::from(word) << 16 | value & 0xfffc | WORD_DONE } else { value & 0xfffc };
            }
            EEWR => {
                if value & WORD_START != 0
                    && let Some(word) = self.nvm.get_mut((value >> 2 & 0x3fff) as usize)
                {
                    *word = (value >> 16) as u16;
                }
                self.eewr = WORD_DONE;
            }
            MDIC => {
                let (result, there) = self.phy.command(value, cx.now());
                self.mdic = result;
                self.update_link(cx);
                return there;
            }
            ICR => {
                self.interrupts.causes &= !value;
                self.settle(cx);
            }
            ICS => self.raise(value, cx),
            IMS => {
                self.interrupts.mask |= value;
                self.settle(cx);
            }
            IMC => {
                self.interrupts.mask &= !value;
                self.settle(cx);
            }
            RDT => {
                self.registers.write(offset, value);
                self.receive.wake(cx);
            }
            TDT | TCTL => {
                self.registers.write(offset, value);
                cx.after(NOTICE_NS, TRANSMIT);
            }
            RCTL => {
                self.registers.write(offset, value);
                self.receive.wake(cx);
                return value & RCTL_TYPE == 0;
            }
            RDBAL => {
                self.receive.stopped = false;
                self.registers.write(offset, value);
            }
            TDBAL => {
                self.transmit.stopped = false;
                self.registers.write(offset, value);
            }
            // The top bit flushes what is delayed (§10.2.5.7, §10.2.6.6).
            RDTR => {
                self.registers.write(offset, value & 0xffff);
                if value >> 31 != 0 {
                    cx.after(NOTICE_NS, RECEIVE_DELAY);
                }
            }
            TIDV => {
                self.registers.write(offset, value & 0xffff);
                if value >> 31 != 0 {
                    cx.after(NOTICE_NS, TRANSMIT_DELAY);
                }
            }
            TADV => {
                self.registers.write(offset, value);
            }
            MRQC => {
                self.registers.write(offset, value);
                // Several queues are not there; which fields a hash covers may be said.
                return value & 3 == 0;
            }
            SYSTIML => {
                self.clock = self.time(cx.now()) & !0xffff_ffff | u64::from(value);
                self.clock_at = cx.now();
            }
            SYSTIMH => {
                self.clock = self.time(cx.now()) & 0xffff_ffff | u64::from(value) << 32;
                self.clock_at = cx.now();
            }
            TIMINCA => {
                self.clock = self.time(cx.now());
                self.clock_at = cx.now();
                self.registers.write(offset, value);
            }
            // Read only.
            STATUS => {}
            STATISTICS..STATISTICS_END => {}
            _ => return self.registers.write(offset, value),
        }
        true
    }

    fn work(&mut self, what: Token, cx: &mut Cx<'_>) {
        let causes = match what {
            TRANSMIT => self.transmit.run(self.wire, self.link, &mut self.registers, &mut self.statistics, cx).causes,
            RECEIVE => {
                let overrun = self.receive.arrive(self.wire, &self.registers, &mut self.statistics, cx);
                overrun | self.receive.run(&mut self.registers, &mut self.statistics, cx)
            }
            RECEIVE_DELAY => self.receive.delayed(),
            TRANSMIT_DELAY => self.transmit.delayed(),
            LINK => {
                self.update_link(cx);
                0
            }
            Token(number) => {
                self.interrupts.throttled(usize::from(number.wrapping_sub(THROTTLE)));
                self.settle(cx);
                0
            }
        };
        self.raise(causes, cx);
    }
}

impl Node for E1000e {
    fn kind(&self) -> &'static str {
        "e1000e"
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if region == TABLE {
            return self.msix.read(region, offset, size, cx);
        }
        // Registers are read and written in whole (§10.1.1).
        let value = if size == 4 && offset < REGISTER_BYTES { self.read_register(offset as u32, cx) } else { None };
        match value {
            Some(value) => u64::from(value),
            None => {
                cx.unimplemented(Access::read(region, offset, size));
                0
            }
        }
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if region == TABLE {
            self.msix.write(region, offset, size, value, &self.function, cx);
            return;
        }
        if size != 4 || offset >= REGISTER_BYTES || !self.write_register(offset as u32, value as u32, cx) {
            cx.unimplemented(Access::write(region, offset, size, value));
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        if self.function.is_master() {
            self.work(what, cx);
        } else {
            self.work(what, &mut cx.without_dma());
        }
    }

    fn input(&mut self, cx: &mut Cx<'_>) {
        let link = cx.has_link(self.wire);
        if link != self.phy.cable {
            self.phy.plug(link, cx.now());
            self.update_link(cx);
        }
        let overrun = self.receive.arrive(self.wire, &self.registers, &mut self.statistics, cx);
        self.raise(overrun, cx);
    }

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        self.reset_chip(cx);
        self.phy.reset(cx.now());
        self.link = false;
        cx.cancel(LINK);
        self.msix.reset();
        self.function.reset(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.function.state(fields);
        self.msix.state(fields);
        let mut nvm: Vec<u8> = self.nvm.iter().flat_map(|word| word.to_le_bytes()).collect();
        fields.array("nvm", &mut nvm);
        for (word, bytes) in self.nvm.iter_mut().zip(nvm.chunks_exact(2)) {
            *word = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        self.registers.state(fields);
        self.interrupts.state(fields);
        self.statistics.state(fields);
        self.phy.state(fields);
        self.transmit.state(fields);
        self.receive.state(fields);
        fields.flag("link_up", &mut self.link);
        for (name, value) in [("eecd", &mut self.eecd), ("eerd", &mut self.eerd), ("eewr", &mut self.eewr), ("mdic", &mut self.mdic), ("clock_high", &mut self.clock_high)] {
            fields.u32(name, value);
        }
        fields.u64("clock", &mut self.clock);
        fields.u64("clock_at", &mut self.clock_at);
    }

    fn windows(&self) -> Vec<(Region, Option<u64>, u64)> {
        self.function.windows().map(|(bar, base)| (bar.region, base, bar.size)).collect()
    }

    fn config_read(&mut self, register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.function.read(register, size)
    }

    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        let way = |chip: &Self| (chip.msi.is_enabled(&chip.function), chip.msix.is_enabled(&chip.function));
        let before = way(self);
        self.function.write(register, size, value, cx);
        self.msix.settle(&self.function, cx);
        if way(self) != before {
            // With messages on INTA# is off (PCI 3.0 §6.8.1.3), and who waits is told of by the new way.
            self.interrupts.forget();
            self.function.interrupt(false, cx);
            self.settle(cx);
        }
    }
}
