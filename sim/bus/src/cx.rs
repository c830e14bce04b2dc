//! What a device can reach while it is called.

use std::sync::Arc;

use crate::backend::{Backends, ConsoleId};
use crate::device::{Region, Token};
use crate::{DiskBackend, DiskId, Nanos, Point, WireId};

/// An access that nobody defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub region: Region,
    pub offset: u64,
    pub size: u8,
    /// `None` for reads.
    pub value: Option<u64>,
}

impl Access {
    pub fn read(region: Region, offset: u64, size: u8) -> Self {
        Self { region, offset, size, value: None }
    }
    pub fn write(region: Region, offset: u64, size: u8, value: u64) -> Self {
        Self { region, offset, size, value: Some(value) }
    }
}

/// How a guest ends its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A write to the debug-exit port: the status that `isa-debug-exit` would give.
    DebugExit(u32),
    /// ACPI S5 or a power button held.
    PowerOff,
    /// A reset request: 8042, port 0xcf9, ACPI reset register.
    Reset,
    /// The power went away (a fault plan).
    PowerCut,
}

/// What a device asks of the board. Carried out in order after the device call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An interrupt pin of the device takes a level.
    Pin { pin: u8, level: bool },
    /// A message-signalled interrupt.
    Message { address: u64, data: u32 },
    /// The token falls due at this time; replaces an earlier request for the same token.
    Set { token: Token, at: Nanos },
    /// The token is no longer wanted.
    Cancel { token: Token },
    /// A byte leaves for a console.
    Output { console: ConsoleId, byte: u8 },
    /// The machine ends.
    End(Ending),
    /// An access the device does not define.
    Unimplemented(Access),
    /// A window of the device moves (PCI BAR): `None` disables it.
    Window { region: Region, base: Option<u64>, length: u64 },
    /// The A20 line (8042, port 0x92). Recorded only: RAM always decodes all address bits.
    A20(bool),
    /// An end of interrupt for a level-triggered vector was broadcast (from a local APIC).
    Eoi(u8),
    /// An inter-processor interrupt (from a local APIC): the command register as written.
    Ipi(u64),
    /// A frame went into the network: its next event may have moved.
    Sent,
    /// A line for the event log.
    Note { what: &'static str, value: u64 },
}

/// The device may not reach memory: its bus mastering is off, the range is no RAM, or this is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRefused;

/// Guest memory as a bus master sees it.
pub trait DmaTarget {
    /// Reads; refused where there is no RAM (`into` is then unspecified).
    fn dma_read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DmaRefused>;
    /// Writes; refused where there is no RAM, with nothing written.
    fn dma_write(&mut self, gpa: u64, from: &[u8]) -> Result<(), DmaRefused>;
}

impl DmaTarget for sim_mem::GuestMemory {
    fn dma_read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        self.read(gpa, into).map_err(|_| DmaRefused)
    }
    fn dma_write(&mut self, gpa: u64, from: &[u8]) -> Result<(), DmaRefused> {
        self.write(gpa, from).map_err(|_| DmaRefused)
    }
}

/// Flat RAM at address 0: for the bench.
impl DmaTarget for Vec<u8> {
    fn dma_read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        let first = usize::try_from(gpa).map_err(|_| DmaRefused)?;
        let limit = first.checked_add(into.len()).ok_or(DmaRefused)?;
        into.copy_from_slice(self.get(first..limit).ok_or(DmaRefused)?);
        Ok(())
    }
    fn dma_write(&mut self, gpa: u64, from: &[u8]) -> Result<(), DmaRefused> {
        let first = usize::try_from(gpa).map_err(|_| DmaRefused)?;
        let limit = first.checked_add(from.len()).ok_or(DmaRefused)?;
        self.get_mut(first..limit).ok_or(DmaRefused)?.copy_from_slice(from);
        Ok(())
    }
}

/// All a device can reach. Lives for one call.
pub struct Cx<'a> {
    now: Nanos,
    effects: &'a mut Vec<Effect>,
    backends: &'a mut Backends,
    memory: Option<&'a mut dyn DmaTarget>,
}

impl<'a> Cx<'a> {
    /// For the board and for tests. `memory` is given for events only.
    pub fn new(
        now: Nanos,
        effects: &'a mut Vec<Effect>,
        backends: &'a mut Backends,
        memory: Option<&'a mut dyn DmaTarget>,
    ) -> Self {
        Self { now, effects, backends, memory }
    }

    /// The exact virtual time of the access or event.
    pub fn now(&self) -> Nanos {
        self.now
    }
    /// Asks for [`crate::Node::event`] with `token` after `delay`; replaces an earlier request for the same token.
    pub fn after(&mut self, delay: Nanos, token: Token) {
        self.at(self.now.saturating_add(delay), token);
    }
    /// The same at an absolute time; a time that has passed means at the end of this instruction.
    pub fn at(&mut self, at: Nanos, token: Token) {
        self.effects.push(Effect::Set { token, at });
    }
    /// Withdraws a request.
    pub fn cancel(&mut self, token: Token) {
        self.effects.push(Effect::Cancel { token });
    }
    /// Drives an interrupt pin. Repeating a level is harmless.
    pub fn irq(&mut self, pin: u8, level: bool) {
        self.effects.push(Effect::Pin { pin, level });
    }
    /// Sends a message-signalled interrupt.
    pub fn msi(&mut self, address: u64, data: u32) {
        self.effects.push(Effect::Message { address, data });
    }
    /// Ends the machine after the current instruction.
    pub fn end(&mut self, ending: Ending) {
        self.effects.push(Effect::End(ending));
    }
    /// Records an access the device does not define.
    pub fn unimplemented(&mut self, access: Access) {
        self.effects.push(Effect::Unimplemented(access));
    }
    /// A line for the event log.
    pub fn note(&mut self, what: &'static str, value: u64) {
        self.effects.push(Effect::Note { what, value });
    }
    /// Any other effect.
    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Reads guest memory as a bus master.
    pub fn dma_read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        self.memory.as_deref().ok_or(DmaRefused)?.dma_read(gpa, into)
    }
    /// Writes guest memory as a bus master.
    pub fn dma_write(&mut self, gpa: u64, from: &[u8]) -> Result<(), DmaRefused> {
        self.memory.as_deref_mut().ok_or(DmaRefused)?.dma_write(gpa, from)
    }
    /// The same context without memory: what a PCI function with bus mastering off hands to its device.
    pub fn without_dma(&mut self) -> Cx<'_> {
        Cx { now: self.now, effects: self.effects, backends: self.backends, memory: None }
    }

    /// Sends a byte to a console.
    pub fn output(&mut self, console: ConsoleId, byte: u8) {
        self.effects.push(Effect::Output { console, byte });
    }
    /// Takes the next byte typed at a console.
    pub fn take_input(&mut self, console: ConsoleId) -> Option<u8> {
        self.backends.console_mut(console)?.pop_front()
    }
    /// Whether a console has input waiting.
    pub fn has_input(&self, console: ConsoleId) -> bool {
        self.backends.console(console).is_some_and(|queue| !queue.is_empty())
    }
    /// The disk behind the device.
    pub fn disk(&mut self, disk: DiskId) -> Option<&mut (dyn DiskBackend + '_)> {
        self.backends.disk_mut(disk)
    }
    /// Sends a frame. Returns when its last bit has left; at once where there is no network.
    pub fn send_frame(&mut self, wire: WireId, frame: &[u8]) -> Nanos {
        let at = Point { ns: self.now, ..self.backends.point() };
        match self.backends.network_mut() {
            Some(network) => {
                let done = network.send(at, wire, frame);
                self.effects.push(Effect::Sent);
                done
            }
            None => self.now,
        }
    }
    /// Takes the next frame that has arrived.
    pub fn receive_frame(&mut self, wire: WireId) -> Option<Arc<[u8]>> {
        self.backends.network_mut()?.receive(wire)
    }
    /// Whether a frame waits.
    pub fn has_frame(&self, wire: WireId) -> bool {
        self.backends.network().is_some_and(|network| network.has_frame(wire))
    }
    /// Whether the port has a link.
    pub fn has_link(&self, wire: WireId) -> bool {
        self.backends.network().is_some_and(|network| network.is_up(wire))
    }
    /// The next value of a named random stream.
    pub fn random(&mut self) -> u64 {
        self.backends.random()
    }
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx").field("now", &self.now).field("effects", &self.effects.len()).finish_non_exhaustive()
    }
}
