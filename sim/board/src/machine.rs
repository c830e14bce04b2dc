//! The machine: vCPUs, memory and board under one run loop.

use std::collections::VecDeque;
use std::fmt;

use sim_bus::{DiskBackend, Ending, HashFields, MapError, NEVER, Stop};
use sim_core::{Receipt, Rng, Streams};
use sim_cpu::{Activity, Config, Cpu, CpuState};
use sim_mem::{GuestMemory, MapRange, PAGE_SIZE};

use crate::acpi;
use crate::api::{Boot, Input, InputKind, Outcome, Port, Until};
use crate::bus::{Bus, Noticed, Visit};
use crate::catalogue::{self, Named};
use crate::config::{Board, ConfigError};
use crate::fabric::Request;
use crate::loader::{self, Firmware, ImageError, MapEntry};
use crate::map;
use crate::trace::{Event, Interrupt, Unimplemented};

/// A machine that only jumps from event to event for this long, without a tick, is stuck unless the caller asked for a time.
const IDLE_LIMIT_NS: u64 = 600 * sim_bus::SECOND;

/// Why a machine could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildError {
    Config(ConfigError),
    Image(ImageError),
    /// Two devices of the board claim the same addresses.
    Map(MapError),
    /// More disk images than the board has disks, or an image whose size is not a multiple of the sector size.
    Disk { index: usize, why: &'static str },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Config(error) => error.fmt(f),
            BuildError::Image(error) => error.fmt(f),
            BuildError::Map(error) => write!(f, "board: {error}"),
            BuildError::Disk { index, why } => write!(f, "disk {index}: {why}"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<ConfigError> for BuildError {
    fn from(error: ConfigError) -> Self {
        BuildError::Config(error)
    }
}
impl From<ImageError> for BuildError {
    fn from(error: ImageError) -> Self {
        BuildError::Image(error)
    }
}
impl From<MapError> for BuildError {
    fn from(error: MapError) -> Self {
        BuildError::Map(error)
    }
}

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    vcpu: usize,
    /// Ticks left of the turn; with one vCPU there are no turns.
    left: u64,
    random: Rng,
    chaos: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    pub(crate) board: Board,
    pub(crate) cpus: Vec<Cpu>,
    /// The vCPU that has the code, which it hands on to whoever runs next. The host's business alone.
    pub(crate) code_at: usize,
    pub(crate) memory: GuestMemory,
    pub(crate) bus: Bus,
    pub(crate) named: Named,
    pub(crate) turn: Turn,
    pub(crate) next_checkpoint: u64,
    /// Virtual time of the latest tick.
    pub(crate) last_tick_ns: u64,
    pub(crate) receipt: Receipt,
    pub(crate) exit: Option<Outcome>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) replay: VecDeque<Input>,
    /// Memory as of the last checkpoint, where snapshots are kept.
    pub(crate) frozen: Option<crate::snapshot::Frozen>,
    /// The tick of the last checkpoint.
    pub(crate) checkpointed_at: Option<u64>,
    /// Bytes handed over by the last checkpoint walk, kept to save the allocation.
    pub(crate) scratch: Vec<u8>,
}

impl Machine {
    /// Builds the machine and loads the image: ready to run its first instruction.
    pub fn new(board: &Board, boot: &Boot<'_>) -> Result<Machine, BuildError> {
        let mut machine = Self::assemble(board, boot)?;
        let memory = &mut machine.memory;
        let (rsdp, tables) = acpi::tables(board.vcpus);
        let mut rsdp_bytes = Vec::new();
        for (address, bytes) in tables {
            // The tables lie in the board's own ROM and reserved RAM.
            memory.load(address, &bytes).expect("firmware's memory is mapped");
            if address == rsdp {
                rsdp_bytes = bytes;
            }
        }
        let low_end = board.ram.min(map::LOW_RAM_LIMIT) & !(PAGE_SIZE - 1);
        let firmware = Firmware { map: memory_map(board.ram), rsdp, rsdp_bytes, low_end };
        let entry = loader::load(memory, boot, &firmware)?;
        memory.clear_dirty();
        machine.cpus[0].set_state(&entry);
        machine.bus.power_on();
        // What firmware leaves behind on the bootstrap processor.
        machine.bus.fabric.lapics[0].virtual_wire();
        machine.bus.fabric.refresh_all();
        machine.begin_receipt(boot);
        Ok(machine)
    }

    /// A machine without an image, for a snapshot to be loaded into. `disks` are the sizes of its disks in bytes.
    pub(crate) fn bare(board: &Board, disks: &[u64]) -> Result<Machine, BuildError> {
        let mut sized = board.clone();
        for (disk, size) in sized.disks.iter_mut().zip(disks) {
            disk.size = *size;
        }
        let mut machine = Self::assemble(&sized, &Boot::new(&[], None, ""))?;
        machine.board = board.clone();
        Ok(machine)
    }

    /// Devices, memory and CPUs, without power.
    fn assemble(board: &Board, boot: &Boot<'_>) -> Result<Machine, BuildError> {
        board.check()?;
        let mut bus = Bus::new(board);
        let named = catalogue::assemble(board, boot, &mut bus)?;
        let model = board.cpu()?;
        let cpus = (0..board.vcpus)
            .map(|vcpu| {
                let make = if vcpu == 0 { Cpu::new } else { Cpu::beside };
                let mut cpu = make(Config {
                    vcpu,
                    cpuid: model.table(vcpu, board.vcpus),
                    pause_ends_turn: (board.pause_ends_turn || board.chaos) && board.vcpus > 1,
                    ..Config::default()
                });
                if vcpu != 0 {
                    let mut state = CpuState::reset();
                    state.sys.activity = Activity::WaitForSipi;
                    cpu.set_state(&state);
                }
                cpu
            })
            .collect();
        Ok(Machine {
            board: board.clone(),
            cpus,
            code_at: 0,
            memory: ram(board.ram),
            bus,
            named,
            turn: Turn { vcpu: 0, left: 0, random: Streams::new(board.seed).stream("turns"), chaos: board.chaos },
            next_checkpoint: board.checkpoint_ticks,
            last_tick_ns: 0,
            receipt: Receipt::new(),
            exit: None,
            inputs: Vec::new(),
            replay: VecDeque::new(),
            frozen: None,
            checkpointed_at: None,
            scratch: Vec::new(),
        })
    }

    /// The chain starts from what was put in: board, image, initial RAM disk, command line, disks.
    fn begin_receipt(&mut self, boot: &Boot<'_>) {
        let board = format!("{:?}", self.board);
        let mut parts = vec![board.as_bytes(), boot.kernel, boot.initrd.unwrap_or(&[]), boot.append.as_bytes()];
        parts.extend(boot.modules.iter().flat_map(|module| [module.content, module.append.as_bytes()]));
        parts.extend(boot.disks.iter().map(Vec::as_slice));
        self.receipt.extend("boot", 0, &parts);
    }

    /// Runs until a condition holds or the machine ends. See [`Until`].
    pub fn run(&mut self, until: &Until) -> Outcome {
        if let Some(exit) = self.exit {
            return exit;
        }
        let patterns: Vec<(usize, Vec<u8>)> = until.output.iter().map(|(port, text)| (port.index(), text.clone())).collect();
        let any: Vec<usize> = until.any_output.iter().map(|port| port.index()).collect();
        self.bus.watch_output(&patterns, &any);
        let began_ns = self.now_ns();
        let outcome = self.run_loop(until, began_ns);
        self.bus.watch_output(&[], &[]);
        if outcome.is_final() {
            self.exit = Some(outcome);
        }
        outcome
    }

    /// Runs to an absolute tick.
    pub fn run_until(&mut self, tick: u64) -> Outcome {
        self.run(&Until::ticks(tick))
    }

    fn run_loop(&mut self, until: &Until, began_ns: u64) -> Outcome {
        loop {
            // A tick boundary. What happens here depends on ticks and virtual time alone, never on where runs were cut.
            while self.bus.fire(&mut self.memory) {}
            self.strike_faults();
            self.serve_requests();
            if let Some(ending) = self.bus.ending {
                return match ending {
                    Ending::DebugExit(status) => Outcome::DebugExit(status),
                    Ending::PowerOff => Outcome::PowerOff,
                    Ending::Reset => Outcome::Reset,
                    Ending::PowerCut => Outcome::PowerCut,
                };
            }
            if self.bus.ticks == self.next_checkpoint {
                self.next_checkpoint += self.board.checkpoint_ticks;
                self.checkpoint();
                if until.checkpoint {
                    return Outcome::Deadline;
                }
            }
            self.replay_due();
            let now = self.now_ns();
            let quiet_at = until.quiet.map(|(port, ns)| self.quiet_at(port, ns, began_ns));
            match self.bus.noticed {
                Some(Noticed::Pattern(index)) => return Outcome::Output(index),
                Some(Noticed::Any(index)) => return Outcome::AnyOutput(Port::from_index(index)),
                None => {}
            }
            if until.ticks.is_some_and(|ticks| self.bus.ticks >= ticks) || until.ns.is_some_and(|ns| now >= ns) {
                return Outcome::Deadline;
            }
            if let Some((vcpu, ticks)) = until.vcpu_ticks
                && self.vcpu_ticks(vcpu) >= ticks
            {
                return Outcome::Deadline;
            }
            if quiet_at.is_some_and(|at| now >= at) {
                return Outcome::Quiet;
            }

            // Times at which the loop must look again.
            let replay_ns = self.replay.front().map_or(NEVER, |input| input.ns);
            let point = self.fault_point();
            let (fault_ns, fault_tick) = self.bus.faults.next(point);
            let look_ns = until.ns.unwrap_or(NEVER).min(quiet_at.unwrap_or(NEVER));
            let running = self.count_running();
            if running == 0 {
                let next = self.bus.timers.earliest().min(look_ns).min(replay_ns).min(fault_ns);
                let endless = until.ns.is_none() && now.saturating_sub(self.last_tick_ns) > IDLE_LIMIT_NS;
                if next == NEVER || endless || look_ns == NEVER && replay_ns == NEVER && fault_ns == NEVER && self.deaf() {
                    return Outcome::Stuck;
                }
                self.bus.clock.jump_to(next);
                continue;
            }

            self.pick();
            let clock = &self.bus.clock;
            let mut budget = self.next_checkpoint - self.bus.ticks;
            if self.cpus.len() > 1 {
                budget = budget.min(self.turn.left);
            }
            if let Some(ticks) = until.ticks {
                budget = budget.min(ticks - self.bus.ticks);
            }
            if let Some((vcpu, ticks)) = until.vcpu_ticks
                && vcpu == self.turn.vcpu
            {
                budget = budget.min(ticks - self.cpus[vcpu].ticks());
            }
            let horizon = self.bus.timers.earliest();
            if let Some(tick) = fault_tick {
                budget = budget.min(tick - self.bus.ticks);
            }
            for at in [horizon, look_ns, fault_ns] {
                if at != NEVER {
                    budget = budget.min(clock.ticks_until(at, running));
                }
            }
            if let Some(input) = self.replay.front() {
                let by_time = clock.ticks_until(input.ns, running);
                budget = budget.min(by_time.max(input.ticks.saturating_sub(self.bus.ticks)).max(1));
            }
            self.bus.running = running;
            self.bus.horizon = horizon;
            self.bus.stop = false;
            self.bus.vcpu = self.turn.vcpu as u32;

            self.hand_over_code();
            let cpu = &mut self.cpus[self.turn.vcpu];
            let before = cpu.ticks();
            let stop = cpu.run(&mut self.memory, &mut self.bus, before + budget);
            let ran = cpu.ticks() - before;
            self.bus.clock.advance(ran, running);
            self.bus.ticks += ran;
            self.bus.offset = 0;
            self.turn.left = self.turn.left.saturating_sub(ran);
            if ran > 0 {
                self.last_tick_ns = self.bus.clock.ns();
            }
            match stop {
                Stop::Deadline | Stop::Requested => {}
                Stop::Halted | Stop::Pause => self.turn.left = 0,
                Stop::TripleFault => {
                    // Whatever falls due at this very tick is no longer seen by anyone.
                    let vcpu = self.turn.vcpu as u32;
                    self.bus.add_event("cpu", "triple", "triple fault".to_owned(), self.bus.clock.ns());
                    return Outcome::TripleFault { vcpu };
                }
                Stop::Debug(stop) => return Outcome::Debug { vcpu: self.turn.vcpu as u32, stop },
            }
        }
    }

    /// Whether a vCPU would execute now.
    fn is_runnable(&self, vcpu: usize) -> bool {
        if self.bus.faults.is_stalled(vcpu, self.bus.clock.ns()) {
            return false;
        }
        match self.cpus[vcpu].activity() {
            Activity::Running => true,
            Activity::Halted => self.cpus[vcpu].wakes(self.bus.fabric.attention(vcpu)),
            Activity::WaitForSipi => false,
            // Reported when its turn comes.
            Activity::Shutdown => true,
        }
    }

    fn count_running(&self) -> u32 {
        (0..self.cpus.len()).filter(|&vcpu| self.is_runnable(vcpu)).count() as u32
    }

    /// Whether no halted vCPU listens to interrupts: nothing a device does can wake the machine.
    fn deaf(&self) -> bool {
        self.cpus.iter().all(|cpu| cpu.activity() != Activity::Halted || !cpu.interrupts_enabled())
    }

    /// Chooses whose turn it is: the present vCPU while it can go on, else the next that can, with a fresh turn.
    fn pick(&mut self) {
        if self.cpus.len() == 1 {
            return;
        }
        if self.turn.left > 0 && self.is_runnable(self.turn.vcpu) {
            return;
        }
        let count = self.cpus.len();
        // Chaos lets anybody be next, also the one whose turn has just ended.
        let from = if self.turn.chaos { self.turn.random.below(count as u64) as usize } else { self.turn.vcpu };
        let next = (1..=count).map(|step| (from + step) % count).find(|&vcpu| self.is_runnable(vcpu));
        self.turn.vcpu = next.expect("some vCPU is runnable");
        let [shortest, longest] = if self.turn.chaos { self.chaotic_quantum() } else { self.board.quantum };
        self.turn.left = shortest + self.turn.random.below(longest - shortest + 1);
    }

    /// Gives the code to the vCPU whose turn it is.
    fn hand_over_code(&mut self) {
        let (from, to) = (self.code_at, self.turn.vcpu);
        if let Ok([from, to]) = self.cpus.get_disjoint_mut([from, to]) {
            to.take_code(from);
            self.code_at = self.turn.vcpu;
        }
    }

    /// Bounds of a turn that is meant to hurt. Races are windows of a few instructions: most turns are short enough to end inside one, some long
    /// enough for another vCPU to do all of its work in the meantime.
    fn chaotic_quantum(&mut self) -> [u64; 2] {
        let longest = self.board.quantum[1];
        match self.turn.random.below(8) {
            0 | 1 => [1, 12],
            2 | 3 => [12, 150],
            4 | 5 => [150, 2_000],
            6 => [1, longest],
            _ => [longest, 8 * longest],
        }
    }

    fn serve_requests(&mut self) {
        for (vcpu, request) in std::mem::take(&mut self.bus.fabric.requests) {
            match request {
                Request::Init => {
                    self.cpus[vcpu].init(vcpu == 0);
                    self.bus.init_lapic(vcpu);
                }
                Request::Startup(vector) => self.cpus[vcpu].sipi(vector),
            }
            let now = self.bus.clock.ns();
            self.bus.add_event("cpu", "startup", format!("vcpu {vcpu}: {request:?}"), now);
        }
    }

    fn quiet_at(&self, port: Port, ns: u64, began_ns: u64) -> u64 {
        let index = port.index();
        let waiting = self.serial_pending(port) > 0;
        let last = self.bus.consoles[index].last_ns.max(began_ns);
        if waiting { NEVER } else { last.saturating_add(ns) }
    }

    // Inputs and outputs.

    /// Types bytes at a serial line, now. They enter the UART as the guest makes room: nothing is lost.
    pub fn serial_put(&mut self, port: Port, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.enter(InputKind::Serial { port, bytes: bytes.to_vec() });
        }
    }

    /// What stands on the screen, row by row; nothing where the board has none.
    pub fn screen_text(&mut self) -> Vec<String> {
        let node = self.named.screen.and_then(|id| self.bus.nodes.get_mut(usize::from(id.0)));
        node.map_or_else(Vec::new, |slot| sim_dev::screen::text(&slot.node.save()))
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) {
        self.enter(InputKind::PowerButton);
    }

    /// Injects a non-maskable interrupt into vCPU 0.
    pub fn inject_nmi(&mut self) {
        self.enter(InputKind::Nmi);
    }

    /// Lets the vCPUs take turns by another seed from now on: another interleaving of what is left open.
    pub fn set_turns(&mut self, chaos: bool, seed: u64) {
        self.enter(InputKind::Turns { chaos, seed });
    }

    /// Takes a checkpoint at this very tick, so that a snapshot can be taken here. It empties the TLBs, so it is an input as any other.
    pub fn take_checkpoint(&mut self) {
        self.enter(InputKind::Checkpoint);
    }

    /// Lets an input in at this very point and records it.
    fn enter(&mut self, what: InputKind) {
        let (ticks, ns) = (self.ticks(), self.now_ns());
        self.apply(&what);
        self.inputs.push(Input { ticks, ns, what });
    }

    fn apply(&mut self, what: &InputKind) {
        match what {
            InputKind::Serial { port, bytes } => {
                let id = sim_bus::ConsoleId(port.index() as u8);
                if let Some(queue) = self.bus.backends.console_mut(id) {
                    queue.extend(bytes);
                }
                if let Some(id) = self.named.serial[port.index()] {
                    self.bus.input(id);
                }
            }
            InputKind::PowerButton => {
                let id = self.named.acpi;
                self.bus.poke(id, |node, cx| node.input(cx));
            }
            InputKind::Nmi => self.bus.fabric.nmi(0),
            InputKind::Checkpoint => self.checkpoint(),
            InputKind::Turns { chaos, seed } => {
                self.turn.chaos = *chaos;
                self.turn.left = 0;
                self.turn.random = Streams::new(*seed).stream("turns");
            }
        }
    }

    /// Takes what a serial line printed since the last call.
    pub fn serial_take(&mut self, port: Port) -> Vec<u8> {
        std::mem::take(&mut self.bus.consoles[port.index()].output)
    }

    /// Bytes typed that the guest's UART has not taken yet.
    pub fn serial_pending(&self, port: Port) -> usize {
        self.bus.backends.console(sim_bus::ConsoleId(port.index() as u8)).map_or(0, VecDeque::len)
    }

    /// The content of a disk as the guest left it. `None`: there is no such disk, or it cannot be read.
    pub fn disk_content(&mut self, index: u8) -> Option<Vec<u8>> {
        let disk = self.bus.backends.disk_mut(sim_bus::DiskId(index))?;
        let mut content = vec![0; usize::try_from(disk.sectors()).ok()?.checked_mul(512)?];
        disk.read(0, &mut content).ok()?;
        Some(content)
    }

    /// A disk as it is now.
    pub fn disk(&self, index: u8) -> Option<&(dyn DiskBackend + '_)> {
        self.bus.backends.disk(sim_bus::DiskId(index))
    }

    /// Puts another medium in the place of a disk's, as if it had been swapped while nobody looked: what the guest has cached of the old one it still has. It is
    /// not recorded. `false`: there is no such disk, or the sizes differ.
    pub fn set_disk(&mut self, index: u8, disk: Box<dyn DiskBackend>) -> bool {
        let fits = self.disk(index).is_some_and(|old| old.sectors() == disk.sectors());
        fits && crate::snapshot::set_medium(&mut self.bus.backends, sim_bus::DiskId(index), disk)
    }

    /// Everything that entered from outside, with its point in time: with board and boot it is the whole run.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Hands over inputs recorded in another run; each enters at its point. Points that have passed enter at once.
    pub fn replay(&mut self, inputs: Vec<Input>) {
        self.replay = inputs.into();
    }

    fn replay_due(&mut self) {
        while let Some(input) = self.replay.front() {
            if input.ticks > self.ticks() || input.ns > self.now_ns() {
                return;
            }
            if let Some(input) = self.replay.pop_front() {
                self.enter(input.what);
            }
        }
    }

    // What the machine says about itself.

    /// The board it was built from.
    pub fn board(&self) -> &Board {
        &self.board
    }
    /// Ticks of all vCPUs since power-on.
    pub fn ticks(&self) -> u64 {
        self.bus.ticks
    }
    /// Virtual nanoseconds since power-on.
    pub fn now_ns(&self) -> u64 {
        self.bus.clock.ns()
    }
    /// Ticks of one vCPU.
    pub fn vcpu_ticks(&self, vcpu: usize) -> u64 {
        self.cpus.get(vcpu).map_or(0, Cpu::ticks)
    }
    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.cpus.len()
    }
    /// The vCPU whose turn it is.
    pub fn current_vcpu(&self) -> usize {
        self.turn.vcpu
    }
    /// Whether every vCPU is halted right now.
    pub fn is_idle(&self) -> bool {
        self.count_running() == 0
    }
    /// How the machine ended, if it has.
    pub fn exit(&self) -> Option<Outcome> {
        self.exit
    }
    /// The event log.
    pub fn events(&self) -> &[Event] {
        self.bus.trace.events()
    }
    /// Writes down which interrupts are taken from here on, the first [`crate::INTERRUPTS_MAX`] of them. The run does not show it.
    pub fn watch_interrupts(&mut self) {
        self.bus.trace.watch_interrupts();
    }
    /// The interrupts taken since [`Self::watch_interrupts`].
    pub fn interrupts(&self) -> &[Interrupt] {
        self.bus.trace.interrupts()
    }
    /// Events that did not fit into the log.
    pub fn events_dropped(&self) -> u64 {
        self.bus.trace.dropped
    }
    /// Accesses that no device defines, with how often they came.
    pub fn unimplemented(&self) -> impl Iterator<Item = (&Unimplemented, u64)> + '_ {
        self.bus.trace.unimplemented_accesses()
    }

    /// The network behind the NICs, if there is one.
    pub fn network(&self) -> Option<&sim_net::Net> {
        self.bus.backends.network()?.as_any().downcast_ref()
    }

    /// What each NIC sent and received, as pcapng files with their names.
    pub fn captures(&self) -> Vec<(String, Vec<u8>)> {
        let Some(network) = self.network() else { return Vec::new() };
        let epoch_ns = self.board.rtc_unix_seconds.saturating_mul(sim_bus::SECOND);
        (0..network.spec().nics.len()).map(|nic| (format!("nic{nic}.pcapng"), network.pcapng(nic, epoch_ns))).collect()
    }

    /// The receipt at this point: the chain of all checkpoints, continued by the present state.
    pub fn receipt(&mut self) -> String {
        let mut receipt = self.receipt.clone();
        self.link(&mut receipt, "now");
        receipt.to_string()
    }

    /// The chain's links as of the last checkpoint.
    pub fn checkpoint_receipt(&self) -> String {
        self.receipt.to_string()
    }

    fn link(&mut self, receipt: &mut Receipt, label: &str) {
        let mut fields = HashFields { bytes: std::mem::take(&mut self.scratch) };
        fields.bytes.clear();
        self.parts(&mut |_, walk| walk(&mut fields));
        for cpu in &self.cpus {
            fields.bytes.extend_from_slice(&cpu.state().save().encode());
        }
        let mut numbers = Vec::with_capacity(self.memory.dirty_pages().len());
        for page in self.memory.dirty_pages() {
            numbers.push(page.to_le_bytes());
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + 2 * numbers.len());
        parts.push(&fields.bytes);
        for (number, page) in numbers.iter().zip(self.memory.dirty_pages()) {
            parts.push(number);
            parts.push(self.memory.page(*page));
        }
        receipt.extend(label, self.bus.ticks, &parts);
        self.scratch = fields.bytes;
    }

    /// Empties the TLBs, extends the receipt, and starts a new interval of dirty pages.
    fn checkpoint(&mut self) {
        for cpu in &mut self.cpus {
            cpu.flush_tlb();
        }
        let mut receipt = std::mem::take(&mut self.receipt);
        self.link(&mut receipt, "checkpoint");
        self.receipt = receipt;
        if let Some(frozen) = &mut self.frozen {
            frozen.update(&self.memory);
        }
        self.memory.clear_dirty();
        self.checkpointed_at = Some(self.bus.ticks);
        self.memory.trim_code_log(self.cpus[self.code_at].code_log_position());
    }

    /// Everything but CPUs and memory, part by part: devices by their names, the rest of the board beside them.
    pub(crate) fn parts(&mut self, visit: &mut Visit<'_>) {
        self.bus.parts(visit);
        for index in 0..self.bus.nodes.len() {
            let (before, rest) = self.bus.nodes.split_at_mut(index);
            let slot = &mut rest[0];
            // A name that repeats (disks) gets its number.
            let name = match before.iter().filter(|other| other.name == slot.name).count() {
                0 => slot.name.to_owned(),
                earlier => format!("{}{}", slot.name, earlier + 1),
            };
            visit(&name, &mut |fields| slot.node.state(fields));
        }
        visit("turns", &mut |fields| {
            let mut vcpu = self.turn.vcpu as u64;
            fields.u64("vcpu", &mut vcpu);
            match usize::try_from(vcpu) {
                Ok(vcpu) if vcpu < self.cpus.len() => self.turn.vcpu = vcpu,
                Ok(_) | Err(_) => fields.refuse("vcpu"),
            }
            fields.u64("left", &mut self.turn.left);
            fields.flag("chaos", &mut self.turn.chaos);
            let mut words = self.turn.random.state();
            for word in &mut words {
                fields.u64("random", word);
            }
            match Rng::from_state(words) {
                Some(random) => self.turn.random = random,
                None => fields.refuse("random"),
            }
            fields.u64("next_checkpoint", &mut self.next_checkpoint);
            fields.u64("last_tick_ns", &mut self.last_tick_ns);
        });
    }
}

/// RAM as a PC has it: a hole for video, ROM for firmware, and what does not fit below the PCI hole above 4 GiB.
fn ram(bytes: u64) -> GuestMemory {
    let bytes = bytes.next_multiple_of(PAGE_SIZE).max(2 << 20);
    let low = bytes.min(map::LOW_RAM_LIMIT);
    let plain = |gpa: std::ops::Range<u64>, offset: u64| MapRange { gpa, offset, writable: true };
    let mut ranges = vec![
        plain(0..map::VIDEO, 0),
        MapRange { gpa: map::FIRMWARE..map::FIRMWARE_END, offset: map::FIRMWARE, writable: false },
        plain(map::FIRMWARE_END..low, map::FIRMWARE_END),
    ];
    if bytes > low {
        ranges.push(plain(map::HIGH_RAM..map::HIGH_RAM + (bytes - low), low));
    }
    GuestMemory::with_map(bytes, ranges)
}

/// The memory map as firmware reports it (E820 types).
fn memory_map(bytes: u64) -> Vec<MapEntry> {
    let bytes = bytes.next_multiple_of(PAGE_SIZE).max(2 << 20);
    let low = bytes.min(map::LOW_RAM_LIMIT);
    let entry = |base: u64, end: u64, kind: u32| MapEntry { base, length: end - base, kind };
    let mut entries = vec![
        entry(0, map::CONVENTIONAL_END, 1),
        entry(map::CONVENTIONAL_END, map::VIDEO, 2),
        entry(0xe_0000, map::FIRMWARE_END, 2),
        entry(map::FIRMWARE_END, low, 1),
        entry(map::ECAM, map::ECAM + map::ECAM_BYTES, 2),
        entry(0xfec0_0000, 0xfec0_1000, 2),
        entry(0xfed0_0000, 0xfed0_0400_u64.next_multiple_of(PAGE_SIZE), 2),
        entry(0xfee0_0000, 0xfee0_1000, 2),
    ];
    if bytes > low {
        entries.push(entry(map::HIGH_RAM, map::HIGH_RAM + (bytes - low), 1));
    }
    entries
}
