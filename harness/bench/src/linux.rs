//! A stranger's kernel as a benchmark: how long Debian's Linux takes to boot, and how fast a program's system calls and page faults are on it.
//!
//! One boot gives all three: the init script marks the end of the boot with `B` on COM1, and the measuring program marks the beginning and end of each of
//! its loops. Linux itself is silent there.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sim_board::{Board, Boot, Machine, Port, Until};

use crate::BenchError;
use crate::speed::{QEMU_SECONDS_MAX, Row, Side, child_peak, median, peak_kib, reset_peak};

/// The kernel and its initial RAM disk, as bytes and as files.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    pub kernel: Vec<u8>,
    pub kernel_path: PathBuf,
    pub initrd: Vec<u8>,
    pub initrd_path: PathBuf,
}

/// `/init` of the initial RAM disk: busybox's shell runs it, and our program is at its usual place.
pub const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
printf B >/dev/ttyS0
/usr/lib/orrery/bench_os --marks /dev/ttyS0
poweroff -f
";
/// Linux keeps its own words off COM1, where the marks go.
const APPEND: &str = "console=ttyS1 quiet panic=-1";
const TICKS_MAX: u64 = 60_000_000_000;
const MEMORY: u64 = 256 << 20;

/// What lies between two marks.
struct Span {
    name: &'static str,
    what: &'static str,
    /// Power-on, or a mark.
    from: Option<u8>,
    until: u8,
    /// Against `-icount` (design section 7).
    target: Option<f64>,
}

/// What is measured.
const SPANS: &[Span] = &[
    Span { name: "linux-boot", what: "Debian's Linux from power-on to its first program", from: None, until: b'B', target: Some(1.0 / 3.0) },
    Span { name: "linux-call", what: "null system calls of a Linux program", from: Some(b'S'), until: b'E', target: None },
    Span { name: "linux-fault", what: "anonymous page faults of a Linux program", from: Some(b'P'), until: b'F', target: None },
];

/// Names of the rows.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPANS.iter().map(|span| span.name)
}

/// When each mark came: time since power-on, instructions since power-on where they are counted.
struct Marks {
    at: Vec<(u8, Duration, u64)>,
    peak_kib: u64,
}

impl Marks {
    fn between(&self, from: Option<u8>, until: u8) -> Result<(Duration, u64), BenchError> {
        let find = |mark: u8| {
            let found = self.at.iter().find(|(letter, ..)| *letter == mark).map(|(_, time, ticks)| (*time, *ticks));
            found.ok_or_else(|| BenchError::Guest { name: "linux".to_owned(), how: format!("without the mark {}", char::from(mark)) })
        };
        let (begin, first) = from.map_or(Ok((Duration::ZERO, 0)), find)?;
        let (end, last) = find(until)?;
        Ok((end.saturating_sub(begin), last - first))
    }
}

/// Boots and measures on each side.
///
/// # Errors
/// See [`BenchError`].
pub fn run(guest: &LinuxGuest, rounds: usize, with_qemu: bool, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let (mut ours, mut tcg, mut icount) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        progress(&format!("linux, round {}", round + 1));
        ours.push(simulate(guest)?);
        if with_qemu {
            tcg.push(qemu(guest, false)?);
            icount.push(qemu(guest, true)?);
        }
    }
    SPANS
        .iter()
        .map(|&Span { name, what, from, until, target }| {
            let sides = |all: &[Marks]| -> Result<Option<Side>, BenchError> {
                let mut sides = all.iter().map(|marks| Ok(Side { time: marks.between(from, until)?.0, peak_kib: marks.peak_kib })).collect::<Result<Vec<_>, _>>()?;
                Ok(median(&mut sides))
            };
            let instructions = ours.iter().map(|marks| marks.between(from, until).map(|(_, ticks)| ticks)).collect::<Result<Vec<_>, _>>()?;
            let first = instructions.first().copied().unwrap_or(0);
            if let Some(other) = instructions.iter().find(|count| **count != first) {
                return Err(BenchError::Guest { name: name.to_owned(), how: format!("{other} instructions, before that {first}") });
            }
            let ours = sides(&ours)?.unwrap_or(Side { time: Duration::ZERO, peak_kib: 0 });
            Ok(Row { name, what, target, instructions: first, ours, tcg: sides(&tcg)?, icount: sides(&icount)? })
        })
        .collect()
}

fn simulate(guest: &LinuxGuest) -> Result<Marks, BenchError> {
    reset_peak();
    let board = Board { ram: MEMORY, ..Board::default() };
    let mut machine = Machine::new(&board, &Boot::new(&guest.kernel, Some(&guest.initrd), APPEND)).map_err(|error| BenchError::Machine(error.to_string()))?;
    let begun = Instant::now();
    let mut at = Vec::new();
    loop {
        let outcome = machine.run(&Until::ticks(TICKS_MAX).or_any_output(Port::Com1));
        for letter in machine.serial_take(Port::Com1) {
            at.push((letter, begun.elapsed(), machine.ticks()));
        }
        if outcome.is_final() || machine.ticks() >= TICKS_MAX || outcome == sim_board::Outcome::Stuck {
            return Ok(Marks { at, peak_kib: peak_kib() });
        }
    }
}

fn qemu(guest: &LinuxGuest, icount: bool) -> Result<Marks, BenchError> {
    let fail = |error: std::io::Error| BenchError::Qemu(error.to_string());
    let mut command = Command::new("timeout");
    command.arg((QEMU_SECONDS_MAX * 3).to_string()).arg("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-accel", "tcg", "-cpu", "max", "-m", "256", "-serial", "stdio"]);
    command.arg("-kernel").arg(&guest.kernel_path).arg("-initrd").arg(&guest.initrd_path).args(["-append", APPEND]);
    if icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(fail)?;
    let mut output = child.stdout.take().ok_or_else(|| BenchError::Qemu("no output pipe".to_owned()))?;
    let mut letter = [0_u8; 1];
    let mut marks = Marks { at: Vec::new(), peak_kib: 0 };
    while output.read(&mut letter).map_err(fail)? == 1 {
        marks.at.push((letter[0], begun.elapsed(), 0));
        marks.peak_kib = child_peak(child.id()).max(marks.peak_kib);
    }
    child.wait().map_err(fail)?;
    Ok(marks)
}
