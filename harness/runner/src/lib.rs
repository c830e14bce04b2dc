//! Scenario in, transcript and verdict out.
//!
//! # Theory
//! A run has four parts, each a module that knows nothing of the next: the files that go into the machine ([`live`], [`carry`],
//! [`archive`], [`disks`]; for guests that are not ours [`debian`] and [`linux`]), the machine ([`target`]: the simulator or QEMU), the play ([`driver`]), and the judgement ([`verdict`], [`bundle`]). What passes
//! between the last two is a [`Transcript`]: plain data, so that a run can be judged again, or compared with a run elsewhere.
//!
//! # Failure
//! The guest may do anything; that is a finding, in the verdict. The host's troubles (no QEMU, no package lists, a full disk) are a
//! [`RunError`] that says what to do.
//!
//! # Reading order
//! `lib.rs` ([`Bench::prepare`], [`Bench::simulate`]), `driver.rs`, `verdict.rs`.

pub mod archive;
pub mod bundle;
pub mod carry;
pub mod debian;
pub mod disks;
pub mod driver;
pub mod linux;
pub mod live;
pub mod mishap;
pub mod progress;
pub mod qemu;
pub mod sim;
pub mod target;
pub mod transcript;
pub mod variant;
pub mod verdict;

pub use progress::{Progress, Quiet, Watcher};
pub use target::{End, Line, Target, TargetError};
pub use transcript::{Outcome, Sample, StepRecord, Transcript};
pub use variant::Variant;
pub use verdict::{Court, Row, Verdict};

use scenario::{Initrd, Kernel, Scenario, Userland};
use sim_board::{Board, Boot};
use std::path::{Path, PathBuf};

/// The host could not carry a run through.
#[derive(Debug)]
pub enum RunError {
    Carry(carry::CarryError),
    Live(live::LiveError),
    Target(TargetError),
    File(PathBuf, std::io::Error),
    Disk(disks::DiskError),
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Carry(error) => error.fmt(f),
            Self::Live(error) => error.fmt(f),
            Self::Target(error) => error.fmt(f),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

impl From<TargetError> for RunError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<live::LiveError> for RunError {
    fn from(error: live::LiveError) -> Self {
        Self::Live(error)
    }
}

impl From<debian::DebianError> for RunError {
    fn from(error: debian::DebianError) -> Self {
        Self::Live(error.into())
    }
}

impl From<disks::DiskError> for RunError {
    fn from(error: disks::DiskError) -> Self {
        Self::Disk(error)
    }
}

/// What every scenario of a checkout shares.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Root of the checkout.
    pub root: PathBuf,
    /// Our own system, if one of the scenarios boots it.
    pub ours: Option<Ours>,
    /// Our programs for guests.
    pub programs: live::Programs,
}

/// Our kernel, built, and what it boots from.
#[derive(Clone, Debug)]
pub struct Ours {
    pub kernel: PathBuf,
    /// The live root without carried files.
    pub live: archive::Tree,
}

/// Whether a scenario needs our kernel or our live root.
#[must_use]
pub fn needs_ours(scenario: &Scenario) -> bool {
    scenario.image.kernel == Kernel::Ours || scenario.image.initrd == Initrd::Live
}

/// A scenario with everything it puts into a machine.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub kernel_path: PathBuf,
    pub kernel: Vec<u8>,
    pub initrd_path: Option<PathBuf>,
    pub initrd: Option<Vec<u8>>,
    pub append: String,
    /// The simulator's board, disks and all.
    pub board: Board,
    /// Contents of the board's disks.
    pub disks: Vec<Vec<u8>>,
    /// Debian packages that are in it, with their versions.
    pub packages: Vec<String>,
    /// Folder that a run's bundle goes to.
    pub folder: PathBuf,
    /// Where carried files lie as in the guest.
    pub staged: PathBuf,
}

/// Ticks between two looks at the vCPUs of a recorded run.
const SAMPLE_TICKS: u64 = 100_000;

/// A run with its machine.
#[allow(missing_debug_implementations, reason = "a machine is hundreds of megabytes of state; nothing prints it")]
pub struct Recorded {
    pub transcript: Transcript,
    pub machine: sim_board::Machine,
    pub samples: Vec<report::Sample>,
    /// Ticks between samples.
    pub every: u64,
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> RunError + '_ {
    move |error| RunError::File(path.to_owned(), error)
}

impl Bench {
    fn ours(&self) -> &Ours {
        self.ours.as_ref().expect("whoever makes a bench asks needs_ours about each of its scenarios")
    }

    /// Makes the initrd and collects the rest. `folder` is the bundle's.
    pub fn prepare(&self, scenario: &Scenario, folder: &Path) -> Result<Prepared, RunError> {
        std::fs::create_dir_all(folder).map_err(file_error(folder))?;
        let board = sim::board(scenario)?;
        let disks = disks::make(&self.root, &scenario.disks)?;
        let store = debian::Store::new(&self.root);
        let mut packages = Vec::new();
        let mut linux = None;
        let kernel_path = match &scenario.image.kernel {
            Kernel::Ours => self.ours().kernel.clone(),
            Kernel::File(path) => self.root.join(path),
            Kernel::Debian(flavour) => linux.insert(linux::kernel(&store, *flavour)?).image.clone(),
            Kernel::Package { package, path } => {
                let package = store.package(package)?;
                packages.push(package.label());
                package.file(path)?
            }
        };
        let kernel = std::fs::read(&kernel_path).map_err(file_error(&kernel_path))?;
        let staged = folder.join("host");
        let keep = |bytes: Vec<u8>| -> Result<(Option<PathBuf>, Option<Vec<u8>>), RunError> {
            let path = folder.join("initrd.cpio");
            std::fs::write(&path, &bytes).map_err(file_error(&path))?;
            Ok((Some(path), Some(bytes)))
        };
        let (initrd_path, initrd) = match &scenario.image.initrd {
            Initrd::None => (None, None),
            Initrd::File(path) => {
                let path = self.root.join(path);
                let bytes = std::fs::read(&path).map_err(file_error(&path))?;
                (Some(path), Some(bytes))
            }
            Initrd::Live => {
                let mut tree = self.ours().live.clone();
                carry_in(scenario, &staged, &mut tree)?;
                keep(tree.to_cpio())?
            }
            Initrd::Debian(userland) => {
                let (mut tree, used) = self.userland(&store, linux, userland, &board, scenario)?;
                packages.extend(used);
                carry_in(scenario, &staged, &mut tree)?;
                keep(tree.to_cpio())?
            }
        };
        let mut append = String::from("console=ttyS0");
        match scenario.image.kernel {
            Kernel::Ours if scenario.image.agent => append.push_str(" agent=ttyS1"),
            // Linux would wait for ever after a panic: it resets the machine at once.
            Kernel::Debian(_) => append.push_str(" panic=-1"),
            Kernel::Ours | Kernel::File(_) | Kernel::Package { .. } => {}
        }
        if !scenario.image.append.is_empty() {
            append.push(' ');
            append.push_str(&scenario.image.append);
        }
        Ok(Prepared { kernel_path, kernel, initrd_path, initrd, append, board, disks, packages, folder: folder.to_owned(), staged })
    }

    /// An initrd of Debian programs.
    fn userland(
        &self,
        store: &debian::Store,
        kernel: Option<linux::LinuxKernel>,
        userland: &Userland,
        board: &Board,
        scenario: &Scenario,
    ) -> Result<(archive::Tree, Vec<String>), RunError> {
        let kernel = kernel.map_or_else(|| linux::kernel(store, scenario::Flavour::Cloud), Ok)?;
        let hardware = linux::Hardware { models: sim::models(board), file_systems: !scenario.disks.is_empty() };
        Ok(linux::root(store, &kernel, userland, &hardware, &self.programs)?)
    }

    /// The simulator's machine for a prepared scenario, halted before its first instruction.
    pub fn machine(&self, prepared: &Prepared) -> Result<sim_board::Machine, RunError> {
        Ok(sim::Simulator::new(&prepared.board, &prepared.boot())?.into_machine())
    }

    /// Runs a prepared scenario on the simulator, watched, and gives the machine as it stands at the end: it knows what entered it.
    pub fn record(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Recorded, RunError> {
        let mut machine = sim::Simulator::new(&prepared.board, &prepared.boot())?;
        machine.watch(SAMPLE_TICKS);
        let transcript = driver::drive(scenario, prepared, &mut machine, watcher)?;
        let (machine, samples, every) = machine.into_watched();
        Ok(Recorded { transcript, machine, samples, every })
    }

    /// Runs a prepared scenario on the simulator.
    pub fn simulate(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        self.simulate_cut(scenario, prepared, None, watcher)
    }

    /// The same, with the run cut into slices of 1, 13 and 777 ticks at random, if there is a seed for that. The result must not show it.
    pub fn simulate_cut(&self, scenario: &Scenario, prepared: &Prepared, cut_seed: Option<u64>, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        let mut machine = sim::Simulator::new(&prepared.board, &prepared.boot())?;
        if let Some(seed) = cut_seed {
            machine.cut(seed);
        }
        Ok(driver::drive(scenario, prepared, &mut machine, watcher)?)
    }

    /// Runs a prepared scenario on QEMU, which counts instructions or does not.
    pub fn emulate(&self, scenario: &Scenario, prepared: &Prepared, icount: bool, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        let media = qemu::Media::Kernel { kernel: prepared.kernel_path.clone(), initrd: prepared.initrd_path.clone(), append: prepared.append.clone() };
        if !prepared.board.nics.is_empty() {
            return Err(TargetError(format!("scenario {}: its network peers live in the simulator: QEMU's machine would have nobody to talk to", scenario.name)).into());
        }
        let folder = prepared.folder.join("qemu");
        let disks = disks::lay_out(&folder.join("disks"), &scenario.disks, &prepared.disks)?;
        let disks = scenario.disks.iter().zip(disks).map(|(disk, path)| qemu::QemuDisk { model: disk.model, path, read_only: disk.read_only }).collect();
        let config = qemu::QemuConfig { media, vcpus: scenario.board.vcpus, memory_bytes: scenario.board.memory_bytes, disks, folder, icount, faults: prepared.board.faults.clone() };
        let mut machine = qemu::Qemu::start(&config)?;
        Ok(driver::drive(scenario, prepared, &mut machine, watcher)?)
    }
}

impl Prepared {
    /// As the simulator takes it.
    #[must_use]
    pub fn boot(&self) -> Boot<'_> {
        Boot { disks: &self.disks, ..Boot::new(&self.kernel, self.initrd.as_deref(), &self.append) }
    }
}

/// Puts the files a scenario carries into the tree, and beside the run for the host's own tools.
fn carry_in(scenario: &Scenario, staged: &Path, tree: &mut archive::Tree) -> Result<(), RunError> {
    let mut all = carry::Carried::default();
    for carry in &scenario.carry {
        let carried = carry::select(carry).map_err(RunError::Carry)?;
        for (path, bytes) in carried.files {
            tree.file(&path, 0o644, bytes.clone());
            all.files.insert(path, bytes);
        }
    }
    all.stage(staged).map_err(file_error(staged))
}
