//! All plans of a scenario, spread over cores and shards; results that a killed run resumes from.
//!
//! # Structures
//! A results file is JSON lines: a head that says what was explored, then a line for each plan tried. Lines are appended as trials end, in any order; a line cut
//! short by a kill is dropped and its plan tried again. Files of shards have the same head and are merged by [`merge`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::guest::{AND, ExploreError, Guest, Reference};
use crate::plan::{Lost, Plan};
use crate::spec::CutKind;

/// One of several equal parts: `index` from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub index: u64,
    pub of: u64,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// Reads `i/n`, i from 1.
    pub fn parse(text: &str) -> Option<Shard> {
        let (index, of) = text.split_once('/')?;
        let (index, of): (u64, u64) = (index.trim().parse().ok()?, of.trim().parse().ok()?);
        (index >= 1 && index <= of).then(|| Shard { index: index - 1, of })
    }
}

/// The head of a results file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    scenario: String,
    /// Hash over everything trials depend on.
    key: String,
    /// Plans of all shards.
    plans: u64,
}

/// How a plan came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub plan: Plan,
    /// What is wrong; none: what must hold does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wrong: Option<String>,
}

impl Outcome {
    /// What went wrong, without where: the words before the colon of each thing.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.wrong.iter().flat_map(|wrong| wrong.split(AND)).filter_map(|one| one.split(':').next())
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub failing: u64,
    /// Trials a minute of this run, and of each of its cores.
    pub per_minute: f64,
    pub per_core: f64,
    pub seconds_left: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub tried: u64,
    /// Plans that nobody has tried yet.
    pub open: u64,
    /// Those that fail, in order of their plans.
    pub failing: Vec<Outcome>,
    /// Trials made by this run (the others were resumed), and how long they took.
    pub fresh: u64,
    pub seconds: f64,
    pub cores: usize,
    /// Ticks of those trials.
    pub ticks: u64,
}

impl Summary {
    /// What went wrong, by kind, in order of plans.
    pub fn kinds(&self) -> BTreeMap<&str, Vec<&Outcome>> {
        let mut kinds: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.failing {
            outcome.kinds().for_each(|kind| kinds.entry(kind).or_default().push(outcome));
        }
        kinds
    }
}

/// A guest, its reference run, and the plans.
#[derive(Debug)]
pub struct Campaign {
    pub name: String,
    pub guest: Guest,
    pub reference: Option<Reference>,
    pub plans: Vec<Plan>,
}

impl Campaign {
    /// Runs the reference and lists the plans. With `limit` evenly spread ones are kept.
    pub fn new(name: &str, guest: Guest, limit: Option<u64>) -> Result<Self, ExploreError> {
        let disk = !guest.spec.cuts.is_empty() || !guest.spec.faults.is_empty();
        let mut reference = if disk { Some(guest.reference()?) } else { None };
        let mut plans = Vec::new();
        if let Some(reference) = &mut reference {
            cut_plans(&guest, reference, &mut plans);
            for fault in &guest.spec.faults {
                let requests = reference.requests.get(fault).copied().unwrap_or(0);
                plans.extend((1..=requests).map(|operation| Plan::Fault { operation, fault: *fault }));
            }
        }
        plans.extend((1..=guest.spec.seeds).map(|seed| Plan::Turns { chaos: guest.spec.chaos, seed }));
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit < plans.len() as u64) {
            let count = plans.len() as u64;
            let keep: BTreeSet<u64> = (0..limit).map(|index| index * (count - 1) / (limit - 1).max(1)).collect();
            let mut index = 0;
            plans.retain(|_| {
                index += 1;
                keep.contains(&(index - 1))
            });
        }
        Ok(Self { name: name.to_owned(), guest, reference, plans })
    }

    fn head(&self) -> Head {
        let mut hasher = blake3::Hasher::new();
        let base = &self.guest.base;
        let board = base.board.to_toml().unwrap_or_default();
        let spec = self.guest.spec.to_toml();
        let parts = [board.as_bytes(), &base.kernel, base.initrd.as_deref().unwrap_or_default(), base.append.as_bytes(), spec.as_bytes()];
        for part in parts.into_iter().chain(base.images.iter().map(Vec::as_slice)) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Head { scenario: self.name.clone(), key: hasher.finalize().to_hex()[..16].to_owned(), plans: self.plans.len() as u64 }
    }

    /// Tries the plans of a shard that the results file does not hold yet, on all threads of the present pool. `watch` is told now and then.
    pub fn run(&self, shard: Shard, results: &Path, fresh: bool, watch: impl Fn(Progress) + Sync) -> Result<Summary, ExploreError> {
        let io = |error: std::io::Error| ExploreError::Results(format!("{}: {error}", results.display()));
        let (file, known) = open(results, &self.head(), fresh).map_err(io)?;
        let mine: Vec<&Plan> = self.plans.iter().enumerate().filter(|(index, _)| *index as u64 % shard.of == shard.index).map(|(_, plan)| plan).collect();
        let done: BTreeSet<&Plan> = known.iter().map(|outcome| &outcome.plan).collect();
        let open: Vec<&Plan> = mine.iter().copied().filter(|plan| !done.contains(plan)).collect();
        let resumed = (mine.len() - open.len()) as u64;
        let cores = rayon::current_num_threads();
        let begun = Instant::now();
        let file = Mutex::new(file);
        let ticks = AtomicU64::new(0);
        let (count, failing) = (AtomicU64::new(0), AtomicU64::new(known.iter().filter(|outcome| outcome.wrong.is_some()).count() as u64));
        // Runs of neighbouring plans for each thread: cuts are made in order of writes.
        let piece = (open.len() / (4 * cores)).clamp(1, 64);
        let tried: Result<Vec<Vec<Outcome>>, ExploreError> = open
            .par_chunks(piece)
            .map_init(
                || self.guest.worker(self.reference.as_ref()),
                |worker, plans| {
                    let worker = worker.as_mut().map_err(|error| error.clone())?;
                    let mut outcomes = Vec::new();
                    for plan in plans {
                        let trial = self.guest.attempt(worker, self.reference.as_ref(), plan)?;
                        ticks.fetch_add(trial.ticks, Ordering::Relaxed);
                        let outcome = Outcome { plan: (*plan).clone(), wrong: trial.wrong };
                        failing.fetch_add(u64::from(outcome.wrong.is_some()), Ordering::Relaxed);
                        append(&file, &outcome).map_err(io)?;
                        outcomes.push(outcome);
                        let made = count.fetch_add(1, Ordering::Relaxed) + 1;
                        let minutes = begun.elapsed().as_secs_f64() / 60.0;
                        let per_minute = made as f64 / minutes.max(1e-9);
                        watch(Progress {
                            done: resumed + made,
                            total: mine.len() as u64,
                            failing: failing.load(Ordering::Relaxed),
                            per_minute,
                            per_core: per_minute / cores as f64,
                            seconds_left: 60.0 * (open.len() as u64 - made) as f64 / per_minute.max(1e-9),
                        });
                    }
                    Ok(outcomes)
                },
            )
            .collect();
        let tried: Vec<Outcome> = tried?.into_iter().flatten().collect();
        let fresh = tried.len() as u64;
        let wanted: BTreeSet<&Plan> = mine.iter().copied().collect();
        let outcomes = known.into_iter().filter(|outcome| wanted.contains(&outcome.plan)).chain(tried);
        let mut summary = summarise(outcomes, mine.len() as u64);
        (summary.fresh, summary.seconds, summary.cores, summary.ticks) = (fresh, begun.elapsed().as_secs_f64(), cores, ticks.into_inner());
        Ok(summary)
    }
}

/// Cut points are after every write of the command and at the end; what the cache may lose only where it holds something.
fn cut_plans(guest: &Guest, reference: &mut Reference, plans: &mut Vec<Plan>) {
    let writes = reference.cuts.journal().writes();
    if guest.spec.cuts.is_empty() {
        return;
    }
    for write in reference.before + 1..=writes + 1 {
        let unflushed = reference.cuts.unflushed(write);
        for kind in &guest.spec.cuts {
            let seeds = 0..guest.spec.subsets;
            match kind {
                CutKind::All => plans.push(Plan::Cut { write, lost: Lost::Nothing }),
                CutKind::None if unflushed > 0 => plans.push(Plan::Cut { write, lost: Lost::Everything }),
                CutKind::Subset if unflushed > 1 => plans.extend(seeds.map(|seed| Plan::Cut { write, lost: Lost::Subset(seed) })),
                CutKind::Torn if unflushed > 0 => plans.extend(seeds.map(|seed| Plan::Cut { write, lost: Lost::Torn(seed) })),
                CutKind::None | CutKind::Subset | CutKind::Torn => {}
            }
        }
    }
}

fn summarise(outcomes: impl Iterator<Item = Outcome>, plans: u64) -> Summary {
    let mut by_plan = BTreeMap::new();
    for outcome in outcomes {
        by_plan.insert(outcome.plan.clone(), outcome);
    }
    let tried = by_plan.len() as u64;
    let failing = by_plan.into_values().filter(|outcome| outcome.wrong.is_some()).collect();
    Summary { tried, open: plans.saturating_sub(tried), failing, ..Summary::default() }
}

fn append(file: &Mutex<File>, outcome: &Outcome) -> std::io::Result<()> {
    let line = serde_json::to_string(outcome).map_err(std::io::Error::other)? + "\n";
    match file.lock() {
        Ok(mut file) => file.write_all(line.as_bytes()),
        Err(_) => Err(std::io::Error::other("another thread panicked while writing")),
    }
}

/// Reads a results file: its head, the outcomes, and how many bytes are good.
fn read(path: &Path) -> std::io::Result<(Option<Head>, Vec<Outcome>, u64)> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut good) = (String::new(), 0);
    let mut head = None;
    let mut outcomes = Vec::new();
    loop {
        line.clear();
        let count = reader.read_line(&mut line)?;
        if count == 0 || !line.ends_with('\n') {
            return Ok((head, outcomes, good));
        }
        if head.is_none() {
            match serde_json::from_str(&line) {
                Ok(found) => head = Some(found),
                Err(_) => return Ok((None, outcomes, 0)),
            }
        } else {
            match serde_json::from_str(&line) {
                Ok(outcome) => outcomes.push(outcome),
                Err(_) => return Ok((head, outcomes, good)),
            }
        }
        good += count as u64;
    }
}

/// Opens a results file for appending, with what it holds if that is of the same exploration.
fn open(path: &Path, head: &Head, fresh: bool) -> std::io::Result<(File, Vec<Outcome>)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    // Two at once would write into each other's lines. The lock goes with the file, also if we are killed.
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(std::io::Error::other("another `explore` writes these results at this moment")),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if !fresh {
        let (found, outcomes, good) = read(path)?;
        if found.as_ref() == Some(head) {
            file.set_len(good)?;
            file.seek(SeekFrom::End(0))?;
            return Ok((file, outcomes));
        }
    }
    file.set_len(0)?;
    file.write_all((serde_json::to_string(head).map_err(std::io::Error::other)? + "\n").as_bytes())?;
    Ok((file, Vec::new()))
}

/// Joins the results of shards. They must be of the same exploration.
pub fn merge(paths: &[impl AsRef<Path>]) -> Result<(String, Summary), ExploreError> {
    let mut all: Option<Head> = None;
    let mut outcomes = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let (head, found, _) = read(path).map_err(|error| ExploreError::Results(format!("{}: {error}", path.display())))?;
        let Some(head) = head else { return Err(ExploreError::Results(format!("{}: no results of `explore`", path.display()))) };
        match &all {
            Some(first) if *first != head => {
                return Err(ExploreError::Results(format!("{}: results of another exploration ({} with key {}, not {} with key {})", path.display(), head.scenario, head.key, first.scenario, first.key)));
            }
            _ => all = Some(head),
        }
        outcomes.extend(found);
    }
    let Some(head) = all else { return Err(ExploreError::Results("no files are given".to_owned())) };
    Ok((head.scenario, summarise(outcomes.into_iter(), head.plans)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head { scenario: "s".to_owned(), key: "k".to_owned(), plans: 4 }
    }
    fn outcome(seed: u64, wrong: Option<&str>) -> Outcome {
        Outcome { plan: Plan::Turns { chaos: true, seed }, wrong: wrong.map(str::to_owned) }
    }

    #[test]
    fn shards_are_read_and_refused() {
        assert_eq!(Shard::parse("2/3"), Some(Shard { index: 1, of: 3 }));
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert_eq!(Shard::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_trial_may_find_two_things() {
        let summary = summarise([outcome(1, Some("data race: 1 of 2 + aba: a node")), outcome(2, Some("aba: twice")), outcome(3, None)].into_iter(), 4);
        let kinds: Vec<(&str, usize)> = summary.kinds().into_iter().map(|(kind, failing)| (kind, failing.len())).collect();
        assert_eq!(kinds, [("aba", 2), ("data race", 1)]);
        assert_eq!((summary.tried, summary.open), (3, 1));
    }

    #[test]
    fn a_line_cut_short_by_a_kill_is_tried_again() {
        let folder = std::env::temp_dir().join(format!("explore-results-{}", std::process::id()));
        let path = folder.join("a.jsonl");
        let (file, known) = open(&path, &head(), false).expect("a folder of our own");
        let second = open(&path, &head(), true).expect_err("it is in use");
        assert!(second.to_string().contains("another `explore`"), "{second}");
        assert_eq!(known, []);
        let file = Mutex::new(file);
        append(&file, &outcome(1, None)).expect("writes");
        append(&file, &outcome(2, Some("bug: x"))).expect("writes");
        file.lock().expect("one thread").write_all(b"{\"plan\":{\"kind\":\"turns\",\"ch").expect("writes");
        drop(file);
        let (file, known) = open(&path, &head(), false).expect("is there");
        assert_eq!(known, [outcome(1, None), outcome(2, Some("bug: x"))]);
        append(&Mutex::new(file), &outcome(3, None)).expect("writes");
        let other = folder.join("b.jsonl");
        let (file, _) = open(&other, &head(), false).expect("a folder of our own");
        append(&Mutex::new(file), &outcome(4, Some("bug: y"))).expect("writes");
        let (name, summary) = merge(&[&path, &other]).expect("of one exploration");
        assert_eq!((name.as_str(), summary.tried, summary.open, summary.failing.len()), ("s", 4, 0, 2));
        let kinds: Vec<(&str, usize)> = summary.kinds().into_iter().map(|(kind, failing)| (kind, failing.len())).collect();
        assert_eq!(kinds, [("bug", 2)]);
        let (_, known) = open(&path, &Head { key: "other".to_owned(), ..head() }, false).expect("is there");
        assert_eq!(known, [], "results of something else are not resumed");
        assert!(merge(&[&path, &other]).unwrap_err().to_string().contains("another exploration"));
        std::fs::remove_dir_all(folder).expect("was made here");
    }
}
