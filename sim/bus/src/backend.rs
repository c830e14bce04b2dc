//! What stands behind devices: consoles, disks, wires. The board owns them; devices name them by number.

use std::collections::VecDeque;

use sim_core::{Rng, Streams};

use crate::Network;

/// A console line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsoleId(pub u8);
/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskId(pub u8);

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
    /// The disk is not there (pulled out by a fault plan).
    Gone,
}

/// When something happens: virtual time, ticks of all vCPUs, and which marks the guest has printed by then (a bit each).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub ns: crate::Nanos,
    pub ticks: u64,
    pub marks: u64,
}

/// What a backend has to say besides its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A line for the event log.
    Note(String),
    /// The fault with this number in the board's plan, triggered at this backend, is the board's to carry out.
    Alarm(u16),
}

/// A disk of 512-byte sectors. Requests are synchronous: latency is the device's business. Buffers are whole sectors.
///
/// The methods with a default are for middleware (`sim-fault`) and for what stands in front of it.
pub trait DiskBackend: std::fmt::Debug + Send + Sync {
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

    /// Writes whole sectors past the volatile cache (FUA): durable when it returns, earlier writes are not made so.
    fn write_durable(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        self.write(sector, from)?;
        self.flush()
    }
    /// The point at which the next requests are made. Called by [`Backends::disk_mut`].
    fn at(&mut self, _point: Point) {}
    /// How long the requests made since the last call take, if `usual` is what the device takes for them; [`crate::NEVER`]: they do not come back. Devices ask
    /// after each command they carry out.
    fn takes(&mut self, usual: crate::Nanos) -> crate::Nanos {
        usual
    }
    /// Whether the disk is plugged in.
    fn is_present(&self) -> bool {
        true
    }
    /// The next thing to report, if there is one.
    fn report(&mut self) -> Option<Report> {
        None
    }
    /// The walk over state besides the content (fault counters, random streams).
    fn state(&mut self, _fields: &mut dyn crate::Fields) {}
    /// The middleware itself, for the harness to look at its journal.
    fn middleware(&self) -> Option<&dyn std::any::Any> {
        None
    }
    fn middleware_mut(&mut self) -> Option<&mut dyn std::any::Any> {
        None
    }
}

/// Texts the guest may print that fault plans wait for, and which of them it has printed.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    texts: Vec<Vec<u8>>,
    tail: Vec<u8>,
}

impl Marks {
    /// The most texts.
    pub const MAX: usize = 64;
}

/// All backends of a machine.
#[derive(Debug)]
pub struct Backends {
    consoles: Vec<VecDeque<u8>>,
    disks: Vec<Box<dyn DiskBackend>>,
    network: Option<Box<dyn Network>>,
    random: Rng,
    point: Point,
    marks: Marks,
}

impl Clone for Backends {
    fn clone(&self) -> Self {
        Self {
            consoles: self.consoles.clone(),
            disks: self.disks.iter().map(|disk| disk.fork()).collect(),
            network: self.network.as_ref().map(|network| network.fork()),
            random: self.random.clone(),
            point: self.point,
            marks: self.marks.clone(),
        }
    }
}

impl Backends {
    /// `seed` names the family of streams; devices draw from the one called `devices`.
    pub fn new(seed: u64) -> Self {
        Self { consoles: Vec::new(), disks: Vec::new(), network: None, random: Streams::new(seed).stream("devices"), point: Point::default(), marks: Marks::default() }
    }
    /// The texts to watch the consoles for, at most [`Marks::MAX`]; more are not watched for.
    pub fn watch_marks(&mut self, texts: Vec<Vec<u8>>) {
        self.marks = Marks { texts, tail: Vec::new() };
        self.marks.texts.truncate(Marks::MAX);
    }
    /// A byte was printed on the first console. `true`: a text is complete for the first time.
    pub fn printed(&mut self, byte: u8) -> bool {
        if self.marks.texts.is_empty() {
            return false;
        }
        let longest = self.marks.texts.iter().map(Vec::len).max().unwrap_or(0);
        if self.marks.tail.len() >= longest.max(1) {
            self.marks.tail.remove(0);
        }
        self.marks.tail.push(byte);
        let before = self.point.marks;
        for (index, text) in self.marks.texts.iter().enumerate() {
            if self.marks.tail.ends_with(text) {
                self.point.marks |= 1 << index;
            }
        }
        self.point.marks != before
    }
    /// The present point; requests to disks are made at it.
    pub fn point(&self) -> Point {
        self.point
    }
    pub fn set_point(&mut self, ticks: u64, ns: crate::Nanos) {
        self.point = Point { ns, ticks, marks: self.point.marks };
    }
    /// The next report of any disk.
    pub fn report(&mut self) -> Option<(DiskId, Report)> {
        self.disks.iter_mut().enumerate().find_map(|(index, disk)| Some((DiskId(index as u8), disk.report()?)))
    }
    /// How many disks there are.
    pub fn disks(&self) -> usize {
        self.disks.len()
    }
    pub fn disk(&self, id: DiskId) -> Option<&(dyn DiskBackend + '_)> {
        self.disks.get(usize::from(id.0)).map(|disk| &**disk as _)
    }
    /// Puts another disk in the place of one. `false`: there is none.
    pub fn replace_disk(&mut self, id: DiskId, disk: Box<dyn DiskBackend>) -> bool {
        match self.disks.get_mut(usize::from(id.0)) {
            Some(place) => {
                *place = disk;
                true
            }
            None => false,
        }
    }
    pub fn add_console(&mut self) -> ConsoleId {
        self.consoles.push(VecDeque::new());
        ConsoleId((self.consoles.len() - 1) as u8)
    }
    pub fn add_disk(&mut self, disk: Box<dyn DiskBackend>) -> DiskId {
        self.disks.push(disk);
        DiskId((self.disks.len() - 1) as u8)
    }
    /// Plugs the network in.
    pub fn set_network(&mut self, network: Box<dyn Network>) {
        self.network = Some(network);
    }
    pub fn network(&self) -> Option<&dyn Network> {
        self.network.as_deref()
    }
    pub fn network_mut(&mut self) -> Option<&mut (dyn Network + '_)> {
        self.network.as_mut().map(|network| &mut **network as _)
    }
    /// Input waiting at a console.
    pub fn console(&self, id: ConsoleId) -> Option<&VecDeque<u8>> {
        self.consoles.get(usize::from(id.0))
    }
    pub fn console_mut(&mut self, id: ConsoleId) -> Option<&mut VecDeque<u8>> {
        self.consoles.get_mut(usize::from(id.0))
    }
    pub fn disk_mut(&mut self, id: DiskId) -> Option<&mut (dyn DiskBackend + '_)> {
        let disk = self.disks.get_mut(usize::from(id.0))?;
        disk.at(self.point);
        Some(&mut **disk as _)
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
        fields.u64("marks", &mut self.point.marks);
        fields.bytes("marks_tail", &mut self.marks.tail);
        for disk in &mut self.disks {
            disk.state(fields);
        }
        if let Some(network) = &mut self.network {
            network.state(fields);
        }
    }
}
