//! Simulator speed next to QEMU.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

use crate::BenchError;
use crate::guests::{GUESTS, Guest};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of guests; empty: all.
    pub only: Vec<String>,
    /// Interleaved rounds.
    pub rounds: usize,
    /// Compare with QEMU.
    pub qemu: bool,
    /// Where to put guest images for QEMU.
    pub scratch: std::path::PathBuf,
}

/// One guest's figures.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub target: Option<f64>,
    /// Instructions between the marks, exact.
    pub instructions: u64,
    pub ours: Side,
    pub tcg: Option<Side>,
    pub icount: Option<Side>,
}

/// One side's median.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub time: Duration,
    /// Peak resident memory.
    pub peak_kib: u64,
}

impl Row {
    pub fn mips(&self, side: Side) -> f64 {
        self.instructions as f64 / side.time.as_secs_f64() / 1e6
    }
    /// Our speed as a multiple of the other's.
    pub fn ratio(&self, other: Option<Side>) -> Option<f64> {
        other.map(|side| side.time.as_secs_f64() / self.ours.time.as_secs_f64())
    }
}

/// Bound on a guest: well above the slowest.
const TICKS_MAX: u64 = 4_000_000_000;
pub(crate) const QEMU_SECONDS_MAX: u64 = 60;

/// Runs the guests.
///
/// # Errors
/// See [`BenchError`].
pub fn run(options: &Options, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for guest in GUESTS.iter().filter(|guest| options.only.is_empty() || options.only.iter().any(|name| name == guest.name)) {
        progress(guest.name);
        rows.push(one(guest, options)?);
    }
    Ok(rows)
}

fn one(guest: &Guest, options: &Options) -> Result<Row, BenchError> {
    let image = guest.image()?;
    let path = options.scratch.join(format!("bench-{}.elf", guest.name));
    if options.qemu {
        std::fs::create_dir_all(&options.scratch).map_err(|error| BenchError::Qemu(error.to_string()))?;
        std::fs::write(&path, &image).map_err(|error| BenchError::Qemu(error.to_string()))?;
    }
    let (mut ours, mut tcg, mut icount) = (Vec::new(), Vec::new(), Vec::new());
    let mut instructions = 0;
    for _ in 0..options.rounds.max(1) {
        let (count, side) = simulate(guest, &image)?;
        if instructions != 0 && instructions != count {
            return Err(BenchError::Guest { name: guest.name.to_string(), how: format!("{count} instructions, before that {instructions}") });
        }
        instructions = count;
        ours.push(side);
        if options.qemu {
            tcg.push(qemu(&path, false)?);
            icount.push(qemu(&path, true)?);
        }
    }
    Ok(Row {
        name: guest.name,
        what: guest.what,
        target: guest.target,
        instructions,
        ours: median(&mut ours).unwrap_or(Side { time: Duration::ZERO, peak_kib: 0 }),
        tcg: median(&mut tcg),
        icount: median(&mut icount),
    })
}

pub(crate) fn median(sides: &mut [Side]) -> Option<Side> {
    sides.sort_by_key(|side| side.time);
    sides.get(sides.len() / 2).copied()
}

fn simulate(guest: &Guest, image: &[u8]) -> Result<(u64, Side), BenchError> {
    reset_peak();
    let mut machine = Machine::new(&Board::default(), &Boot::new(image, None, "")).map_err(|error| BenchError::Machine(error.to_string()))?;
    let ended = |how: Outcome| BenchError::Guest { name: guest.name.to_string(), how: format!("{how:?}") };
    match machine.run(&Until::ticks(TICKS_MAX).or_output(Port::Com1, b"S")) {
        Outcome::Output(_) => {}
        other => return Err(ended(other)),
    }
    let first = machine.ticks();
    let started = Instant::now();
    match machine.run(&Until::ticks(TICKS_MAX).or_output(Port::Com1, b"E")) {
        Outcome::Output(_) => {}
        other => return Err(ended(other)),
    }
    let time = started.elapsed();
    Ok((machine.ticks() - first, Side { time, peak_kib: peak_kib() }))
}

/// Starts the peak of resident memory over (`proc(5)`, clear_refs). Where that is not allowed the peak is that of the whole run.
pub(crate) fn reset_peak() {
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

pub(crate) fn peak_kib() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("VmHWM:").and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())))
        .unwrap_or(0)
}

fn qemu(image: &Path, icount: bool) -> Result<Side, BenchError> {
    let fail = |error: std::io::Error| BenchError::Qemu(error.to_string());
    let mut command = Command::new("timeout");
    command.arg(QEMU_SECONDS_MAX.to_string()).arg("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-accel", "tcg", "-cpu", "max", "-m", "256"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "stdio", "-kernel"]).arg(image);
    if icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(fail)?;
    let mut output = child.stdout.take().ok_or_else(|| BenchError::Qemu("no output pipe".to_string()))?;
    let mut letter = [0u8; 1];
    let mut started = None;
    let mut time = None;
    let mut peak = 0;
    while output.read(&mut letter).map_err(fail)? == 1 {
        match letter[0] {
            b'S' => started = Some(Instant::now()),
            b'E' => {
                time = started.map(|at| at.elapsed());
                peak = child_peak(child.id());
            }
            _ => {}
        }
    }
    let status = child.wait().map_err(fail)?;
    let time = time.ok_or_else(|| BenchError::Qemu(format!("{} gave no marks and ended with {status}", image.display())))?;
    Ok(Side { time, peak_kib: peak })
}

/// Peak memory of QEMU, the child of `timeout`.
pub(crate) fn child_peak(timeout: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{timeout}/task/{timeout}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|child| std::fs::read_to_string(format!("/proc/{child}/status")).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("VmHWM:").and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())))
        .max()
        .unwrap_or(0)
}
