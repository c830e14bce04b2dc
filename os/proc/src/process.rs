//! Processes and LWPs as objects.

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use kif::{Nanos, ThreadId, ZoneId};
use linux_abi::KernelSigaction;
use linux_abi::consts::process as abi;
use sync::{Class, Mutex, SpinLock, WaitQueue};
use vfs::{File, Place};
use vm::AddressSpace;
use zone::{Charge, Zone};

use crate::cred::{CredRef, Credentials};
use crate::files::{FILES_MAX, FdTable};
use crate::signal::{Actions, Pending, SigSet};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exited(u8),
    Killed { signal: u32, core: bool },
}

impl Status {
    /// As `wait(2)` reports it.
    #[must_use]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Exited(code) => (code as u32) << 8,
            Self::Killed { signal, core } => signal | if core { 0x80 } else { 0 },
        }
    }
}

/// Attention bits of an LWP: why it must look before it returns to user mode.
pub(crate) mod attention {
    /// A signal may be deliverable, the process stops or ends.
    pub const SIGNAL: u32 = 1;
    /// The process moved to another zone.
    pub const ZONE: u32 = 2;
}

/// One thread of execution. Its kernel thread owns the rest of its state (`Task`).
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Lwp {
    tid: AtomicU32,
    process: Arc<Process>,
    thread: AtomicU64,
    pub(crate) attention: AtomicU32,
    /// Blocked signals. Written by its own thread only.
    pub(crate) mask: AtomicU64,
    /// Signals `sigtimedwait` waits for: they wake it although they are blocked.
    pub(crate) awaited: AtomicU64,
    pub(crate) pending: SpinLock<Pending>,
    name: SpinLock<[u8; 16]>,
    /// Number of the system call it is in; `u32::MAX`: it runs in user mode.
    pub(crate) call: AtomicU32,
    charge: SpinLock<Option<Charge>>,
}

impl Lwp {
    pub(crate) fn new(tid: u32, process: Arc<Process>, mask: SigSet, name: [u8; 16], charge: Charge) -> Arc<Self> {
        Arc::new(Self {
            tid: AtomicU32::new(tid),
            process,
            thread: AtomicU64::new(0),
            attention: AtomicU32::new(attention::ZONE),
            mask: AtomicU64::new(mask.0),
            awaited: AtomicU64::new(0),
            pending: SpinLock::new(Class::LwpSignals, Pending::new()),
            name: SpinLock::new(Class::ProcessState, name),
            call: AtomicU32::new(u32::MAX),
            charge: SpinLock::new(Class::ProcessState, Some(charge)),
        })
    }
    /// Its id in the machine.
    pub fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }
    pub(crate) fn set_tid(&self, tid: u32) {
        self.tid.store(tid, Ordering::Relaxed);
    }
    /// Its process.
    pub const fn process(&self) -> &Arc<Process> {
        &self.process
    }
    /// Its kernel thread, once that runs.
    pub fn thread(&self) -> Option<ThreadId> {
        Some(self.thread.load(Ordering::Acquire)).filter(|id| *id != 0).map(ThreadId)
    }
    pub(crate) fn set_thread(&self, thread: ThreadId) {
        self.thread.store(thread.0, Ordering::Release);
    }
    /// Blocked signals.
    pub fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::Relaxed))
    }
    /// Makes it look at `bits` before it next enters user mode, and wakes it if it sleeps interruptibly.
    pub(crate) fn call_attention(&self, bits: u32) {
        self.attention.fetch_or(bits, Ordering::AcqRel);
        if let Some(thread) = self.thread() {
            sync::interrupt(thread);
        }
    }
    /// Its name (`PR_SET_NAME`), NUL padded.
    pub fn name(&self) -> [u8; 16] {
        *self.name.lock()
    }
    /// Sets its name; at most 15 bytes count.
    pub fn set_name(&self, name: &[u8]) {
        let mut padded = [0; 16];
        for (to, from) in padded.iter_mut().zip(name.iter().take(15).take_while(|byte| **byte != 0)) {
            *to = *from;
        }
        *self.name.lock() = padded;
    }
    /// CPU time so far: user, kernel.
    pub fn times(&self) -> (Nanos, Nanos) {
        self.thread().map_or((Nanos(0), Nanos(0)), |thread| kif::spawn().thread_times(thread))
    }
    /// True while it is in user mode (or about to be): runnable.
    pub fn is_running(&self) -> bool {
        self.call.load(Ordering::Relaxed) == u32::MAX
    }
    pub(crate) fn set_charge(&self, charge: Option<Charge>) {
        let old = core::mem::replace(&mut *self.charge.lock(), charge);
        drop(old);
    }
}

/// Directories a process stands in. Immutable: a change installs a new one.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "places do not print")]
pub struct Directories {
    pub root: Place,
    pub cwd: Place,
}

/// What a process runs.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "files do not print")]
pub struct Image {
    /// The program file; `None` only before the first exec.
    pub exe: Option<Arc<File>>,
    /// Where the argument strings lie: start and end.
    pub arguments: (u64, u64),
    /// Where the environment strings lie.
    pub environment: (u64, u64),
    pub auxv: Arc<[u8]>,
    /// Entry of the stack at exec.
    pub stack_start: u64,
    /// Keeps the program file from being written.
    pub text: Option<Arc<vfs::text::Use>>,
}

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Limits by number (`getrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSet(pub [Limit; abi::RLIMITS.len()]);

impl Default for LimitSet {
    fn default() -> Self {
        let mut set = [Limit { soft: UNLIMITED, hard: UNLIMITED }; abi::RLIMITS.len()];
        set[abi::RLIMIT_STACK as usize].soft = 8 << 20;
        set[abi::RLIMIT_CORE as usize].soft = 0;
        set[abi::RLIMIT_NOFILE as usize] = Limit { soft: 1024, hard: u64::from(FILES_MAX) };
        set[abi::RLIMIT_MEMLOCK as usize] = Limit { soft: 8 << 20, hard: 8 << 20 };
        set[abi::RLIMIT_SIGPENDING as usize] = Limit { soft: 1024, hard: 1024 };
        set[13] = Limit { soft: 0, hard: 0 };
        set[14] = Limit { soft: 0, hard: 0 };
        set[12] = Limit { soft: 819_200, hard: 819_200 };
        Self(set)
    }
}

impl LimitSet {
    /// The soft limit `number`.
    #[must_use]
    pub const fn soft(&self, number: u32) -> u64 {
        self.0[number as usize].soft
    }
    /// What the address space obeys.
    #[must_use]
    pub const fn memory(&self) -> vm::Limits {
        vm::Limits {
            address_space: self.soft(abi::RLIMIT_AS),
            data: self.soft(abi::RLIMIT_DATA),
            stack: self.soft(abi::RLIMIT_STACK),
        }
    }
}

/// Resource use: of LWPs that ended, and of children that were waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub user: u64,
    pub system: u64,
    pub faults: u64,
    /// Largest resident set, in KiB.
    pub peak_kib: u64,
}

impl Times {
    /// Adds the use of a child.
    pub const fn add(&mut self, other: &Self) {
        self.user += other.user;
        self.system += other.system;
        self.faults += other.faults;
        if other.peak_kib > self.peak_kib {
            self.peak_kib = other.peak_kib;
        }
    }
}

/// The signal side of a process: dispositions, queue, members, and its way to the end.
#[derive(Default)]
pub(crate) struct SigState {
    pub actions: Actions,
    pub shared: Pending,
    pub lwps: Vec<Arc<Lwp>>,
    /// Stopped by this signal.
    pub stopped: Option<u32>,
    /// A stop or a continuation nobody has waited for.
    pub unreported_stop: bool,
    pub unreported_continue: bool,
    /// It is being ended: every LWP leaves.
    pub ending: Option<Status>,
    /// An LWP is in exec and waits to be the only one.
    pub exec_by: Option<u32>,
    /// It has ended and waits to be waited for.
    pub zombie: Option<Status>,
}

/// Something a process waits for its child to do (vfork).
#[derive(Default)]
pub(crate) struct Completion {
    done: AtomicBool,
    queue: WaitQueue,
}

impl Completion {
    pub(crate) fn complete(&self) {
        self.done.store(true, Ordering::Release);
        self.queue.wake_all();
    }
    pub(crate) fn wait(&self) {
        self.queue.wait(|| self.done.load(Ordering::Acquire).then_some(()));
    }
}

/// A process.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Process {
    pid: u32,
    zone: SpinLock<Arc<Zone>>,
    zone_id: AtomicU32,
    /// Pid of its zone's init: seen as 1 inside.
    zone_init: AtomicU32,
    pub(crate) parent: SpinLock<Weak<Process>>,
    /// What getppid answers.
    pub(crate) parent_seen: AtomicU32,
    pub(crate) group: AtomicU32,
    pub(crate) session: AtomicU32,
    /// It has run exec since it was forked (setpgid of a child asks).
    pub(crate) has_execed: AtomicBool,
    cred: SpinLock<CredRef>,
    directories: SpinLock<Option<Arc<Directories>>>,
    files: SpinLock<Option<Arc<FdTable>>>,
    space: SpinLock<Option<Arc<AddressSpace>>>,
    image: SpinLock<Arc<Image>>,
    limits: SpinLock<LimitSet>,
    pub(crate) signals: SpinLock<SigState>,
    /// Children, zombies included. Taken under the process table's lock only, and never two at once.
    pub(crate) children: Mutex<Vec<Arc<Process>>>,
    /// See [`Process::is_visitor`].
    visitor: AtomicBool,
    /// Told of each signal that is posted ([`crate::signalfd`]).
    pub(crate) signal_events: Arc<vfs::Pollee>,
    /// Announced when a child ends, stops or continues.
    pub(crate) child_events: WaitQueue,
    /// Stopped LWPs wait here, and one in exec for the others to be gone.
    pub(crate) stop_queue: WaitQueue,
    umask: AtomicU32,
    nice: AtomicI32,
    /// Signal to get when the parent ends.
    pub(crate) death_signal: AtomicU32,
    /// Adopts orphaned descendants.
    pub(crate) subreaper: AtomicBool,
    /// Signal the parent gets at the end (clone's CSIGNAL), 0 for none.
    pub(crate) exit_signal: AtomicU32,
    no_new_privileges: AtomicBool,
    started: Nanos,
    pub(crate) times: SpinLock<Times>,
    pub(crate) child_times: SpinLock<Times>,
    charge: SpinLock<Option<Charge>>,
    pub(crate) vfork: SpinLock<Option<Arc<Completion>>>,
    /// Real-time interval timer: next expiry and interval.
    pub(crate) alarm: SpinLock<Alarm>,
    /// Name of its first LWP when it ended (zombies keep it).
    pub(crate) last_name: SpinLock<[u8; 16]>,
}

/// ITIMER_REAL.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alarm {
    pub deadline: Option<Nanos>,
    pub interval: Nanos,
    /// Counts settings, so that an expiry on its way out finds it was cancelled.
    pub generation: u64,
    /// Its place in the queue of the alarm thread.
    pub entered: Option<crate::timer::Entered>,
}

/// What a new process starts with.
pub(crate) struct Birth {
    pub pid: u32,
    pub zone: Arc<Zone>,
    pub zone_init: u32,
    pub parent: Option<Arc<Process>>,
    pub group: u32,
    pub session: u32,
    pub cred: CredRef,
    pub directories: Arc<Directories>,
    pub files: Arc<FdTable>,
    pub space: Arc<AddressSpace>,
    pub image: Arc<Image>,
    pub limits: LimitSet,
    pub actions: Actions,
    pub umask: u32,
    pub nice: i32,
    pub exit_signal: u32,
    pub charge: Charge,
}

impl Process {
    pub(crate) fn new(birth: Birth) -> Arc<Self> {
        const STATE: Class = Class::ProcessState;
        let parent_seen = birth.parent.as_ref().map_or(0, |parent| parent.seen_by(birth.zone.id()).unwrap_or(0));
        Arc::new(Self {
            pid: birth.pid,
            zone_id: AtomicU32::new(birth.zone.id().0),
            zone: SpinLock::new(STATE, birth.zone),
            zone_init: AtomicU32::new(birth.zone_init),
            parent: SpinLock::new(STATE, birth.parent.as_ref().map_or_else(Weak::new, Arc::downgrade)),
            parent_seen: AtomicU32::new(parent_seen),
            group: AtomicU32::new(birth.group),
            session: AtomicU32::new(birth.session),
            has_execed: AtomicBool::new(false),
            cred: SpinLock::new(STATE, birth.cred),
            directories: SpinLock::new(STATE, Some(birth.directories)),
            files: SpinLock::new(STATE, Some(birth.files)),
            space: SpinLock::new(STATE, Some(birth.space)),
            image: SpinLock::new(STATE, birth.image),
            limits: SpinLock::new(STATE, birth.limits),
            signals: SpinLock::new(Class::Signals, SigState { actions: birth.actions, ..SigState::default() }),
            children: Mutex::new(Class::Process, Vec::new()),
            visitor: AtomicBool::new(false),
            signal_events: Arc::new(vfs::Pollee::new()),
            child_events: WaitQueue::new(),
            stop_queue: WaitQueue::new(),
            umask: AtomicU32::new(birth.umask),
            nice: AtomicI32::new(birth.nice),
            death_signal: AtomicU32::new(0),
            subreaper: AtomicBool::new(false),
            exit_signal: AtomicU32::new(birth.exit_signal),
            no_new_privileges: AtomicBool::new(false),
            started: kif::clock().monotonic(),
            times: SpinLock::new(STATE, Times::default()),
            child_times: SpinLock::new(STATE, Times::default()),
            charge: SpinLock::new(STATE, Some(birth.charge)),
            vfork: SpinLock::new(STATE, None),
            alarm: SpinLock::new(STATE, Alarm::default()),
            last_name: SpinLock::new(STATE, [0; 16]),
        })
    }

    /// Its id in the machine.
    pub const fn pid(&self) -> u32 {
        self.pid
    }
    /// Its zone.
    pub fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.lock())
    }
    /// Its zone's id.
    pub fn zone_id(&self) -> ZoneId {
        ZoneId(self.zone_id.load(Ordering::Relaxed))
    }
    /// Pid of its zone's init.
    pub fn zone_init(&self) -> u32 {
        self.zone_init.load(Ordering::Relaxed)
    }
    pub(crate) fn set_zone_init(&self, pid: u32) {
        self.zone_init.store(pid, Ordering::Relaxed);
    }
    /// True for the init of its zone: default actions of signals from inside pass it by.
    pub fn is_zone_init(&self) -> bool {
        self.zone_init() == self.pid
    }
    /// A machine-wide id as processes of this one's zone see it: the zone's init is 1.
    pub fn show(&self, id: u32) -> u32 {
        if id == self.zone_init() { 1 } else { id }
    }
    /// The inverse of [`Process::show`].
    pub fn unshow(&self, id: u32) -> u32 {
        if id == 1 { self.zone_init() } else { id }
    }
    /// The pid that `viewer` sees, if it sees this process at all.
    pub fn seen_by(&self, viewer: ZoneId) -> Option<u32> {
        if viewer == ZoneId::GLOBAL {
            Some(self.pid)
        } else if viewer == self.zone_id() {
            Some(self.show(self.pid))
        } else {
            None
        }
    }
    /// What getppid answers: 0 if the parent lies outside the zone.
    pub fn parent_pid(&self) -> u32 {
        self.parent_seen.load(Ordering::Relaxed)
    }
    /// Its parent, while that lives.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.parent.lock().upgrade()
    }
    /// Its process group.
    pub fn group(&self) -> u32 {
        self.group.load(Ordering::Relaxed)
    }
    /// Its session.
    pub fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }
    /// Its credentials.
    pub fn cred(&self) -> CredRef {
        Arc::clone(&self.cred.lock())
    }
    /// Installs other credentials.
    pub fn set_cred(&self, cred: Credentials) {
        let old = core::mem::replace(&mut *self.cred.lock(), Arc::new(cred));
        drop(old);
    }
    /// Where it stands; `None` once it has ended.
    pub fn directories(&self) -> Option<Arc<Directories>> {
        self.directories.lock().clone()
    }
    /// Changes where it stands.
    pub fn set_directories(&self, directories: Directories) {
        let old = self.directories.lock().replace(Arc::new(directories));
        drop(old);
    }
    /// Its descriptors; `None` once it has ended.
    pub fn files(&self) -> Option<Arc<FdTable>> {
        self.files.lock().clone()
    }
    pub(crate) fn set_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        core::mem::replace(&mut *self.files.lock(), files)
    }
    /// Its address space; `None` once it has ended.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().clone()
    }
    pub(crate) fn set_space(&self, space: Option<Arc<AddressSpace>>) -> Option<Arc<AddressSpace>> {
        core::mem::replace(&mut *self.space.lock(), space)
    }
    pub(crate) fn drop_directories(&self) {
        let old = self.directories.lock().take();
        drop(old);
    }
    /// What it runs.
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.lock())
    }
    pub(crate) fn set_image(&self, image: Image) {
        let old = core::mem::replace(&mut *self.image.lock(), Arc::new(image));
        drop(old);
    }
    /// Its limits.
    pub fn limits(&self) -> LimitSet {
        *self.limits.lock()
    }
    /// The soft limit `number`.
    pub fn limit(&self, number: u32) -> u64 {
        self.limits.lock().soft(number)
    }
    /// Changes one limit.
    pub fn set_limit(&self, number: u32, limit: Limit) {
        let memory = {
            let mut limits = self.limits.lock();
            limits.0[number as usize] = limit;
            limits.memory()
        };
        if let Some(space) = self.space() {
            space.set_limits(memory);
        }
    }
    /// Permission bits new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }
    /// Changes the umask; returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
    /// Its nice value.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed)
    }
    /// Changes the nice value of all its LWPs.
    pub fn set_nice(&self, nice: i8) {
        self.nice.store(i32::from(nice), Ordering::Relaxed);
        for lwp in self.lwps() {
            if let Some(thread) = lwp.thread() {
                kif::spawn().set_nice(thread, nice);
            }
        }
    }
    /// `PR_SET_NO_NEW_PRIVS`.
    pub const fn no_new_privileges(&self) -> &AtomicBool {
        &self.no_new_privileges
    }
    /// `PR_SET_CHILD_SUBREAPER`.
    pub const fn subreaper(&self) -> &AtomicBool {
        &self.subreaper
    }
    /// `PR_SET_PDEATHSIG`.
    pub const fn death_signal(&self) -> &AtomicU32 {
        &self.death_signal
    }
    /// When it was forked.
    pub const fn started(&self) -> Nanos {
        self.started
    }
    /// Its LWPs.
    pub fn lwps(&self) -> Vec<Arc<Lwp>> {
        self.signals.lock().lwps.clone()
    }
    /// CPU time and faults of all its LWPs, living and ended.
    pub fn times(&self) -> Times {
        let mut total = *self.times.lock();
        for lwp in self.lwps() {
            let (user, system) = lwp.times();
            total.user += user.0;
            total.system += system.0;
        }
        if let Some(space) = self.space() {
            total.faults += space.faults();
            total.peak_kib = total.peak_kib.max(space.peak_resident() * 4);
        }
        total
    }
    /// CPU time and faults of children that were waited for.
    pub fn child_times(&self) -> Times {
        *self.child_times.lock()
    }
    /// How it ended, if it has.
    pub fn zombie(&self) -> Option<Status> {
        self.signals.lock().zombie
    }
    /// Its state letter as `ps` shows it: R, S, T or Z.
    pub fn state_letter(&self) -> char {
        let signals = self.signals.lock();
        if signals.zombie.is_some() {
            'Z'
        } else if signals.stopped.is_some() {
            'T'
        } else if signals.lwps.iter().any(|lwp| lwp.is_running()) {
            'R'
        } else {
            'S'
        }
    }
    /// The name of its first LWP (`comm`), without padding.
    pub fn name(&self) -> String {
        let first = self.signals.lock().lwps.first().cloned();
        let name = first.map_or_else(|| *self.last_name.lock(), |lwp| lwp.name());
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }
    /// Signals: pending, ignored, caught (for `/proc/PID/status`).
    pub fn signal_summary(&self) -> (SigSet, SigSet, SigSet) {
        let signals = self.signals.lock();
        let (ignored, caught) = signals.actions.summary();
        (signals.shared.set(), ignored, caught)
    }
    /// Returns the disposition of a signal and, with `new`, changes it; a pending signal that would now be ignored is forgotten.
    pub fn exchange_action(&self, signal: u32, new: Option<KernelSigaction>) -> KernelSigaction {
        let mut state = self.signals.lock();
        let before = *state.actions.get(signal);
        if let Some(mut action) = new {
            action.mask &= !SigSet::UNBLOCKABLE.0;
            state.actions.set(signal, action);
            if state.actions.ignores(signal) {
                let set = SigSet::of(signal);
                state.shared.discard(set);
                for lwp in &state.lwps {
                    lwp.pending.lock().discard(set);
                }
            }
        }
        before
    }
    pub(crate) fn set_charge(&self, charge: Option<Charge>) {
        let old = core::mem::replace(&mut *self.charge.lock(), charge);
        drop(old);
    }
    /// Moves it to another zone (its caller has new charges).
    pub(crate) fn set_zone(&self, zone: &Arc<Zone>, init: u32) {
        let old = core::mem::replace(&mut *self.zone.lock(), Arc::clone(zone));
        self.zone_id.store(zone.id().0, Ordering::Relaxed);
        self.set_zone_init(init);
        // Its parent stays outside: it has none that it could name.
        self.parent_seen.store(0, Ordering::Relaxed);
        drop(old);
        for lwp in self.lwps() {
            lwp.call_attention(attention::ZONE);
        }
    }
    /// Argument strings, NUL separated, as the program has them now. Empty for zombies.
    ///
    /// # Errors
    /// No memory.
    pub fn command_line(&self) -> crate::Result<Vec<u8>> {
        self.read_range(self.image().arguments)
    }
    /// Environment strings, NUL separated.
    ///
    /// # Errors
    /// No memory.
    pub fn environment(&self) -> crate::Result<Vec<u8>> {
        self.read_range(self.image().environment)
    }
    fn read_range(&self, (start, end): (u64, u64)) -> crate::Result<Vec<u8>> {
        let mut text = Vec::new();
        let Some(space) = self.space() else { return Ok(text) };
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0).min(128 << 10);
        text.try_reserve_exact(length).map_err(|_| crate::ProcError::NoMemory)?;
        text.resize(length, 0);
        let count = space.peek(start, &mut text);
        text.truncate(count);
        Ok(text)
    }
    /// True from entering a zone until it runs a program of that zone: what it carries is the operator's.
    pub fn is_visitor(&self) -> bool {
        self.visitor.load(Ordering::Relaxed)
    }
    pub(crate) fn set_visitor(&self, on: bool) {
        self.visitor.store(on, Ordering::Relaxed);
    }
}
