//! Lives of the kernel's storage layer: tenants that write, an operator, a sender, a sick disk, an outage and a power cut, all at once, in turns that a seed decides.
//!
//! # Theory
//! What is tried is all of `pool_fs`: its locks, gate, committer, read-ahead, cache and mounts, as the kernel has them, on disks in memory whose transfers take time. The
//! tasks take turns under [`kif_host::baton`], so a life is a function of its seed: [`replayed`] lives it twice and compares the receipts.
//!
//! A writer has a directory of its own and keeps a digest of every state it went through, and how far it was when. So whoever took a snapshot knows which
//! states it may hold, whoever synced knows which must outlive the power cut, and whoever looks at a clone or at what was received knows what must be there.
//!
//! In some lives more disks than the layout bears do not answer for a while ([`Outage`]): the pool is suspended, whoever needs it waits, and when they are back and an operator
//! says so, nothing is lost. Disks that go within a commit's work in memory leave what a power cut leaves.
//!
//! # Structures
//! [`Slot`] (a disk of the machine; its medium changes from life to life), [`Book`] (what all tasks know; its lock is never held across a turn), [`Life`] (the tasks).
//!
//! # Failure
//! A finding names layout, seed and life, and what the run says: the task and why, or who waits for what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kif::{BlockDev, BlockError, Frame, Nanos, ZoneId};
use kif_host::baton;
use pool_dmu::{ScanKind, check, check_space};
use pool_fs::manage::{self, DeviceChange, Extent, Refused, ScrubChange};
use pool_fs::streams::{ReceiveRequest, Receiving, Sending};
use pool_spa::VdevStatus;
use pool_stream::{Naming, PackageOptions, SendOptions};
use sync::WaitQueue;
use vfs::{Cred, Cx, File, Kind, OpenFlags, Place, RenameFlags, VfsError, ops};

use crate::disk::{Disk, Journal, Loss, Replay, mix};
use crate::matrix;
use crate::rig::{self, NAME, NOW, Shape};
use crate::work::{Digest, Model, digest};

/// Disks of the machine: the largest layout's, and two to replace others with.
const SLOTS: usize = 8;
/// Directories that are written to: dataset, directory.
const HOMES: [(&str, &str); 4] = [("tank/a", "x"), ("tank/a", "y"), ("tank/b", "x"), ("tank/b/c", "x")];
/// Files of a directory, snapshots of a dataset.
const FILES: u64 = 6;
const SNAPSHOTS_MAX: usize = 4;
/// Where rivals are.
const RIVALS: &str = "tank/war";
const ZONE: u32 = 7;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub lives: u64,
    pub operations: u64,
    pub syncs: u64,
    pub snapshots: u64,
    pub clones: u64,
    pub streams: u64,
    pub scans: u64,
    pub troubles: u64,
    pub replaced: u64,
    pub outages: u64,
    pub kills: u64,
    pub decisions: u64,
    pub switches: u64,
    pub receipt: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lives, operations, syncs, snapshots, clones, streams, scans, troubles, replaced, outages, kills, decisions, switches, receipt } = self;
        write!(f, "{lives} lives of tasks in turns ({decisions} decisions, {switches} switches), {operations} operations, {syncs} syncs, {snapshots} snapshots, {clones} clones, ")?;
        write!(f, "{streams} streams, {scans} scans, {troubles} troubles, {replaced} disks replaced, {outages} outages, {kills} kills, receipt {receipt:016x}")
    }
}

// ---- disks -----------------------------------------------------------------------------------------------------------------------

/// The power of the machine: it goes at a write.
#[derive(Default)]
struct Power {
    is_off: AtomicBool,
    /// Writes until then; 0: it stays.
    left: AtomicU64,
}

static POWER: Power = Power { is_off: AtomicBool::new(false), left: AtomicU64::new(0) };

/// Disks that do not answer, all at once: more than the layout bears, so that the pool is suspended.
struct Outage {
    /// Which, as bits.
    disks: AtomicU64,
    /// They are gone rather than in error.
    is_gone: AtomicBool,
    /// How many began in this life, and how many the pool had got over: odd while one lasts.
    turns: AtomicU64,
    /// One took the work in memory of a commit with it.
    broke: AtomicBool,
}

static OUTAGE: Outage = Outage { disks: AtomicU64::new(0), is_gone: AtomicBool::new(false), turns: AtomicU64::new(0), broke: AtomicBool::new(false) };

/// What was changed is lost but for the last commit and the intent logs: the power is off, or devices went within the work in memory of a commit.
fn is_dark() -> bool {
    POWER.is_off.load(Relaxed) || OUTAGE.broke.load(Relaxed) || OUTAGE.turns.load(Relaxed) > 0 && manage::pool(NAME).is_ok_and(|pool| pool.is_broken())
}

/// A disk of the machine.
struct Slot(Mutex<Option<Disk>>, usize);

impl Slot {
    /// The medium, after the time that a transfer takes; `None` where there is none, or no power.
    fn medium(&self, takes_us: u64) -> Result<Disk, BlockError> {
        if baton::is_running() {
            let _timed_out = WaitQueue::new().wait_until(kif::clock().monotonic().plus(Nanos(takes_us * 1000)), || None::<()>);
        }
        if POWER.is_off.load(Relaxed) {
            return Err(BlockError::Gone);
        }
        if OUTAGE.disks.load(Relaxed) >> self.1 & 1 != 0 {
            return Err(if OUTAGE.is_gone.load(Relaxed) { BlockError::Gone } else { BlockError::Io });
        }
        locked(&self.0).clone().ok_or(BlockError::Gone)
    }
}

impl BlockDev for Slot {
    fn size_bytes(&self) -> u64 {
        locked(&self.0).as_ref().map_or(0, BlockDev::size_bytes)
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.medium(100)?.read(offset, out)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let medium = self.medium(20)?;
        let left = POWER.left.load(Relaxed);
        if left == 1 {
            POWER.is_off.store(true, Relaxed);
            return Err(BlockError::Gone);
        }
        POWER.left.store(left.saturating_sub(1), Relaxed);
        medium.write(offset, data)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.medium(200)?.flush()
    }
}

/// The machine's disks and what they are called.
fn slots() -> &'static [(String, Arc<Slot>)] {
    static ALL: OnceLock<Vec<(String, Arc<Slot>)>> = OnceLock::new();
    ALL.get_or_init(|| {
        kif_host::start();
        let make = |index| {
            let slot = Arc::new(Slot(Mutex::new(None), index));
            let device: Arc<dyn BlockDev> = Arc::clone(&slot) as Arc<dyn BlockDev>;
            (vfs::block::register("vd", device).expect("a name is free").to_owned(), slot)
        };
        (0..SLOTS).map(make).collect()
    })
}

// ---- what is known ---------------------------------------------------------------------------------------------------------------

/// A writer's directory.
struct Home {
    /// Digests of the states it was in since the last life; the last may be an operation under way.
    states: Vec<Digest>,
    /// The last state that is done.
    done: usize,
    /// This state, or a later one, outlives the power.
    safe: usize,
}

impl Home {
    fn begin(state: Digest) -> Self {
        Self { states: vec![state], done: 0, safe: 0 }
    }
}

/// What a snapshot may hold of each home of its dataset.
type Holds = BTreeMap<&'static str, Vec<Digest>>;

#[derive(Default)]
struct Book {
    homes: Vec<Home>,
    /// Snapshots that are there.
    snapshots: BTreeMap<String, Holds>,
    /// Datasets and snapshots that may be there: somebody is making or destroying them. A snapshot's contents, if they are known.
    unsure: BTreeMap<String, Option<Holds>>,
    /// Snapshots in use by a task: another does not destroy them.
    used: BTreeSet<String>,
    report: Report,
}

impl Book {
    /// How far the homes of `dataset` are.
    fn marks(&self, dataset: &str) -> Vec<(usize, usize)> {
        let homes = HOMES.iter().enumerate().filter(|(_, (home, _))| *home == dataset);
        homes.map(|(index, _)| (index, self.homes[index].done)).collect()
    }

    /// What was done at `marks` is safe now.
    fn is_safe(&mut self, marks: &[(usize, usize)]) {
        for (index, done) in marks {
            let home = &mut self.homes[*index];
            home.safe = home.safe.max(*done);
        }
    }

    /// The states between `marks` and now.
    fn since(&self, marks: &[(usize, usize)]) -> Holds {
        marks.iter().map(|(index, done)| (HOMES[*index].1, self.homes[*index].states[*done..].to_vec())).collect()
    }
}

/// Why a task ends.
enum End {
    /// The power went.
    Dark,
    /// The pool was suspended meanwhile: a command ends with an error then, and what it did is not known.
    Shaken,
    Finding(String),
}

type Step<R = ()> = Result<R, End>;

/// What an operation said, where it may be refused for want of room.
fn settle<R, E: fmt::Debug>(what: &str, result: Result<R, E>, allowed: impl Fn(&E) -> bool) -> Step<Option<R>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(_) if is_dark() => Err(End::Dark),
        Err(error) if allowed(&error) => Ok(None),
        Err(error) => Err(End::Finding(format!("{what}: {error:?}"))),
    }
}

fn must<R, E: fmt::Debug>(what: &str, result: Result<R, E>) -> Step<R> {
    settle(what, result, |_| false).map(|value| value.expect("nothing else is allowed"))
}

fn no_room(error: &VfsError) -> bool {
    matches!(error, VfsError::NoSpace | VfsError::NoMemory)
}

fn is_full(refused: &Refused) -> bool {
    matches!(refused, Refused::Failed(text) if text.contains("no space left"))
}

/// What the pool calls a disk since it was imported: where it is.
fn leaf(index: usize) -> String {
    format!("/dev/{}", slots()[index].0)
}

// ---- tasks -----------------------------------------------------------------------------------------------------------------------

/// What tasks share.
struct Life {
    shape: Shape,
    seed: u64,
    /// More disks than the layout bears may go for a while, and come back.
    has_outages: bool,
    root: Place,
    book: Mutex<Book>,
    /// Tasks that are not done.
    left: AtomicU64,
    all_done: WaitQueue,
    /// The writers are done: the others stop.
    is_over: AtomicBool,
    writers: AtomicU64,
}

struct Task {
    life: Arc<Life>,
    seed: u64,
    count: u64,
    cred: Cred,
    /// Who pays, and is throttled.
    zone: ZoneId,
    /// A page of a file that it has mapped: name, page.
    mapped: Option<(String, usize, Frame)>,
    /// Turns of outages there had been when it began with what it is doing.
    outages: u64,
}

impl Task {
    fn dice(&mut self) -> u64 {
        self.count += 1;
        mix(mix(self.seed) ^ self.count)
    }

    fn cx(&self) -> Cx<'_> {
        Cx { cred: &self.cred, root: &self.life.root, cwd: &self.life.root }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.life.book)
    }

    /// Sleeps some milliseconds at most.
    fn idle(&mut self, milliseconds: u64) {
        let wait = Nanos(self.dice() % (milliseconds * 1_000_000));
        let _timed_out = WaitQueue::new().wait_until(kif::clock().monotonic().plus(wait), || None::<()>);
    }

    fn is_over(&self) -> bool {
        self.life.is_over.load(Relaxed) || is_dark()
    }

    /// True if disks did not answer since it began with what it is doing.
    fn is_shaken(&self) -> bool {
        !self.outages.is_multiple_of(2) || OUTAGE.turns.load(Relaxed) != self.outages
    }

    /// What an operator's command said.
    fn ask<R, E: fmt::Debug>(&self, what: &str, result: Result<R, E>, allowed: impl Fn(&E) -> bool) -> Step<Option<R>> {
        match settle(what, result, allowed) {
            Err(End::Finding(_)) if self.is_shaken() => Err(End::Shaken),
            done => done,
        }
    }

    fn need<R, E: fmt::Debug>(&self, what: &str, result: Result<R, E>) -> Step<R> {
        self.ask(what, result, |_| false).map(|value| value.expect("nothing else is allowed"))
    }

    /// One thing after another, until the life is over: what is broken off by an outage is left as it is.
    fn repeat(&mut self, milliseconds: u64, step: fn(&mut Self) -> Step) -> Step {
        while !self.is_over() {
            self.idle(milliseconds);
            self.outages = OUTAGE.turns.load(Relaxed);
            match step(self) {
                Err(End::Shaken) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<File>, VfsError> {
        ops::open(&self.cx(), None, path.as_bytes(), flags, 0o644)
    }

    /// All files below a directory.
    fn look(&self, path: &str) -> Result<Model, VfsError> {
        let mut out = Model::new();
        self.look_into(path, "", &mut out)?;
        Ok(out)
    }

    fn look_into(&self, base: &str, below: &str, out: &mut Model) -> Result<(), VfsError> {
        let directory = self.open(&format!("{base}{below}"), OpenFlags::READ | OpenFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        loop {
            let before = entries.len();
            directory.readdir(&mut |entry| {
                entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.kind));
                entries.len() < before + 5
            })?;
            if entries.len() == before {
                break;
            }
        }
        let mut seen = BTreeSet::new();
        for (name, kind) in entries.into_iter().filter(|(name, _)| name != "." && name != "..") {
            // One that was refused comes again.
            if !seen.insert(name.clone()) {
                continue;
            }
            let path = format!("{below}/{name}");
            match kind {
                Kind::Directory => {
                    out.insert(format!("{path}/"), Vec::new());
                    self.look_into(base, &path, out)?;
                }
                _ => drop(out.insert(path.clone(), self.contents(&format!("{base}{path}"))?)),
            }
        }
        Ok(())
    }

    fn contents(&self, path: &str) -> Result<Vec<u8>, VfsError> {
        let file = self.open(path, OpenFlags::READ)?;
        let mut out = Vec::new();
        let mut piece = [0; 9000];
        loop {
            let count = file.read(&mut piece, self.zone)?;
            if count == 0 {
                return Ok(out);
            }
            out.extend_from_slice(&piece[..count]);
        }
    }

    // -- a writer --

    fn write(&mut self, index: usize, operations: u64) -> Step {
        let (dataset, directory) = HOMES[index];
        let base = format!("/{dataset}/{directory}");
        if let Err(error) = ops::mkdir(&self.cx(), None, base.as_bytes(), 0o755)
            && error != VfsError::Exists
        {
            return must("mkdir", Err(error));
        }
        let mut model = must("the first look", self.look(&base))?;
        if self.book().homes[index].states != [digest(&model)] {
            return Err(End::Finding(format!("{base}: is not what was found on the disks")));
        }
        for _ in 0..operations {
            self.book().report.operations += 1;
            self.write_one(index, dataset, &base, &mut model)?;
            baton::note(digest(&model).0[0]);
        }
        let found = must("the last look", self.look(&base))?;
        if found == model { Ok(()) } else { Err(End::Finding(format!("{base}: reads back otherwise than it was written"))) }
    }

    /// One operation. Its outcome is in the book before it begins: whoever takes a snapshot meanwhile may have it.
    fn write_one(&mut self, index: usize, dataset: &str, base: &str, model: &mut Model) -> Step {
        let pick = self.dice();
        let name = format!("/f{}", pick % FILES);
        let path = format!("{base}{name}");
        let exists = model.contains_key(&name);
        let mut after = model.clone();
        let zone = self.zone;
        if self.mapped.is_some() && pick >> 60 < 4 {
            return self.store(base, index, model);
        }
        match pick >> 8 & 15 {
            0 | 1 => {
                let marks = self.book().marks(dataset);
                let Some(any) = model.keys().next().cloned() else { return Ok(()) };
                let file = must("open to sync", self.open(&format!("{base}{any}"), OpenFlags::READ))?;
                // fsync of a file, or syncfs: either keeps what was done in its file system before.
                must("sync", if pick >> 20 & 3 == 0 { file.place().mount.fs().sync() } else { file.sync() })?;
                let mut book = self.book();
                book.is_safe(&marks);
                book.report.syncs += 1;
                Ok(())
            }
            2 | 3 if exists => {
                let found = must("read", self.contents(&path))?;
                if found == model[&name] { Ok(()) } else { Err(End::Finding(format!("{path}: reads otherwise than it was written"))) }
            }
            4 if pick >> 20 & 3 == 0 => {
                let found = must("look", self.look(base))?;
                if found == *model { Ok(()) } else { Err(End::Finding(format!("{base}: reads otherwise than it was written"))) }
            }
            5 if exists => {
                self.unmap(&name);
                after.remove(&name);
                self.change(index, model, after, |task| ops::unlink(&task.cx(), None, path.as_bytes()))
            }
            6 if exists => {
                let other = format!("/f{}", (pick >> 32) % FILES);
                if other == name {
                    return Ok(());
                }
                self.unmap(&name);
                self.unmap(&other);
                let data = after.remove(&name).unwrap_or_default();
                after.insert(other.clone(), data);
                self.change(index, model, after, |task| ops::rename(&task.cx(), None, path.as_bytes(), None, format!("{base}{other}").as_bytes(), RenameFlags::empty()))
            }
            7 if exists => {
                self.unmap(&name);
                let size = (pick >> 32) % 40_000;
                after.entry(name).or_default().resize(usize::try_from(size).unwrap_or(0), 0);
                let file = must("open to cut", self.open(&path, OpenFlags::WRITE))?;
                self.change(index, model, after, |_| file.truncate(size))
            }
            8 if exists && !model[&name].is_empty() => self.map(base, &name, index, model),
            9 if exists && !model[&name].is_empty() && pick >> 20 & 1 == 0 => {
                let data = after.entry(name).or_default();
                let from = usize::try_from(pick >> 32).unwrap_or(0) % data.len();
                let end = data.len().min(from + usize::try_from(self.dice() % 20_000).unwrap_or(0));
                data[from..end].fill(0);
                let file = must("open to punch", self.open(&path, OpenFlags::WRITE))?;
                self.change(index, model, after, |_| file.punch(from as u64, (end - from) as u64))
            }
            10 if exists && pick >> 20 & 3 == 0 => self.seek(&path, &model[&name]),
            _ if !exists => {
                after.insert(name, Vec::new());
                self.change(index, model, after, |task| task.open(&path, OpenFlags::WRITE | OpenFlags::CREATE).map(drop))
            }
            _ => {
                let offset = (pick >> 40) % if pick >> 36 & 3 == 0 { 60_000 } else { 4000 };
                let size = self.dice() % if pick >> 33 & 7 == 0 { 60_000 } else { 3000 } + 1;
                let fill = self.dice();
                let data: Vec<u8> = (0..size).map(|at| if fill & 1 == 0 { at.to_le_bytes()[0] / 16 } else { mix(fill ^ at).to_le_bytes()[0] }).collect();
                let whole = after.entry(name).or_default();
                let from = usize::try_from(offset).unwrap_or(0);
                whole.resize(whole.len().max(from + data.len()), 0);
                whole[from..from + data.len()].copy_from_slice(&data);
                let file = must("open to write", self.open(&path, OpenFlags::WRITE))?;
                self.change(index, model, after, |_| file.write_at(offset, &data, zone).map(drop))
            }
        }
    }

    /// Does `body`, which makes `after` of the model or is refused for want of room.
    fn change(&mut self, index: usize, model: &mut Model, after: Model, body: impl FnOnce(&Self) -> Result<(), VfsError>) -> Step {
        self.book().homes[index].states.push(digest(&after));
        let done = settle("a change", body(self), no_room)?;
        if done.is_some() {
            *model = after;
        }
        let mut book = self.book();
        let home = &mut book.homes[index];
        // Refused: it is as before.
        home.states.push(digest(model));
        home.done = home.states.len() - 1;
        Ok(())
    }

    /// What lies in a hole is zeros, and data begins where it is said.
    fn seek(&self, path: &str, data: &[u8]) -> Step {
        let file = must("open to seek", self.open(path, OpenFlags::READ))?;
        let (size, mut at) = (data.len() as u64, 0);
        while at < size {
            let next = must("seek data", file.vnode().seek(at, false))?.unwrap_or(size);
            let hole = |range: std::ops::Range<u64>| data.get(range.start as usize..range.end as usize).is_some_and(|part| part.iter().all(|byte| *byte == 0));
            if next < at || !hole(at..next) {
                return Err(End::Finding(format!("{path}: {at} to {next} of {size} is said to be a hole")));
            }
            if next == size {
                break;
            }
            let end = must("seek hole", file.vnode().seek(next, true))?.unwrap_or(size);
            // A commit in between may have made a hole of data that is zeros.
            if end < next || end > size || (end == next && !hole(next..next + 1)) {
                return Err(End::Finding(format!("{path}: data from {next} to {end} of {size}")));
            }
            at = end.max(next + 1);
        }
        baton::note(at);
        Ok(())
    }

    /// Lets go of what is mapped of a file.
    fn unmap(&mut self, name: &str) {
        drop(self.mapped.take_if(|(of, ..)| of == name));
    }

    /// Maps a page of a file, in place of what was mapped, and stores there.
    fn map(&mut self, base: &str, name: &str, index: usize, model: &mut Model) -> Step {
        let file = must("open to map", self.open(&format!("{base}{name}"), OpenFlags::READ | OpenFlags::WRITE))?;
        let page = usize::try_from(self.dice()).unwrap_or(0) % model[name].len() / kif::PAGE_SIZE;
        let Some(frame) = settle("map", file.vnode().page(page as u64, true, self.zone), no_room)? else { return Ok(()) };
        self.mapped = Some((name.to_owned(), page, frame));
        self.store(base, index, model)
    }

    /// Stores to what is mapped, now and then lets go of it, and waits until it is in the store.
    fn store(&mut self, base: &str, index: usize, model: &mut Model) -> Step {
        let Some((name, page, frame)) = self.mapped.take() else { return Ok(()) };
        let file = must("open what is mapped", self.open(&format!("{base}{name}"), OpenFlags::READ | OpenFlags::WRITE))?;
        let mut after = model.clone();
        let data = after.entry(name.clone()).or_default();
        let start = page * kif::PAGE_SIZE;
        let at = start + usize::try_from(self.dice()).unwrap_or(0) % (data.len() - start).min(kif::PAGE_SIZE);
        let end = data.len().min(start + kif::PAGE_SIZE).min(at + 64);
        data[at..end].fill(self.dice().to_le_bytes()[0]);
        let bytes = data[at..end].to_vec();
        let stays = self.dice().is_multiple_of(2);
        let mut kept = None;
        self.change(index, model, after, |_| {
            frame.write(at - start, &bytes);
            // Until it is in the store, others may see it or not.
            baton::point();
            if stays {
                kept = Some(frame);
            } else {
                drop(frame);
            }
            file.sync()
        })?;
        self.mapped = kept.map(|frame| (name, page, frame));
        Ok(())
    }

    // -- an operator --

    fn operate(&mut self) -> Step {
        match self.dice() % 10 {
            0..=3 => self.snapshot()?,
            4 | 5 => self.destroy_snapshot()?,
            6 => {
                let listed = self.need("list", manage::datasets(NAME, &mut manage::Room::new(usize::MAX)))?;
                baton::note(listed.len() as u64);
            }
            7 => {
                self.need("get", manage::get(NAME, &[], true, &mut manage::Room::new(usize::MAX)))?;
            }
            8 => {
                let pool = self.need("the pool", manage::pool(NAME))?;
                let status = self.need("status", manage::status(&pool))?;
                baton::note(status.allocated);
            }
            _ => {
                let value = ["lz4", "off", "gzip", "zle"][usize::try_from(self.dice()).unwrap_or(0) % 4];
                self.ask("set", manage::set(&self.cx(), "tank/b", "compression", manage::NewValue::Text(value)), is_full)?;
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Step {
        let pick = self.dice();
        let short = format!("s{:x}", pick >> 16);
        let (dataset, is_deep) = [("tank/a", false), ("tank/b", false), ("tank/b", true), ("tank/b/c", false)][usize::try_from(pick).unwrap_or(0) % 4];
        let datasets: Vec<&str> = ["tank/a", "tank/b", "tank/b/c"].into_iter().filter(|name| *name == dataset || is_deep && name.starts_with(dataset)).collect();
        let marks: Vec<Vec<(usize, usize)>> = {
            let mut book = self.book();
            if datasets.iter().any(|dataset| book.snapshots.keys().filter(|name| name.split('@').next() == Some(*dataset)).count() >= SNAPSHOTS_MAX) {
                return Ok(());
            }
            datasets.iter().for_each(|dataset| drop(book.unsure.insert(format!("{dataset}@{short}"), None)));
            datasets.iter().map(|dataset| book.marks(dataset)).collect()
        };
        let taken = self.ask("snapshot", manage::snapshot(&[format!("{dataset}@{short}")], is_deep), is_full);
        let mut book = self.book();
        if matches!(taken, Err(End::Shaken)) {
            for (dataset, marks) in datasets.iter().zip(&marks) {
                let holds = book.since(marks);
                book.unsure.insert(format!("{dataset}@{short}"), Some(holds));
            }
        }
        let taken = taken?;
        for (dataset, marks) in datasets.iter().zip(&marks) {
            let name = format!("{dataset}@{short}");
            book.unsure.remove(&name);
            if taken.is_some() {
                let holds = book.since(marks);
                book.is_safe(marks);
                book.snapshots.insert(name, holds);
                book.report.snapshots += 1;
            }
        }
        Ok(())
    }

    /// A snapshot that nobody has in hand, and that is kept until [`Self::let_go`].
    fn take(&mut self) -> Option<(String, Holds)> {
        let pick = usize::try_from(self.dice()).unwrap_or(0);
        let mut book = self.book();
        let free: Vec<String> = book.snapshots.keys().filter(|name| !book.used.contains(*name)).cloned().collect();
        let name = free.get(pick % free.len().max(1))?.clone();
        book.used.insert(name.clone());
        let holds = book.snapshots[&name].clone();
        Some((name, holds))
    }

    fn let_go(&self, name: &str) {
        self.book().used.remove(name);
    }

    fn destroy_snapshot(&mut self) -> Step {
        let Some((name, holds)) = self.take() else { return Ok(()) };
        {
            let mut book = self.book();
            book.snapshots.remove(&name);
            book.unsure.insert(name.clone(), Some(holds.clone()));
        }
        let gone = self.ask("destroy a snapshot", manage::destroy(&self.cx(), &name, Extent::One, false), is_full)?;
        let mut book = self.book();
        book.unsure.remove(&name);
        if gone.is_none() {
            book.snapshots.insert(name.clone(), holds);
        }
        drop(book);
        self.let_go(&name);
        Ok(())
    }

    /// What is below `/NAME` is what a snapshot may hold.
    fn compare(&self, what: &str, name: &str, holds: &Holds) -> Step {
        for (directory, states) in holds {
            let found = match self.look(&format!("/{name}/{directory}")) {
                Err(VfsError::NotFound) => Model::new(),
                found => self.need(what, found)?,
            };
            let found = digest(&found);
            if !states.contains(&found) {
                return Err(End::Finding(format!("{what}: {directory} is none of the {} states it may be", states.len())));
            }
            baton::note(found.0[0]);
        }
        Ok(())
    }

    // -- a cloner --

    fn clone_any(&mut self) -> Step {
        let Some((origin, holds)) = self.take() else { return Ok(()) };
        let name = format!("{NAME}/k{:x}", self.dice() >> 16);
        let result = self.clone_one(&origin, &holds, &name);
        // Broken off, there may be a clone of it.
        if !matches!(result, Err(End::Shaken)) {
            self.let_go(&origin);
        }
        result
    }

    fn clone_one(&mut self, origin: &str, holds: &Holds, name: &str) -> Step {
        self.book().unsure.insert(name.to_owned(), None);
        if self.ask("clone", manage::clone_dataset(&self.cx(), origin, name, &[]), is_full)?.is_none() {
            self.book().unsure.remove(name);
            return Ok(());
        }
        self.book().report.clones += 1;
        self.compare("a clone", name, holds)?;
        let mut name = name.to_owned();
        if self.dice().is_multiple_of(3) {
            let file = self.ask("a clone's file", self.open(&format!("/{name}/new"), OpenFlags::WRITE | OpenFlags::CREATE), no_room)?;
            if let Some(file) = file {
                self.ask("write to a clone", file.write_at(0, &[7; 5000], self.zone), no_room)?;
            }
        }
        if self.dice().is_multiple_of(3) {
            let to = format!("{name}-renamed");
            self.book().unsure.insert(to.clone(), None);
            let renamed = self.ask("rename a clone", manage::rename(&self.cx(), &name, &to, manage::Rename::default()), is_full)?;
            let (old, new) = if renamed.is_some() { (name, to) } else { (to, name) };
            self.book().unsure.remove(&old);
            name = new;
            self.compare("a renamed clone", &name, holds)?;
        }
        if self.dice().is_multiple_of(4) {
            let snapshot = format!("{name}@back");
            self.book().unsure.insert(snapshot.clone(), None);
            if self.ask("snapshot a clone", manage::snapshot(std::slice::from_ref(&snapshot), false), is_full)?.is_some() {
                let file = self.ask("a clone's second file", self.open(&format!("/{name}/second"), OpenFlags::WRITE | OpenFlags::CREATE), no_room)?;
                drop(file);
                self.ask("roll a clone back", manage::rollback(&self.cx(), &snapshot, false, false), is_full)?;
                self.compare("a clone rolled back", &name, holds)?;
            }
        }
        self.ask("destroy a clone", manage::destroy(&self.cx(), &name, Extent::Below, false), is_full)?;
        let mut book = self.book();
        book.unsure.remove(&name);
        book.unsure.remove(&format!("{name}@back"));
        Ok(())
    }

    // -- a sender --

    fn send_any(&mut self) -> Step {
        let Some((snapshot, holds)) = self.take() else { return Ok(()) };
        let name = format!("{NAME}/g{:x}", self.dice() >> 16);
        let result = self.send_one(&snapshot, &holds, &name);
        self.let_go(&snapshot);
        result
    }

    fn send_one(&mut self, snapshot: &str, holds: &Holds, name: &str) -> Step {
        let pick = self.dice();
        let send = SendOptions { compressed: pick & 1 == 0, embed: pick & 2 == 0, large_blocks: false };
        let Some(mut sending) = self.ask("send", Sending::start(snapshot, None, PackageOptions { send, ..PackageOptions::default() }), is_full)? else { return Ok(()) };
        let short = snapshot.split('@').nth(1).unwrap_or_default();
        {
            let mut book = self.book();
            book.unsure.insert(name.to_owned(), None);
            book.unsure.insert(format!("{name}@{short}"), None);
            book.unsure.insert(format!("{name}/%recv"), None);
            book.report.streams += 1;
        }
        let Some(mut receiving) = self.ask("receive", Receiving::start(&self.cx(), name, Naming::Exact, ReceiveRequest::default()), is_full)? else { return Ok(()) };
        let is_broken_off = pick >> 8 & 3 == 0;
        let mut is_whole = true;
        loop {
            let piece = self.need("a piece of a stream", sending.piece())?;
            if piece.is_empty() {
                break;
            }
            for part in piece.chunks(20_000) {
                if is_broken_off && self.dice().is_multiple_of(4) {
                    is_whole = false;
                    break;
                }
                if self.ask("feed a stream", receiving.feed(&self.cx(), part), is_full)?.is_none() {
                    is_whole = false;
                    break;
                }
            }
            if !is_whole {
                break;
            }
        }
        drop(sending);
        if is_whole && self.ask("finish a stream", receiving.finish(&self.cx()), is_full)?.is_some() {
            self.compare("what was received", name, holds)?;
            self.ask("destroy what was received", manage::destroy(&self.cx(), name, Extent::Below, false), is_full)?;
        }
        drop(receiving);
        if is_dark() {
            return Err(End::Dark);
        }
        // What is dropped half received cleans up behind itself, if it can.
        if self.is_shaken() {
            return Err(End::Shaken);
        }
        let mut book = self.book();
        [name.to_owned(), format!("{name}@{short}"), format!("{name}/%recv")].iter().for_each(|name| drop(book.unsure.remove(name)));
        Ok(())
    }

    // -- rivals --

    /// What several do with the same names at once: each may be refused anything, and nothing may break.
    fn rival(&mut self) -> Step {
        let name = |pick: u64| format!("{RIVALS}/{}", ["p", "q", "p/r"][usize::try_from(pick).unwrap_or(0) % 3]);
        let pick = self.dice();
        let (one, other) = (name(pick >> 8), name(pick >> 16));
        let snapshot = format!("{one}@{}", pick >> 24 & 1);
        let cx = self.cx();
        let result = match pick % 14 {
            0 | 1 => manage::create_dataset(&cx, &one, &[]),
            2 | 3 => manage::snapshot(std::slice::from_ref(&snapshot), pick >> 32 & 3 == 0),
            4 => manage::clone_dataset(&cx, &snapshot, &other, &[]),
            5 => manage::promote(&one),
            6 => manage::rename(&cx, &one, &other, manage::Rename::default()),
            7 => manage::rollback(&cx, &snapshot, pick >> 32 & 1 == 0, false),
            8 => manage::destroy(&cx, &snapshot, Extent::One, pick >> 32 & 1 == 0),
            9 => manage::destroy(&cx, &one, [Extent::One, Extent::Below, Extent::Clones][usize::try_from(pick >> 32).unwrap_or(0) % 3], false),
            10 => manage::pool_of(&one).and_then(|pool| manage::unmount(&cx, &pool, &one)),
            11 => manage::pool_of(&one).and_then(|pool| manage::mount(&cx, &pool, &one)),
            12 => manage::set(&cx, &one, "mountpoint", if pick >> 32 & 1 != 0 { manage::NewValue::Inherited } else { manage::NewValue::Text(if pick >> 33 & 1 == 0 { "none" } else { "/elsewhere" }) }),
            _ => {
                // A file that is open keeps its file system mounted.
                match self.open(&format!("/{one}/file"), OpenFlags::WRITE | OpenFlags::CREATE) {
                    Ok(file) => {
                        let written = file.write_at(pick >> 40 & 0xFFFF, &[9; 3000], self.zone);
                        self.idle(10);
                        written.and_then(|_| file.sync()).map_err(|error| Refused::Failed(format!("{error:?}")))
                    }
                    Err(VfsError::NotFound | VfsError::NoSpace) => Ok(()),
                    Err(error) => Err(Refused::Failed(format!("{error:?}"))),
                }
            }
        };
        baton::note(u64::from(result.is_ok()));
        if let Err(Refused::Failed(what)) = result
            && !is_dark()
            && !self.is_shaken()
            && !["no space left", "NoSpace"].iter().any(|word| what.contains(word))
        {
            return Err(End::Finding(format!("{} of {one}: {what}", pick % 14)));
        }
        Ok(())
    }

    // -- a keeper of disks --

    fn keep(&mut self) -> Step {
        let pick = self.dice();
        let leaves = self.leaves()?;
        let index = leaves[usize::try_from(pick >> 8).unwrap_or(0) % leaves.len()];
        let is_bearable = self.life.shape.bearable() > 0;
        match pick % 5 {
            0 | 3 if self.life.has_outages && self.life.writers.load(Relaxed) > 0 => self.outage(),
            0 | 1 if is_bearable => {
                let every = (pick >> 40) % 6 + 2;
                let trouble = matrix::draw(every, pick >> 48, 9);
                let Some(disk) = locked(&slots()[index].1.0).clone() else { return Ok(()) };
                disk.break_down(&[trouble]);
                self.book().report.troubles += 1;
                self.idle(200);
                disk.break_down(&[]);
                self.mend(index)
            }
            2 if is_bearable => {
                self.ask("offline", manage::change_device(NAME, DeviceChange::Offline, &leaf(index), None), is_full)?;
                self.idle(100);
                self.mend(index)
            }
            4 if is_bearable => self.replace(index, &leaves),
            _ => self.scan(),
        }
    }

    /// Slots of the disks that the pool's data is on.
    fn leaves(&self) -> Step<Vec<usize>> {
        fn walk(vdev: &VdevStatus, out: &mut Vec<usize>) {
            out.extend((0..SLOTS).filter(|slot| vdev.leaf.is_some() && leaf(*slot) == vdev.name));
            vdev.children.iter().for_each(|child| walk(child, out));
        }
        let pool = self.need("the pool", manage::pool(NAME))?;
        let status = self.need("status", manage::status(&pool))?;
        let mut out = Vec::new();
        status.vdevs.iter().filter(|vdev| !vdev.is_log).for_each(|vdev| walk(vdev, &mut out));
        if out.len() < self.life.shape.disks { Err(End::Finding(format!("the pool knows of the disks in {out:?} only"))) } else { Ok(out) }
    }

    /// Replaces a disk by one that is free.
    fn replace(&mut self, index: usize, leaves: &[usize]) -> Step {
        let shape = self.life.shape;
        let free: Vec<usize> = (shape.disks + usize::from(shape.log)..SLOTS).chain(0..shape.disks).filter(|slot| !leaves.contains(slot) && locked(&slots()[*slot].1.0).is_some()).collect();
        let pick = self.dice();
        let Some(new) = free.get(usize::try_from(pick >> 8).unwrap_or(0) % free.len().max(1)).copied() else { return Ok(()) };
        let device = manage::NewDevice { name: &slots()[new].0, sequential: shape.redundancy == Some(0) && pick & 1 == 0, force: true };
        if self.ask("replace", manage::change_device(NAME, DeviceChange::Replace, &leaf(index), Some(device)), is_full)?.is_none() {
            return Ok(());
        }
        self.wait_for_scan()?;
        for _ in 0..200 {
            let now = self.leaves()?;
            if !now.contains(&index) && now.contains(&new) {
                self.book().report.replaced += 1;
                return Ok(());
            }
            self.idle(20);
        }
        if is_dark() {
            return Err(End::Dark);
        }
        let pool = self.need("the pool", manage::pool(NAME))?;
        let status = self.need("status", manage::status(&pool))?;
        Err(End::Finding(format!("the disk in {index} is not replaced by that in {new}: {} ({} errors); {:?}", status.scan, status.scan_errors, status.vdevs)))
    }

    /// More disks than the layout bears do not answer for a while. Whoever needs them waits; when they are back, nothing is lost.
    fn outage(&mut self) -> Step {
        let leaves = self.leaves()?;
        let pick = self.dice();
        let first = usize::try_from(pick >> 32).unwrap_or(0);
        let some = (first..=first + self.life.shape.bearable()).fold(0, |some, number| some | 1 << leaves[number % leaves.len()]);
        OUTAGE.is_gone.store(pick & 1 == 0, Relaxed);
        OUTAGE.turns.fetch_add(1, Relaxed);
        OUTAGE.disks.store(if pick & 2 == 0 { u64::MAX } else { some }, Relaxed);
        self.book().report.outages += 1;
        self.idle(300);
        OUTAGE.disks.store(0, Relaxed);
        let pool = self.need("the pool", manage::pool(NAME))?;
        // Transfers of before may end only now, and suspend it once more.
        for _ in 0..10 {
            if pool.is_broken() {
                // There is what a power cut leaves, no more and no less: it is opened anew when nobody has anything of it.
                OUTAGE.broke.store(true, Relaxed);
                return Err(End::Dark);
            }
            match manage::resume(&self.cx(), NAME) {
                Ok(()) => {}
                Err(Refused::Invalid(_)) => break,
                Err(refused) if !pool.is_broken() => return Err(End::Finding(format!("the disks are back: {refused}"))),
                Err(_) => {}
            }
        }
        if pool.is_suspended() {
            return Err(End::Finding(String::from("the disks are back, and the pool is suspended again and again")));
        }
        drop(pool);
        OUTAGE.turns.fetch_add(1, Relaxed);
        self.outages = OUTAGE.turns.load(Relaxed);
        leaves.into_iter().try_for_each(|index| self.mend(index))
    }

    /// A scrub, and its end; now and then it is stopped, or paused for a while.
    fn scan(&mut self) -> Step {
        // One may be under way.
        self.ask("scrub", manage::scrub(NAME, ScrubChange::Start), |refused| matches!(refused, Refused::Busy(_)))?;
        self.book().report.scans += 1;
        match self.dice() % 4 {
            0 => {
                self.ask("stop a scrub", manage::scrub(NAME, ScrubChange::Stop), |refused| matches!(refused, Refused::Invalid(_)))?;
            }
            1 => {
                self.ask("pause a scrub", manage::scrub(NAME, ScrubChange::Pause), |refused| matches!(refused, Refused::Invalid(_)))?;
                self.idle(50);
                self.ask("scrub", manage::scrub(NAME, ScrubChange::Start), |refused| matches!(refused, Refused::Busy(_)))?;
            }
            _ => {}
        }
        self.wait_for_scan()
    }

    fn wait_for_scan(&mut self) -> Step {
        let pool = self.need("the pool", manage::pool(NAME))?;
        for _ in 0..100_000 {
            if !self.need("status", manage::status(&pool))?.scanning {
                return Ok(());
            }
            self.idle(20);
        }
        Err(End::Finding(String::from("a scan has no end")))
    }

    /// The disk is well again: it is put back and caught up with.
    fn mend(&mut self, index: usize) -> Step {
        self.need("clear", manage::clear(NAME))?;
        self.need("online", manage::change_device(NAME, DeviceChange::Online, &leaf(index), None))?;
        self.wait_for_scan()?;
        // A resilver copies what is known to be missing; what a disk lied about, a scrub finds.
        self.ask("scrub", manage::scrub(NAME, ScrubChange::Start), |refused| matches!(refused, Refused::Busy(_)))?;
        self.book().report.scans += 2;
        self.wait_for_scan()
    }
}

impl Life {
    fn task(self: &Arc<Self>, name: &str, zone: u32, body: impl FnOnce(&mut Task) -> Step + Send + 'static) {
        let life = Arc::clone(self);
        life.left.fetch_add(1, Relaxed);
        let number = life.left.load(Relaxed);
        let seed = mix(self.seed ^ number << 32);
        let (title, zone) = (name.to_owned(), ZoneId(zone));
        baton::spawn(name, zone, move || {
            let mut task = Task { seed, count: 0, cred: Cred::root(ZoneId::GLOBAL), zone, life: Arc::clone(&life), mapped: None, outages: 0 };
            if let Err(End::Finding(what)) = body(&mut task) {
                panic!("{title}: {what}");
            }
            drop(task);
            life.left.fetch_sub(1, Relaxed);
            life.all_done.wake_all();
        });
    }

    /// The life of a machine, from import to export or to the power cut.
    fn live(self: &Arc<Self>, operations: u64) {
        let cred = Cred::root(ZoneId::GLOBAL);
        let cx = Cx { cred: &cred, root: &self.root, cwd: &self.root };
        let begin = || {
            let pool = manage::import(&manage::ImportRequest { wanted: NAME, ..manage::ImportRequest::default() })?;
            manage::mount_all(&cx, &pool)?;
            drop(pool);
            let have: BTreeSet<String> = manage::datasets(NAME, &mut manage::Room::new(usize::MAX))?.into_iter().map(|info| info.name).collect();
            for dataset in ["tank/a", "tank/b", "tank/b/c", RIVALS].iter().filter(|name| !have.contains(**name)) {
                manage::create_dataset(&cx, dataset, &[])?;
            }
            // Where the power is off nobody waits for it to come back: the tasks of a life end with it.
            manage::set_pool_property(NAME, "failmode", if self.has_outages { "wait" } else { "continue" })
        };
        if let Err(refused) = begin()
            && !POWER.is_off.load(Relaxed)
        {
            panic!("begin: {refused}");
        }
        if !POWER.is_off.load(Relaxed) {
            for index in 0..HOMES.len() {
                self.writers.fetch_add(1, Relaxed);
                let zone = if index % 2 == 0 { ZONE } else { 0 };
                self.task(&format!("writer {index}"), zone, move |task| {
                    let result = task.write(index, operations);
                    if task.life.writers.fetch_sub(1, Relaxed) == 1 {
                        task.life.is_over.store(true, Relaxed);
                    }
                    result
                });
            }
            self.task("operator", 0, |task| task.repeat(15, Task::operate));
            self.task("cloner", 0, |task| task.repeat(20, Task::clone_any));
            self.task("sender", 0, |task| task.repeat(25, Task::send_any));
            self.task("rival 0", ZONE, |task| task.repeat(10, Task::rival));
            self.task("rival 1", 0, |task| task.repeat(10, Task::rival));
            self.task("keeper", 0, |task| task.repeat(if task.life.has_outages { 15 } else { 60 }, Task::keep));
            self.all_done.wait(|| (self.left.load(Relaxed) == 0).then_some(()));
        }
        if OUTAGE.broke.load(Relaxed)
            && let Err(refused) = manage::resume(&cx, NAME)
        {
            panic!("the disks are back, and nobody has anything of a pool that broke: {refused}");
        }
        for attempt in 0.. {
            match manage::export(&cx, NAME, false, true) {
                Ok(()) => return,
                Err(Refused::NotFound(_)) if POWER.is_off.load(Relaxed) => return,
                Err(_) if POWER.is_off.load(Relaxed) && attempt < 20 => {}
                Err(refused) => panic!("export: {refused}"),
            }
        }
    }
}

// ---- lives -----------------------------------------------------------------------------------------------------------------------

/// Runs `lives` lives on a layout, of `operations` operations of each writer.
///
/// # Errors
/// A finding, with all that is needed to find it again.
pub fn run(shape: &Shape, seed: u64, lives: u64, operations: u64) -> Result<Report, String> {
    let say = |life: u64, what: &str| format!("{} seed {seed} life {life}: {what}", shape.name);
    let (mut disks, mut store) = rig::create(shape, seed).map_err(|error| say(0, &error.to_string()))?;
    // Where the power is off nobody waits for it to come back: the tasks of a life end with it.
    let mode = pool_dmu::parse_pool_property("failmode", "continue").map_err(|why| say(0, &why))?;
    store.set_pool_property(&mode, NOW.0).map_err(|error| say(0, &error.to_string()))?;
    store.export(NOW.0).map_err(|error| say(0, &error.to_string()))?;
    drop(store);
    let disks_bytes = disks[0].size_bytes();
    disks.resize_with(SLOTS.min(disks.len() + 2), || Disk::new(disks_bytes));
    let mut book = Book { homes: HOMES.iter().map(|_| Home::begin(digest(&Model::new()))).collect(), ..Book::default() };
    for number in 0..lives {
        let say = |what: &str| say(number, what);
        let dice = mix(mix(seed ^ 0x570) ^ number);
        let journal = Journal::default();
        disks.iter().enumerate().for_each(|(index, disk)| disk.record(index, &journal));
        let mut replay = Replay::new(&disks);
        for (index, (_, slot)) in slots().iter().enumerate() {
            *locked(&slot.0) = disks.get(index).cloned();
        }
        let will_be_cut = dice.is_multiple_of(2);
        POWER.is_off.store(false, Relaxed);
        OUTAGE.disks.store(0, Relaxed);
        OUTAGE.turns.store(0, Relaxed);
        POWER.left.store(if will_be_cut { 200 + (dice >> 8) % 6000 } else { 0 }, Relaxed);
        book.unsure.clear();
        book.used.clear();
        let root = vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "root");
        let life = Arc::new(Life {
            shape: *shape,
            seed: dice,
            has_outages: !will_be_cut && dice >> 24 & 3 != 0,
            root,
            book: Mutex::new(std::mem::take(&mut book)),
            left: AtomicU64::new(0),
            all_done: WaitQueue::new(),
            is_over: AtomicBool::new(false),
            writers: AtomicU64::new(0),
        });
        let mine = Arc::clone(&life);
        let outcome = baton::run(dice, move || mine.live(operations)).map_err(|failure| say(&failure.to_string()))?;
        let was_cut = POWER.is_off.swap(false, Relaxed);
        let has_lost = was_cut || OUTAGE.broke.swap(false, Relaxed);
        POWER.left.store(0, Relaxed);
        book = std::mem::take(&mut *locked(&life.book));
        drop(life);
        book.report.lives += 1;
        book.report.kills += u64::from(has_lost);
        book.report.decisions += outcome.decisions;
        book.report.switches += outcome.switches;
        book.report.receipt = mix(book.report.receipt ^ outcome.receipt);
        if was_cut {
            for step in journal.take() {
                replay.step(step);
            }
            disks = replay.cut([Loss::Nothing, Loss::Everything, Loss::Some(dice), Loss::Torn(dice)][usize::try_from(dice >> 40).unwrap_or(0) % 4]);
        } else {
            disks = disks.iter().map(Disk::fork).collect();
        }
        examine(&disks, seed ^ number, shape.bearable() > 0, has_lost, &mut book).map_err(|what| say(&what))?;
    }
    Ok(book.report)
}

/// Opens what is on the disks and compares it with the book.
fn examine(disks: &[Disk], seed: u64, mend: bool, has_lost: bool, book: &mut Book) -> Result<(), String> {
    let mut store = rig::open(disks, seed, None).map_err(|error| error.to_string())?;
    if mend {
        // It may have been offline when the power went, and that is for good.
        for guid in rig::leaves(store.pool()) {
            store.online(guid, NOW.0).map_err(|error| error.to_string())?;
        }
        for kind in [ScanKind::Scrub, ScanKind::Resilver] {
            store.run_scan(kind, NOW.0).map_err(|error| error.to_string())?;
        }
    }
    let whole = check(store.pool(), true).map_err(|error| error.to_string())?;
    if whole.fault_count > 0 {
        return Err(format!("{} faults: {:?}", whole.fault_count, whole.faults));
    }
    let sums = check_space(store.pool()).map_err(|error| error.to_string())?;
    if !sums.is_empty() {
        return Err(format!("sums: {sums:?}"));
    }
    let found: BTreeSet<String> = {
        let datasets = pool_dmu::Datasets::open(store.pool()).map_err(|error| error.to_string())?;
        datasets.list(NAME).map_err(|error| error.to_string())?.into_iter().map(|info| info.name).collect()
    };
    for name in &found {
        let is_known = book.snapshots.contains_key(name) || book.unsure.contains_key(name) || ["tank", "tank/a", "tank/b", "tank/b/c"].contains(&name.as_str());
        let is_below = name.starts_with(RIVALS) || book.unsure.keys().any(|unsure| name.starts_with(unsure.as_str()));
        if !is_known && !is_below {
            return Err(format!("{name} was never made, or was destroyed"));
        }
    }
    for (index, (dataset, directory)) in HOMES.iter().enumerate() {
        let home = &book.homes[index];
        // The power may go before it was made.
        let held = if found.contains(*dataset) { part(store.pool(), dataset, directory)? } else { digest(&Model::new()) };
        let possible = if has_lost { &home.states[home.safe..] } else { &home.states[home.done..=home.done] };
        if !possible.contains(&held) {
            let at = home.states.iter().rposition(|state| *state == held);
            return Err(format!("{dataset}/{directory} is none of {} states; as a state it is {at:?}, safe is {}, done is {}", possible.len(), home.safe, home.done));
        }
        book.homes[index] = Home::begin(held);
    }
    let unsure = std::mem::take(&mut book.unsure);
    for (name, holds) in unsure {
        if found.contains(&name)
            && let Some(holds) = holds
        {
            book.snapshots.insert(name, holds);
        }
    }
    for (name, holds) in &mut book.snapshots {
        for (directory, states) in holds {
            let held = part(store.pool(), name, directory)?;
            if !states.contains(&held) {
                return Err(format!("{name}: {directory} is none of the {} states it may be", states.len()));
            }
            // From here on it is known.
            *states = vec![held];
        }
    }
    // What nobody knows goes, so that the next life begins with what the book has.
    let strangers: Vec<&String> = found.iter().filter(|name| !name.starts_with(RIVALS) && !book.snapshots.contains_key(*name) && !["tank", "tank/a", "tank/b", "tank/b/c"].contains(&name.as_str())).collect();
    for snapshot in strangers.iter().filter(|name| name.contains('@') && HOMES.iter().any(|(dataset, _)| name.split('@').next() == Some(dataset))) {
        store.destroy_snapshots(&[snapshot.as_str()], true, NOW.0).map_err(|error| format!("{snapshot}: {error}"))?;
    }
    for dataset in strangers.iter().rev().filter(|name| !name.contains('@')) {
        match store.destroy_tree(dataset, true, NOW.0) {
            Ok(()) | Err(pool_dmu::edit::EditError::Read(pool_dmu::Error::NotFound)) => {}
            Err(error) => return Err(format!("{dataset}: {error}")),
        }
    }
    store.export(NOW.0).map_err(|error| error.to_string())
}

/// The digest of a directory of a dataset or snapshot.
fn part(pool: &pool_spa::Pool, dataset: &str, directory: &str) -> Result<Digest, String> {
    let all = rig::read_all(pool, dataset).map_err(|error| format!("{dataset}: {error}"))?;
    let base = format!("/{directory}");
    Ok(digest(&all.into_iter().filter_map(|(path, data)| Some((path.strip_prefix(&base)?.to_owned(), data))).filter(|(path, _)| path.len() > 1).collect()))
}

/// Runs lives twice: they are the same.
///
/// # Errors
/// A finding; or the second time differs.
pub fn replayed(shape: &Shape, seed: u64, lives: u64, operations: u64) -> Result<Report, String> {
    let first = run(shape, seed, lives, operations)?;
    let second = run(shape, seed, lives, operations)?;
    if (first.receipt, first.decisions) == (second.receipt, second.decisions) {
        Ok(first)
    } else {
        Err(format!("{} seed {seed}: not the same twice: receipts {:016x} and {:016x}, {} and {} decisions", shape.name, first.receipt, second.receipt, first.decisions, second.decisions))
    }
}
