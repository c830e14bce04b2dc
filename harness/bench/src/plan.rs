//! What is measured, in which order, how long it will take, and what an interrupted run has left.
//!
//! # Theory
//! A [`Job`] is one guest on up to three machines ([`On`]); one run of it gives a time for each of its spans. A plan goes round by round through all jobs and
//! machines, so that a drift of the host meets all of them alike, and the first round already gives a whole table. Each measurement is written to a [`Store`] as soon
//! as it is there; a run that was killed goes on from it, if program, engine and guests are still the same.
//!
//! # Failure
//! A job that fails on one machine is not tried there again; its rows have a gap, and [`Outcome::failed`] says why. The last line of a store may be cut off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::BenchError;
use crate::speed::{Row, Side, median};

/// Machines that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    Ours,
    Tcg,
    Icount,
}

impl On {
    pub const ALL: [On; 3] = [On::Ours, On::Tcg, On::Icount];

    fn name(self) -> &'static str {
        match self {
            On::Ours => "ours",
            On::Tcg => "tcg",
            On::Icount => "icount",
        }
    }
}

/// Time between two marks: on the clock, of processors, and in instructions where they are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub name: String,
    pub time: Duration,
    pub cpu: Duration,
    pub ticks: u64,
}

/// What one run gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub spans: Vec<Span>,
    pub peak_kib: u64,
}

/// Runs a guest once on one machine.
pub type Runner<'a> = Box<dyn Fn(On) -> Result<Taken, BenchError> + 'a>;

/// One guest.
pub struct Job<'a> {
    pub name: &'static str,
    /// Of all that decides what runs: measurements of another one do not count.
    pub fingerprint: u64,
    /// Seconds on an idle host, about, by machine; `None`: not measured there.
    pub seconds: [Option<f32>; 3],
    /// Measurements in each round: more of those that are short.
    pub times: usize,
    pub run: Runner<'a>,
}

/// A line of the table: which span of which job, here and there.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub name: &'static str,
    pub what: &'static str,
    pub target: Option<f64>,
    pub ours: (&'static str, &'static str),
    pub theirs: (&'static str, &'static str),
}

/// How a plan is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub rounds: usize,
    pub qemu: bool,
    /// Ratios of processor time instead of the clock's: for a host with other work.
    pub by_cpu: bool,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Jobs, machines and reasons.
    pub failed: Vec<(&'static str, &'static str, String)>,
    /// Processor time over clock time of our own side: below 1 the host had other work.
    pub share: f64,
}

/// A number for whatever a guest is made of.
pub fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

const HEADING: &str = "orrery-bench 1";

/// Measurements on disk, a line each.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    taken: BTreeMap<(String, u64, On, usize), Taken>,
}

impl Store {
    /// Opens what an interrupted run of the same program (`identity`) left at `path`, or begins anew.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path, identity: &str) -> Result<Store, BenchError> {
        let mut store = Store { path: path.to_path_buf(), taken: BTreeMap::new() };
        let heading = format!("{HEADING} {identity}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.split_inclusive('\n');
        if lines.next().is_some_and(|line| line.trim_end() == heading) {
            store.taken = lines.filter_map(parse).collect();
            // Without what was cut off.
            let kept = store.taken.iter().fold(format!("{heading}\n"), |all, (key, taken)| all + &print(key, taken));
            store.write(&kept, false)?;
        } else {
            store.write(&format!("{heading}\n"), false)?;
        }
        Ok(store)
    }

    /// Measurements it has.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    fn write(&self, text: &str, append: bool) -> Result<(), BenchError> {
        let fail = |error: std::io::Error| BenchError::Baseline { path: self.path.clone(), why: error.to_string() };
        let mut file = std::fs::OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(&self.path).map_err(fail)?;
        file.write_all(text.as_bytes()).map_err(fail)
    }

    fn put(&mut self, key: (String, u64, On, usize), taken: Taken) -> Result<(), BenchError> {
        self.write(&print(&key, &taken), true)?;
        self.taken.insert(key, taken);
        Ok(())
    }

    /// The run is complete: nothing is left to go on with.
    pub fn done(self) {
        drop(std::fs::remove_file(self.path));
    }

    fn spans(&self, job: &Job<'_>, on: On, span: &str) -> Vec<(Span, u64)> {
        let ours = self.taken.iter().filter(|((name, fingerprint, machine, _), _)| name == job.name && *fingerprint == job.fingerprint && *machine == on);
        ours.filter_map(|(_, taken)| Some((taken.spans.iter().find(|found| found.name == span)?.clone(), taken.peak_kib))).collect()
    }
}

/// One measurement as a line.
fn print((job, fingerprint, on, number): &(String, u64, On, usize), taken: &Taken) -> String {
    let mut line = format!("{job} {fingerprint:016x} {} {number} {}", on.name(), taken.peak_kib);
    for Span { name, time, cpu, ticks } in &taken.spans {
        write!(line, " {name}:{}:{}:{ticks}", time.as_nanos(), cpu.as_nanos()).expect("writing to a string cannot fail");
    }
    line + "\n"
}

/// A whole line as a measurement.
fn parse(line: &str) -> Option<((String, u64, On, usize), Taken)> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let job = words.next()?.to_owned();
    let fingerprint = u64::from_str_radix(words.next()?, 16).ok()?;
    let machine = words.next()?;
    let on = On::ALL.into_iter().find(|on| on.name() == machine)?;
    let number = words.next()?.parse().ok()?;
    let peak_kib = words.next()?.parse().ok()?;
    let spans = words.map(|word| {
        let mut parts = word.split(':');
        let name = parts.next()?.to_owned();
        let mut next = || parts.next()?.parse::<u64>().ok();
        Some(Span { name, time: Duration::from_nanos(next()?), cpu: Duration::from_nanos(next()?), ticks: next()? })
    });
    Some(((job, fingerprint, on, number), Taken { spans: spans.collect::<Option<_>>()?, peak_kib }))
}

/// Measures what is not in the store yet, and makes the rows.
///
/// # Errors
/// Two runs of our own machine differ in what they did, or the store cannot be written. What a guest does wrong is in [`Outcome::failed`].
pub fn run(jobs: &[Job<'_>], lines: &[Line], options: &Options, store: &mut Store, mut progress: impl FnMut(&str)) -> Result<Outcome, BenchError> {
    let mut left = Vec::new();
    for round in 0..options.rounds.max(1) {
        for job in jobs {
            for number in 0..job.times.max(1) {
                for (on, seconds) in On::ALL.into_iter().zip(job.seconds) {
                    let key = (job.name.to_owned(), job.fingerprint, on, round * job.times.max(1) + number);
                    if let Some(seconds) = seconds
                        && (on == On::Ours || options.qemu)
                        && !store.taken.contains_key(&key)
                    {
                        left.push((job, round, key, seconds));
                    }
                }
            }
        }
    }
    let mut outcome = Outcome::default();
    let mut ahead: f32 = left.iter().map(|(.., seconds)| seconds).sum();
    let (begun, mut expected) = (Instant::now(), 0.0);
    let total = store.len() + left.len();
    for (job, round, key, seconds) in left {
        let on = key.2;
        // How much slower than expected it went so far; at first that says nothing.
        let pace = (begun.elapsed().as_secs_f32() + 20.0) / (expected + 20.0);
        progress(&format!("{} of {total}, {} left: round {}, {} on {}", store.len(), about(ahead * pace), round + 1, job.name, on.name()));
        expected += seconds;
        ahead -= seconds;
        if outcome.failed.iter().any(|(name, machine, _)| *name == job.name && *machine == on.name()) {
            continue;
        }
        match (job.run)(on) {
            Ok(taken) => store.put(key, taken)?,
            Err(why) => outcome.failed.push((job.name, on.name(), why.to_string())),
        }
    }
    let (mut clock, mut cpu) = (Duration::ZERO, Duration::ZERO);
    for line in lines {
        let sides = |(wanted, span): (&str, &str), on: On| -> Vec<(Span, u64)> { jobs.iter().find(|job| job.name == wanted).map(|job| store.spans(job, on, span)).unwrap_or_default() };
        let side = |spans: &[(Span, u64)]| {
            let mut all: Vec<_> = spans.iter().map(|(span, peak_kib)| Side { time: if options.by_cpu { span.cpu } else { span.time }, peak_kib: *peak_kib }).collect();
            median(&mut all)
        };
        let here = sides(line.ours, On::Ours);
        let Some(ours) = side(&here) else { continue };
        let instructions = here.first().map_or(0, |(span, _)| span.ticks);
        if let Some((other, _)) = here.iter().find(|(span, _)| span.ticks != instructions) {
            return Err(BenchError::Guest { name: line.name.to_owned(), how: format!("{} instructions, before that {instructions}", other.ticks) });
        }
        for (span, _) in &here {
            clock += span.time;
            cpu += span.cpu;
        }
        let (tcg, icount) = (side(&sides(line.theirs, On::Tcg)), side(&sides(line.theirs, On::Icount)));
        outcome.rows.push(Row { name: line.name, what: line.what, target: line.target, instructions, ours, tcg, icount });
    }
    outcome.share = if clock.is_zero() { 1.0 } else { cpu.as_secs_f64() / clock.as_secs_f64() };
    Ok(outcome)
}

fn about(seconds: f32) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Processor time of this thread.
pub fn own_cpu() -> Duration {
    run_time(Path::new("/proc/thread-self/schedstat"))
}

/// Processor time of all threads of a process.
pub fn cpu_of(process: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Duration::ZERO };
    tasks.flatten().map(|task| run_time(&task.path().join("schedstat"))).sum()
}

/// The first number of a `schedstat` (Linux's sched-stats.rst): nanoseconds on a processor.
fn run_time(path: &Path) -> Duration {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// Processes that this one, or one of its children, started.
pub fn descendants() -> Vec<u32> {
    let mut found = Vec::new();
    let mut ahead = vec![std::process::id()];
    while let Some(process) = ahead.pop() {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            found.extend_from_slice(&children);
            ahead.extend(children);
        }
    }
    found
}

/// Peak memory of a process.
pub fn peak_of(process: u32) -> u64 {
    crate::speed::high_water(&format!("/proc/{process}/status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn job<'a>(runs: &'a Cell<u64>, fails: Option<On>) -> Job<'a> {
        let run = move |on: On| {
            if fails == Some(on) {
                return Err(BenchError::Qemu("no".to_owned()));
            }
            runs.set(runs.get() + 1);
            let time = Duration::from_millis(if on == On::Ours { 10 } else { 20 });
            Ok(Taken { spans: vec![Span { name: "work".into(), time, cpu: time / 2, ticks: 7 }], peak_kib: 5 })
        };
        Job { name: "job", fingerprint: 3, seconds: [Some(1.0), Some(1.0), None], times: 2, run: Box::new(run) }
    }

    const LINE: Line = Line { name: "row", what: "", target: None, ours: ("job", "work"), theirs: ("job", "work") };

    #[test]
    fn an_interrupted_run_goes_on() {
        let folder = std::env::temp_dir().join(format!("orrery-bench-plan-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("samples");
        let options = Options { rounds: 2, qemu: true, by_cpu: false };
        let runs = Cell::new(0);
        let mut store = Store::open(&path, "me").expect("new");
        let outcome = run(&[job(&runs, None)], &[LINE], &options, &mut store, |_| {}).expect("runs");
        assert_eq!(runs.get(), 8);
        assert_eq!(outcome.rows[0].ratio(outcome.rows[0].tcg), Some(2.0));
        assert!((outcome.share - 0.5).abs() < 0.01);
        // Killed in the middle of a line: that measurement alone is made again.
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, &text[..text.len() - 3]).expect("written");
        let mut store = Store::open(&path, "me").expect("old");
        assert_eq!(store.len(), 7);
        run(&[job(&runs, None)], &[LINE], &options, &mut store, |_| {}).expect("runs");
        assert_eq!(runs.get(), 9);
        // Another program's measurements do not count.
        assert!(Store::open(&path, "another").expect("new").is_empty());
        std::fs::remove_dir_all(&folder).expect("gone");
    }

    #[test]
    fn what_fails_leaves_a_gap_and_is_told() {
        let path = std::env::temp_dir().join(format!("orrery-bench-gap-{}", std::process::id()));
        let runs = Cell::new(0);
        let mut store = Store::open(&path, "me").expect("new");
        let options = Options { rounds: 3, qemu: true, by_cpu: false };
        let outcome = run(&[job(&runs, Some(On::Tcg))], &[LINE], &options, &mut store, |_| {}).expect("runs");
        assert_eq!((runs.get(), outcome.rows.len(), outcome.failed.len()), (6, 1, 1));
        assert!(outcome.rows[0].tcg.is_none());
        store.done();
        assert!(!path.exists());
    }
}
