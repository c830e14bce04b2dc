//! Simulator speed next to QEMU.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

use crate::BenchError;
use crate::guests::Guest;
use crate::plan::{Job, Line, On, Span, Taken, cpu_of, own_cpu, peak_of};

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

/// Seconds that QEMU needs beside the guest itself, about.
pub(crate) const QEMU_START: f32 = 0.25;

/// A guest as a job: short, so thrice in each round.
///
/// # Errors
/// A mistake in the guest's assembly, or no place for its image.
pub fn job<'a>(guest: &'a Guest, scratch: &Path) -> Result<Job<'a>, BenchError> {
    let image = guest.image()?;
    let path = scratch.join(format!("bench-{}.elf", guest.name));
    std::fs::write(&path, &image).map_err(|error| BenchError::Qemu(error.to_string()))?;
    let fingerprint = crate::plan::fingerprint(&[&image]);
    let run = move |on: On| match on {
        On::Ours => simulate(guest, &image),
        On::Tcg => qemu(guest.name, &path, false),
        On::Icount => qemu(guest.name, &path, true),
    };
    Ok(Job { name: guest.name, fingerprint, seconds: [Some(0.25), Some(0.3 + QEMU_START), Some(0.4 + QEMU_START)], times: 3, run: Box::new(run) })
}

/// Its row.
pub fn line(guest: &Guest) -> Line {
    Line { name: guest.name, what: guest.what, target: guest.target, ours: (guest.name, guest.name), theirs: (guest.name, guest.name) }
}

pub(crate) fn median(sides: &mut [Side]) -> Option<Side> {
    sides.sort_by_key(|side| side.time);
    sides.get(sides.len() / 2).copied()
}

fn simulate(guest: &Guest, image: &[u8]) -> Result<Taken, BenchError> {
    reset_peak();
    let mut machine = Machine::new(&Board::default(), &Boot::new(image, None, "")).map_err(|error| BenchError::Machine(error.to_string()))?;
    let ended = |how: Outcome| BenchError::Guest { name: guest.name.to_string(), how: format!("{how:?}") };
    match machine.run(&Until::ticks(TICKS_MAX).or_output(Port::Com1, b"S")) {
        Outcome::Output(_) => {}
        other => return Err(ended(other)),
    }
    let first = machine.ticks();
    let (started, cpu) = (Instant::now(), own_cpu());
    match machine.run(&Until::ticks(TICKS_MAX).or_output(Port::Com1, b"E")) {
        Outcome::Output(_) => {}
        other => return Err(ended(other)),
    }
    let (time, cpu) = (started.elapsed(), own_cpu().saturating_sub(cpu));
    Ok(Taken { spans: vec![Span { name: guest.name.to_owned(), time, cpu, ticks: machine.ticks() - first }], peak_kib: peak_kib() })
}

/// Starts the peak of resident memory over (`proc(5)`, clear_refs). Where that is not allowed the peak is that of the whole run.
pub fn reset_peak() {
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

/// Peak of this process's resident memory since then.
pub fn peak_kib() -> u64 {
    high_water("/proc/self/status")
}

/// Peak of resident memory, of a process's `status` file.
pub(crate) fn high_water(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("VmHWM:").and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())).unwrap_or(0)
}

/// A QEMU whose guest writes marks to its standard output.
pub(crate) struct Marked {
    child: Child,
    output: ChildStdout,
    begun: Instant,
}

/// A mark, with the time on the clock and of processors since QEMU was started, and its peak memory so far.
pub(crate) struct Mark {
    pub letter: u8,
    pub time: Duration,
    /// `None` where it is gone already.
    pub cpu: Option<Duration>,
    pub peak_kib: u64,
}

impl Marked {
    /// Starts it; `timeout` ends it after so many seconds.
    pub fn start(seconds: u64, arguments: &[&str], icount: bool) -> Result<Marked, BenchError> {
        let fail = |error: std::io::Error| BenchError::Qemu(format!("{error} (Debian: apt-get install qemu-system-x86)"));
        let mut command = Command::new("timeout");
        command.arg(seconds.to_string()).arg("qemu-system-x86_64").args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-accel", "tcg", "-serial", "stdio"]).args(arguments);
        if icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(fail)?;
        let output = child.stdout.take().ok_or_else(|| BenchError::Qemu("no output pipe".to_string()))?;
        Ok(Marked { child, output, begun })
    }

    /// The next mark; `None` at its end.
    pub fn next(&mut self) -> Result<Option<Mark>, BenchError> {
        let mut letter = [0_u8; 1];
        if self.output.read(&mut letter).map_err(|error| BenchError::Qemu(error.to_string()))? == 0 {
            return Ok(None);
        }
        let time = self.begun.elapsed();
        // QEMU is the child of `timeout`. After a guest's last mark it may be gone before it is looked at.
        let timeout = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{timeout}/task/{timeout}/children")).unwrap_or_default();
        let child = children.split_whitespace().find_map(|word| word.parse().ok());
        Ok(Some(Mark { letter: letter[0], time, cpu: child.map(cpu_of).filter(|cpu| !cpu.is_zero()), peak_kib: child.map_or(0, peak_of) }))
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        // `timeout` hands the signal on. It may have ended already: then there is nobody to tell.
        if let Some(child) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(child, rustix::process::Signal::TERM).unwrap_or(());
        }
        drop(self.child.wait());
    }
}

fn qemu(name: &str, image: &Path, icount: bool) -> Result<Taken, BenchError> {
    let image = image.to_str().ok_or_else(|| BenchError::Qemu("the path of the checkout is no UTF-8".to_owned()))?;
    let arguments = ["-cpu", "max", "-m", "256", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", image];
    let mut machine = Marked::start(QEMU_SECONDS_MAX, &arguments, icount)?;
    let (mut begin, mut end) = (None, None);
    while let Some(mark) = machine.next()? {
        match mark.letter {
            b'S' => begin = Some(mark),
            b'E' => end = Some(mark),
            _ => {}
        }
    }
    let (Some(begin), Some(end)) = (begin, end) else { return Err(BenchError::Qemu(format!("{name} gave no marks within {QEMU_SECONDS_MAX} s"))) };
    let time = end.time.saturating_sub(begin.time);
    // Where it is not known, the clock's: on a host with other work that is too much, and the median of the rounds leaves it out.
    let cpu = end.cpu.zip(begin.cpu).map_or(time, |(end, begin)| end.saturating_sub(begin));
    Ok(Taken { spans: vec![Span { name: name.to_owned(), time, cpu, ticks: 0 }], peak_kib: end.peak_kib.max(begin.peak_kib) })
}
