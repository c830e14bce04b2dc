//! The plan: what breaks, when, and what must survive it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sim_bus::Nanos;

/// A fault as the `[[fault]]` table of a board or scenario spells it. [`Fault::try_from`] checks it.
///
/// ```toml
/// [[fault]]
/// name = "the disk lies about flushes"   # names the random stream; shows in the event log
/// disk = 0
/// kind = "ignored-flush"
/// at = "2s"                              # trigger; all that are given must hold
/// strikes = 0                            # 0: without limit; default 1
/// survives = "nothing that was synced is lost"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultTable {
    /// Names the fault in the event log and its random stream.
    pub name: String,
    /// One of the words of [`Kind`] and [`MachineKind`].
    pub kind: String,
    /// The disk it is about (kinds of disks), or whose operations trigger it (kinds of the machine).
    pub disk: Option<u8>,
    /// The NIC it is about (kinds of NICs).
    pub nic: Option<u8>,
    /// What must survive: for the report.
    pub survives: String,

    // Triggers.
    /// From this virtual time on: `"2s"`, `"350ms"`, or nanoseconds.
    pub at: Option<Span>,
    /// From this tick on.
    pub tick: Option<u64>,
    /// Once the guest has printed this on its console.
    pub marker: Option<String>,
    /// The n-th matching operation, counted from 1 once time, tick and marker hold.
    pub operation: Option<u64>,
    /// Each n-th matching operation.
    pub every: Option<u64>,
    /// Operations that touch these sectors: first and last.
    pub sectors: Option<[u64; 2]>,
    /// Which operations match: `"read"`, `"write"`, `"flush"`; of NICs `"send"`, `"receive"`; `"any"`. Default: those the kind can strike.
    pub on: Option<String>,
    /// Chance of each matching operation; for kinds of the machine without a disk, of each `period`.
    pub probability: Option<f64>,
    /// How often the chance is taken without a disk. Default 1 ms.
    pub period: Option<Span>,
    /// How often it strikes at most; 0: without limit. Default 1.
    pub strikes: Option<u32>,

    // Figures of the kinds.
    /// `slow`, `removed`, `stall`, `delay`, `rate-limit`, `link-down`, `partition`: for how long. `reorder`: how long the frame is held (default 500 us).
    pub duration: Option<Span>,
    /// `bit-rot`, `corrupt-read`, `corrupt-write`, `corrupt-frame`: how many bits flip. Default 1.
    pub bits: Option<u32>,
    /// `rate-limit`: bits per second.
    pub rate: Option<u64>,
    /// `misdirected-write`: how many sectors further.
    pub by: Option<u64>,
    /// Kinds of the machine: which vCPU. Default 0.
    pub vcpu: Option<u32>,
    /// `bit-flip`: guest-physical address (default: drawn), `machine-check`: the address reported.
    pub address: Option<u64>,
    /// `bit-flip`: bit of the byte.
    pub bit: Option<u8>,
    /// `spurious-interrupt`, `lost-interrupt`: the vector (lost: default any).
    pub vector: Option<u8>,
    /// `machine-check`: bank.
    pub bank: Option<u8>,
    /// `machine-check`: MCi_STATUS without its flag bits.
    pub code: Option<u32>,
    /// `machine-check`: uncorrected.
    pub uncorrected: bool,
}

/// A time span: nanoseconds, or a number with `ns`, `us`, `ms`, `s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span(pub Nanos);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(from)? {
            Either::Number(ns) => Ok(Span(ns)),
            Either::Text(text) => Span::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no time span (examples: 20us, 350ms, 2s)"))),
        }
    }
}

impl Span {
    /// Reads `20us`, `350ms`, `2s`, `100ns`.
    pub fn parse(text: &str) -> Option<Span> {
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = match &text[digits.len()..] {
            "ns" | "" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            _ => return None,
        };
        digits.trim().parse::<u64>().ok()?.checked_mul(scale).map(Span)
    }
}

/// Which operations of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Read,
    /// Writes and discards.
    Write,
    Flush,
    /// A frame leaves a NIC.
    Send,
    /// A frame comes to a NIC.
    Receive,
    Any,
}

/// When a fault strikes. All conditions that are there must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub at_ns: Option<Nanos>,
    pub tick: Option<u64>,
    pub marker: Option<String>,
    pub operation: Option<u64>,
    pub every: Option<u64>,
    /// First and last sector.
    pub sectors: Option<[u64; 2]>,
    pub on: On,
    /// In billionths.
    pub chance: Option<u32>,
    pub period_ns: Nanos,
}

/// What happens to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `read-error`: the read fails, this once.
    ReadError,
    /// `write-error`: the write fails, nothing is written.
    WriteError,
    /// `bad-sector`: reads of the sectors fail until they are written again.
    BadSector,
    /// `bit-rot`: bits of the sectors flip on the medium, once.
    BitRot { bits: u32 },
    /// `corrupt-read`: bits flip on the way out.
    CorruptRead { bits: u32 },
    /// `corrupt-write`: bits flip on the way in.
    CorruptWrite { bits: u32 },
    /// `torn-write`: the leading part of the write arrives, the rest does not; success is reported.
    TornWrite,
    /// `misdirected-write`: the write lands elsewhere.
    MisdirectedWrite { by: u64 },
    /// `lost-write`: nothing is written; success is reported.
    LostWrite,
    /// `ignored-flush`: success is reported; what was to be flushed stays volatile.
    IgnoredFlush,
    /// `slow`: the request takes longer by this.
    Slow { ns: Nanos },
    /// `stuck`: the request never comes back.
    Stuck,
    /// `removed`: the disk is gone for this long ([`sim_bus::NEVER`]: for good).
    Removed { ns: Nanos },
    /// `stale-read`: the read returns what was there before the latest write to each sector.
    StaleRead,
}

/// What happens to a NIC's frames and cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicKind {
    /// `drop`: the frame is gone.
    Drop,
    /// `duplicate`: it comes twice.
    Duplicate,
    /// `reorder`: it is held back so that later ones overtake it.
    Reorder { ns: Nanos },
    /// `delay`: it comes later by this.
    Delay { ns: Nanos },
    /// `corrupt-frame`: bits of it flip.
    CorruptFrame { bits: u32 },
    /// `rate-limit`: the cable carries no more than this for so long ([`sim_bus::NEVER`]: for good).
    RateLimit { bits_per_second: u64, ns: Nanos },
    /// `link-down`: the cable is out for this long.
    LinkDown { ns: Nanos },
    /// `partition`: the link stays, nothing passes for this long.
    Partition { ns: Nanos },
}

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// `power-cut`: the machine ends. What the disks keep is the journal's business.
    PowerCut,
    /// `nmi`.
    Nmi { vcpu: u32 },
    /// `machine-check`: a bank is filled; uncorrected raises #MC.
    MachineCheck(MachineCheck),
    /// `bit-flip`: a bit of RAM. `None`: drawn from the stream.
    BitFlip { address: Option<u64>, bit: Option<u8> },
    /// `stall`: a vCPU executes nothing for this long.
    Stall { vcpu: u32, ns: Nanos },
    /// `spurious-interrupt`: a vector nobody asked for.
    SpuriousInterrupt { vcpu: u32, vector: u8 },
    /// `lost-interrupt`: the next interrupt (of this vector) from a device does not arrive.
    LostInterrupt { vector: Option<u8> },
}

/// What a machine-check bank will say (SDM vol. 3 §16.3.2, APM vol. 2 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineCheck {
    pub vcpu: u32,
    pub bank: u8,
    /// MCA and model-specific error code: the low 32 bits of MCi_STATUS.
    pub code: u32,
    pub address: Option<u64>,
    pub uncorrected: bool,
}

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Disk { disk: u8, kind: Kind },
    Nic { nic: u8, kind: NicKind },
    /// With `disk`, its operations are what the trigger counts.
    Machine { disk: Option<u8>, kind: MachineKind },
}

/// A fault of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FaultTable", into = "FaultTable")]
pub struct Fault {
    pub name: String,
    pub effect: Effect,
    pub trigger: Trigger,
    /// `None`: without limit.
    pub strikes: Option<u32>,
    pub survives: String,
}

/// What is wrong with a fault table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// No such kind; the nearest words are listed by the caller from [`KINDS`].
    Kind { name: String, kind: String },
    /// A key the kind needs is missing.
    Missing { name: String, key: &'static str },
    /// A value is out of its range.
    Range { name: String, key: &'static str, allowed: &'static str },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Kind { name, kind } => write!(f, "fault `{name}`: no kind is called `{kind}` (kinds: {})", KINDS.join(", ")),
            PlanError::Missing { name, key } => write!(f, "fault `{name}`: its kind needs `{key}`"),
            PlanError::Range { name, key, allowed } => write!(f, "fault `{name}`: `{key}` must be {allowed}"),
        }
    }
}

impl std::error::Error for PlanError {}

/// The words for kinds, as tables spell them.
pub const KINDS: &[&str] = &[
    "read-error",
    "write-error",
    "bad-sector",
    "bit-rot",
    "corrupt-read",
    "corrupt-write",
    "torn-write",
    "misdirected-write",
    "lost-write",
    "ignored-flush",
    "slow",
    "stuck",
    "removed",
    "stale-read",
    "drop",
    "duplicate",
    "reorder",
    "delay",
    "corrupt-frame",
    "rate-limit",
    "link-down",
    "partition",
    "power-cut",
    "nmi",
    "machine-check",
    "bit-flip",
    "stall",
    "spurious-interrupt",
    "lost-interrupt",
];

impl TryFrom<FaultTable> for Fault {
    type Error = PlanError;

    fn try_from(table: FaultTable) -> Result<Self, PlanError> {
        let name = if table.name.is_empty() { table.kind.clone() } else { table.name.clone() };
        let missing = |key| PlanError::Missing { name: name.clone(), key };
        let range = |key, allowed| PlanError::Range { name: name.clone(), key, allowed };
        let bits = table.bits.unwrap_or(1);
        if !(1..=4096).contains(&bits) {
            return Err(range("bits", "1 to 4096"));
        }
        let vcpu = table.vcpu.unwrap_or(0);
        let duration = || table.duration.map(|span| span.0).ok_or_else(|| missing("duration"));
        let disk_kind = match table.kind.as_str() {
            "read-error" => Some((Kind::ReadError, On::Read)),
            "write-error" => Some((Kind::WriteError, On::Write)),
            "bad-sector" => Some((Kind::BadSector, On::Any)),
            "bit-rot" => Some((Kind::BitRot { bits }, On::Any)),
            "corrupt-read" => Some((Kind::CorruptRead { bits }, On::Read)),
            "corrupt-write" => Some((Kind::CorruptWrite { bits }, On::Write)),
            "torn-write" => Some((Kind::TornWrite, On::Write)),
            "misdirected-write" => Some((Kind::MisdirectedWrite { by: table.by.ok_or_else(|| missing("by"))? }, On::Write)),
            "lost-write" => Some((Kind::LostWrite, On::Write)),
            "ignored-flush" => Some((Kind::IgnoredFlush, On::Flush)),
            "slow" => Some((Kind::Slow { ns: duration()? }, On::Any)),
            "stuck" => Some((Kind::Stuck, On::Any)),
            "removed" => Some((Kind::Removed { ns: table.duration.map_or(sim_bus::NEVER, |span| span.0) }, On::Any)),
            "stale-read" => Some((Kind::StaleRead, On::Read)),
            _ => None,
        };
        let forever = || table.duration.map_or(sim_bus::NEVER, |span| span.0);
        let nic_kind = match table.kind.as_str() {
            "drop" => Some(NicKind::Drop),
            "duplicate" => Some(NicKind::Duplicate),
            "reorder" => Some(NicKind::Reorder { ns: table.duration.map_or(500_000, |span| span.0) }),
            "delay" => Some(NicKind::Delay { ns: duration()? }),
            "corrupt-frame" => Some(NicKind::CorruptFrame { bits }),
            "rate-limit" => {
                let bits_per_second = table.rate.ok_or_else(|| missing("rate"))?;
                if bits_per_second < 1_000 {
                    return Err(range("rate", "at least 1000 bits per second"));
                }
                Some(NicKind::RateLimit { bits_per_second, ns: forever() })
            }
            "link-down" => Some(NicKind::LinkDown { ns: forever() }),
            "partition" => Some(NicKind::Partition { ns: forever() }),
            _ => None,
        };
        let (effect, natural) = match (disk_kind, nic_kind) {
            (_, Some(kind)) => (Effect::Nic { nic: table.nic.ok_or_else(|| missing("nic"))?, kind }, On::Any),
            (Some((kind, on)), None) => {
                let needs_range = matches!(kind, Kind::BadSector | Kind::BitRot { .. });
                if needs_range && table.sectors.is_none() {
                    return Err(missing("sectors"));
                }
                (Effect::Disk { disk: table.disk.ok_or_else(|| missing("disk"))?, kind }, on)
            }
            (None, None) => {
                let kind = match table.kind.as_str() {
                    "power-cut" => MachineKind::PowerCut,
                    "nmi" => MachineKind::Nmi { vcpu },
                    "machine-check" => {
                        let bank = table.bank.unwrap_or(4);
                        let code = table.code.unwrap_or(0x0136);
                        MachineKind::MachineCheck(MachineCheck { vcpu, bank, code, address: table.address, uncorrected: table.uncorrected })
                    }
                    "bit-flip" => {
                        if table.bit.is_some_and(|bit| bit > 7) {
                            return Err(range("bit", "0 to 7"));
                        }
                        MachineKind::BitFlip { address: table.address, bit: table.bit }
                    }
                    "stall" => MachineKind::Stall { vcpu, ns: duration()? },
                    "spurious-interrupt" => {
                        let vector = table.vector.ok_or_else(|| missing("vector"))?;
                        if vector < 16 {
                            return Err(range("vector", "16 to 255"));
                        }
                        MachineKind::SpuriousInterrupt { vcpu, vector }
                    }
                    "lost-interrupt" => MachineKind::LostInterrupt { vector: table.vector },
                    other => return Err(PlanError::Kind { name, kind: other.to_owned() }),
                };
                let counts = table.operation.is_some() || table.every.is_some() || table.sectors.is_some() || table.on.is_some();
                if counts && table.disk.is_none() {
                    return Err(missing("disk"));
                }
                (Effect::Machine { disk: table.disk, kind }, On::Write)
            }
        };
        let on = match table.on.as_deref() {
            None => natural,
            Some("read") => On::Read,
            Some("write") => On::Write,
            Some("flush") => On::Flush,
            Some("send") => On::Send,
            Some("receive") => On::Receive,
            Some("any") => On::Any,
            Some(_) => return Err(range("on", "\"read\", \"write\", \"flush\", \"send\", \"receive\" or \"any\"")),
        };
        if table.operation == Some(0) || table.every == Some(0) {
            return Err(range("operation", "at least 1"));
        }
        if table.sectors.is_some_and(|[first, last]| first > last) {
            return Err(range("sectors", "[first, last], first not after last"));
        }
        if matches!(disk_kind, Some((Kind::BadSector | Kind::BitRot { .. }, _))) && table.sectors.is_some_and(|[first, last]| last - first > 0xf_ffff) {
            return Err(range("sectors", "at most 1048576 sectors for this kind"));
        }
        let chance = match table.probability {
            None => None,
            Some(part) if (0.0..=1.0).contains(&part) => Some((part * 1e9) as u32),
            Some(_) => return Err(range("probability", "0 to 1")),
        };
        let period_ns = table.period.map_or(1_000_000, |span| span.0);
        if period_ns == 0 {
            return Err(range("period", "longer than nothing"));
        }
        if table.marker.as_deref() == Some("") {
            return Err(range("marker", "a text"));
        }
        Ok(Fault {
            name,
            effect,
            trigger: Trigger {
                at_ns: table.at.map(|span| span.0),
                tick: table.tick,
                marker: table.marker,
                operation: table.operation,
                every: table.every,
                sectors: table.sectors,
                on,
                chance,
                period_ns,
            },
            strikes: match table.strikes {
                None => Some(1),
                Some(0) => None,
                some => some,
            },
            survives: table.survives,
        })
    }
}

impl From<Fault> for FaultTable {
    /// The table that reads back as the same fault.
    fn from(fault: Fault) -> Self {
        let trigger = fault.trigger;
        let span = |ns: Nanos| (ns != sim_bus::NEVER).then_some(Span(ns));
        let mut table = FaultTable {
            name: fault.name,
            survives: fault.survives,
            at: trigger.at_ns.map(Span),
            tick: trigger.tick,
            marker: trigger.marker,
            operation: trigger.operation,
            every: trigger.every,
            sectors: trigger.sectors,
            probability: trigger.chance.map(|chance| f64::from(chance) / 1e9),
            period: Some(Span(trigger.period_ns)),
            strikes: Some(fault.strikes.unwrap_or(0)),
            ..FaultTable::default()
        };
        let kind = match fault.effect {
            Effect::Disk { disk, kind } => {
                table.disk = Some(disk);
                // Kinds of the machine without a disk may not say which operations count.
                table.on = Some(trigger.on.word().to_owned());
                match kind {
                    Kind::ReadError => "read-error",
                    Kind::WriteError => "write-error",
                    Kind::BadSector => "bad-sector",
                    Kind::BitRot { bits } => {
                        table.bits = Some(bits);
                        "bit-rot"
                    }
                    Kind::CorruptRead { bits } => {
                        table.bits = Some(bits);
                        "corrupt-read"
                    }
                    Kind::CorruptWrite { bits } => {
                        table.bits = Some(bits);
                        "corrupt-write"
                    }
                    Kind::TornWrite => "torn-write",
                    Kind::MisdirectedWrite { by } => {
                        table.by = Some(by);
                        "misdirected-write"
                    }
                    Kind::LostWrite => "lost-write",
                    Kind::IgnoredFlush => "ignored-flush",
                    Kind::Slow { ns } => {
                        table.duration = span(ns);
                        "slow"
                    }
                    Kind::Stuck => "stuck",
                    Kind::Removed { ns } => {
                        table.duration = span(ns);
                        "removed"
                    }
                    Kind::StaleRead => "stale-read",
                }
            }
            Effect::Nic { nic, kind } => {
                table.nic = Some(nic);
                table.on = Some(trigger.on.word().to_owned());
                match kind {
                    NicKind::Drop => "drop",
                    NicKind::Duplicate => "duplicate",
                    NicKind::Reorder { ns } => {
                        table.duration = Some(Span(ns));
                        "reorder"
                    }
                    NicKind::Delay { ns } => {
                        table.duration = Some(Span(ns));
                        "delay"
                    }
                    NicKind::CorruptFrame { bits } => {
                        table.bits = Some(bits);
                        "corrupt-frame"
                    }
                    NicKind::RateLimit { bits_per_second, ns } => {
                        table.rate = Some(bits_per_second);
                        table.duration = span(ns);
                        "rate-limit"
                    }
                    NicKind::LinkDown { ns } => {
                        table.duration = span(ns);
                        "link-down"
                    }
                    NicKind::Partition { ns } => {
                        table.duration = span(ns);
                        "partition"
                    }
                }
            }
            Effect::Machine { disk, kind } => {
                table.disk = disk;
                table.on = disk.map(|_| trigger.on.word().to_owned());
                match kind {
                    MachineKind::PowerCut => "power-cut",
                    MachineKind::Nmi { vcpu } => {
                        table.vcpu = Some(vcpu);
                        "nmi"
                    }
                    MachineKind::MachineCheck(check) => {
                        table.vcpu = Some(check.vcpu);
                        table.bank = Some(check.bank);
                        table.code = Some(check.code);
                        table.address = check.address;
                        table.uncorrected = check.uncorrected;
                        "machine-check"
                    }
                    MachineKind::BitFlip { address, bit } => {
                        table.address = address;
                        table.bit = bit;
                        "bit-flip"
                    }
                    MachineKind::Stall { vcpu, ns } => {
                        table.vcpu = Some(vcpu);
                        table.duration = span(ns);
                        "stall"
                    }
                    MachineKind::SpuriousInterrupt { vcpu, vector } => {
                        table.vcpu = Some(vcpu);
                        table.vector = Some(vector);
                        "spurious-interrupt"
                    }
                    MachineKind::LostInterrupt { vector } => {
                        table.vector = vector;
                        "lost-interrupt"
                    }
                }
            }
        };
        table.kind = kind.to_owned();
        table
    }
}

impl On {
    /// The word tables use.
    pub fn word(self) -> &'static str {
        match self {
            On::Read => "read",
            On::Write => "write",
            On::Flush => "flush",
            On::Send => "send",
            On::Receive => "receive",
            On::Any => "any",
        }
    }
}

/// The marker texts of a plan, each once, in the order their bits are numbered ([`sim_bus::Point::marks`]).
pub fn marker_texts(plan: &[Fault]) -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for marker in plan.iter().filter_map(|fault| fault.trigger.marker.as_deref()) {
        if !texts.iter().any(|text| text == marker.as_bytes()) {
            texts.push(marker.as_bytes().to_vec());
        }
    }
    texts
}
