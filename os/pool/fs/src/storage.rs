//! An imported pool and its mounted file systems.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::{Relaxed, SeqCst}};

use kif::{BlockDev, Nanos, PAGE_SIZE, ZoneId};
use pool_dmu::{Bearing, LastScan, ScanKind, ScanReport, ScanState, Store};
use pool_dmu::edit::EditError;
use pool_fair::queue::IoClass;
use pool_fair::throttle::Op;
use pool_spa::SecondCounts;
use pool_zpl::{Change, Volume, Writer, Zvol};
use sync::{Class, Mutex, SpinLock, WaitQueue};
use vfs::mount::{Filesystem, next_fs_id};
use vfs::{Result, StatFs, VfsError, VnodeRef};

use crate::snapdir::Snapshot;
use crate::error::convert;
use crate::gate::{self, Gate};
use crate::node::{self, Node};
use crate::cache;

/// How long a change waits for its commit at most.
pub const COMMIT_INTERVAL: Nanos = Nanos(5_000_000_000);
/// Changed bytes that an open group may have, as a part of memory, and their least and most: what bounds its memory.
const DIRTY_PART: u64 = 10;
const DIRTY_LEAST: u64 = 16 << 20;
const DIRTY_MOST: u64 = 4 << 30;
/// Memory for what is known of blocks on cache devices, as a part of memory.
const SECOND_PART: u64 = 64;
/// How long a writer waits for a full group at a time, and one whose zone uses more than its part.
const FULL_US: u64 = 10_000;
const FULL_ABOVE_US: u64 = 20_000;
/// Longest delay of one write by the throttle.
const DELAY_MAX_US: u64 = 100_000;
/// Runs of files that wait for being read ahead.
const AHEAD_MAX: usize = 64;
/// Free memory below which changes are refused.
pub(crate) const MEMORY_MIN: u64 = 8 << 20;
/// Blocks of a scan, and bytes of a sequential resilver, between two looks at what else is to be done; who waits at the gate comes after one of them.
const SCAN_BLOCKS: u64 = 64;
const REBUILD_BYTES: u64 = 1 << 20;
/// Nodes kept although nobody holds them.
const RECENT_MAX: usize = 1024;
/// What property `failmode` may be: what those get who want what a suspended pool cannot give.
const FAILMODES: [&str; 3] = ["wait", "continue", "panic"];
const WAIT: u8 = 0;
const PANIC: u8 = 2;
/// Finds the devices of leaves, by their guids, among the free ones.
pub(crate) type LookFor<'a> = dyn FnMut(&[u64]) -> Vec<(u64, Box<dyn BlockDev>)> + 'a;
/// `f_type` of ZFS.
const MAGIC: u64 = 0x2fc1_2fc1;

pub(crate) struct Inner {
    store: Store,
    volumes: BTreeMap<u64, Volume>,
    zvols: BTreeMap<u64, Zvol>,
    /// Bytes written since the last commit, roughly; 0: nothing to commit.
    dirty: u64,
}

/// What is known of the scan under way or the last one; times in seconds since 1970.
#[derive(Clone, Copy)]
struct Seen {
    kind: ScanKind,
    report: ScanReport,
    since: u64,
    until: u64,
    /// A scrub that was paused, when.
    paused: Option<u64>,
}

/// An imported pool.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Storage {
    name: String,
    gate: Gate,
    inner: Mutex<Option<Inner>>,
    /// `Inner::dirty`, for those who have to wait.
    dirty: AtomicU64,
    /// What holds while it is imported here.
    bearing: SpinLock<Bearing>,
    is_read_only: bool,
    dirty_max: u64,
    is_full: AtomicBool,
    suspended: AtomicBool,
    /// What pages that programs have mapped are told apart by ([`node::print_point`]).
    pub(crate) print_point: u64,
    /// Property `failmode`, as a place in [`FAILMODES`].
    failmode: AtomicU8,
    /// How often it went on after it was suspended.
    resumes: AtomicU64,
    /// Those who wait for a suspended pool.
    resumed: WaitQueue,
    /// The pool is being let go of although it is suspended: nobody waits for it any more.
    given_up: AtomicBool,
    /// Data sets with changes that were to be durable at once (`sync=always`) when it was suspended.
    owed: SpinLock<BTreeSet<u64>>,
    mounted: SpinLock<Vec<Weak<Shared>>>,
    /// Volumes that were opened, with what is in memory of them.
    pub(crate) opened: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Runs of files to be read ahead, for whom.
    ahead: SpinLock<VecDeque<(Weak<Node>, u64, ZoneId)>>,
    reader: WaitQueue,
    started: Nanos,
    /// Snapshots being sent, once for each stream.
    sent: SpinLock<Vec<String>>,
    stop: AtomicBool,
    is_scanning: AtomicBool,
    /// A thread feeds the cache devices, whose counters these are.
    pub(crate) is_feeding: AtomicBool,
    second: Arc<SecondCounts>,
    last_scan: SpinLock<Option<Seen>>,
    ticker: WaitQueue,
}

/// Seconds since 1970, and the rest in nanoseconds.
pub(crate) fn now() -> (u64, u64) {
    let now = kif::clock().realtime().0;
    (now / 1_000_000_000, now % 1_000_000_000)
}

impl Storage {
    /// Takes a store into use: from now on its changes are committed every [`COMMIT_INTERVAL`].
    ///
    /// # Errors
    /// No memory for the thread.
    pub fn start(store: Store) -> core::result::Result<Arc<Self>, kif::OutOfMemory> {
        Self::start_as(store, Bearing::default())
    }

    /// The same of a pool that is imported in another way than usual.
    ///
    /// # Errors
    /// As [`Storage::start`].
    pub(crate) fn start_as(mut store: Store, bearing: Bearing) -> core::result::Result<Arc<Self>, kif::OutOfMemory> {
        let name = store.name();
        let is_read_only = store.is_read_only();
        store.limit_cache_table(kif::frames().free_total().1 * PAGE_SIZE as u64 / SECOND_PART);
        let second = store.cache_counts();
        let storage = Arc::new(Self {
            name,
            inner: Mutex::new(Class::Pool, Some(Inner { store, volumes: BTreeMap::new(), zvols: BTreeMap::new(), dirty: u64::from(!is_read_only) })),
            gate: Gate::new(),
            bearing: SpinLock::new(Class::PoolNodes, bearing),
            is_read_only,
            dirty: AtomicU64::new(0),
            dirty_max: (kif::frames().free_total().1 * PAGE_SIZE as u64 / DIRTY_PART).clamp(DIRTY_LEAST, DIRTY_MOST),
            is_full: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            print_point: node::print_point(),
            failmode: AtomicU8::new(0),
            resumes: AtomicU64::new(0),
            resumed: WaitQueue::new(),
            given_up: AtomicBool::new(false),
            owed: SpinLock::new(Class::PoolNodes, BTreeSet::new()),
            mounted: SpinLock::new(Class::PoolNodes, Vec::new()),
            opened: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
            ahead: SpinLock::new(Class::PoolNodes, VecDeque::new()),
            reader: WaitQueue::new(),
            started: kif::clock().monotonic(),
            sent: SpinLock::new(Class::PoolNodes, Vec::new()),
            stop: AtomicBool::new(false),
            is_scanning: AtomicBool::new(false),
            is_feeding: AtomicBool::new(false),
            second,
            last_scan: SpinLock::new(Class::PoolNodes, None),
            ticker: WaitQueue::new(),
        });
        let committer = Arc::clone(&storage);
        kif::spawn().spawn("txg", ZoneId::GLOBAL, Box::new(move || committer.run()))?;
        let reader = Arc::clone(&storage);
        let spawned = kif::spawn().spawn("zfetch", ZoneId::GLOBAL, Box::new(move || reader.read_wanted()));
        if let Err(error) = spawned {
            storage.abandon();
            return Err(error);
        }
        if let Err(error) = storage.begin_feeding() {
            storage.abandon();
            return Err(error);
        }
        storage.recall_scan();
        storage.look_at_failmode();
        Ok(storage)
    }

    /// What holds while it is imported here.
    pub(crate) fn bearing(&self) -> Bearing {
        self.bearing.lock().clone()
    }

    /// A mount point as it is here: below the pool's other root, if it has one.
    pub(crate) fn under_root(&self, path: String) -> String {
        match self.bearing().altroot {
            Some(root) => format!("{}{}", root.trim_end_matches('/'), if path == "/" { "" } else { &path }),
            None => path,
        }
    }

    /// True if nothing of it is written.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if too few devices serve, or a commit failed: nothing is written any more until [`Storage::retry`].
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Relaxed)
    }

    /// Takes over what property `failmode` says now.
    pub(crate) fn look_at_failmode(&self) {
        let bearing = self.bearing();
        let all = self.look(|store| store.pool_properties(&bearing));
        let Ok(Ok(all)) = all else { return };
        let mode = all.iter().find(|property| property.name == "failmode").and_then(|property| FAILMODES.iter().position(|mode| *mode == property.value));
        self.failmode.store(mode.and_then(|mode| u8::try_from(mode).ok()).unwrap_or(WAIT), Relaxed);
    }

    /// What was changed since the last commit cannot be committed any more: `manage::resume` opens the pool anew, with what that and the intent logs have.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_suspended() && self.look(pool_dmu::Store::is_broken).unwrap_or(false)
    }

    /// The pool is suspended from now on.
    fn suspend(&self, why: &str) {
        if self.suspended.swap(true, SeqCst) {
            return;
        }
        assert!(self.failmode.load(Relaxed) != PANIC, "pool {}: suspended ({why}), and its property failmode is panic", self.name);
        kif::log().line(format_args!("pool {}: suspended ({why}); once its devices are back, 'zpool clear {}' goes on", self.name, self.name));
    }

    /// Carries out what a program asks for, with no lock held. What fails because the pool is suspended waits until it is in use again and is tried anew (`failmode=wait`), or fails
    /// (`continue`).
    ///
    /// # Errors
    /// What `ask` says; [`VfsError::Interrupted`]: a signal came first; [`VfsError::Io`]: there is nothing to wait for, or not any more.
    pub(crate) fn patiently<R>(&self, mut ask: impl FnMut() -> Result<R>) -> Result<R> {
        loop {
            let before = self.resumes.load(SeqCst);
            match ask() {
                Err(VfsError::Io) if self.is_suspended() => self.wait_for_use()?,
                // It went on between the refusal and this look.
                Err(VfsError::Io) if self.resumes.load(SeqCst) != before => {}
                done => return done,
            }
        }
    }

    fn wait_for_use(&self) -> Result<()> {
        if self.failmode.load(Relaxed) != WAIT {
            return Err(VfsError::Io);
        }
        let is_over = || self.stop.load(Relaxed) || self.given_up.load(Relaxed);
        let woken = self.resumed.wait_interruptible(None, || if is_over() { Some(Err(VfsError::Io)) } else { (!self.is_suspended()).then_some(Ok(())) });
        woken.unwrap_or(Err(VfsError::Interrupted))
    }

    /// Nobody waits for the suspended pool any more: it is about to be let go of. Or it is not, after all.
    pub(crate) fn give_up(&self, is_going: bool) {
        self.given_up.store(is_going, Relaxed);
        self.resumed.wake_all();
    }

    /// Makes a change durable that was to be so at once, and could not when it was made because the pool was suspended.
    ///
    /// # Errors
    /// As [`Storage::patiently`].
    pub(crate) fn pay(&self, dataset: u64) -> Result<()> {
        if !self.is_suspended() || !self.owed.lock().contains(&dataset) {
            return Ok(());
        }
        self.patiently(|| self.log(dataset))
    }

    /// Puts devices that answer again back into service, and those that `look_for` finds for leaves that do not, and goes on where the pool was suspended: with its commit, or with what was open. Whoever waits goes on, too.
    /// False: what was changed since the last commit cannot be committed any more; the pool is to be opened anew.
    ///
    /// # Errors
    /// The pool was exported; in words, what its store says: too few devices serve still, and nothing changed.
    pub(crate) fn retry(&self, look_for: &mut LookFor<'_>) -> Result<core::result::Result<bool, EditError>> {
        let zone = kif::spawn().current_zone();
        let silent = self.alone(IoClass::SyncWrite, zone, true, |inner| inner.store.revive().1)?;
        let found = look_for(&silent);
        let tried = self.alone(IoClass::SyncWrite, zone, true, |inner| {
            for (guid, device) in found {
                inner.store.return_device(guid, device);
            }
            if inner.store.is_broken() {
                return Ok(false);
            }
            if inner.store.pool().lacking_txgs().is_some() {
                inner.store.start_scan(ScanKind::Resilver);
            }
            match inner.store.retry(now().0) {
                Ok(()) => {}
                Err(_) if inner.store.is_broken() => {
                    self.give_up(true);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            inner.dirty = 0;
            self.dirty.store(0, Relaxed);
            self.owed.lock().clear();
            inner.store.clear_errors(None);
            self.resumes.fetch_add(1, SeqCst);
            self.suspended.store(false, SeqCst);
            Ok(true)
        })?;
        self.resumed.wake_all();
        if matches!(tried, Ok(true)) {
            self.wake();
        }
        Ok(tried)
    }

    /// The counters of its cache devices.
    pub(crate) fn second_counts(&self) -> &SecondCounts {
        &self.second
    }

    /// Sleeps; true if the pool goes instead.
    pub(crate) fn sleep(&self, time: Nanos) -> bool {
        self.ticker.wait_until(kif::clock().monotonic().plus(time), || self.stop.load(Relaxed).then_some(())).is_ok()
    }

    /// When it was imported.
    #[must_use]
    pub const fn started(&self) -> Nanos {
        self.started
    }

    /// A stream of snapshot `name` is open.
    pub(crate) fn hold_for_send(&self, name: &str) {
        let name = String::from(name);
        self.sent.lock().push(name);
    }

    /// A stream of snapshot `name` is closed.
    pub(crate) fn release_from_send(&self, name: &str) {
        let gone = {
            let mut sent = self.sent.lock();
            let at = sent.iter().position(|known| known == name);
            at.map(|at| sent.swap_remove(at))
        };
        drop(gone);
    }

    /// One of `names`, file systems or snapshots, that a stream is being made of.
    pub(crate) fn being_sent(&self, names: &[String]) -> Option<String> {
        let sent = self.sent.lock().clone();
        sent.into_iter().find(|sent| names.iter().any(|name| name == sent || sent.split('@').next() == Some(name)))
    }

    /// Something was changed by other means than files: the next commit has something to do.
    pub(crate) fn changed(&self) {
        if let Some(inner) = self.inner.lock().as_mut() {
            inner.dirty = inner.dirty.max(1);
        }
    }

    /// Lets spares stand in for devices that failed.
    fn engage_spares(&self) {
        let engaged = self.with_inner(IoClass::SyncWrite, |inner| {
            let engaged = inner.store.engage_spares(now().0)?;
            if !engaged.is_empty() {
                inner.store.start_scan(ScanKind::Resilver);
            }
            Ok(engaged)
        });
        match engaged {
            Ok(engaged) if engaged.is_empty() => {}
            Ok(engaged) => {
                engaged.iter().for_each(|(leaf, spare)| kif::log().line(format_args!("pool {}: spare {spare} stands in for {leaf}", self.name)));
                self.wake();
            }
            Err(error) => kif::log().line(format_args!("pool {}: no spare could stand in: {error:?}", self.name)),
        }
    }

    /// Asks for a run of a file to be read ahead. False if too many are waiting.
    pub(crate) fn read_ahead(&self, node: &Weak<Node>, run: u64, zone: ZoneId) -> bool {
        {
            let mut ahead = self.ahead.lock();
            if ahead.len() >= AHEAD_MAX {
                return false;
            }
            ahead.push_back((Weak::clone(node), run, zone));
        }
        self.reader.wake_all();
        true
    }

    /// Reads what was asked for ahead, until the pool is exported.
    fn read_wanted(&self) {
        loop {
            let wanted = self.reader.wait(|| {
                let next = self.ahead.lock().pop_front();
                if next.is_none() && self.stop.load(Relaxed) { Some(None) } else { next.map(Some) }
            });
            let Some((node, run, zone)) = wanted else { return };
            if let Some(node) = node.upgrade() {
                node.prefetch(run, zone);
            }
        }
    }

    /// Ends its threads.
    fn end(&self) {
        self.stop.store(true, Relaxed);
        self.ticker.wake_all();
        self.reader.wake_all();
        self.resumed.wake_all();
        // Volumes know the pool, and the pool them.
        let opened = core::mem::take(&mut *self.opened.lock());
        opened.into_values().for_each(|volume| volume.shared().let_go());
    }

    /// What a zone has to wait for before it writes: its part of the disks, and room in the open group. No lock may be held.
    ///
    /// # Errors
    /// The pool is suspended: there will be no room.
    pub(crate) fn throttle_write(&self, zone: ZoneId, bytes: u64) -> Result<()> {
        gate::throttle(zone, Op::LogicalWrite);
        cache::make_room(bytes);
        let limit = self.dirty_max;
        let low = limit / 10 * 6;
        let dirty = self.dirty.load(Relaxed);
        if dirty > low && dirty < limit {
            gate::pause(zone, (500 * (dirty - low) / (limit - dirty)).min(DELAY_MAX_US));
        }
        while self.dirty.load(Relaxed).saturating_add(bytes) > limit.max(bytes) {
            if self.is_suspended() {
                return Err(VfsError::Io);
            }
            self.commit_soon();
            gate::pause(zone, if gate::is_above(zone) { FULL_ABOVE_US } else { FULL_US });
        }
        Ok(())
    }

    /// The open group has much: its commit is due.
    fn commit_soon(&self) {
        if !self.is_full.swap(true, Relaxed) {
            self.ticker.wake_all();
        }
    }

    /// Commits what is open until the pool is exported.
    fn run(&self) {
        let mut deadline = kif::clock().monotonic().plus(COMMIT_INTERVAL);
        while !self.stop.load(Relaxed) {
            // The usual end is the deadline.
            let woken = || (self.stop.load(Relaxed) || self.is_scanning.load(Relaxed) || self.is_full.load(Relaxed)).then_some(());
            if self.ticker.wait_until(deadline, woken).is_ok() && self.stop.load(Relaxed) {
                return;
            }
            if self.is_scanning.load(Relaxed) {
                self.scan();
                // The walk goes on behind a commit where it was: nothing waits for its end.
                if !self.is_full.load(Relaxed) && kif::clock().monotonic() < deadline {
                    continue;
                }
            }
            deadline = kif::clock().monotonic().plus(COMMIT_INTERVAL);
            let result = self.sync();
            self.is_full.store(false, Relaxed);
            if let Err(error) = result {
                kif::log().line(format_args!("pool {}: commit failed: {error:?}", self.name));
            }
            if !self.is_suspended() && !self.is_read_only {
                self.engage_spares();
                // What fails suspends the pool, and says so.
                let _said = self.ripen_if_low();
            }
            cache::make_room(0);
        }
    }

    /// Takes the next steps of a scrub or resilver, until somebody waits for the pool.
    fn scan(&self) {
        // What is noted is noted under the pool's lock: nobody pauses or stops the scan in between.
        let step = self.with_inner(IoClass::Scrub, |inner| {
            let Inner { store, .. } = inner;
            if store.is_rebuilding() {
                let report = store.rebuild_step(REBUILD_BYTES, now().0)?;
                // Behind it comes a scrub.
                self.note_scan(ScanKind::Resilver, ScanReport { done: false, ..report }, false);
                return Ok(());
            }
            let Some(kind) = store.scan().map(|(kind, _)| kind).filter(|_| !store.is_scan_paused()) else {
                self.is_scanning.store(false, Relaxed);
                return Ok(());
            };
            let mut report = store.scan_step(1, now().0)?;
            for _ in 1..SCAN_BLOCKS {
                if report.done || self.gate.is_wanted() {
                    break;
                }
                report = store.scan_step(1, now().0)?;
            }
            self.note_scan(kind, report, false);
            self.is_scanning.store(!report.done, Relaxed);
            Ok(())
        });
        if let Err(error) = step {
            self.is_scanning.store(false, Relaxed);
            kif::log().line(format_args!("pool {}: the scan ended: {error:?}", self.name));
        }
        kif::spawn().yield_now();
    }

    /// Notes how far a scan is; `anew`: it has just been asked for.
    fn note_scan(&self, kind: ScanKind, report: ScanReport, anew: bool) {
        let (now, _) = now();
        let mut seen = self.last_scan.lock();
        let since = seen.filter(|seen| !anew && seen.kind == kind && !seen.report.done).map_or(now, |seen| seen.since);
        *seen = Some(Seen { kind, report, since, until: now, paused: None });
    }

    /// Looks whether there is a scan to be done.
    pub(crate) fn wake(&self) {
        let looked = self.with_inner(IoClass::SyncRead, |inner| {
            let (scan, is_rebuilding, is_paused) = (inner.store.scan(), inner.store.is_rebuilding(), inner.store.is_scan_paused());
            let paused = self.last_scan.lock().and_then(|seen| seen.paused);
            match scan {
                Some((kind, report)) => self.note_scan(kind, report, report == ScanReport::default()),
                None if is_rebuilding => self.note_scan(ScanKind::Resilver, ScanReport::default(), true),
                None => {}
            }
            if is_paused && let Some(seen) = &mut *self.last_scan.lock() {
                seen.paused = paused.or_else(|| Some(now().0));
            }
            self.is_scanning.store((scan.is_some() && !is_paused) || is_rebuilding, Relaxed);
            Ok(())
        });
        if looked.is_err() {
            self.is_scanning.store(false, Relaxed);
        }
        self.ticker.wake_all();
    }

    /// After an import: what the pool itself knows of its scans; one that was under way goes on.
    fn recall_scan(&self) {
        let Ok(Some(last)) = self.with_inner(IoClass::SyncRead, |inner| Ok(inner.store.last_scan())) else { return };
        let LastScan { kind, report, begun, ended, state } = last;
        let paused = (state == ScanState::Paused).then(|| now().0);
        *self.last_scan.lock() = Some(Seen { kind, report, since: begun, until: ended, paused });
        self.is_scanning.store(state == ScanState::UnderWay && kind == ScanKind::Scrub, Relaxed);
    }

    /// The scan under way or the last one: its lines of `zpool status`, and blocks with no good copy. `total`: allocated bytes.
    pub(crate) fn scan_lines(&self, total: u64) -> (String, u64) {
        let Some(Seen { kind, report, since, until, paused }) = *self.last_scan.lock() else { return (String::from("none requested"), 0) };
        if let Some(paused) = paused {
            return (report.paused_lines(since, paused, total), report.errors);
        }
        if !report.done && !self.is_scanning.load(Relaxed) {
            let name = if kind == ScanKind::Scrub { "scrub" } else { "resilver" };
            return (format!("{name} canceled on {}", ds::Civil::from_seconds(until)), report.errors);
        }
        (report.lines(kind, since, if report.done { until } else { now().0 }, total), report.errors)
    }

    /// The scan was stopped now.
    pub(crate) fn note_stopped(&self) {
        if let Some(seen) = &mut *self.last_scan.lock() {
            (seen.paused, seen.until) = (None, now().0);
        }
    }

    /// True while a scrub is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.last_scan.lock().is_some_and(|seen| seen.paused.is_some())
    }

    /// True while a scan is under way.
    pub(crate) fn is_scanning(&self) -> bool {
        self.is_scanning.load(Relaxed)
    }

    /// What is known of file systems that are mounted or were.
    pub(crate) fn shared(&self) -> Vec<Arc<Shared>> {
        self.mounted.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// True if file system `dataset` is mounted.
    pub(crate) fn has_mounted(&self, dataset: u64) -> bool {
        self.shared().iter().any(|shared| shared.dataset == dataset && shared.is_mounted.load(Relaxed))
    }

    /// Numbers (`st_dev`) of the file systems that are mounted, or of `only` that one.
    pub(crate) fn mounted_numbers(&self, only: Option<u64>) -> Vec<u64> {
        let shared = self.shared().into_iter().filter(|shared| shared.is_mounted.load(Relaxed) && only.is_none_or(|only| shared.dataset == only));
        shared.map(|shared| shared.id).collect()
    }

    /// Nothing in these file systems and volumes is changed any more, neither through a mapping. False, and all is as before, where a program has a file mapped for writing.
    pub(crate) fn bar_changes(&self, datasets: &[u64]) -> bool {
        let all: Vec<Arc<Shared>> = self.shared().into_iter().filter(|shared| datasets.contains(&shared.dataset) && shared.snapshot.is_none()).collect();
        let before: Vec<bool> = all.iter().map(|shared| shared.is_read_only.swap(true, Relaxed)).collect();
        // Pages that are not mapped any more are done with that.
        let is_mapped = |shared: &Arc<Shared>| shared.write_back().is_err() || !shared.written.lock().is_empty();
        if !all.iter().any(is_mapped) {
            return true;
        }
        for (shared, before) in all.iter().zip(before) {
            shared.is_read_only.store(before, Relaxed);
        }
        false
    }

    /// Forgets what was read of file system `dataset`, which is not mounted and changes by other means than its files.
    pub(crate) fn forget(&self, dataset: u64) {
        self.mounted.lock().retain(|shared| shared.upgrade().is_some_and(|shared| shared.dataset != dataset || shared.snapshot.is_some()));
        let volume = self.opened.lock().remove(&dataset);
        if let Some(volume) = volume {
            volume.shared().let_go();
        }
        if let Some(inner) = self.inner.lock().as_mut() {
            inner.volumes.remove(&dataset);
            inner.zvols.remove(&dataset);
        }
    }

    /// A receive made and destroyed data sets, whose numbers others get: nothing that was read of one counts that is neither mounted nor open.
    pub(crate) fn forget_idle(&self) {
        let in_use: BTreeSet<u64> = self.shared().iter().filter(|shared| shared.is_mounted.load(Relaxed) || shared.opens.load(SeqCst) > 0).map(|shared| shared.dataset).collect();
        let mut known: BTreeSet<u64> = self.shared().iter().filter(|shared| shared.snapshot.is_none()).map(|shared| shared.dataset).collect();
        if let Some(inner) = self.inner.lock().as_ref() {
            known.extend(inner.volumes.keys().chain(inner.zvols.keys()));
        }
        for dataset in known.difference(&in_use) {
            self.forget(*dataset);
            if self.with(|store| store.dataset_name(*dataset)).is_err() {
                crate::volume::forget(&self.name, Some(*dataset));
            }
        }
    }

    /// True if one of these is mounted, or a volume that is open.
    pub(crate) fn is_any_in_use(&self, datasets: &[u64]) -> bool {
        self.shared().iter().any(|shared| datasets.contains(&shared.dataset) && (shared.is_mounted.load(Relaxed) || shared.opens.load(SeqCst) > 0))
    }

    /// Forgets how large volume `dataset` was.
    pub(crate) fn forget_size(&self, dataset: u64) {
        if let Some(inner) = self.inner.lock().as_mut() {
            inner.zvols.remove(&dataset);
        }
    }

    /// Lets go of the devices without a commit.
    pub(crate) fn abandon(&self) {
        drop(self.inner.lock().take());
        self.end();
    }

    /// Calls `body` with the store.
    ///
    /// # Errors
    /// The pool was exported ([`VfsError::NoDevice`]), is suspended, or what `body` says.
    pub fn with<R>(&self, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner(IoClass::SyncWrite, |inner| body(&mut inner.store))
    }

    /// Calls `body` with the store, for callers that say in words why it was refused: its own error comes back.
    ///
    /// # Errors
    /// The pool was exported or is suspended, or there is no memory for its work: `body` was not called.
    pub(crate) fn edit<R>(&self, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<core::result::Result<R, EditError>> {
        self.run_on(IoClass::SyncWrite, kif::spawn().current_zone(), |inner| body(&mut inner.store))
    }

    /// The same where volumes change their sizes: those that were known are forgotten before anybody else has the store.
    pub(crate) fn edit_sizes<R>(&self, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<core::result::Result<R, EditError>> {
        self.run_on(IoClass::SyncWrite, kif::spawn().current_zone(), |inner| {
            let result = body(&mut inner.store);
            inner.zvols.clear();
            result
        })
    }

    /// As [`Storage::with`] in a class, for a zone.
    pub(crate) fn with_as<R>(&self, class: IoClass, zone: ZoneId, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner_for(class, zone, |inner| body(&mut inner.store))
    }

    fn with_inner<R>(&self, class: IoClass, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner_for(class, kif::spawn().current_zone(), body)
    }

    fn with_inner_for<R>(&self, class: IoClass, zone: ZoneId, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<R> {
        self.run_on(class, zone, body)?.map_err(|error| convert(&error))
    }

    /// Calls `body` with the store to look at it, be the pool suspended or not.
    ///
    /// # Errors
    /// The pool was exported, or there is no memory for its work.
    pub(crate) fn look<R>(&self, body: impl FnOnce(&Store) -> R) -> Result<R> {
        self.alone(IoClass::SyncRead, kif::spawn().current_zone(), true, |inner| body(&inner.store))
    }

    /// A store that is suspended takes no more, whatever the reason was and whether `body` passed it on: who waits for room in its group would wait for ever. Who has the
    /// store next is to know. A device that refuses a write outside of a commit (one to be added, a spare to be removed) is nothing to the pool; a block that could not be read
    /// because too few devices serve is.
    fn run_on<R>(&self, class: IoClass, zone: ZoneId, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<core::result::Result<R, EditError>> {
        self.alone(class, zone, false, |inner| {
            let result = body(inner);
            let is_unreadable = matches!(result, Err(EditError::Read(pool_dmu::Error::Unreadable(_))));
            if !self.is_suspended() && (inner.store.is_suspended() || is_unreadable && !inner.store.pool().serves()) {
                let why = result.as_ref().err().map_or_else(|| String::from("a commit failed"), |error| format!("{error}"));
                self.suspend(&why);
            }
            if inner.store.is_broken() {
                // There is nothing to wait for.
                self.give_up(true);
            }
            result
        })
    }

    /// Calls `body` while nobody else has the store; if the pool is suspended, only if `body` can bear it, or reads: what memory and devices have is to be had.
    fn alone<R>(&self, class: IoClass, zone: ZoneId, may_be_suspended: bool, body: impl FnOnce(&mut Inner) -> R) -> Result<R> {
        let _pass = self.gate.enter(class, zone);
        let mut inner = self.inner.lock();
        let inner = inner.as_mut().ok_or(VfsError::NoDevice)?;
        let reads = matches!(class, IoClass::SyncRead | IoClass::AsyncRead) && !inner.store.is_broken();
        if self.is_suspended() && !may_be_suspended && !reads {
            return Err(VfsError::Io);
        }
        // The pool's code works with blocks on its stack.
        kif::on_large_stack(|| body(inner)).map_err(|_| VfsError::NoMemory)
    }

    /// Calls `body` for reading file system `dataset`.
    pub(crate) fn read<R>(&self, dataset: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner(IoClass::SyncRead, |inner| inner.on(dataset, body))
    }

    /// Calls `body` for looking at volume `dataset` or reading it.
    pub(crate) fn read_volume<R>(
        &self,
        class: IoClass,
        zone: ZoneId,
        dataset: u64,
        body: impl FnOnce(&mut Store, &Zvol) -> core::result::Result<R, EditError>,
    ) -> Result<R> {
        self.with_inner_for(class, zone, |inner| inner.on_volume(dataset, body))
    }

    /// Calls `body` for changing volume `dataset` by about `bytes`.
    pub(crate) fn change_volume<R>(&self, dataset: u64, bytes: u64, body: impl FnOnce(&mut Store, &Zvol) -> core::result::Result<R, EditError>) -> Result<R> {
        self.change_in(dataset, bytes, false, |inner| inner.on_volume(dataset, body))
    }

    /// Calls `body` for changing file system `dataset` by about `bytes`; commits if more is open than should be.
    pub(crate) fn change<R>(&self, dataset: u64, bytes: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        self.change_in(dataset, bytes, false, |inner| inner.on(dataset, body))
    }

    /// The same of a change that makes room: a full pool takes it.
    pub(crate) fn change_to_free<R>(&self, dataset: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        self.change_in(dataset, 4096, true, |inner| inner.on(dataset, body))
    }

    fn change_in<R>(&self, dataset: u64, bytes: u64, frees: bool, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<R> {
        if kif::frames().free_total().0 * (PAGE_SIZE as u64) < MEMORY_MIN + bytes {
            return Err(VfsError::NoMemory);
        }
        let result = self.with_inner(IoClass::SyncWrite, |inner| {
            inner.store.check_room(bytes, bytes, frees)?;
            let before = inner.store.dirty_bytes();
            let result = body(inner);
            // What was refused is nothing to commit: who asks again and again for what a quota or a full pool has not would have a txg made with each call.
            inner.dirty += if result.is_ok() { bytes + 512 } else { inner.store.dirty_bytes().saturating_sub(before) };
            // The change is made: where the pool is suspended meanwhile, it is not to be made again, and who made it waits for what is owed.
            let bearable = |done: core::result::Result<(), EditError>, store: &Store| if store.is_suspended() && !store.is_broken() { Ok(()) } else { done };
            if result.is_ok() && inner.store.is_always_synced(dataset) {
                let logged = inner.store.log_sync(dataset, now().0);
                if inner.store.is_suspended() {
                    self.owed.lock().insert(dataset);
                }
                bearable(logged, &inner.store)?;
            }
            // Writers wait before it comes to that; what is not a write of a file does not.
            if inner.dirty > 2 * self.dirty_max && !inner.store.is_suspended() {
                let done = inner.commit();
                bearable(done, &inner.store)?;
            }
            self.dirty.store(inner.dirty, Relaxed);
            result
        });
        // A fifth of what may be open is worth a commit.
        if self.dirty.load(Relaxed) > self.dirty_max / 5 {
            self.commit_soon();
        }
        result
    }

    /// Commits everything that was changed so far.
    ///
    /// # Errors
    /// A device failed, or a file cannot have what was written to it through a mapping; everything else is committed all the same.
    pub fn sync(&self) -> Result<()> {
        let written = self.write_back();
        self.commit_open()?;
        written
    }

    /// As [`Storage::sync`], for an operator: what some tenant's file cannot have is no reason to refuse.
    ///
    /// # Errors
    /// A device failed.
    pub(crate) fn settle(&self) -> Result<()> {
        self.write_back().ok();
        self.commit_open()
    }

    /// Puts mapped pages into the open group, of every file: one that cannot have them (its quota is used up) keeps nobody else's from the disks.
    fn write_back(&self) -> Result<()> {
        let mut written = Ok(());
        if !self.is_suspended() {
            for shared in self.shared() {
                written = written.and(shared.write_back());
            }
        }
        written
    }

    /// Commits the open group.
    fn commit_open(&self) -> Result<()> {
        if self.is_suspended() || self.is_read_only {
            return Ok(());
        }
        self.with_inner(IoClass::AsyncWrite, |inner| {
            if inner.dirty > 0 {
                inner.commit()?;
                self.dirty.store(0, Relaxed);
            }
            Ok(())
        })
    }

    /// Commits what is open, for whoever lacks room that was freed since the last commit, or with `ripe` not long ago. False: there is nothing of that, so asking again is of no
    /// use.
    pub(crate) fn commit_for_room(&self, ripe: bool) -> Result<bool> {
        self.with_inner(IoClass::AsyncWrite, |inner| {
            let was_open = inner.dirty > 0;
            if was_open {
                inner.commit()?;
                self.dirty.store(0, Relaxed);
            }
            Ok(ripe && inner.store.ripen(now().0)? || was_open)
        })
    }

    /// Makes what was freed usable where little else is left: nobody may come who commits anything.
    fn ripen_if_low(&self) -> Result<()> {
        self.with_inner(IoClass::AsyncWrite, |inner| {
            let (usable, total) = inner.store.usable_total();
            if usable < 2 * pool_dmu::headroom(total) { inner.store.ripen(now().0).map(drop) } else { Ok(()) }
        })
    }

    /// Makes all changes of file system `dataset` durable: by the intent log where that is enough, else by a commit.
    ///
    /// # Errors
    /// A device failed.
    pub(crate) fn log(&self, dataset: u64) -> Result<()> {
        self.with_inner(IoClass::SyncWrite, |inner| inner.store.log_sync(dataset, now().0))
    }

    /// True if file systems of the pool are mounted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.shared().iter().any(|shared| shared.is_mounted.load(Relaxed) || shared.opens.load(Relaxed) > 0)
    }

    /// Volumes that are open.
    pub(crate) fn open_volumes(&self) -> Vec<u64> {
        self.shared().iter().filter(|shared| shared.opens.load(Relaxed) > 0).map(|shared| shared.dataset).collect()
    }

    /// True if volume `dataset` is open.
    pub(crate) fn has_open(&self, dataset: u64) -> bool {
        self.shared().iter().any(|shared| shared.dataset == dataset && shared.opens.load(Relaxed) > 0)
    }

    /// True once it was exported, in order or not.
    pub(crate) fn is_gone(&self) -> bool {
        self.inner.lock().is_none()
    }

    /// Commits and gives the devices back; with `destroy`, marks the pool as destroyed. Nothing works on it afterwards.
    ///
    /// # Errors
    /// Something is mounted ([`VfsError::Busy`]), or a device failed before: the pool stays. A device failed at the last commit: it goes ([`Self::is_gone`]).
    pub fn export(&self, destroy: bool) -> Result<()> {
        if self.is_busy() {
            return Err(VfsError::Busy);
        }
        self.sync()?;
        let open = self.inner.lock().take();
        // Whether the devices take the last commits or not: nothing works on the pool from here on, its threads neither.
        self.end();
        let mut store = open.ok_or(VfsError::NoDevice)?.store;
        if self.is_read_only {
            return Ok(());
        }
        let closed = if destroy { store.destroy_pool(now().0) } else { store.export(now().0) };
        closed.map_err(|error| convert(&error))
    }

    /// Opens file system `dataset` for mounting, and frees what lost its last name before a crash.
    ///
    /// # Errors
    /// Not a file system we can write; unreadable.
    pub fn mount(self: &Arc<Self>, dataset: u64, read_only: bool) -> Result<Arc<Mounted>> {
        if self.with(|store| store.is_inconsistent(dataset))? {
            // A receive that is not done: what there is of it is no file system yet.
            return Err(VfsError::Busy);
        }
        let known = self.mounted.lock().iter().filter_map(Weak::upgrade).find(|shared| shared.dataset == dataset && shared.kind == Contents::Files && shared.snapshot.is_none());
        let shared = known.unwrap_or_else(|| self.share(dataset, Contents::Files));
        // Before anything else: what is mounted has users, of files without names, too.
        if shared.is_mounted.swap(true, Relaxed) {
            return Err(VfsError::Busy);
        }
        match self.begin_mount(&shared, read_only) {
            Ok(root) => Ok(Arc::new(Mounted { shared, root })),
            Err(error) => {
                shared.is_mounted.store(false, Relaxed);
                Err(error)
            }
        }
    }

    /// Makes ready what nobody uses yet. Gives the number of the root directory.
    fn begin_mount(&self, shared: &Shared, read_only: bool) -> Result<u64> {
        let root = self.read(shared.dataset, |writer| {
            if !read_only {
                writer.drain_unlinked()?;
            }
            Ok(writer.root())
        })?;
        let keeps_data = self.with(|store| Ok(store.keeps_data(shared.dataset)))?;
        shared.keeps_data.store(keeps_data, Relaxed);
        shared.is_read_only.store(read_only, Relaxed);
        shared.look_at_atime()?;
        Ok(root)
    }
}

impl Storage {
    /// What is known from now on of a file system or volume that nothing is known of.
    pub(crate) fn share(self: &Arc<Self>, dataset: u64, kind: Contents) -> Arc<Shared> {
        self.share_as(dataset, kind, None)
    }

    /// The same, of a snapshot.
    pub(crate) fn share_as(self: &Arc<Self>, dataset: u64, kind: Contents, snapshot: Option<Snapshot>) -> Arc<Shared> {
        let shared = Arc::new(Shared {
            storage: Arc::clone(self),
            dataset,
            kind,
            id: next_fs_id(),
            nodes: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
            recent: SpinLock::new(Class::PoolNodes, VecDeque::new()),
            written: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
            orphans: SpinLock::new(Class::PoolNodes, Vec::new()),
            is_mounted: AtomicBool::new(false),
            opens: AtomicU64::new(0),
            is_read_only: AtomicBool::new(false),
            keeps_data: AtomicBool::new(true),
            notes_access: AtomicBool::new(false),
            accessed: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
            snapshot,
        });
        let mut mounted = self.mounted.lock();
        mounted.retain(|shared| shared.strong_count() > 0);
        mounted.push(Arc::downgrade(&shared));
        shared
    }
}

impl Inner {
    fn on_volume<R>(&mut self, dataset: u64, body: impl FnOnce(&mut Store, &Zvol) -> core::result::Result<R, EditError>) -> core::result::Result<R, EditError> {
        let volume = match self.zvols.get(&dataset) {
            Some(volume) => *volume,
            None => *self.zvols.entry(dataset).or_insert(Zvol::open(&mut self.store, dataset)?),
        };
        body(&mut self.store, &volume)
    }

    fn on<R>(&mut self, dataset: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> core::result::Result<R, EditError> {
        let volume = match self.volumes.remove(&dataset) {
            Some(volume) => volume,
            None => Volume::open(&mut self.store, dataset)?,
        };
        let mut writer = Writer::resume(&mut self.store, volume);
        let result = body(&mut writer);
        let volume = writer.into_volume();
        self.volumes.insert(dataset, volume);
        result
    }

    /// The same, of what may be a snapshot.
    fn on_shared<R>(&mut self, shared: &Shared, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> core::result::Result<R, EditError> {
        let Some(snapshot) = &shared.snapshot else { return self.on(shared.dataset, body) };
        if self.store.dataset_guid(shared.dataset)? != snapshot.guid {
            return Err(pool_dmu::Error::NotFound.into());
        }
        let known = snapshot.volume.lock().take();
        let volume = known.map_or_else(|| Volume::open(&mut self.store, shared.dataset), Ok)?;
        let mut writer = Writer::resume(&mut self.store, volume);
        let result = body(&mut writer);
        let before = snapshot.volume.lock().replace(writer.into_volume());
        drop(before);
        result
    }

    fn commit(&mut self) -> core::result::Result<(), EditError> {
        self.store.commit(now().0)?;
        self.dirty = 0;
        Ok(())
    }
}

/// Nodes whose access times wait for a commit, at most.
const ACCESSED_MAX: usize = 512;

/// What a data set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Files,
    Volume,
}

/// What all nodes of a file system share; a volume has one.
pub(crate) struct Shared {
    pub storage: Arc<Storage>,
    pub dataset: u64,
    pub kind: Contents,
    pub id: u64,
    nodes: SpinLock<BTreeMap<u64, Weak<Node>>>,
    /// Nodes kept for the next user, oldest first.
    recent: SpinLock<VecDeque<Arc<Node>>>,
    /// Nodes with pages that a mapping may have changed: they stay until those are in the store.
    written: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Objects whose last user went after their last name.
    orphans: SpinLock<Vec<u64>>,
    is_mounted: AtomicBool,
    /// Of a volume: how often it is open.
    pub opens: AtomicU64,
    /// The property `readonly`: what is open for writing obeys, too.
    pub is_read_only: AtomicBool,
    keeps_data: AtomicBool,
    /// The property `atime`, mounted for writing: when something was read is to be known.
    notes_access: AtomicBool,
    /// Nodes that were read, until when is in the store.
    accessed: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Of a snapshot that is read below `.zfs`: nothing in it changes.
    pub snapshot: Option<Snapshot>,
}

impl Shared {
    /// Calls `body` for reading the file system.
    pub fn read<R>(&self, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        self.storage.with_inner(IoClass::SyncRead, |inner| inner.on_shared(self, body))
    }

    /// Data that was read stays in memory, as far as the last read from disk knew.
    pub fn keeps_data(&self) -> bool {
        self.keeps_data.load(Relaxed)
    }

    /// Reads data blocks of an object, whatever its size says.
    pub fn fetch(&self, class: IoClass, zone: ZoneId, object: u64, start: u64, length: usize) -> Result<Vec<u8>> {
        // The store cannot be told that there is no memory for a block: that is found here.
        Vec::<u8>::new().try_reserve_exact(length).map_err(|_| VfsError::NoMemory)?;
        match self.kind {
            Contents::Files => self.storage.with_inner_for(class, zone, |inner| {
                let out = inner.on_shared(self, |writer| writer.read_range(object, start, length));
                self.keeps_data.store(inner.store.keeps_data(self.dataset), Relaxed);
                out
            }),
            // The last run may reach beyond the volume's end, where there is nothing.
            Contents::Volume => self.storage.read_volume(class, zone, self.dataset, |store, volume| {
                let mut out = vec![0; length];
                let inside = usize::try_from(volume.size().saturating_sub(start)).map_or(length, |left| left.min(length));
                volume.read(store, start.min(volume.size()), &mut out[..inside])?;
                self.keeps_data.store(store.keeps_data(self.dataset), Relaxed);
                Ok(out)
            }),
        }
    }

    /// Takes over what property `atime` says now.
    pub fn look_at_atime(&self) -> Result<()> {
        let atime = self.storage.with(|store| store.property_number(self.dataset, "atime"))?;
        self.notes_access.store(self.kind == Contents::Files && atime != Some(0), Relaxed);
        Ok(())
    }

    /// Whoever reads leaves a mark.
    pub fn notes_access(&self) -> bool {
        self.notes_access.load(Relaxed) && !self.is_read_only.load(Relaxed) && self.snapshot.is_none()
    }

    /// A node was read.
    pub fn accessed(&self, node: Arc<Node>) {
        let mut accessed = self.accessed.lock();
        let before = accessed.insert(node.object(), node);
        let are_many = accessed.len() >= ACCESSED_MAX;
        drop(accessed);
        drop(before);
        if are_many {
            self.put_accessed();
        }
    }

    /// Puts access times into the open group. One that cannot be there (no space, no memory) is lost: nobody was promised it. Reading alone does not make a file system
    /// differ from its last snapshot, or no increment would fit a copy that somebody looked at: until something else is changed, its access times are in memory only.
    fn put_accessed(&self) {
        let accessed = core::mem::take(&mut *self.accessed.lock());
        if accessed.is_empty() || !self.storage.with(|store| store.is_modified_since_snapshot(self.dataset)).unwrap_or(false) {
            return;
        }
        let put = self.storage.change(self.dataset, 512 * accessed.len() as u64, |writer| {
            for (object, node) in &accessed {
                let Some(at) = node.take_noted() else { continue };
                match writer.set_attributes(*object, &Change { accessed: Some(at), ..Change::default() }) {
                    Ok(()) | Err(EditError::Read(pool_dmu::Error::NotFound)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = put
            && !matches!(error, VfsError::NoSpace | VfsError::Quota | VfsError::NoMemory)
        {
            kif::log().line(format_args!("pool {}: access times of file system {}: {error:?}", self.storage.name(), self.dataset));
        }
    }

    /// Keeps a node, from now on until [`Self::is_clean`], whether somebody else has it or not.
    pub fn keep(&self, node: Arc<Node>) {
        let before = self.written.lock().insert(node.object(), node);
        drop(before);
    }

    /// What a mapping changed in the node is in the store.
    pub fn is_clean(&self, object: u64) {
        let node = self.written.lock().remove(&object);
        drop(node);
    }

    /// The node of an object, if somebody has it.
    pub fn known(&self, object: u64) -> Option<Arc<Node>> {
        self.nodes.lock().get(&object).and_then(Weak::upgrade)
    }

    /// The node of an object: the one that is there, or what `make` gives. The caller holds the pool, so that there is one node at most.
    pub fn node(&self, object: u64, make: impl FnOnce() -> Arc<Node>) -> Arc<Node> {
        if let Some(node) = self.known(object) {
            return node;
        }
        let node = make();
        self.nodes.lock().insert(object, Arc::downgrade(&node));
        let oldest = {
            let mut recent = self.recent.lock();
            recent.push_back(Arc::clone(&node));
            if recent.len() > RECENT_MAX { recent.pop_front() } else { None }
        };
        drop(oldest);
        node
    }

    /// Lets go of a node that lost its last name.
    pub fn forget(&self, object: u64) {
        let gone: VecDeque<Arc<Node>> = {
            let mut recent = self.recent.lock();
            let (gone, kept) = core::mem::take(&mut *recent).into_iter().partition(|node: &Arc<Node>| node.object() == object);
            *recent = kept;
            gone
        };
        drop(gone);
        let accessed = self.accessed.lock().remove(&object);
        drop(accessed);
    }

    /// A node's end: its place in the table goes unless a newer node has it.
    pub fn ended(&self, object: u64, unlinked: bool) {
        let mut nodes = self.nodes.lock();
        if nodes.get(&object).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&object);
        }
        drop(nodes);
        if unlinked {
            self.orphans.lock().push(object);
        }
    }

    /// Frees objects that lost name and users. One that cannot be freed concerns nobody who is here: it is tried again where room is lacking, and else is left to
    /// the next mount, which finds it in the file system's own list.
    pub fn reap(&self) {
        let orphans = core::mem::take(&mut *self.orphans.lock());
        for object in orphans {
            match self.storage.change_to_free(self.dataset, |writer| writer.reap(object)) {
                Ok(_) | Err(VfsError::NotFound) => {}
                Err(VfsError::NoMemory | VfsError::NoSpace) => self.orphans.lock().push(object),
                Err(error) => kif::log().line(format_args!("pool {}: removed file {object} of file system {} is not freed: {error:?}", self.storage.name(), self.dataset)),
            }
        }
    }

    /// Copies pages that mappings may have changed to the store.
    fn write_back(&self) -> Result<()> {
        let nodes: Vec<Arc<Node>> = self.written.lock().values().cloned().collect();
        let mut written = Ok(());
        for node in nodes {
            written = written.and(node.write_back());
        }
        self.put_accessed();
        self.reap();
        written
    }

    /// Lets go of all nodes, which are written back or of no more use: they know this, and this knows them.
    pub(crate) fn let_go(&self) {
        let written = core::mem::take(&mut *self.written.lock());
        drop(written);
        let accessed = core::mem::take(&mut *self.accessed.lock());
        drop(accessed);
        self.forget_recent();
    }

    /// Lets go of nodes nobody else uses.
    fn forget_recent(&self) {
        let recent = core::mem::take(&mut *self.recent.lock());
        drop(recent);
    }
}

/// A mounted file system.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Mounted {
    shared: Arc<Shared>,
    root: u64,
}

impl Mounted {
    /// Object number of its dataset.
    #[must_use]
    pub fn dataset(&self) -> u64 {
        self.shared.dataset
    }
}

impl Filesystem for Mounted {
    fn kind(&self) -> &'static str {
        "zfs"
    }
    fn root(&self) -> VnodeRef {
        Node::open_root(&self.shared, self.root)
    }
    fn statfs(&self) -> Result<StatFs> {
        // What this file system may have more, by quotas and reservations, and what it has: a tenant does not see the pool.
        let (free, used) = self.shared.storage.look(|store| store.room_and_use(self.shared.dataset))?.map_err(|error| convert(&error))?;
        let (block, total) = (128 << 10, free.saturating_add(used));
        Ok(StatFs { magic: MAGIC, block_bytes: block, blocks: total / block, blocks_free: free / block, files: total / 512, files_free: free / 512 })
    }
    fn sync(&self) -> Result<()> {
        self.shared.storage.patiently(|| self.sync_now())
    }
    fn sync_now(&self) -> Result<()> {
        let storage = &self.shared.storage;
        gate::throttle(kif::spawn().current_zone(), Op::PhysicalWrite);
        // What another's file cannot have is that one's error.
        let written = if storage.is_suspended() { Ok(()) } else { self.shared.write_back() };
        storage.commit_open()?;
        written?;
        // What a suspended pool has is not on the disks: that there is nothing to be done is no success.
        if storage.is_suspended() { Err(VfsError::Io) } else { Ok(()) }
    }
}

impl Drop for Mounted {
    /// Unmounted: what it has in memory goes. Everything changed is in the open group or, for pages that were mapped, written back by the last users.
    fn drop(&mut self) {
        if let Err(error) = self.shared.write_back() {
            kif::log().line(format_args!("pool {}: unmounting: {error:?}", self.shared.storage.name()));
        }
        self.shared.let_go();
        // Snapshots were read through it.
        for snapshot in self.shared.storage.shared() {
            if snapshot.snapshot.as_ref().is_some_and(|snapshot| snapshot.is_below(&self.shared)) {
                snapshot.let_go();
            }
        }
        self.shared.is_mounted.store(false, Relaxed);
    }
}

