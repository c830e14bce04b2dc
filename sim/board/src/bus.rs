//! The board as CPUs see it: decode, time, effects.

use std::fmt;

use sim_bus::{
    Access, AddressMap, At, Attention, Backends, ConsoleId, CpuBus, Cx, Effect, Ending, Fields, Nanos, Node, NodeId, Region, Reset,
    Point, Timers, Token,
};
use sim_core::{Clock, Rng, Streams};
use sim_dev::lapic::{self, tsc_at};
use sim_dev::pci::{ConfigAddress, ConfigPorts, ecam};
use sim_mem::GuestMemory;

use crate::config::{Board, TraceKind};
use crate::fabric::{Fabric, Line};
use crate::faults::Faults;
use crate::trace::{Event, Interrupt, Trace, Unimplemented};

/// Targets that are no nodes in the list. Local APIC timers are `LAPIC + vcpu`.
pub(crate) const PIC: NodeId = NodeId(0x7000);
pub(crate) const IOAPIC: NodeId = NodeId(0x7001);
pub(crate) const PCI_PORTS: NodeId = NodeId(0x7002);
pub(crate) const PCI_ECAM: NodeId = NodeId(0x7003);
/// The network's clock.
pub(crate) const NET: NodeId = NodeId(0x7004);
pub(crate) const LAPIC: NodeId = NodeId(0x7100);

/// What is done with each part of the machine: it gets the part's name and the walk over its fields.
pub(crate) type Visit<'v> = dyn FnMut(&str, &mut dyn FnMut(&mut dyn Fields)) + 'v;

/// A node in its place.
pub(crate) struct Slot {
    pub node: Box<dyn Node>,
    pub name: &'static str,
    /// Pin to line.
    pub wires: Vec<(u8, Line)>,
    /// PCI device number, if it is a function.
    pub pci: Option<u8>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a serial line printed, and what is being waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsoleOut {
    /// Printed and not yet taken by the harness.
    pub output: Vec<u8>,
    /// Bytes printed since power-on.
    pub printed: u64,
    /// Bytes ever handed out: what is printed again after going back is not.
    shown: u64,
    /// When the last byte was printed.
    pub last_ns: Nanos,
    /// The tail of what was printed since the run began, as long as the longest pattern.
    tail: Vec<u8>,
    patterns: Vec<(usize, Vec<u8>)>,
    any: bool,
}

impl ConsoleOut {
    /// What comes now is handed out, whatever was printed in another future of this point.
    pub fn forget_shown(&mut self) {
        self.shown = self.printed;
    }
}

/// Why the bus wants the run to end at this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noticed {
    Pattern(usize),
    Any(usize),
}

/// Everything on the board but CPUs and memory.
#[derive(Debug)]
pub(crate) struct Bus {
    pub clock: Clock,
    /// vCPUs that share time in the present turn.
    pub running: u32,
    /// Ticks of all vCPUs when the present turn began.
    pub ticks: u64,
    /// Ticks into the turn at the latest access.
    pub offset: u64,
    /// The vCPU whose turn it is.
    pub vcpu: u32,
    pub timers: Timers,
    /// When the present `run` of the engine must end: a timer set before that stops it.
    pub horizon: Nanos,
    pub nodes: Vec<Slot>,
    pub ports: AddressMap,
    pub mmio: AddressMap,
    pub fabric: Fabric,
    pub pci: ConfigPorts,
    /// Node of each PCI device.
    pub pci_slots: [Option<NodeId>; 32],
    pub backends: Backends,
    pub faults: Faults,
    /// The NIC at each port of the network.
    pub nics: Vec<NodeId>,
    pub consoles: Vec<ConsoleOut>,
    pub trace: Trace,
    pub ending: Option<Ending>,
    pub noticed: Option<Noticed>,
    /// The engine shall come back before the next instruction.
    pub stop: bool,
    random: Rng,
    tsc_khz: u64,
    trace_interrupts: bool,
    trace_ports: bool,
    trace_mmio: bool,
    scratch: Vec<Effect>,
}

impl Bus {
    pub fn new(board: &Board) -> Self {
        Self {
            clock: Clock::with_ns_per_tick(board.ns_per_tick),
            running: 1,
            ticks: 0,
            offset: 0,
            vcpu: 0,
            timers: Timers::new(),
            horizon: sim_bus::NEVER,
            nodes: Vec::new(),
            ports: AddressMap::new(),
            mmio: AddressMap::new(),
            fabric: Fabric::new(board.vcpus, board.tsc_khz),
            pci: ConfigPorts::default(),
            pci_slots: [None; 32],
            backends: Backends::new(board.seed),
            faults: Faults::new(&board.faults.clone().into(), board.seed, board.vcpus),
            nics: Vec::new(),
            consoles: Vec::new(),
            trace: Trace::default(),
            ending: None,
            noticed: None,
            stop: false,
            random: Streams::new(board.seed).stream("rdrand"),
            tsc_khz: board.tsc_khz,
            trace_interrupts: board.trace.contains(&TraceKind::Interrupt),
            trace_ports: board.trace.contains(&TraceKind::Port),
            trace_mmio: board.trace.contains(&TraceKind::Mmio),
            scratch: Vec::new(),
        }
    }

    fn now(&mut self, at: At) -> Nanos {
        self.offset = at.ticks;
        if at.ticks == 0 { self.clock.ns() } else { self.clock.ns_after(at.ticks, self.running) }
    }

    /// Calls a node.
    fn call<R>(
        &mut self,
        id: NodeId,
        now: Nanos,
        memory: Option<&mut GuestMemory>,
        work: impl FnOnce(&mut dyn Node, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        self.backends.set_point(self.ticks + self.offset, now);
        let slot = self.nodes.get_mut(usize::from(id.0))?;
        let mut effects = std::mem::take(&mut self.scratch);
        let memory = memory.map(|memory| memory as &mut dyn sim_bus::DmaTarget);
        let result = work(slot.node.as_mut(), &mut Cx::new(now, &mut effects, &mut self.backends, memory));
        self.carry_out(id, now, &mut effects);
        effects.clear();
        self.scratch = effects;
        Some(result)
    }

    /// Calls the fabric.
    fn fabric<R>(&mut self, source: NodeId, now: Nanos, work: impl FnOnce(&mut Fabric, &mut Cx<'_>) -> R) -> R {
        let mut effects = std::mem::take(&mut self.scratch);
        let result = work(&mut self.fabric, &mut Cx::new(now, &mut effects, &mut self.backends, None));
        self.carry_out(source, now, &mut effects);
        effects.clear();
        self.scratch = effects;
        result
    }

    /// Carries out effects in order, each with all that follows from it.
    fn carry_out(&mut self, source: NodeId, now: Nanos, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Set { token, at } => {
                    self.timers.set(source, token, at);
                    if at < self.horizon {
                        self.stop = true;
                    }
                }
                Effect::Cancel { token } => self.timers.cancel(source, token),
                Effect::Pin { pin, level } => {
                    let wire = self
                        .nodes
                        .get(usize::from(source.0))
                        .and_then(|slot| slot.wires.iter().find(|(from, _)| *from == pin))
                        .map(|(_, line)| *line);
                    if let Some(line) = wire {
                        self.fabric(source, now, |fabric, cx| fabric.drive(source, line, level, cx));
                    }
                }
                Effect::Message { address, data } => {
                    if !self.fabric(IOAPIC, now, |fabric, cx| fabric.message(address, data, cx)) {
                        self.undefined("msi", Access::write(Region(0), address, 4, u64::from(data)), now);
                    }
                }
                Effect::Ipi(command) => {
                    let from = usize::from(source.0.wrapping_sub(LAPIC.0));
                    if from < self.fabric.lapics.len() {
                        self.fabric(source, now, |fabric, cx| fabric.ipi(from, command, cx));
                    }
                }
                Effect::Eoi(vector) => self.fabric(IOAPIC, now, |fabric, cx| fabric.ioapic.end_of_interrupt(vector, cx)),
                Effect::Output { console, byte } => self.print(console, byte, now),
                Effect::End(ending) => {
                    self.ending.get_or_insert(ending);
                    self.stop = true;
                }
                Effect::Unimplemented(access) => {
                    let name = self.name(source);
                    self.undefined(name, access, now);
                }
                Effect::Window { .. } => {
                    for (node, region, base) in self.remap() {
                        if node == source {
                            self.note(source, "window", format!("region {} at {base:#x} overlaps another: not mapped", region.0), now);
                        }
                    }
                }
                Effect::A20(on) => {
                    if !on {
                        self.note(source, "a20", "masked by the guest: has no effect here".to_owned(), now);
                    }
                }
                Effect::Sent => self.schedule_network(),
                Effect::Note { what, value } => self.note(source, "note", format!("{what}: {value:#x}"), now),
            }
        }
        if std::mem::take(&mut self.fabric.woke) {
            self.stop = true;
        }
    }

    fn print(&mut self, console: ConsoleId, byte: u8, now: Nanos) {
        let index = usize::from(console.0);
        let Some(out) = self.consoles.get_mut(index) else { return };
        out.printed += 1;
        if index == 0 && self.backends.printed(byte) {
            // A fault plan waits for this.
            self.stop = true;
        }
        if out.printed > out.shown {
            out.shown = out.printed;
            out.output.push(byte);
        }
        out.last_ns = now;
        if out.any && self.noticed.is_none() {
            self.noticed = Some(Noticed::Any(index));
            self.stop = true;
        }
        if !out.patterns.is_empty() {
            out.tail.push(byte);
            if let Some((pattern, _)) = out.patterns.iter().find(|(_, text)| out.tail.ends_with(text)) {
                if !matches!(self.noticed, Some(Noticed::Pattern(_))) {
                    self.noticed = Some(Noticed::Pattern(*pattern));
                }
                self.stop = true;
            }
            let longest = out.patterns.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
            if out.tail.len() > 4 * longest.max(64) {
                let cut = out.tail.len() - longest;
                out.tail.drain(..cut);
            }
        }
    }

    /// Sets what output ends the run.
    pub fn watch_output(&mut self, patterns: &[(usize, Vec<u8>)], any: &[usize]) {
        self.noticed = None;
        for (index, out) in self.consoles.iter_mut().enumerate() {
            out.tail.clear();
            out.any = any.contains(&index);
            out.patterns =
                patterns.iter().enumerate().filter(|(_, (port, _))| *port == index).map(|(at, (_, text))| (at, text.clone())).collect();
        }
    }

    pub fn name(&self, id: NodeId) -> &'static str {
        match id {
            PIC => "pic",
            IOAPIC => "ioapic",
            PCI_PORTS | PCI_ECAM => "pci",
            NET => "network",
            NodeId(number) if number >= LAPIC.0 => "lapic",
            NodeId(number) => self.nodes.get(usize::from(number)).map_or("board", |slot| slot.name),
        }
    }

    fn undefined(&mut self, source: &'static str, access: Access, now: Nanos) {
        let row = Unimplemented { source, write: access.value.is_some(), address: access.offset, size: access.size };
        let mut detail = row.to_string();
        if self.trace.unimplemented(row) {
            if let Some(value) = access.value {
                detail.push_str(&format!(" value {value:#x}"));
            }
            self.add_event(source, "unimpl", detail, now);
        }
    }

    fn note(&mut self, source: NodeId, kind: &'static str, detail: String, now: Nanos) {
        let name = self.name(source);
        self.add_event(name, kind, detail, now);
    }

    /// Adds a line to the log.
    pub fn add_event(&mut self, source: &'static str, kind: &'static str, detail: String, now: Nanos) {
        let event = Event { tick: self.ticks + self.offset, ns: now, vcpu: self.vcpu, source, kind, detail };
        self.trace.add(event);
    }

    /// Fires the first due event. `false`: none is due.
    pub fn fire(&mut self, memory: &mut GuestMemory) -> bool {
        let now = self.clock.ns();
        let Some((id, token)) = self.timers.pop(now) else { return false };
        if id == NET {
            self.advance_network(now);
        } else if id.0 >= LAPIC.0 {
            let vcpu = usize::from(id.0 - LAPIC.0);
            if vcpu < self.fabric.lapics.len() && token == lapic::TIMER {
                self.fabric(id, now, |fabric, cx| {
                    fabric.lapics[vcpu].expire(cx);
                    fabric.refresh(vcpu);
                });
            }
        } else {
            self.call(id, now, Some(memory), |node, cx| node.event(token, cx));
        }
        true
    }

    /// Asks for the network's next turn.
    pub fn schedule_network(&mut self) {
        match self.backends.network().and_then(|network| network.next_event()) {
            Some(at) => {
                self.timers.set(NET, Token(0), at);
                if at < self.horizon {
                    self.stop = true;
                }
            }
            None => self.timers.cancel(NET, Token(0)),
        }
    }

    /// Lets the network do what is due, and NICs see what came of it.
    fn advance_network(&mut self, now: Nanos) {
        let at = Point { ns: now, ..self.backends.point() };
        let Some(network) = self.backends.network_mut() else { return };
        for wire in network.advance(at) {
            if let Some(&nic) = self.nics.get(usize::from(wire.0)) {
                self.input(nic);
            }
        }
        self.schedule_network();
    }

    /// Tells a node that its backend has input.
    pub fn input(&mut self, id: NodeId) {
        let now = self.clock.ns();
        self.call(id, now, None, |node, cx| node.input(cx));
    }

    /// Works on a node outside the guest's doing (power button).
    pub fn poke(&mut self, id: NodeId, work: impl FnOnce(&mut dyn Node, &mut Cx<'_>)) {
        let now = self.clock.ns();
        self.call(id, now, None, work);
    }

    /// An interrupt message to one vCPU from nowhere.
    pub fn interrupt(&mut self, vcpu: u32, vector: u8) {
        let now = self.clock.ns();
        let address = 0xfee0_0000 | u64::from(vcpu & 0xff) << 12;
        self.fabric(IOAPIC, now, |fabric, cx| fabric.message(address, u32::from(vector), cx));
    }

    /// INIT of a local APIC.
    pub fn init_lapic(&mut self, vcpu: usize) {
        let now = self.clock.ns();
        self.fabric(NodeId(LAPIC.0 + vcpu as u16), now, |fabric, cx| {
            fabric.lapics[vcpu].init(cx);
            fabric.refresh(vcpu);
        });
    }

    /// Powers all nodes on.
    pub fn power_on(&mut self) {
        for index in 0..self.nodes.len() {
            self.call(NodeId(index as u16), 0, None, |node, cx| node.reset(Reset::PowerOn, cx));
        }
    }

    fn config(&mut self, address: ConfigAddress, now: Nanos, work: impl FnOnce(&mut dyn Node, &mut Cx<'_>) -> u64) -> Option<u64> {
        if address.bus != 0 || address.function != 0 {
            return None;
        }
        let id = (*self.pci_slots.get(usize::from(address.device))?)?;
        self.call(id, now, None, work)
    }

    fn read(&mut self, space: Space, address: u64, size: u8, now: Nanos) -> u64 {
        let map = match space {
            Space::Port => &mut self.ports,
            Space::Mmio => &mut self.mmio,
        };
        let floating = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        let Some(target) = map.find(address) else {
            self.undefined(space.name(), Access::read(Region(0), address, size), now);
            return floating;
        };
        match target.node {
            PIC => self.fabric(PIC, now, |fabric, cx| {
                let value = fabric.pic.read(target.region, target.offset, size, cx);
                fabric.refresh_all();
                value
            }),
            IOAPIC => self.fabric(IOAPIC, now, |fabric, cx| fabric.ioapic.read(target.offset, size, cx)),
            PCI_PORTS => {
                // The region's number is its offset from 0xcf8.
                let offset = target.offset + u64::from(target.region.0);
                match self.pci.target(offset, size) {
                    Some(address) => {
                        self.config(address, now, |node, cx| node.config_read(address.register, size, cx)).unwrap_or(floating)
                    }
                    None => self.pci.read(offset, size),
                }
            }
            PCI_ECAM => {
                let address = ecam(target.offset);
                self.config(address, now, |node, cx| node.config_read(address.register, size, cx)).unwrap_or(floating)
            }
            id => self.call(id, now, None, |node, cx| node.read(target.region, target.offset, size, cx)).unwrap_or(floating),
        }
    }

    fn write(&mut self, space: Space, address: u64, size: u8, value: u64, now: Nanos) {
        let map = match space {
            Space::Port => &mut self.ports,
            Space::Mmio => &mut self.mmio,
        };
        let Some(target) = map.find(address) else {
            self.undefined(space.name(), Access::write(Region(0), address, size, value), now);
            return;
        };
        match target.node {
            PIC => self.fabric(PIC, now, |fabric, cx| {
                fabric.pic.write(target.region, target.offset, size, value, cx);
                fabric.refresh_all();
            }),
            IOAPIC => self.fabric(IOAPIC, now, |fabric, cx| fabric.ioapic.write(target.offset, size, value, cx)),
            PCI_PORTS => {
                let offset = target.offset + u64::from(target.region.0);
                match self.pci.target(offset, size) {
                    Some(address) => self.config_write(address, size, value, now),
                    None => self.pci.write(offset, size, value),
                }
            }
            PCI_ECAM => self.config_write(ecam(target.offset), size, value, now),
            id => {
                self.call(id, now, None, |node, cx| node.write(target.region, target.offset, size, value, cx));
            }
        }
    }

    fn config_write(&mut self, address: ConfigAddress, size: u8, value: u64, now: Nanos) {
        // A write to an absent function goes nowhere, as on the bus.
        self.config(address, now, |node, cx| {
            node.config_write(address.register, size, value, cx);
            0
        });
    }

    fn lapic_msr(&self, msr: u32) -> bool {
        matches!(msr, lapic::MSR_APIC_BASE | lapic::MSR_TSC_DEADLINE | lapic::MSR_X2APIC_FIRST..=lapic::MSR_X2APIC_LAST)
    }

    /// Puts the windows of PCI functions where their BARs say. Of windows that overlap the first in the order of nodes is mapped, whatever came before:
    /// one that gives way uncovers those below, and a loaded machine decodes as the saved one did. Returns those that are not mapped.
    pub fn remap(&mut self) -> Vec<(NodeId, Region, u64)> {
        let mut placed = Vec::new();
        for (index, slot) in self.nodes.iter().enumerate() {
            let id = NodeId(index as u16);
            for (region, base, length) in slot.node.windows() {
                self.mmio.remove(id, region);
                placed.extend(base.map(|base| (id, region, base, length)));
            }
        }
        let mut hidden = Vec::new();
        for (id, region, base, length) in placed {
            if self.mmio.insert(base, length, id, region).is_err() {
                hidden.push((id, region, base));
            }
        }
        hidden
    }

    /// All state but nodes, part by part.
    pub fn parts(&mut self, visit: &mut Visit<'_>) {
        visit("clock", &mut |fields| {
            let raw = self.clock.raw();
            let (mut low, mut high) = (raw as u64, (raw >> 64) as u64);
            fields.u64("low", &mut low);
            fields.u64("high", &mut high);
            self.clock.set_raw(u128::from(high) << 64 | u128::from(low));
            fields.u64("ticks", &mut self.ticks);
            fields.u32("vcpu", &mut self.vcpu);
        });
        visit("timers", &mut |fields| self.timers.state(fields));
        self.fabric.parts(visit);
        visit("pci", &mut |fields| self.pci.state(fields));
        visit("backends", &mut |fields| self.backends.state(fields));
        visit("faults", &mut |fields| self.faults.state(fields));
        visit("consoles", &mut |fields| {
            for out in &mut self.consoles {
                fields.u64("printed", &mut out.printed);
                fields.u64("last_ns", &mut out.last_ns);
            }
        });
        visit("rdrand", &mut |fields| {
            let mut words = self.random.state();
            for word in &mut words {
                fields.u64("state", word);
            }
            match Rng::from_state(words) {
                Some(random) => self.random = random,
                None => fields.refuse("state"),
            }
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Space {
    Port,
    Mmio,
}

impl Space {
    fn name(self) -> &'static str {
        match self {
            Space::Port => "ports",
            Space::Mmio => "mmio",
        }
    }
}

impl CpuBus for Bus {
    fn mmio_read(&mut self, at: At, gpa: u64, size: u8) -> u64 {
        let (now, vcpu) = (self.now(at), at.vcpu as usize);
        let value = if gpa & !0xfff == lapic::BASE && self.fabric.lapics[vcpu].answers_mmio() {
            self.fabric(NodeId(LAPIC.0 + at.vcpu as u16), now, |fabric, cx| {
                let value = fabric.lapics[vcpu].read(gpa & 0xfff, size, cx);
                fabric.refresh(vcpu);
                value
            })
        } else {
            self.read(Space::Mmio, gpa, size, now)
        };
        if self.trace_mmio {
            self.add_event("mmio", "read", format!("{gpa:#x} {size} = {value:#x}"), now);
        }
        value
    }

    fn mmio_write(&mut self, at: At, gpa: u64, size: u8, value: u64) {
        let (now, vcpu) = (self.now(at), at.vcpu as usize);
        if self.trace_mmio {
            self.add_event("mmio", "write", format!("{gpa:#x} {size} = {value:#x}"), now);
        }
        if gpa & !0xfff == lapic::BASE && self.fabric.lapics[vcpu].answers_mmio() {
            self.fabric(NodeId(LAPIC.0 + at.vcpu as u16), now, |fabric, cx| {
                fabric.lapics[vcpu].write(gpa & 0xfff, size, value, cx);
                fabric.refresh(vcpu);
            });
        } else {
            self.write(Space::Mmio, gpa, size, value, now);
        }
    }

    fn port_in(&mut self, at: At, port: u16, size: u8) -> u32 {
        let now = self.now(at);
        let value = self.read(Space::Port, u64::from(port), size, now) as u32;
        if self.trace_ports {
            self.add_event("ports", "in", format!("{port:#x} {size} = {value:#x}"), now);
        }
        value
    }

    fn port_out(&mut self, at: At, port: u16, size: u8, value: u32) {
        let now = self.now(at);
        if self.trace_ports {
            self.add_event("ports", "out", format!("{port:#x} {size} = {value:#x}"), now);
        }
        self.write(Space::Port, u64::from(port), size, u64::from(value), now);
    }

    fn msr_read(&mut self, at: At, msr: u32) -> Option<u64> {
        let now = self.now(at);
        let value = if self.lapic_msr(msr) { self.fabric.lapics[at.vcpu as usize].read_msr(msr, now) } else { None };
        if value.is_none() {
            self.undefined("msr", Access::read(Region(0), u64::from(msr), 8), now);
        }
        value
    }

    fn msr_write(&mut self, at: At, msr: u32, value: u64) -> bool {
        let (now, vcpu) = (self.now(at), at.vcpu as usize);
        let done = self.lapic_msr(msr)
            && self.fabric(NodeId(LAPIC.0 + at.vcpu as u16), now, |fabric, cx| {
                let done = fabric.lapics[vcpu].write_msr(msr, value, cx);
                fabric.refresh(vcpu);
                done
            });
        if !done {
            self.undefined("msr", Access::write(Region(0), u64::from(msr), 8, value), now);
        }
        done
    }

    fn tsc(&mut self, at: At) -> u64 {
        tsc_at(self.now(at), self.tsc_khz)
    }

    fn cr8(&mut self, at: At) -> u8 {
        self.fabric.lapics[at.vcpu as usize].cr8()
    }

    fn set_cr8(&mut self, at: At, value: u8) {
        let vcpu = at.vcpu as usize;
        self.fabric.lapics[vcpu].set_cr8(value & 0xf);
        self.fabric.refresh(vcpu);
    }

    fn acknowledge(&mut self, at: At) -> Option<u8> {
        let vcpu = at.vcpu as usize;
        let vector = self.fabric.acknowledge(vcpu);
        if let Some(vector) = vector
            && (self.trace_interrupts || self.trace.watches_interrupts())
        {
            let now = self.now(at);
            self.trace.interrupt(Interrupt { ns: now, vcpu: at.vcpu, vector });
            if self.trace_interrupts {
                self.add_event("cpu", "irq", format!("vector {vector:#04x}"), now);
            }
        }
        vector
    }

    fn take_nmi(&mut self, at: At) {
        self.fabric.take_nmi(at.vcpu as usize);
    }

    #[inline]
    fn attention(&mut self, at: At) -> Attention {
        Attention { stop: self.stop, ..self.fabric.attention(at.vcpu as usize) }
    }

    fn random(&mut self) -> u64 {
        self.random.next_u64()
    }
}
