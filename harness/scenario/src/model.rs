//! What a scenario is, after reading: types that cannot be wrong.

use std::path::PathBuf;

/// One property and how it is shown.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Path below `scenarios/` without `.toml`; also names the goldens and the bundle.
    pub name: String,
    /// The property, in one line.
    pub property: String,
    /// Left out of `test` unless asked for.
    pub slow: bool,
    /// How often it runs; all receipts must be equal.
    pub repeat: u32,
    /// One more run is cut into slices at random; its receipt must be equal too.
    pub cut: Option<u64>,
    /// How many adversarial interleavings are tried, each twice.
    pub chaos_seeds: u32,
    pub board: Board,
    pub image: Image,
    pub limits: Limits,
    pub disks: Vec<Disk>,
    pub zones: Vec<Zone>,
    pub carry: Vec<Carry>,
    pub steps: Vec<Step>,
    pub expects: Vec<Expect>,
    pub golden: Vec<Stream>,
    /// The table `[explore]` as text, every line in its place; read by whoever explores.
    pub explore: Option<String>,
    /// Console lines that would otherwise break the "nothing panicked" invariant and that this scenario is about.
    pub allow: Vec<String>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// A named board of the simulator.
    pub name: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub seed: u64,
    /// What else the scenario says about the machine (`[[nic]]`, `[[peer]]`, `[[fault]]`, some keys of `[board]`), as text for the simulator's
    /// own board table, which alone knows these words. Every line stands where it stands in the scenario, so that complaints point there.
    pub tables: String,
}

/// A disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What expectations call it: `NAME.img` in their folder.
    pub name: String,
    pub model: DiskModel,
    pub size_bytes: u64,
    pub content: DiskContent,
    pub read_only: bool,
    pub line: usize,
}

/// Disk controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskModel {
    VirtioBlk,
    Nvme,
    Ahci,
}

impl DiskModel {
    pub const ALL: [Self; 3] = [Self::VirtioBlk, Self::Nvme, Self::Ahci];
    /// As scenarios and board tables spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::Nvme => "nvme",
            Self::Ahci => "ahci",
        }
    }
}

/// What is on a disk when the machine is switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskContent {
    Empty,
    /// A file system made by the host's `mke2fs`, the same bytes every time.
    Ext4,
    /// A copy of a file, relative to the root of the tree.
    File(PathBuf),
}

/// What boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub kernel: Kernel,
    pub initrd: Initrd,
    /// Added to the kernel command line.
    pub append: String,
    /// The agent is started and steps may use it.
    pub agent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The kernel of this tree, built when it is out of date.
    Ours,
    /// Somebody else's, relative to the root of the tree.
    File(PathBuf),
    /// A kernel of Debian's.
    Debian(Flavour),
    /// A file of some Debian package.
    Package { package: String, path: String },
}

/// Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `linux-image-cloud-amd64`: small, for virtual machines; has no drivers for AHCI and e1000e.
    Cloud,
    /// `linux-image-amd64`: everything.
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initrd {
    /// The live root: busybox, tools, agent, zone trees, carried files.
    Live,
    None,
    File(PathBuf),
    /// Made from Debian packages: busybox, the agent, and what the scenario names.
    Debian(Userland),
}

/// What goes into an initrd of Debian programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Userland {
    /// Packages whose programs are wanted, besides busybox-static. Their shared libraries come along.
    pub packages: Vec<String>,
    /// Kernel modules that are loaded before the agent starts, besides the drivers of the machine's disks and NICs.
    pub modules: Vec<String>,
}

/// When a run is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ticks of the whole run.
    pub ticks: u64,
    /// Virtual nanoseconds a single wait may take.
    pub wait_ns: u64,
    /// Wall-clock seconds on machines without ticks (QEMU).
    pub seconds: u64,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    pub shares: u32,
    /// Root tree under `/export/trees` it is installed from.
    pub tree: String,
    pub limits: Vec<ZoneLimit>,
    /// Installed and booted before the first step.
    pub boot: bool,
    pub line: usize,
}

/// A resource control of a zone, spelt as `prctl` spells it, without `zone.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneLimit {
    pub name: String,
    pub value: u64,
}

/// Files of the host that travel in the initrd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Folder in the guest (absolute).
    pub to: String,
    /// Glob patterns on the host.
    pub from: Vec<String>,
    /// Path prefix that is dropped from each file's name; the rest is kept below `to`.
    pub strip: String,
    pub min_files: u64,
    pub min_bytes: u64,
    /// Files are taken in sorted order; one that would pass this is left out.
    pub max_bytes: u64,
    /// Copied into these zones too, at the same path.
    pub zones: Vec<String>,
    pub line: usize,
}

/// Something that is done, in file order.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub line: usize,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// A command, through the agent.
    Run(Run),
    /// Waits until the named background step ends, and judges it.
    Wait { step: String },
    /// Sends a signal to the process group of a background step.
    Kill { step: String, signal: i32 },
    /// Keys typed at the console.
    Type { keys: Vec<u8>, shown: String },
    /// Waits until the text shows up on the console, after what was matched before.
    Await { text: Text },
    /// Reads all kernel statistics under a name.
    Sample { name: String },
    /// Lets virtual time pass.
    Sleep { ns: u64 },
}

#[derive(Clone, Debug)]
pub struct Run {
    pub argv: Vec<String>,
    pub place: Place,
    pub background: bool,
    pub stdin: String,
    pub rule: OutputRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Global,
    Zone(String),
}

/// What a command must have done.
#[derive(Clone, Debug, Default)]
pub struct OutputRule {
    /// `None`: any status will do.
    pub status: Option<Vec<i32>>,
    pub equals: Option<String>,
    pub contains: Vec<Text>,
    pub lacks: Vec<Text>,
    /// A shell line run on the host, in the folder the carried files come from (`strip`), whose output must be the same.
    pub same_as_host: Option<String>,
    /// A step whose output must be the same.
    pub same_as: Option<String>,
    pub judged_on: JudgedOn,
}

/// A text to find: literal, or a pattern between slashes.
#[derive(Clone, Debug)]
pub enum Text {
    Literal(String),
    Pattern(regex_lite::Regex),
}

impl Text {
    /// End of the first match in `haystack`.
    pub fn find_end(&self, haystack: &str) -> Option<usize> {
        match self {
            Self::Literal(text) => haystack.find(text.as_str()).map(|at| at + text.len()),
            Self::Pattern(pattern) => pattern.find(haystack).map(|found| found.end()),
        }
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(text) => write!(f, "`{}`", text.escape_debug()),
            Self::Pattern(pattern) => write!(f, "/{}/", pattern.as_str()),
        }
    }
}

/// Where an expectation is judged; elsewhere it is shown only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedOn {
    /// Depends on exact time: only the simulator's is exact.
    Simulator,
    #[default]
    Everywhere,
}

/// A property of the run as a whole.
#[derive(Clone, Debug)]
pub struct Expect {
    pub name: String,
    pub line: usize,
    pub judged_on: JudgedOn,
    pub kind: ExpectKind,
}

#[derive(Clone, Debug)]
pub enum ExpectKind {
    ConsoleContains(Text),
    ConsoleLacks(Text),
    /// How much `of` grew between two samples, divided by how much `to` grew.
    Ratio { of: StatSum, to: StatSum, from: String, until: String, comparison: Comparison },
    /// The machine ends by a write to the debug-exit port that QEMU would report as this status.
    ExitStatus(u32),
    /// One step ended before another did.
    Before { first: String, second: String },
    /// A shell line of the host, in a folder where every disk lies as the run left it, ends with status 0 (and prints this).
    OnHost { line: String, contains: Vec<Text> },
}

/// A sum of statistics; `*` matches any one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatSum(pub Vec<String>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    /// Equal to `value` within the given part of it (0.02: two percent).
    About { value: f64, within: f64 },
    AtLeast(f64),
    AtMost(f64),
}

impl Comparison {
    pub fn holds(&self, measured: f64) -> bool {
        match *self {
            Self::About { value, within } => (measured - value).abs() <= value.abs() * within,
            Self::AtLeast(least) => measured >= least,
            Self::AtMost(most) => measured <= most,
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::About { value, within } => write!(f, "{value} within {:.3} %", within * 100.0),
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

/// A golden stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    Console,
    Events,
}

impl Stream {
    pub const ALL: [Self; 2] = [Self::Console, Self::Events];
    /// File name extension of its golden.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Events => "events",
        }
    }
}
