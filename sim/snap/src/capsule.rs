//! Capsules: a run in one file.
//!
//! | section | holds |
//! |---|---|
//! | `board` | the board, as TOML |
//! | `kernel`, `initrd`, `append` | what it boots |
//! | `image N` | the disks' images as given at power-on, if any (0 is the first) |
//! | `scenario` | the scenario's name and, on the lines after it, its text |
//! | `inputs` | the recording |
//! | `end` | payload `end-point`: where the run ended, its receipt, what failed and when |
//! | `plan` | for what `explore` found: the plan, as TOML |

use sim_board::{Board, Boot, Input, Machine, Outcome, Until};
use sim_core::Payload;

use crate::file::{FileError, FileKind, Reader, Writer};
use crate::{recording, saved};

const END_POINT: &str = "end-point";

/// What failed, and where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub what: String,
    pub ticks: u64,
    pub ns: u64,
}

/// Everything a run needs, and what came of it.
#[derive(Clone, Debug)]
pub struct Capsule {
    pub board: Board,
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
    pub append: String,
    /// Images of the disks by position; an empty one leaves the board's empty disk.
    pub images: Vec<Vec<u8>>,
    pub scenario: String,
    pub scenario_text: String,
    pub inputs: Vec<Input>,
    /// Where the run ended.
    pub ticks: u64,
    pub ns: u64,
    pub receipt: String,
    pub failure: Failure,
    pub plan: Option<String>,
}

/// What a replay gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub ticks: u64,
    pub ns: u64,
    pub receipt: String,
    /// Whether it is the run that was recorded.
    pub same: bool,
}

impl Capsule {
    /// Writes it.
    pub fn save(&self, commit: &str) -> Result<Vec<u8>, FileError> {
        let mut file = Writer::new(FileKind::Capsule, commit);
        let board = self.board.to_toml().map_err(|error| FileError::content("board", error))?;
        file.section("board", board.as_bytes());
        file.section("kernel", &self.kernel);
        if let Some(initrd) = &self.initrd {
            file.section("initrd", initrd);
        }
        file.section("append", self.append.as_bytes());
        for (index, image) in self.images.iter().enumerate() {
            file.section(&format!("image {index}"), image);
        }
        file.section("scenario", format!("{}\n{}", self.scenario, self.scenario_text).as_bytes());
        file.section("inputs", &recording::encode(&self.inputs));
        let mut end = Payload::new(END_POINT, 1);
        end.number("ticks", self.ticks).number("ns", self.ns).bytes("receipt", self.receipt.as_bytes());
        end.bytes("failure", self.failure.what.as_bytes()).number("failure_ticks", self.failure.ticks).number("failure_ns", self.failure.ns);
        file.section(END_POINT, &end.encode());
        if let Some(plan) = &self.plan {
            file.section("plan", plan.as_bytes());
        }
        Ok(file.finish())
    }

    /// Reads it.
    pub fn load(bytes: &[u8]) -> Result<Capsule, FileError> {
        let file = Reader::open(bytes, FileKind::Capsule)?;
        let board = saved::board_of(&file)?;
        let mut images = Vec::new();
        while let Some(image) = file.optional(&format!("image {}", images.len()))? {
            images.push(image);
        }
        let scenario = file.text("scenario")?;
        let (scenario, scenario_text) = scenario.split_once('\n').unwrap_or((&scenario, ""));
        let end = Payload::decode(&file.section(END_POINT)?).map_err(FileError::load(END_POINT))?;
        end.expect(END_POINT, 1).map_err(FileError::load(END_POINT))?;
        let number = |name: &str| end.get_number(name).map_err(FileError::load(END_POINT));
        let text = |name: &str| end.get_bytes(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).map_err(FileError::load(END_POINT));
        Ok(Capsule {
            board,
            kernel: file.section("kernel")?,
            initrd: file.optional("initrd")?,
            append: file.text("append")?,
            images,
            scenario: scenario.to_owned(),
            scenario_text: scenario_text.to_owned(),
            inputs: recording::decode(&file.section("inputs")?)?,
            ticks: number("ticks")?,
            ns: number("ns")?,
            receipt: text("receipt")?,
            failure: Failure { what: text("failure")?, ticks: number("failure_ticks")?, ns: number("failure_ns")? },
            plan: file.optional("plan")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// The machine at its first instruction, with the inputs waiting.
    pub fn machine(&self) -> Result<Machine, FileError> {
        let boot = Boot { kernel: &self.kernel, initrd: self.initrd.as_deref(), append: &self.append, disks: &self.images, modules: &[] };
        let mut machine = Machine::new(&self.board, &boot).map_err(|error| FileError::content("board", error))?;
        machine.replay(self.inputs.clone());
        Ok(machine)
    }

    /// Runs it again to where it ended and compares.
    pub fn replay(&self) -> Result<Replayed, FileError> {
        let mut machine = self.machine()?;
        run_to(&mut machine, self.ticks, self.ns);
        let receipt = machine.receipt();
        let (ticks, ns) = (machine.ticks(), machine.now_ns());
        let same = (ticks, ns) == (self.ticks, self.ns) && receipt == self.receipt;
        Ok(Replayed { ticks, ns, receipt, same })
    }
}

/// Runs a machine to a point: first its tick, then its time (a halted machine's ticks stand still).
pub fn run_to(machine: &mut Machine, ticks: u64, ns: u64) -> Outcome {
    let mut outcome = Outcome::Deadline;
    while machine.ticks() < ticks && !outcome.is_final() && outcome != Outcome::Stuck {
        outcome = machine.run(&Until::ticks(ticks));
    }
    while machine.now_ns() < ns && !outcome.is_final() && outcome != Outcome::Stuck {
        outcome = machine.run(&Until::ns(ns));
    }
    outcome
}
