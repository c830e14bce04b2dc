//! What can be seen of a finished run: a timeline for Perfetto, a flamegraph, captures, disk operations, and one page that shows it all.
//!
//! # Theory
//! A run on the simulator is exact, so its evidence is: every event has its tick and its virtual nanosecond. Most of it the machine keeps anyway (event log,
//! disk journals, captures, conversations of peers). What must be watched for is which interrupts are taken, and where the vCPUs are: a [`Sampler`] stops the
//! machine at fixed ticks and writes down the stack. Cuts cannot be seen by the guest, so the watched run is the run: its receipt is that of an unwatched one.
//!
//! # Structures
//! [`Evidence`] is plain data collected from a [`sim_board::Machine`]; each output is a function of it: [`timeline::write`] (Chrome trace JSON), [`flame::folded`] and
//! [`flame::svg`], [`page::write`] (HTML without outside parts), [`write`] (all files into a folder).
//!
//! # Failure
//! Stacks are the guest's memory: a frame that does not lie above the one before it, or whose return address is in no function, ends the stack.
//!
//! # Limits
//! [`sampler::SAMPLES_MAX`] samples: past it every second one goes and the distance doubles. [`STACK_MAX`] frames. The page shows at most [`page::ROWS_MAX`] rows of a list.
//! Linux kernels without frame pointers give the innermost function only, and Debian ships no names for its own (its `System.map` is a placeholder): then it is the page. User
//! stacks are not walked: a user sample is the program's. The kernel's part of a program that was never met in user mode has no program's name.
//!
//! # Reading order
//! `lib.rs`, `sampler.rs`, `programs.rs`, `symbols.rs`, `timeline.rs`, `flame.rs`, `page.rs`.

pub mod flame;
pub mod heat;
pub mod page;
mod programs;
mod sampler;
mod symbols;
pub mod timeline;

use std::path::Path;

use sim_board::{Interrupt, Machine};
use sim_fault::Op;
use sim_net::{Captured, Direction};

pub use sampler::{STACK_MAX, Sample, Sampler, Where};
pub use symbols::Symbols;

/// A line of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `Some(true)`: holds; `None`: shown only.
    pub holds: Option<bool>,
    pub place: String,
    pub what: String,
    pub found: String,
    /// More of it, for one that fails: the difference to a golden.
    pub detail: Option<String>,
}

/// A stretch of the scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    /// Empty for the global zone.
    pub zone: String,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub outcome: String,
}

/// An event of the machine's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub ns: u64,
    pub vcpu: u32,
    pub source: String,
    pub kind: String,
    pub detail: String,
}

/// An operation of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOperation {
    pub disk: u8,
    pub ticks: u64,
    pub ns: u64,
    /// From then until the guest was told; `None`: it never was, or there was nobody to tell.
    pub takes_ns: Option<u64>,
    pub what: &'static str,
    pub sector: u64,
    pub sectors: u64,
    /// An error, or a fault that struck.
    pub trouble: Option<String>,
}

/// A conversation of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub peer: String,
    pub what: String,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub sent: u64,
    pub received: u64,
    pub complete: bool,
}

/// Everything about a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub name: String,
    pub property: String,
    pub rows: Vec<Row>,
    pub steps: Vec<Step>,
    pub console: String,
    pub receipt: String,
    /// How it ended, how long it took: a line.
    pub summary: String,
    pub vcpus: usize,
    pub virtual_ns: u64,
    pub events: Vec<Event>,
    /// Taken by the vCPUs.
    pub interrupts: Vec<Interrupt>,
    pub disks: Vec<DiskOperation>,
    /// By NIC.
    pub frames: Vec<Vec<Captured>>,
    pub conversations: Vec<Conversation>,
    /// Lines about the network.
    pub network: Vec<String>,
    pub samples: Vec<Sample>,
    /// Ticks between samples.
    pub every: u64,
    /// pcapng files: name and content.
    pub captures: Vec<(String, Vec<u8>)>,
}

impl Evidence {
    /// Collects what a machine knows.
    pub fn collect(&mut self, machine: &Machine) {
        self.vcpus = machine.vcpus();
        self.virtual_ns = machine.now_ns();
        self.events = machine
            .events()
            .iter()
            .map(|event| Event { ns: event.ns, vcpu: event.vcpu, source: event.source.to_owned(), kind: event.kind.to_owned(), detail: event.detail.clone() })
            .collect();
        self.interrupts = machine.interrupts().to_vec();
        for (disk, broken) in (0..u8::MAX).map_while(|disk| machine.fault_disk(disk).map(|broken| (disk, broken))) {
            self.disks.extend(broken.journal().records().map(|record| DiskOperation {
                disk,
                ticks: record.ticks,
                ns: record.ns,
                takes_ns: record.waited(),
                what: match record.op {
                    Op::Read => "read",
                    Op::Write => "write",
                    Op::WriteDurable => "write durable",
                    Op::Flush => "flush",
                    Op::Discard => "discard",
                },
                sector: record.sector,
                sectors: record.sectors,
                trouble: match (record.error, record.fault) {
                    (None, None) => None,
                    (error, fault) => Some(format!(
                        "{}{}",
                        error.map_or_else(String::new, |error| format!("error {error:?} ")),
                        fault.map_or_else(String::new, |fault| format!("fault {fault}{}", if record.void { " (not carried out)" } else { "" }))
                    )),
                },
            }));
        }
        self.disks.sort_by_key(|operation| (operation.ns, operation.disk));
        if let Some(network) = machine.network() {
            self.frames = (0..network.spec().nics.len()).map(|nic| network.captured(nic).cloned().collect()).collect();
            self.network = network.report();
            self.conversations = network
                .transfers()
                .map(|(peer, transfer)| Conversation {
                    peer: peer.to_owned(),
                    what: format!("{} {} {}", transfer.service, transfer.what, transfer.remote),
                    began_ns: transfer.began_ns,
                    ended_ns: transfer.ended_ns,
                    sent: transfer.sent,
                    received: transfer.received,
                    complete: transfer.complete,
                })
                .collect();
        }
        self.captures = machine.captures();
    }

    /// Times from a sent segment to its acknowledgement, as seen at a NIC: when, and how long. TCP over IPv4.
    pub fn round_trips(&self, nic: usize) -> Vec<(u64, u64)> {
        let mut waiting: Vec<(Direction, [u8; 12], u32, u64)> = Vec::new();
        let mut trips = Vec::new();
        for captured in self.frames.get(nic).into_iter().flatten() {
            let frame = &captured.frame;
            let Some(segment) = Segment::read(frame) else { continue };
            if segment.acknowledges {
                let flow = segment.flow(true);
                waiting.retain(|&(direction, other, end, at)| {
                    let answered = direction != captured.direction && other == flow && segment.acknowledged.wrapping_sub(end) < 1 << 31;
                    if answered {
                        trips.push((at, captured.ns - at));
                    }
                    !answered
                });
            }
            // A retransmission of what still waits starts no second clock.
            let end = segment.sequence.wrapping_add(segment.payload);
            if segment.payload > 0 && waiting.len() < 4096 && !waiting.iter().any(|&(_, flow, other, _)| flow == segment.flow(false) && other == end) {
                waiting.push((captured.direction, segment.flow(false), end, captured.ns));
            }
        }
        trips
    }
}

/// What is needed of a TCP segment.
struct Segment {
    source: [u8; 6],
    target: [u8; 6],
    sequence: u32,
    acknowledged: u32,
    acknowledges: bool,
    payload: u32,
}

impl Segment {
    fn read(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 6 {
            return None;
        }
        let tcp = 14 + usize::from(frame[14] & 0xf) * 4;
        let total = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let head = frame.get(tcp..tcp + 20)?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let address = |ip: usize, port: usize| [frame[ip], frame[ip + 1], frame[ip + 2], frame[ip + 3], head[port], head[port + 1]];
        let payload = total.checked_sub(tcp + usize::from(head[12] >> 4) * 4)?;
        Some(Self {
            source: address(26, 0),
            target: address(30, 2),
            sequence: word(4),
            acknowledged: word(8),
            acknowledges: head[13] & 0x10 != 0,
            payload: payload as u32,
        })
    }

    /// The connection, from the sender's side or the receiver's.
    fn flow(&self, turned: bool) -> [u8; 12] {
        let (first, second) = if turned { (self.target, self.source) } else { (self.source, self.target) };
        let mut flow = [0; 12];
        flow[..6].copy_from_slice(&first);
        flow[6..].copy_from_slice(&second);
        flow
    }
}

/// Writes all files into a folder: `timeline.json`, `flame.folded`, `flame.svg`, `disks.txt`, a pcapng for each NIC, `network.txt`, `report.html`.
pub fn write(folder: &Path, evidence: &Evidence, symbols: &Symbols) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("timeline.json"), timeline::write(evidence))?;
    let folded = flame::folded(evidence, symbols);
    std::fs::write(folder.join("flame.folded"), flame::text(&folded))?;
    let svg = flame::svg(&folded, evidence.every);
    std::fs::write(folder.join("flame.svg"), &svg)?;
    for (name, bytes) in &evidence.captures {
        std::fs::write(folder.join(name), bytes)?;
    }
    if !evidence.network.is_empty() {
        std::fs::write(folder.join("network.txt"), evidence.network.join("\n") + "\n")?;
    }
    if !evidence.disks.is_empty() {
        let mut text = String::from("#             tick               ns  disk  operation              sector  sectors         takes ns\n");
        for operation in &evidence.disks {
            let DiskOperation { disk, ticks, ns, takes_ns, what, sector, sectors, trouble } = operation;
            let takes = takes_ns.map_or_else(|| "-".to_owned(), |ns| ns.to_string());
            text.push_str(format!("{ticks:>18} {ns:>16}  {disk:>4}  {what:<13}  {sector:>14}  {sectors:>7}  {takes:>15}  {}", trouble.as_deref().unwrap_or_default()).trim_end());
            text.push('\n');
        }
        std::fs::write(folder.join("disks.txt"), text)?;
    }
    std::fs::write(folder.join("report.html"), page::write(evidence, &svg))
}
