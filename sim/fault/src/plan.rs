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
    MachineCheck { check: MachineCheck },
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

/// What a table says beside its kind, read for the kind that needs it.
struct Figures<'a> {
    table: &'a FaultTable,
    name: &'a str,
}

impl Figures<'_> {
    fn missing(&self, key: &'static str) -> PlanError {
        PlanError::Missing { name: self.name.to_owned(), key }
    }
    fn range(&self, key: &'static str, allowed: &'static str) -> PlanError {
        PlanError::Range { name: self.name.to_owned(), key, allowed }
    }
    fn bits(&self) -> Result<u32, PlanError> {
        let bits = self.table.bits.unwrap_or(1);
        if (1..=4096).contains(&bits) { Ok(bits) } else { Err(self.range("bits", "1 to 4096")) }
    }
    fn by(&self) -> Result<u64, PlanError> {
        self.table.by.ok_or_else(|| self.missing("by"))
    }
    /// A duration that must be given.
    fn duration(&self) -> Result<Nanos, PlanError> {
        self.table.duration.map(|span| span.0).ok_or_else(|| self.missing("duration"))
    }
    /// For good, if nothing is said.
    fn forever(&self) -> Result<Nanos, PlanError> {
        Ok(self.table.duration.map_or(sim_bus::NEVER, |span| span.0))
    }
    /// How long a frame is held back.
    fn held(&self) -> Result<Nanos, PlanError> {
        Ok(self.table.duration.map_or(500_000, |span| span.0))
    }
    fn rate(&self) -> Result<u64, PlanError> {
        let rate = self.table.rate.ok_or_else(|| self.missing("rate"))?;
        if rate < 1_000 { Err(self.range("rate", "at least 1000 bits per second")) } else { Ok(rate) }
    }
    fn vcpu(&self) -> Result<u32, PlanError> {
        Ok(self.table.vcpu.unwrap_or(0))
    }
    fn check(&self) -> Result<MachineCheck, PlanError> {
        let table = self.table;
        let (bank, code) = (table.bank.unwrap_or(4), table.code.unwrap_or(0x0136));
        Ok(MachineCheck { vcpu: self.vcpu()?, bank, code, address: table.address, uncorrected: table.uncorrected })
    }
    fn address(&self) -> Result<Option<u64>, PlanError> {
        Ok(self.table.address)
    }
    fn bit(&self) -> Result<Option<u8>, PlanError> {
        if self.table.bit.is_some_and(|bit| bit > 7) { Err(self.range("bit", "0 to 7")) } else { Ok(self.table.bit) }
    }
    fn vector(&self) -> Result<u8, PlanError> {
        let vector = self.table.vector.ok_or_else(|| self.missing("vector"))?;
        if vector < 16 { Err(self.range("vector", "16 to 255")) } else { Ok(vector) }
    }
    fn any_vector(&self) -> Result<Option<u8>, PlanError> {
        Ok(self.table.vector)
    }
}

/// The other way: each field of a kind into its place in a table.
struct Put<'a>(&'a mut FaultTable);

impl Put<'_> {
    fn bits(&mut self, bits: u32) {
        self.0.bits = Some(bits);
    }
    fn by(&mut self, sectors: u64) {
        self.0.by = Some(sectors);
    }
    fn ns(&mut self, ns: Nanos) {
        self.0.duration = (ns != sim_bus::NEVER).then_some(Span(ns));
    }
    fn bits_per_second(&mut self, rate: u64) {
        self.0.rate = Some(rate);
    }
    fn vcpu(&mut self, vcpu: u32) {
        self.0.vcpu = Some(vcpu);
    }
    fn check(&mut self, check: MachineCheck) {
        let (table, MachineCheck { vcpu, bank, code, address, uncorrected }) = (&mut *self.0, check);
        (table.vcpu, table.bank, table.code, table.address, table.uncorrected) = (Some(vcpu), Some(bank), Some(code), address, uncorrected);
    }
    fn address(&mut self, address: Option<u64>) {
        self.0.address = address;
    }
    fn bit(&mut self, bit: Option<u8>) {
        self.0.bit = bit;
    }
    fn vector(&mut self, vector: impl Into<Option<u8>>) {
        self.0.vector = vector.into();
    }
}

/// Makes from one list what reads a kind, what writes it, and the words: `word Variant { field: how it is read } which operations it strikes`.
macro_rules! kinds {
    ($($family:ident { $($word:literal $variant:ident { $($field:ident: $how:ident),* } $on:ident;)* })*) => {
        /// The words for kinds, as tables spell them.
        pub const KINDS: &[&str] = &[$($($word,)*)*];

        $(impl $family {
            /// The kind of this word and the operations it strikes by nature; `None`: the word is of another family.
            fn read(word: &str, figures: &Figures<'_>) -> Result<Option<(Self, On)>, PlanError> {
                Ok(match word {
                    $($word => Some((Self::$variant { $($field: figures.$how()?),* }, On::$on)),)*
                    _ => None,
                })
            }

            /// Puts the kind's word and figures into a table.
            fn write(self, into: &mut FaultTable) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        into.kind = $word.to_owned();
                        $(Put(into).$field($field);)*
                    })*
                }
            }
        })*
    };
}

kinds! {
    Kind {
        "read-error" ReadError {} Read;
        "write-error" WriteError {} Write;
        "bad-sector" BadSector {} Any;
        "bit-rot" BitRot { bits: bits } Any;
        "corrupt-read" CorruptRead { bits: bits } Read;
        "corrupt-write" CorruptWrite { bits: bits } Write;
        "torn-write" TornWrite {} Write;
        "misdirected-write" MisdirectedWrite { by: by } Write;
        "lost-write" LostWrite {} Write;
        "ignored-flush" IgnoredFlush {} Flush;
        "slow" Slow { ns: duration } Any;
        "stuck" Stuck {} Any;
        "removed" Removed { ns: forever } Any;
        "stale-read" StaleRead {} Read;
    }
    NicKind {
        "drop" Drop {} Any;
        "duplicate" Duplicate {} Any;
        "reorder" Reorder { ns: held } Any;
        "delay" Delay { ns: duration } Any;
        "corrupt-frame" CorruptFrame { bits: bits } Any;
        "rate-limit" RateLimit { bits_per_second: rate, ns: forever } Any;
        "link-down" LinkDown { ns: forever } Any;
        "partition" Partition { ns: forever } Any;
    }
    MachineKind {
        "power-cut" PowerCut {} Write;
        "nmi" Nmi { vcpu: vcpu } Write;
        "machine-check" MachineCheck { check: check } Write;
        "bit-flip" BitFlip { address: address, bit: bit } Write;
        "stall" Stall { vcpu: vcpu, ns: duration } Write;
        "spurious-interrupt" SpuriousInterrupt { vcpu: vcpu, vector: vector } Write;
        "lost-interrupt" LostInterrupt { vector: any_vector } Write;
    }
}

impl TryFrom<FaultTable> for Fault {
    type Error = PlanError;

    fn try_from(table: FaultTable) -> Result<Self, PlanError> {
        let name = if table.name.is_empty() { table.kind.clone() } else { table.name.clone() };
        let figures = Figures { table: &table, name: &name };
        let missing = |key| figures.missing(key);
        let range = |key, allowed| figures.range(key, allowed);
        let (effect, natural) = if let Some((kind, on)) = Kind::read(&table.kind, &figures)? {
            if matches!(kind, Kind::BadSector | Kind::BitRot { .. }) {
                let [first, last] = table.sectors.ok_or_else(|| missing("sectors"))?;
                if last.saturating_sub(first) > 0xf_ffff {
                    return Err(range("sectors", "at most 1048576 sectors for this kind"));
                }
            }
            (Effect::Disk { disk: table.disk.ok_or_else(|| missing("disk"))?, kind }, on)
        } else if let Some((kind, on)) = NicKind::read(&table.kind, &figures)? {
            (Effect::Nic { nic: table.nic.ok_or_else(|| missing("nic"))?, kind }, on)
        } else if let Some((kind, on)) = MachineKind::read(&table.kind, &figures)? {
            let counts = table.operation.is_some() || table.every.is_some() || table.sectors.is_some() || table.on.is_some();
            if counts && table.disk.is_none() {
                return Err(missing("disk"));
            }
            (Effect::Machine { disk: table.disk, kind }, on)
        } else {
            return Err(PlanError::Kind { name: name.clone(), kind: table.kind.clone() });
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
        // Kinds of the machine without a disk may not say which operations count.
        let on = Some(trigger.on.word().to_owned());
        match fault.effect {
            Effect::Disk { disk, kind } => {
                (table.disk, table.on) = (Some(disk), on);
                kind.write(&mut table);
            }
            Effect::Nic { nic, kind } => {
                (table.nic, table.on) = (Some(nic), on);
                kind.write(&mut table);
            }
            Effect::Machine { disk, kind } => {
                (table.disk, table.on) = (disk, disk.and(on));
                kind.write(&mut table);
            }
        }
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
