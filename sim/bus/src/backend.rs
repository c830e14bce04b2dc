//! What stands behind devices: consoles, disks, wires. The board owns them; devices name them by number.

use std::collections::VecDeque;

use sim_core::{Rng, Streams};

/// A console line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsoleId(pub u8);
/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskId(pub u8);
/// A network port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireId(pub u8);

/// Why a disk refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// Past the last sector.
    Range,
    /// The disk was opened read-only.
    ReadOnly,
    /// The medium failed (also when a fault plan says so).
    Medium,
    /// The host could not read or write the image.
    Host,
}

/// A disk of 512-byte sectors. Requests are synchronous: latency is the device's business. Buffers are whole sectors.
pub trait DiskBackend: std::fmt::Debug {
    /// Size in sectors.
    fn sectors(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Reads whole sectors.
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// Writes whole sectors into the volatile cache.
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError>;
    /// Makes all earlier writes durable.
    fn flush(&mut self) -> Result<(), DiskError>;
    /// Drops the content of sectors: they read as zeros afterwards.
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError>;
    /// A frozen copy of the content, cheap (shared until written): for snapshots and forks.
    fn fork(&self) -> Box<dyn DiskBackend>;
}

/// A network port.
pub trait WireBackend: std::fmt::Debug {
    /// The guest sends a frame.
    fn send(&mut self, now: crate::Nanos, frame: &[u8]);
    /// The next frame for the guest, if one has arrived by `now`.
    fn receive(&mut self, now: crate::Nanos) -> Option<Vec<u8>>;
    /// When the next frame will arrive, if that is known.
    fn next_arrival(&self) -> Option<crate::Nanos>;
    /// A copy for snapshots and forks.
    fn fork(&self) -> Box<dyn WireBackend>;
}

/// All backends of a machine.
#[derive(Debug)]
pub struct Backends {
    consoles: Vec<VecDeque<u8>>,
    disks: Vec<Box<dyn DiskBackend>>,
    wires: Vec<Box<dyn WireBackend>>,
    random: Rng,
}

impl Clone for Backends {
    fn clone(&self) -> Self {
        Self {
            consoles: self.consoles.clone(),
            disks: self.disks.iter().map(|disk| disk.fork()).collect(),
            wires: self.wires.iter().map(|wire| wire.fork()).collect(),
            random: self.random.clone(),
        }
    }
}

impl Backends {
    /// `seed` names the family of streams; devices draw from the one called `devices`.
    pub fn new(seed: u64) -> Self {
        Self { consoles: Vec::new(), disks: Vec::new(), wires: Vec::new(), random: Streams::new(seed).stream("devices") }
    }
    pub fn add_console(&mut self) -> ConsoleId {
        self.consoles.push(VecDeque::new());
        ConsoleId((self.consoles.len() - 1) as u8)
    }
    pub fn add_disk(&mut self, disk: Box<dyn DiskBackend>) -> DiskId {
        self.disks.push(disk);
        DiskId((self.disks.len() - 1) as u8)
    }
    pub fn add_wire(&mut self, wire: Box<dyn WireBackend>) -> WireId {
        self.wires.push(wire);
        WireId((self.wires.len() - 1) as u8)
    }
    /// Input waiting at a console.
    pub fn console(&self, id: ConsoleId) -> Option<&VecDeque<u8>> {
        self.consoles.get(usize::from(id.0))
    }
    pub fn console_mut(&mut self, id: ConsoleId) -> Option<&mut VecDeque<u8>> {
        self.consoles.get_mut(usize::from(id.0))
    }
    pub fn disk_mut(&mut self, id: DiskId) -> Option<&mut (dyn DiskBackend + '_)> {
        self.disks.get_mut(usize::from(id.0)).map(|disk| &mut **disk as _)
    }
    pub fn wire_mut(&mut self, id: WireId) -> Option<&mut (dyn WireBackend + '_)> {
        self.wires.get_mut(usize::from(id.0)).map(|wire| &mut **wire as _)
    }
    /// The next value of the devices' random stream.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }
    /// The walk over what belongs to the machine's state: console input that waits, and the random stream.
    pub fn state(&mut self, fields: &mut dyn crate::Fields) {
        let mut words = self.random.state();
        for word in &mut words {
            fields.u64("random", word);
        }
        match Rng::from_state(words) {
            Some(random) => self.random = random,
            None => fields.refuse("random"),
        }
        for console in &mut self.consoles {
            fields.queue("console", console);
        }
    }
}
