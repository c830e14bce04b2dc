//! What time travel costs: snapshots, forks, steps back, recordings.
//!
//! The guest writes one page in a hundred of a 256 MiB machine, all over its memory, again and again. Times are the host's, the least of a few rounds; sizes are of the run itself, and
//! ratios are of processor time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iced_x86::code_asm::{dword_ptr, ecx, rdi};
use sim_board::{Board, Boot, Machine, Outcome, Port, Snapshot, Until};

use crate::BenchError;
use crate::image::{ARENA, build};

/// Pages written in each interval: 1 % of 256 MiB.
const PAGES: u64 = 655;
/// Bytes between them: the writes are spread over nearly all of memory.
const STRIDE: i32 = 90 * 4096;
/// Ticks of a round over all of them.
const ROUND: u64 = 4 * PAGES;
const ROUNDS: usize = 9;
/// Rounds of the runs that take a second or so.
const LONG_ROUNDS: usize = 5;

/// Name, unit, what is measured, and the target of design section 7.
pub const ROWS: &[(&str, &str, &str, Option<f64>)] = &[
    ("snapshot", "ms", "a snapshot of 256 MiB, 1 % written since the last: what it adds to a checkpoint", Some(2.0)),
    ("snapshot_spread", "pages", "pages that one held besides those of the one before", None),
    ("restore", "ms", "back to a snapshot after writing 1 %", None),
    ("fork", "ms", "another machine from a snapshot", None),
    ("step_back_near", "ms", "one step back, half a checkpoint interval behind a snapshot", None),
    ("step_back_far", "ms", "to a point 200 intervals back", None),
    ("recording", "ratio", "time of a run that keeps a snapshot at each checkpoint, to one that keeps none", None),
    ("replay", "ratio", "time of a replay, to the run it repeats", Some(1.05)),
    ("minute_recording", "bytes", "the recording of a minute with ten keys a second", None),
];

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

fn guest() -> Result<Vec<u8>, BenchError> {
    build(
        |_| Ok(()),
        |body| {
            let mut again = body.here()?;
            body.asm.mov(rdi, ARENA)?;
            body.asm.mov(ecx, PAGES as u32)?;
            let mut page = body.here()?;
            body.asm.inc(dword_ptr(rdi))?;
            body.asm.add(rdi, STRIDE)?;
            body.asm.dec(ecx)?;
            body.asm.jne(page)?;
            body.asm.jmp(again)?;
            // The loop never ends; labels are used up.
            let _placed = (&mut again, &mut page);
            Ok(())
        },
    )
}

fn machine(image: &[u8], checkpoint_ticks: u64) -> Result<Machine, BenchError> {
    let board = Board { checkpoint_ticks, ..Board::default() };
    Machine::new(&board, &Boot::new(image, None, "")).map_err(|error| BenchError::Machine(error.to_string()))
}

/// In milliseconds. The least of a few: what else the host does only adds.
fn least(times: Vec<Duration>) -> f64 {
    times.into_iter().min().map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn wrong(how: impl std::fmt::Display) -> BenchError {
    BenchError::Guest { name: "time travel".to_owned(), how: how.to_string() }
}

fn to_checkpoint(machine: &mut Machine) -> Result<(), BenchError> {
    match machine.run(&Until { checkpoint: true, ..Until::default() }) {
        Outcome::Deadline => Ok(()),
        other => Err(wrong(format!("{other:?}"))),
    }
}

fn snapshot(machine: &mut Machine) -> Result<Snapshot, BenchError> {
    machine.snapshot().ok_or_else(|| wrong("no snapshot at a checkpoint"))
}

/// Measures everything.
///
/// # Errors
/// See [`BenchError`].
pub fn run() -> Result<Figures, BenchError> {
    let image = guest()?;
    let mut figures = Figures::new();
    snapshots(&image, &mut figures)?;
    steps(&image, &mut figures)?;
    recordings(&image, &mut figures)?;
    Ok(figures)
}

fn snapshots(image: &[u8], figures: &mut Figures) -> Result<(), BenchError> {
    let mut keeping = machine(image, 1 << 40)?;
    let mut plain = machine(image, 1 << 40)?;
    keeping.run_until(2 * ROUND + 100);
    plain.run_until(2 * ROUND + 100);
    keeping.keep_snapshots();
    keeping.take_checkpoint();
    plain.take_checkpoint();
    let mut before = snapshot(&mut keeping)?;
    let (mut with, mut without, mut back) = (Vec::new(), Vec::new(), Vec::new());
    let mut spread = 0;
    for _ in 0..ROUNDS {
        for machine in [&mut keeping, &mut plain] {
            machine.run_until(machine.ticks() + ROUND);
        }
        let begun = Instant::now();
        plain.take_checkpoint();
        without.push(begun.elapsed());
        let begun = Instant::now();
        keeping.take_checkpoint();
        let after = snapshot(&mut keeping)?;
        with.push(begun.elapsed());
        spread = after.written_since(&before).len();
        before = after;
    }
    for _ in 0..ROUNDS {
        keeping.run_until(keeping.ticks() + ROUND);
        let begun = Instant::now();
        keeping.restore(&before).map_err(wrong)?;
        back.push(begun.elapsed());
    }
    let forks: Result<Vec<Duration>, BenchError> = (0..3)
        .map(|_| {
            let begun = Instant::now();
            let fork = Machine::fork(&before).map_err(wrong)?;
            let took = begun.elapsed();
            drop(fork);
            Ok(took)
        })
        .collect();
    figures.insert("snapshot".to_owned(), (least(with) - least(without)).max(0.0));
    figures.insert("snapshot_spread".to_owned(), spread as f64);
    figures.insert("restore".to_owned(), least(back));
    figures.insert("fork".to_owned(), least(forks?));
    Ok(())
}

/// Steps back as the debugger makes them: the nearest snapshot before, then forward.
fn steps(image: &[u8], figures: &mut Figures) -> Result<(), BenchError> {
    const INTERVAL: u64 = 200_000;
    let mut machine = machine(image, INTERVAL)?;
    machine.keep_snapshots();
    let mut kept = Vec::new();
    for _ in 0..200 {
        to_checkpoint(&mut machine)?;
        kept.push(snapshot(&mut machine)?);
    }
    let mut step = |from: &Snapshot, present: u64| -> Result<f64, BenchError> {
        let mut times = Vec::new();
        for _ in 0..3 {
            machine.run_until(present);
            let begun = Instant::now();
            machine.restore(from).map_err(wrong)?;
            machine.run_until(from.ticks() + INTERVAL / 2);
            times.push(begun.elapsed());
        }
        Ok(least(times))
    };
    let last = kept.last().ok_or_else(|| wrong("no snapshots"))?;
    let present = last.ticks() + INTERVAL / 2 + 1;
    figures.insert("step_back_near".to_owned(), step(last, present)?);
    figures.insert("step_back_far".to_owned(), step(&kept[0], present)?);
    Ok(())
}

/// Seconds of processor time that this process has used: runs are compared by it, since what else the host does would be taken for a difference.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn recordings(image: &[u8], figures: &mut Figures) -> Result<(), BenchError> {
    const TICKS: u64 = 60_000_000;
    let timed = |keep: bool, inputs: Option<Vec<sim_board::Input>>| -> Result<(f64, Machine), BenchError> {
        let mut machine = machine(image, 10_000_000)?;
        let is_replay = inputs.is_some();
        if let Some(inputs) = inputs {
            machine.replay(inputs);
        }
        if keep {
            machine.keep_snapshots();
        }
        let mut kept = Vec::new();
        let begun = processor_time();
        for key in 1..=60u64 {
            while machine.ticks() < key * TICKS / 60 {
                machine.run(&Until { checkpoint: keep, ..Until::ticks(key * TICKS / 60) });
                if keep && machine.can_snapshot() {
                    kept.push(snapshot(&mut machine)?);
                }
            }
            if !is_replay {
                machine.serial_put(Port::Com1, b"k");
            }
        }
        Ok((processor_time() - begun, machine))
    };
    // The least of a few of each, taken in turn: the first touch of memory, and what shares the processor's caches, only add.
    let (mut plain, mut keeping, mut replay) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..LONG_ROUNDS {
        let (took, mut recorded) = timed(false, None)?;
        plain = plain.min(took);
        keeping = keeping.min(timed(true, None)?.0);
        let (took, mut repeated) = timed(false, Some(recorded.inputs().to_vec()))?;
        replay = replay.min(took);
        if repeated.receipt() != recorded.receipt() {
            return Err(wrong("the replay is another run"));
        }
    }
    figures.insert("recording".to_owned(), keeping / plain);
    figures.insert("replay".to_owned(), replay / plain);
    // The size needs no run: a key each tenth of a second, at ticks and times as a busy machine has them.
    let minute: Vec<sim_board::Input> = (1..=600u64)
        .map(|key| {
            let at = key * 100_000_000 + key * key % 7_919;
            sim_board::Input { ticks: at, ns: at, what: sim_board::InputKind::Serial { port: Port::Com1, bytes: b"k".to_vec() } }
        })
        .collect();
    figures.insert("minute_recording".to_owned(), sim_snap::recording::encode(&minute).len() as f64);
    Ok(())
}
