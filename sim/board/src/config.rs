//! The board table: what machine to build, read from TOML.

use std::fmt;

use serde::{Deserialize, Serialize};
use sim_cpu::CpuChoice;
use sim_fault::{Fault, Keep};
use sim_net::{NetError, NetSpec, NicSpec, PeerSpec, SegmentSpec};

/// The most vCPUs a board may have (xAPIC flat addressing ends at 8, cluster and physical at 255; the design asks for 32).
pub const VCPUS_MAX: u32 = 32;

/// A machine's description. `Board::default()` is the board `default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Board {
    pub name: String,
    /// 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
    /// RAM, for example `"256M"`.
    #[serde(deserialize_with = "size")]
    pub ram: u64,
    /// Virtual nanoseconds per tick while one vCPU runs.
    pub ns_per_tick: u32,
    /// Frequency of the TSC, in kHz.
    pub tsc_khz: u64,
    /// Seeds the order of turns, RDRAND and every other random stream.
    pub seed: u64,
    /// The instruction-set level CPUID shows: `"x86-64-v2"` or `"x86-64-v3"`, which may be written `cpu = "v3"`; features are left out by name, as in
    /// `cpu = "v3,-avx2,-smap"`.
    #[serde(alias = "cpu")]
    pub cpuid: String,
    /// Ticks between checkpoints (TLB emptied, receipt extended, snapshot possible).
    pub checkpoint_ticks: u64,
    /// With several vCPUs: the shortest and longest turn, in ticks.
    pub quantum: [u64; 2],
    /// Whether PAUSE ends a vCPU's turn (with several vCPUs).
    pub pause_ends_turn: bool,
    /// Adversarial turns instead of those of `quantum`: of wildly different lengths, in any order, PAUSE always ending one. All by the seed.
    pub chaos: bool,
    /// Whether serial lines take as long for a byte as their baud rate says.
    pub serial_timing: bool,
    /// Wall-clock time of day at power-on, as Unix seconds.
    pub rtc_unix_seconds: u64,
    /// Which kinds of events the log keeps besides those it always keeps.
    pub trace: Vec<TraceKind>,
    /// Disks, in order of their PCI device numbers.
    #[serde(rename = "disk")]
    pub disks: Vec<Disk>,
    /// Whether there is a virtio entropy device.
    pub rng: bool,
    /// Whether there is a virtio console.
    pub virtio_console: bool,
    /// Whether there is a VGA text screen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub screen: bool,
    /// NICs, after the disks.
    #[serde(rename = "nic")]
    pub nics: Vec<NicSpec>,
    /// What NICs and peers are plugged into.
    #[serde(rename = "segment")]
    pub segments: Vec<SegmentSpec>,
    /// Scripted computers on the segments.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerSpec>,
    /// What breaks, and when.
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
    /// What is kept of the disks' operations: `"nothing"`, `"operations"`, or `"data"` (power cuts can be made).
    pub disk_journal: Keep,
}

/// Kinds of events that are logged on request, because there are many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceKind {
    /// Every interrupt taken by a CPU.
    Interrupt,
    /// Every port access.
    Port,
    /// Every MMIO access.
    Mmio,
}

/// A disk of the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// What the guest sees.
    pub model: DiskModel,
    /// Size of an empty disk; an image given to the machine in its place overrides it.
    #[serde(default, deserialize_with = "size")]
    pub size: u64,
    #[serde(default)]
    pub read_only: bool,
}

/// Disk controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskModel {
    VirtioBlk,
    Nvme,
    Ahci,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            vcpus: 1,
            ram: 256 << 20,
            ns_per_tick: 1,
            tsc_khz: 1_000_000,
            seed: 1,
            cpuid: "x86-64-v2".to_owned(),
            checkpoint_ticks: 10_000_000,
            quantum: [2_000, 20_000],
            pause_ends_turn: true,
            chaos: false,
            serial_timing: false,
            rtc_unix_seconds: 1_767_225_600, // 2026-01-01
            trace: Vec::new(),
            disks: Vec::new(),
            rng: false,
            virtio_console: false,
            screen: false,
            nics: Vec::new(),
            segments: Vec::new(),
            peers: Vec::new(),
            faults: Vec::new(),
            disk_journal: Keep::Nothing,
        }
    }
}

/// What is wrong with a board table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The text is no TOML or does not fit the table; the message has line and column.
    Toml(String),
    /// A value is out of its range.
    Range { key: &'static str, allowed: &'static str },
    /// There is no such processor.
    Cpu(String),
    /// NICs, segments or peers make no sense.
    Network(NetError),
}

impl From<NetError> for ConfigError {
    fn from(error: NetError) -> Self {
        ConfigError::Network(error)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Toml(message) => write!(f, "board table: {message}"),
            ConfigError::Cpu(message) => write!(f, "board table: `cpu`: {message}"),
            ConfigError::Network(error) => write!(f, "board table: {error}"),
            ConfigError::Range { key, allowed } => write!(f, "board table: `{key}` must be {allowed}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Board {
    /// Parses a board table. Unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Board, ConfigError> {
        let board: Board = toml::from_str(text).map_err(|error| ConfigError::Toml(error.to_string()))?;
        board.check()?;
        Ok(board)
    }

    /// The table as text: what [`Board::from_toml`] reads back to the same board.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError::Toml(error.to_string()))
    }

    /// The processor that `cpuid` names.
    ///
    /// # Errors
    /// There is none.
    pub fn cpu(&self) -> Result<CpuChoice, ConfigError> {
        CpuChoice::parse(&self.cpuid).map_err(ConfigError::Cpu)
    }

    /// Checks the ranges of all values.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rows = [
            ("vcpus", (1..=VCPUS_MAX).contains(&self.vcpus), "1 to 32"),
            ("ram", (1 << 20..=1 << 40).contains(&self.ram), "1M to 1T"),
            ("ns_per_tick", (1..=1_000_000).contains(&self.ns_per_tick), "1 to 1000000"),
            ("tsc_khz", (1_000..=100_000_000).contains(&self.tsc_khz), "1000 to 100000000"),
            ("checkpoint_ticks", self.checkpoint_ticks >= 1_000, "at least 1000"),
            ("quantum", self.quantum[0] >= 1 && self.quantum[0] <= self.quantum[1], "[shortest, longest], shortest at least 1"),
            ("disk", self.disks.len() <= 16, "at most 16 disks"),
        ];
        if let Some((key, _, allowed)) = rows.iter().find(|(_, good, _)| !good) {
            return Err(ConfigError::Range { key, allowed });
        }
        self.cpu()?;
        self.network().check()?;
        Ok(())
    }

    /// The network. NICs on a board that describes none are on the default one ([`NetSpec::lan`]).
    pub fn network(&self) -> NetSpec {
        if self.segments.is_empty() && self.peers.is_empty() && !self.nics.is_empty() {
            return NetSpec { nics: self.nics.clone(), ..NetSpec::lan(&[]) };
        }
        NetSpec { nics: self.nics.clone(), segments: self.segments.clone(), peers: self.peers.clone() }
    }
}

/// Reads a size: a number of bytes or a string with K, M, G or T.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => {
            parse_size(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no size (examples: 512K, 256M, 4G)")))
        }
    }
}
