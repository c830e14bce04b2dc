//! Snapshots: the whole machine at a checkpoint tick, pages shared between snapshots until they are written.
//!
//! A snapshot is taken only where every TLB is empty: at a checkpoint, or before the first tick. So TLBs need not be saved, and runs with and without
//! snapshots are the same run. Each checkpoint interval costs a copy of the pages written in it, and a snapshot a copy of the list of chunks.

use std::sync::Arc;

use sim_bus::{Backends, LoadFields, SaveFields};
use sim_core::{LoadError, Payload, Receipt};
use sim_cpu::CpuState;
use sim_mem::{GuestMemory, PAGE_SIZE};

use crate::machine::Machine;
use crate::trace::Trace;

type Page = Arc<[u8]>;
/// Pages in a chunk of the list.
const CHUNK: usize = 512;

/// All of memory, shared with other points in time.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    chunks: Vec<Arc<Vec<Page>>>,
}

impl Frozen {
    /// Copies all of memory; pages of zeros are one page.
    pub fn new(memory: &GuestMemory) -> Self {
        let zero: Page = Arc::from([0u8; PAGE_SIZE as usize].as_slice());
        let count = (memory.len() / PAGE_SIZE) as u32;
        let pages: Vec<Page> = (0..count)
            .map(|page| {
                let bytes = memory.page(page);
                if *bytes == *zero { zero.clone() } else { Arc::from(bytes) }
            })
            .collect();
        Self { chunks: pages.chunks(CHUNK).map(|chunk| Arc::new(chunk.to_vec())).collect() }
    }

    /// Takes in the pages written since the last time.
    pub fn update(&mut self, memory: &GuestMemory) {
        for &page in memory.dirty_pages() {
            let (chunk, index) = (page as usize / CHUNK, page as usize % CHUNK);
            Arc::make_mut(&mut self.chunks[chunk])[index] = Arc::from(memory.page(page));
        }
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

/// The machine at one point in time. Belongs to the machine (and its forks) it was taken from.
#[derive(Debug)]
pub struct Snapshot {
    ticks: u64,
    ns: u64,
    cpus: Vec<CpuState>,
    /// Everything but CPUs, memory and disks.
    state: Payload,
    memory: Frozen,
    backends: Backends,
    receipt: Receipt,
    trace: Trace,
    inputs: usize,
}

impl Snapshot {
    /// The tick it was taken at.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }
    /// The virtual time it was taken at.
    pub fn ns(&self) -> u64 {
        self.ns
    }
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
        let mut fields = SaveFields::new("machine", 1);
        self.walk(&mut fields);
        Some(Snapshot {
            ticks: self.ticks(),
            ns: self.now_ns(),
            cpus: self.cpus.iter().map(|cpu| cpu.state()).collect(),
            state: fields.finish(),
            memory,
            backends: self.bus.backends.clone(),
            receipt: self.receipt.clone(),
            trace: self.bus.trace.clone(),
            inputs: self.inputs.len(),
        })
    }

    /// Goes back (or forth) to a snapshot. Inputs recorded after it enter again at their points; what was printed is not printed a second
    /// time. Breakpoints stay.
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
        let mut fields = LoadFields::new(&snapshot.state);
        self.walk(&mut fields);
        fields.finish()?;
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
        let later = self.inputs.split_off(snapshot.inputs.min(self.inputs.len()));
        let waiting = std::mem::take(&mut self.replay);
        self.replay = later.into_iter().chain(waiting).collect();
        Ok(())
    }

    /// Forgets inputs that wait to be replayed: from here on it is another run.
    pub fn forget_future(&mut self) {
        self.replay.clear();
    }
}
