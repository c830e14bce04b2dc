//! Scenario in, transcript and verdict out.
//!
//! # Theory
//! A run has four parts, each a module that knows nothing of the next: the files that go into the machine ([`live`], [`carry`],
//! [`archive`]), the machine ([`target`]: the simulator or QEMU), the play ([`driver`]), and the judgement ([`verdict`], [`bundle`]). What passes
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
pub mod driver;
pub mod live;
pub mod progress;
pub mod qemu;
pub mod sim;
pub mod target;
pub mod transcript;
pub mod verdict;

pub use progress::{Progress, Quiet, Watcher};
pub use target::{End, Line, Target, TargetError};
pub use transcript::{Outcome, Sample, StepRecord, Transcript};
pub use verdict::{Court, Row, Verdict};

use scenario::{Initrd, Kernel, Scenario};
use std::path::{Path, PathBuf};

/// The host could not carry a run through.
#[derive(Debug)]
pub enum RunError {
    Carry(carry::CarryError),
    Live(live::LiveError),
    Target(TargetError),
    File(PathBuf, std::io::Error),
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Carry(error) => error.fmt(f),
            Self::Live(error) => error.fmt(f),
            Self::Target(error) => error.fmt(f),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
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

/// What every scenario of a checkout shares.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Root of the checkout.
    pub root: PathBuf,
    /// Our kernel, built.
    pub kernel: PathBuf,
    /// The live root without carried files.
    pub live: archive::Tree,
}

/// A scenario with everything it puts into a machine.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub kernel_path: PathBuf,
    pub kernel: Vec<u8>,
    pub initrd_path: Option<PathBuf>,
    pub initrd: Option<Vec<u8>>,
    pub append: String,
    /// Folder that a run's bundle goes to.
    pub folder: PathBuf,
    /// Where carried files lie as in the guest.
    pub staged: PathBuf,
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> RunError + '_ {
    move |error| RunError::File(path.to_owned(), error)
}

impl Bench {
    /// Makes the initrd and collects the rest. `folder` is the bundle's.
    pub fn prepare(&self, scenario: &Scenario, folder: &Path) -> Result<Prepared, RunError> {
        std::fs::create_dir_all(folder).map_err(file_error(folder))?;
        let kernel_path = match &scenario.image.kernel {
            Kernel::Ours => self.kernel.clone(),
            Kernel::File(path) => self.root.join(path),
        };
        let kernel = std::fs::read(&kernel_path).map_err(file_error(&kernel_path))?;
        let staged = folder.join("host");
        let (initrd_path, initrd) = match &scenario.image.initrd {
            Initrd::None => (None, None),
            Initrd::File(path) => {
                let path = self.root.join(path);
                let bytes = std::fs::read(&path).map_err(file_error(&path))?;
                (Some(path), Some(bytes))
            }
            Initrd::Live => {
                let mut tree = self.live.clone();
                let mut all = carry::Carried::default();
                for carry in &scenario.carry {
                    let carried = carry::select(carry).map_err(RunError::Carry)?;
                    for (path, bytes) in carried.files {
                        tree.file(&path, 0o644, bytes.clone());
                        all.files.insert(path, bytes);
                    }
                }
                all.stage(&staged).map_err(file_error(&staged))?;
                let bytes = tree.to_cpio();
                let path = folder.join("initrd.cpio");
                std::fs::write(&path, &bytes).map_err(file_error(&path))?;
                (Some(path), Some(bytes))
            }
        };
        let mut append = String::from("console=ttyS0");
        if scenario.image.agent {
            append.push_str(" agent=ttyS1");
        }
        if !scenario.image.append.is_empty() {
            append.push(' ');
            append.push_str(&scenario.image.append);
        }
        Ok(Prepared { kernel_path, kernel, initrd_path, initrd, append, folder: folder.to_owned(), staged })
    }

    /// The simulator's machine for a prepared scenario, halted before its first instruction.
    pub fn machine(&self, scenario: &Scenario, prepared: &Prepared) -> Result<sim_board::Machine, RunError> {
        Ok(sim::Simulator::new(&sim::board(&scenario.board)?, &prepared.kernel, prepared.initrd.as_deref(), &prepared.append)?.into_machine())
    }

    /// Runs a prepared scenario on the simulator, and gives what entered the machine, for a replay.
    pub fn record(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<(Transcript, Vec<sim_board::Input>), RunError> {
        let mut machine = sim::Simulator::new(&sim::board(&scenario.board)?, &prepared.kernel, prepared.initrd.as_deref(), &prepared.append)?;
        let transcript = driver::drive(scenario, &mut machine, watcher)?;
        Ok((transcript, machine.into_machine().inputs().to_vec()))
    }

    /// Runs a prepared scenario on the simulator.
    pub fn simulate(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        let board = sim::board(&scenario.board)?;
        let mut machine = sim::Simulator::new(&board, &prepared.kernel, prepared.initrd.as_deref(), &prepared.append)?;
        Ok(driver::drive(scenario, &mut machine, watcher)?)
    }

    /// Runs a prepared scenario on QEMU.
    pub fn emulate(&self, scenario: &Scenario, prepared: &Prepared, watcher: &mut dyn Watcher) -> Result<Transcript, RunError> {
        let media = qemu::Media::Kernel { kernel: prepared.kernel_path.clone(), initrd: prepared.initrd_path.clone(), append: prepared.append.clone() };
        let config = qemu::QemuConfig { media, vcpus: scenario.board.vcpus, memory_bytes: scenario.board.memory_bytes, folder: prepared.folder.join("qemu") };
        let mut machine = qemu::Qemu::start(&config)?;
        Ok(driver::drive(scenario, &mut machine, watcher)?)
    }
}
