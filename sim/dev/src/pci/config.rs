//! Configuration space of one function: bytes with a write mask, BARs, and a list of capabilities.

use sim_bus::{Cx, Effect, Fields, Region};

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
/// In the command register's second byte.
const COMMAND_INTX_DISABLE: u8 = 1 << 2;
const STATUS_INTERRUPT: u8 = 1 << 3;
/// In the power-management control register.
const POWER_STATE: u8 = 3;

/// What never changes about a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    /// Base class, subclass, programming interface: 24 bits.
    pub class: u32,
    pub revision: u8,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// A memory BAR, not prefetchable (PCI 3.0 §6.2.5.1).
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Register index, 0 to 5; even for a 64-bit one, which takes two registers.
    pub index: usize,
    /// Power of two, at least 4096.
    pub size: u64,
    /// The node's region behind it.
    pub region: Region,
    /// Whether it is 64 bits wide.
    pub wide: bool,
}

impl Bar {
    /// A 64-bit BAR.
    pub fn wide(index: usize, size: u64, region: Region) -> Self {
        Self { index, size, region, wide: true }
    }
    /// A 32-bit BAR.
    pub fn narrow(index: usize, size: u64, region: Region) -> Self {
        Self { index, size, region, wide: false }
    }
    fn bytes(self) -> usize {
        if self.wide { 8 } else { 4 }
    }
}

/// The configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    bytes: Vec<u8>,
    mask: Vec<u8>,
    initial: Vec<u8>,
    bars: Vec<Bar>,
    last_capability: usize,
    next_free: usize,
    /// Where the power state is, for functions that have one.
    power: Option<usize>,
}

impl Function {
    pub fn new(identity: Identity) -> Self {
        let mut function = Self {
            bytes: vec![0; 4096],
            mask: vec![0; 4096],
            initial: Vec::new(),
            bars: Vec::new(),
            last_capability: CAPABILITIES,
            next_free: 0x40,
            power: None,
        };
        function.set(0x00, &identity.vendor.to_le_bytes());
        function.set(0x02, &identity.device.to_le_bytes());
        function.set(0x08, &[identity.revision]);
        function.set(0x09, &identity.class.to_le_bytes()[..3]);
        function.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        function.set(0x2e, &identity.subsystem.to_le_bytes());
        // Memory decode, bus master, INTx disable; cache line size and interrupt line are scratch.
        function.mask[COMMAND] = COMMAND_MEMORY | COMMAND_MASTER;
        function.mask[COMMAND + 1] = COMMAND_INTX_DISABLE;
        function.mask[0x0c] = 0xff;
        function.mask[0x3c] = 0xff;
        function.initial = function.bytes.clone();
        function
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds a BAR.
    pub fn with_bar(mut self, bar: Bar) -> Self {
        let fits = bar.index < 6 && (!bar.wide || bar.index.is_multiple_of(2)) && (bar.wide || bar.size <= 1 << 31);
        assert!(bar.size.is_power_of_two() && bar.size >= 4096 && fits, "bad BAR {bar:?}");
        let at = BARS + 4 * bar.index;
        self.set(at, &[if bar.wide { 0x04 } else { 0 }]);
        let mask = !(bar.size - 1);
        self.mask[at..at + bar.bytes()].copy_from_slice(&mask.to_le_bytes()[..bar.bytes()]);
        self.bars.push(bar);
        self.initial = self.bytes.clone();
        self
    }

    /// Adds a capability: its bytes after the two header bytes, with a mask of what software may write. Returns where it is.
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> usize {
        let at = self.next_free;
        let length = (2 + body.len()).next_multiple_of(4);
        assert!(at + length <= 0x100 && mask.len() == body.len(), "capability {id:#x} does not fit");
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.mask[at + 2..at + 2 + body.len()].copy_from_slice(mask);
        let link = if self.last_capability == CAPABILITIES { CAPABILITIES } else { self.last_capability + 1 };
        self.bytes[link] = at as u8;
        self.bytes[STATUS] |= 0x10;
        self.last_capability = at;
        self.next_free = at + length;
        self.initial = self.bytes.clone();
        at
    }

    /// Adds the power-management capability (PCI PM 1.2 §3.2): D0 and D3hot, state kept, no PME.
    pub fn with_power_management(mut self) -> Self {
        // Version 3; control: no soft reset, power state writable.
        self.power = Some(self.add_capability(0x01, &[3, 0, 8, 0, 0, 0], &[0, 0, POWER_STATE, 0, 0, 0]) + 4);
        self
    }

    /// Adds the PCI Express capability of an endpoint on a x1 link of 2.5 GT/s (PCIe base 4.0 §7.5.3), root-complex integrated: there is no bridge above.
    pub fn with_express(mut self) -> Self {
        let mut body = vec![0u8; 58];
        let mut mask = vec![0u8; 58];
        // Offsets are from the capability's start, two bytes before the body's.
        body[0..2].copy_from_slice(&0x0092u16.to_le_bytes()); // version 2, root-complex integrated endpoint
        body[2..6].copy_from_slice(&(1u32 << 15).to_le_bytes()); // role-based error reporting, payload 128
        body[6..8].copy_from_slice(&0x2810u16.to_le_bytes()); // device control: relaxed ordering, no snoop, reads of 512
        mask[6..8].copy_from_slice(&0x78ffu16.to_le_bytes()); // all but function-level reset
        self.add_capability(0x10, &body, &mask);
        self
    }

    /// Gives the function the pin INTA#.
    pub fn with_pin(mut self) -> Self {
        self.set(0x3d, &[1]);
        self.initial = self.bytes.clone();
        self
    }

    /// Drives INTA# on the node's pin 0, unless software has disabled it (PCI 3.0 §6.2.2, command bit 10), and shows it in the status register.
    pub fn interrupt(&mut self, level: bool, cx: &mut Cx<'_>) {
        self.bytes[STATUS] = self.bytes[STATUS] & !STATUS_INTERRUPT | if level { STATUS_INTERRUPT } else { 0 };
        cx.irq(0, level && self.is_awake() && self.bytes[COMMAND + 1] & COMMAND_INTX_DISABLE == 0);
    }

    /// In D3hot a function answers to configuration accesses and does nothing else (PCI PM 1.2 §5.4.1).
    fn is_awake(&self) -> bool {
        self.power.is_none_or(|at| self.bytes[at] & POWER_STATE == 0)
    }

    /// A byte as it stands.
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0xff)
    }

    /// Whether the function may use DMA and send messages.
    pub fn is_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0 && self.is_awake()
    }

    /// The BARs with their present bases; `None` while memory decode is off.
    pub fn windows(&self) -> impl Iterator<Item = (Bar, Option<u64>)> + '_ {
        let on = self.bytes[COMMAND] & COMMAND_MEMORY != 0 && self.is_awake();
        self.bars.iter().map(move |bar| {
            let base = self.bar_base(*bar);
            // A BAR at zero or at the sizing value decodes nothing.
            (*bar, (on && base != 0 && base.checked_add(bar.size).is_some_and(|end| end < 1 << 52)).then_some(base))
        })
    }

    fn bar_base(&self, bar: Bar) -> u64 {
        let at = BARS + 4 * bar.index;
        let mut bytes = [0; 8];
        bytes[..bar.bytes()].copy_from_slice(&self.bytes[at..at + bar.bytes()]);
        u64::from_le_bytes(bytes) & !(bar.size - 1)
    }

    /// Places a BAR and turns decode on, as firmware does.
    pub fn place(&mut self, index: usize, base: u64) {
        if let Some(&bar) = self.bars.iter().find(|bar| bar.index == index) {
            let at = BARS + 4 * index;
            let low = u64::from(self.bytes[at] & 0xf);
            self.set(at, &(base & !(bar.size - 1) | low).to_le_bytes()[..bar.bytes()]);
            self.bytes[COMMAND] |= COMMAND_MEMORY;
            self.initial = self.bytes.clone();
        }
    }

    /// Notes the 8259 input that INTA# comes to, as firmware does: the interrupt line register drives nothing (PCI 3.0 §6.2.4).
    pub fn route(&mut self, line: u8) {
        if self.bytes[0x3d] != 0 {
            self.set(0x3c, &[line]);
            self.initial = self.bytes.clone();
        }
    }

    pub fn bars(&self) -> &[Bar] {
        &self.bars
    }

    pub fn read(&self, register: u16, size: u8) -> u64 {
        (0..usize::from(size.min(8))).rev().fold(0, |value, byte| value << 8 | u64::from(self.byte(usize::from(register) + byte)))
    }

    pub fn write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        let mut moved = false;
        for (index, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
            let at = usize::from(register) + index;
            if at >= self.bytes.len() {
                return;
            }
            if self.power == Some(at) && matches!(byte & POWER_STATE, 1 | 2) {
                // A state that is not there is not taken (PCI PM 1.2 §3.2.4).
                continue;
            }
            self.bytes[at] = self.bytes[at] & !self.mask[at] | byte & self.mask[at];
            moved |= at / 2 == COMMAND / 2 || (BARS..BARS + 24).contains(&at) || self.power == Some(at);
        }
        if moved {
            self.announce(cx);
            if self.bytes[0x3d] != 0 {
                self.interrupt(self.bytes[STATUS] & STATUS_INTERRUPT != 0, cx);
            }
        }
    }

    /// Tells the board where the windows are now.
    pub fn announce(&self, cx: &mut Cx<'_>) {
        for (bar, base) in self.windows() {
            cx.push(Effect::Window { region: bar.region, base, length: bar.size });
        }
    }

    /// Back to what firmware left.
    pub fn reset(&mut self, cx: &mut Cx<'_>) {
        self.bytes.clone_from(&self.initial);
        self.announce(cx);
        if self.bytes[0x3d] != 0 {
            self.interrupt(false, cx);
        }
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        // Everything past the first 256 bytes is constant.
        fields.array("config", &mut self.bytes[..256]);
    }
}
