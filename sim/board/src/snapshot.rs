//! Snapshots: the whole machine at a checkpoint tick, pages shared between snapshots until they are written.
//!
//! A snapshot is taken only where every TLB is empty: at a checkpoint, or before the first tick. So TLBs need not be saved, and runs with and without
//! snapshots are the same run. Each checkpoint interval costs a copy of the pages written in it, and a snapshot a copy of the list of chunks.
//!
//! A snapshot is plain data: it may be shared by threads, each of which makes a machine of its own from it ([`Machine::fork`]), and it can be taken
//! apart and put together again ([`Snapshot::parts`], [`Snapshot::assemble`]), which is how `sim-snap` writes it to files.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use sim_bus::{Backends, DiskBackend, DiskId, LoadFields, SaveFields};
use sim_core::{LoadError, Payload, Receipt};
use sim_cpu::CpuState;
use sim_fault::FaultDisk;
use sim_mem::{GuestMemory, PAGE_SIZE};

use crate::api::Input;
use crate::config::Board;
use crate::machine::{BuildError, Machine};
use crate::trace::Trace;

type Page = Arc<[u8]>;
/// Pages in a chunk of the list.
const CHUNK: usize = 64;
/// Version of the saved form of everything that has no version of its own.
const PART_VERSION: u32 = 1;

/// The page of zeros that all machines share.
fn zero() -> &'static Page {
    static ZERO: OnceLock<Page> = OnceLock::new();
    ZERO.get_or_init(|| Arc::from([0u8; PAGE_SIZE as usize].as_slice()))
}

/// All of memory, shared with other points in time.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    chunks: Vec<Arc<Vec<Page>>>,
}

impl Frozen {
    /// Copies all of memory; pages of zeros are one page.
    pub fn new(memory: &GuestMemory) -> Self {
        Self::of((0..(memory.len() / PAGE_SIZE) as u32).map(|page| {
            let bytes = memory.page(page);
            if *bytes == **zero() { zero().clone() } else { Arc::from(bytes) }
        }))
    }

    /// Memory of zeros.
    fn empty(memory: &GuestMemory) -> Self {
        Self::of((0..memory.len() / PAGE_SIZE).map(|_| zero().clone()))
    }

    fn of(pages: impl Iterator<Item = Page>) -> Self {
        let pages: Vec<Page> = pages.collect();
        Self { chunks: pages.chunks(CHUNK).map(|chunk| Arc::new(chunk.to_vec())).collect() }
    }

    /// Takes in the pages written since the last time.
    pub fn update(&mut self, memory: &GuestMemory) {
        for &page in memory.dirty_pages() {
            self.set(page, Arc::from(memory.page(page)));
        }
    }

    fn set(&mut self, page: u32, bytes: Page) {
        let (chunk, index) = (page as usize / CHUNK, page as usize % CHUNK);
        Arc::make_mut(&mut self.chunks[chunk])[index] = bytes;
    }

    fn count(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.len() as u32).sum()
    }

    /// Pages that are not the same page in both.
    fn differences<'a>(&'a self, other: &'a Frozen) -> impl Iterator<Item = (u32, &'a Page)> + 'a {
        self.chunks.iter().zip(&other.chunks).enumerate().filter(|(_, (mine, theirs))| !Arc::ptr_eq(mine, theirs)).flat_map(
            |(chunk, (mine, theirs))| {
                mine.iter()
                    .zip(theirs.iter())
                    .enumerate()
                    .filter(|(_, (mine, theirs))| !Arc::ptr_eq(mine, theirs))
                    .map(move |(index, (mine, _))| ((chunk * CHUNK + index) as u32, mine))
            },
        )
    }

    fn page(&self, page: u32) -> &Page {
        &self.chunks[page as usize / CHUNK][page as usize % CHUNK]
    }
}

/// The machine at one point in time.
#[derive(Debug)]
pub struct Snapshot {
    board: Board,
    ticks: u64,
    ns: u64,
    cpus: Vec<CpuState>,
    /// Everything but CPUs, memory and disks: a payload for each part, its kind is the part's name.
    parts: Vec<Payload>,
    memory: Frozen,
    backends: Backends,
    receipt: Receipt,
    trace: Trace,
    inputs: Vec<Input>,
}

/// What a snapshot is put together from.
#[derive(Debug)]
pub struct SnapshotParts {
    pub board: Board,
    pub ticks: u64,
    pub ns: u64,
    pub cpus: Vec<CpuState>,
    pub parts: Vec<Payload>,
    /// Pages that are not all zeros, by number.
    pub pages: BTreeMap<u32, Vec<u8>>,
    /// The media, without the faults around them.
    pub disks: Vec<Box<dyn DiskBackend>>,
    /// The state of the network, if there is one.
    pub network: Option<Payload>,
    pub receipt: Receipt,
    pub inputs: Vec<Input>,
}

/// Why parts make no snapshot, or a snapshot no machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssembleError {
    /// Its board cannot be built.
    Build(BuildError),
    /// A part does not fit the board.
    State(LoadError),
    /// The board has another number of these.
    Count { what: &'static str, board: usize, found: usize },
    /// A page lies outside memory or has a wrong length.
    Page(u32),
}

impl fmt::Display for AssembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssembleError::Build(error) => error.fmt(f),
            AssembleError::State(error) => error.fmt(f),
            AssembleError::Count { what, board, found } => write!(f, "the snapshot has {found} {what}, its board {board}"),
            AssembleError::Page(page) => write!(f, "page {page:#x} of the snapshot is outside its board's memory"),
        }
    }
}

impl std::error::Error for AssembleError {}

impl From<BuildError> for AssembleError {
    fn from(error: BuildError) -> Self {
        AssembleError::Build(error)
    }
}
impl From<LoadError> for AssembleError {
    fn from(error: LoadError) -> Self {
        AssembleError::State(error)
    }
}

impl Snapshot {
    /// The board of the machine it was taken from.
    pub fn board(&self) -> &Board {
        &self.board
    }
    /// The tick it was taken at.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }
    /// The virtual time it was taken at.
    pub fn ns(&self) -> u64 {
        self.ns
    }
    /// The vCPUs.
    pub fn cpus(&self) -> &[CpuState] {
        &self.cpus
    }
    /// Everything but CPUs, memory and disks; the kind of a payload is the part's name.
    pub fn parts(&self) -> &[Payload] {
        &self.parts
    }
    /// The receipt's chain as of this point.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
    /// What had entered from outside by then.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }
    /// How many pages memory has.
    pub fn page_count(&self) -> u32 {
        self.memory.count()
    }
    /// Pages that are not the shared page of zeros.
    pub fn pages(&self) -> impl Iterator<Item = (u32, &[u8])> + '_ {
        let pages = self.memory.chunks.iter().flat_map(|chunk| chunk.iter());
        pages.enumerate().filter(|(_, page)| !Arc::ptr_eq(page, zero())).map(|(number, page)| (number as u32, &**page))
    }
    /// The bytes of a page.
    pub fn page(&self, page: u32) -> Option<&[u8]> {
        (page < self.page_count()).then(|| &**self.memory.page(page))
    }
    /// Pages that are not the same in an earlier snapshot of the same machine (or are, but were written in between).
    pub fn written_since(&self, earlier: &Snapshot) -> Vec<u32> {
        self.memory.differences(&earlier.memory).map(|(page, _)| page).collect()
    }
    /// The media of the disks in the board's order, without the faults around them.
    pub fn media(&self) -> Vec<Box<dyn DiskBackend>> {
        (0..self.backends.disks()).filter_map(|index| self.backends.disk(DiskId(index as u8))).map(medium).collect()
    }
    /// The state of the network, if there is one.
    pub fn network(&self) -> Option<Payload> {
        self.backends.network().map(|network| network.save())
    }

    /// Puts a snapshot together. Whether all of it fits the board shows when a machine is made from it.
    pub fn assemble(from: SnapshotParts) -> Result<Snapshot, AssembleError> {
        let machine = Machine::bare(&from.board, &disk_sizes(from.disks.iter().map(|disk| disk.sectors())))?;
        let mut memory = Frozen::empty(&machine.memory);
        for (page, bytes) in from.pages {
            if page >= memory.count() || bytes.len() as u64 != PAGE_SIZE {
                return Err(AssembleError::Page(page));
            }
            memory.set(page, bytes.into());
        }
        let mut backends = machine.bus.backends;
        if backends.disks() != from.disks.len() {
            return Err(AssembleError::Count { what: "disks", board: backends.disks(), found: from.disks.len() });
        }
        if machine.cpus.len() != from.cpus.len() {
            return Err(AssembleError::Count { what: "vCPUs", board: machine.cpus.len(), found: from.cpus.len() });
        }
        if let (Some(network), Some(payload)) = (backends.network_mut(), &from.network) {
            network.load(payload)?;
        }
        for (index, medium) in from.disks.into_iter().enumerate() {
            set_medium(&mut backends, DiskId(index as u8), medium);
        }
        Ok(Snapshot {
            board: from.board,
            ticks: from.ticks,
            ns: from.ns,
            cpus: from.cpus,
            parts: from.parts,
            memory,
            backends,
            receipt: from.receipt,
            trace: Trace::default(),
            inputs: from.inputs,
        })
    }
}

/// A copy of what is behind the faults of a disk.
pub(crate) fn medium(disk: &(dyn DiskBackend + '_)) -> Box<dyn DiskBackend> {
    match disk.middleware().and_then(|inside| inside.downcast_ref::<FaultDisk>()) {
        Some(around) => around.inner().fork(),
        None => disk.fork(),
    }
}

/// Puts a medium behind the faults of a disk. `false`: there is no such disk.
pub(crate) fn set_medium(backends: &mut Backends, id: DiskId, medium: Box<dyn DiskBackend>) -> bool {
    let around = backends.disk_mut(id).and_then(|disk| disk.middleware_mut()).and_then(|inside| inside.downcast_mut::<FaultDisk>());
    match around {
        Some(around) => {
            around.set_medium(medium);
            true
        }
        None => backends.replace_disk(id, medium),
    }
}

fn disk_sizes(sectors: impl Iterator<Item = u64>) -> Vec<u64> {
    sectors.map(|sectors| sectors * sim_host::SECTOR as u64).collect()
}

impl Machine {
    /// Starts keeping what snapshots need. Costs a copy of memory once, and at each checkpoint a copy of the pages written since the last.
    pub fn keep_snapshots(&mut self) {
        if self.frozen.is_none() {
            self.frozen = Some(Frozen::new(&self.memory));
        }
    }

    /// Whether a snapshot can be taken here: before the first tick, or right after a checkpoint ([`crate::Until::checkpoint`]).
    pub fn can_snapshot(&self) -> bool {
        self.frozen.is_some() && (self.ticks() == 0 || self.checkpointed_at == Some(self.ticks())) && self.memory.dirty_pages().is_empty()
    }

    /// Takes a snapshot, if one can be taken here.
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        if !self.can_snapshot() {
            return None;
        }
        let memory = self.frozen.clone()?;
        let parts = self.save_parts();
        Some(Snapshot {
            board: self.board.clone(),
            ticks: self.ticks(),
            ns: self.now_ns(),
            cpus: self.cpus.iter().map(|cpu| cpu.state()).collect(),
            parts,
            memory,
            backends: self.bus.backends.clone(),
            receipt: self.receipt.clone(),
            trace: self.bus.trace.clone(),
            inputs: self.inputs.clone(),
        })
    }

    /// The state of everything but CPUs, memory and disks as it is now, at any tick.
    pub fn save_parts(&mut self) -> Vec<Payload> {
        let mut parts = Vec::new();
        self.parts(&mut |name, walk| {
            let mut fields = SaveFields::new(name, PART_VERSION);
            walk(&mut fields);
            parts.push(fields.finish());
        });
        parts
    }

    /// Makes another machine that stands where the snapshot was taken. Costs a copy of the pages that are not zeros.
    pub fn fork(snapshot: &Snapshot) -> Result<Machine, AssembleError> {
        let sizes = disk_sizes(snapshot.media().iter().map(|disk| disk.sectors()));
        let mut machine = Machine::bare(&snapshot.board, &sizes)?;
        machine.memory.clear_dirty();
        machine.frozen = Some(Frozen::empty(&machine.memory));
        machine.restore(snapshot)?;
        Ok(machine)
    }

    /// Goes back (or forth) to a snapshot of this machine or a fork of it. Inputs recorded after it enter again at their points; what was printed is
    /// not printed a second time. Breakpoints stay.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), LoadError> {
        self.keep_snapshots();
        let present = self.frozen.take().expect("kept since the line above");
        let written: Vec<u32> = self.memory.dirty_pages().to_vec();
        for (page, bytes) in snapshot.memory.differences(&present) {
            self.memory.restore_page(page, bytes);
        }
        for page in written {
            self.memory.restore_page(page, snapshot.memory.page(page));
        }
        self.memory.clear_dirty();
        self.frozen = Some(snapshot.memory.clone());
        for (cpu, state) in self.cpus.iter_mut().zip(&snapshot.cpus) {
            cpu.set_state(state);
            cpu.flush_tlb();
        }
        self.bus.backends = snapshot.backends.clone();
        self.load_parts(&snapshot.parts)?;
        self.bus.remap();
        self.bus.fabric.requests.clear();
        self.bus.fabric.woke = false;
        self.bus.ending = None;
        self.bus.noticed = None;
        self.bus.offset = 0;
        self.bus.trace = snapshot.trace.clone();
        self.receipt = snapshot.receipt.clone();
        self.exit = None;
        self.checkpointed_at = (snapshot.ticks > 0).then_some(snapshot.ticks);
        let later = self.inputs.split_off(snapshot.inputs.len().min(self.inputs.len()));
        self.inputs.clone_from(&snapshot.inputs);
        let waiting = std::mem::take(&mut self.replay);
        self.replay = later.into_iter().chain(waiting).collect();
        Ok(())
    }

    /// Loads all parts; the first that does not fit is the error.
    fn load_parts(&mut self, parts: &[Payload]) -> Result<(), LoadError> {
        let mut waiting = parts.iter();
        let mut result = Ok(());
        self.parts(&mut |name, walk| {
            if result.is_err() {
                return;
            }
            result = match waiting.next() {
                Some(payload) => payload.expect(name, PART_VERSION).and_then(|()| {
                    let mut fields = LoadFields::new(payload);
                    walk(&mut fields);
                    fields.finish()
                }),
                None => Err(LoadError::Kind { expected: name.to_owned(), found: "nothing".to_owned() }),
            };
        });
        result?;
        match waiting.next() {
            None => Ok(()),
            Some(surplus) => Err(LoadError::Kind { expected: "nothing".to_owned(), found: surplus.kind.clone() }),
        }
    }

    /// Forgets inputs that wait to be replayed, and what was printed after this point: from here on it is another run.
    pub fn forget_future(&mut self) {
        self.replay.clear();
        self.bus.consoles.iter_mut().for_each(crate::bus::ConsoleOut::forget_shown);
    }
}
