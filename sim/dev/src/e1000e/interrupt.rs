//! Causes and masks (§10.2.4), vectors and throttling (§7.4).

use sim_bus::{Cx, Fields, NEVER, Nanos, Token};

use super::THROTTLE;
use super::regs::{CTRL_EXT, EIAC, EITR, IAM, ITR, IVAR, Registers};
use crate::pci::{Function, Msi, MsiX};

pub const TX_WRITTEN_BACK: u32 = 1 << 0;
pub const TX_QUEUE_EMPTY: u32 = 1 << 1;
pub const LINK_CHANGE: u32 = 1 << 2;
pub const RX_LOW: u32 = 1 << 4;
pub const RX_OVERRUN: u32 = 1 << 6;
pub const RX_TIMER: u32 = 1 << 7;
const MDIO_DONE: u32 = 1 << 9;
const SMALL: u32 = 1 << 16;
const ACK: u32 = 1 << 17;
const MANAGEMENT: u32 = 1 << 18;
pub const RX_QUEUE: u32 = 1 << 20;
pub const TX_QUEUE: u32 = 1 << 22;
const OTHER: u32 = 1 << 24;
const ASSERTED: u32 = 1 << 31;
/// Causes that the "other" vector stands for (§10.2.4.1).
const OTHERS: u32 = LINK_CHANGE | RX_OVERRUN | MDIO_DONE | SMALL | ACK | MANAGEMENT;
/// Causes that have a vector: two receive queues, two transmit queues, other (§10.2.4.9: their order in IVAR).
const VECTORED: [u32; 5] = [RX_QUEUE, 1 << 21, TX_QUEUE, 1 << 23, OTHER];

/// In CTRL_EXT.
const EXT_AUTO_MASK_MESSAGE: u32 = 1 << 24;
const EXT_AUTO_MASK_READ: u32 = 1 << 27;
/// A unit of ITR and EITR.
const INTERVAL_NS: u64 = 256;
/// How many vectors there are.
pub const VECTORS: u16 = 5;
/// The interrupt of INTA# and MSI is throttled as if it were one more vector.
const SINGLE: usize = VECTORS as usize;

/// The interrupt logic.
#[derive(Clone, Debug)]
pub struct Interrupts {
    pub causes: u32,
    pub mask: u32,
    /// When each vector may fire again.
    free_at: [Nanos; SINGLE + 1],
    /// A vector waits for that time.
    waiting: [bool; SINGLE + 1],
    /// Messages have told of these causes; a new one is told of again.
    told: u32,
}

impl Default for Interrupts {
    fn default() -> Self {
        Self { causes: 0, mask: 0, free_at: [0; SINGLE + 1], waiting: [false; SINGLE + 1], told: 0 }
    }
}

/// What the logic needs of the rest.
#[derive(Debug)]
pub struct Wires<'a> {
    pub registers: &'a Registers,
    pub function: &'a mut Function,
    pub msi: Msi,
    pub msix: &'a mut MsiX,
}

impl Interrupts {
    fn pending(&self) -> u32 {
        self.causes & self.mask
    }

    /// Causes arise. Counts nothing; returns how many interrupts were generated.
    pub fn raise(&mut self, causes: u32, wires: Wires<'_>, cx: &mut Cx<'_>) -> u64 {
        self.causes |= causes & !ASSERTED;
        if self.causes & OTHERS != 0 && causes & OTHERS != 0 {
            self.causes |= OTHER;
        }
        self.settle(wires, cx)
    }

    /// Fires what is pending and free to fire.
    pub fn settle(&mut self, wires: Wires<'_>, cx: &mut Cx<'_>) -> u64 {
        if wires.msix.is_enabled(wires.function) { self.settle_vectors(wires, cx) } else { self.settle_single(wires, cx) }
    }

    fn settle_vectors(&mut self, wires: Wires<'_>, cx: &mut Cx<'_>) -> u64 {
        let Wires { registers, function, msix, .. } = wires;
        let mut fired = 0;
        self.told &= self.pending();
        for (row, cause) in VECTORED.into_iter().enumerate() {
            if self.pending() & cause & !self.told == 0 {
                continue;
            }
            let entry = registers.get(IVAR) >> (4 * row);
            let vector = (entry & 7) as usize;
            if entry & 8 == 0 || vector >= usize::from(VECTORS) {
                continue;
            }
            if !self.may_fire(vector, registers.get(EITR + 4 * vector as u32), cx) {
                continue;
            }
            msix.raise(vector as u16, function, cx);
            fired += 1;
            // Auto-clear and auto-mask (§10.2.4.8, §10.2.2.5).
            self.told |= cause & !registers.get(EIAC);
            self.causes &= !(registers.get(EIAC) & cause);
            if registers.get(CTRL_EXT) & EXT_AUTO_MASK_MESSAGE != 0 {
                self.mask &= !(registers.get(IAM) & cause);
            }
        }
        fired
    }

    fn settle_single(&mut self, wires: Wires<'_>, cx: &mut Cx<'_>) -> u64 {
        let Wires { registers, function, msi, .. } = wires;
        let pending = self.pending();
        self.told &= pending;
        if msi.is_enabled(function) {
            if pending & !self.told == 0 || !self.may_fire(SINGLE, registers.get(ITR), cx) {
                return 0;
            }
            self.told = pending;
            msi.raise(function, cx);
            return 1;
        }
        let before = self.told != 0;
        if pending == 0 {
            self.told = 0;
            function.interrupt(false, cx);
            return 0;
        }
        if !before && !self.may_fire(SINGLE, registers.get(ITR), cx) {
            return 0;
        }
        self.told = pending;
        function.interrupt(true, cx);
        u64::from(!before)
    }

    /// Whether a vector's interval has passed; if not, it is looked at again when it has.
    fn may_fire(&mut self, vector: usize, interval: u32, cx: &mut Cx<'_>) -> bool {
        if cx.now() < self.free_at[vector] {
            if !std::mem::replace(&mut self.waiting[vector], true) {
                cx.at(self.free_at[vector], Token(THROTTLE + vector as u16));
            }
            return false;
        }
        self.free_at[vector] = cx.now() + u64::from(interval) * INTERVAL_NS;
        true
    }

    /// Interrupts take another way from now on: nobody has been told of anything that way.
    pub fn forget(&mut self) {
        self.told = 0;
    }

    /// A throttled vector's time has come: call [`Self::settle`] next.
    pub fn throttled(&mut self, vector: usize) {
        if let Some(waiting) = self.waiting.get_mut(vector) {
            *waiting = false;
            self.free_at[vector] = 0;
        }
    }

    /// Reads ICR, with what that does (§10.2.4.1).
    pub fn read_causes(&mut self, registers: &Registers) -> u32 {
        let asserted = self.pending() != 0;
        let value = self.causes | if asserted { ASSERTED } else { 0 };
        if asserted || self.mask == 0 {
            self.causes = 0;
        }
        if asserted && registers.get(CTRL_EXT) & EXT_AUTO_MASK_READ != 0 {
            self.mask &= !registers.get(IAM);
        }
        self.told &= self.pending();
        value
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u32("causes", &mut self.causes);
        fields.u32("mask", &mut self.mask);
        fields.u32("told", &mut self.told);
        for at in &mut self.free_at {
            fields.u64("free_at", at);
            *at = (*at).min(NEVER - 1);
        }
        for waiting in &mut self.waiting {
            fields.flag("waiting", waiting);
        }
    }
}
