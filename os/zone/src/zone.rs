//! The zone object.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use kif::{Nanos, ZoneId};
use probe::Registration;
use sync::{Class, Mutex};

use crate::stats::Counters;
use crate::{Brand, Config, Privilege, Privileges, Uuid, ZoneError, rctl, watch};

/// Kernel state of a zone. Order is time: a zone only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// Being set up.
    Initialized = 1,
    /// Has its id, data of every layer and a root; no process.
    Ready,
    /// Its first process is being started.
    Booting,
    /// Init was started.
    Running,
    /// Takes no new process; those it has are being killed.
    ShuttingDown,
    /// No process any more.
    Empty,
    /// The layers have stopped working for it.
    Down,
    /// Out of the table; references go away.
    Dying,
    /// The layers have given everything back.
    Dead,
}

impl State {
    const ALL: [Self; 9] =
        [Self::Initialized, Self::Ready, Self::Booting, Self::Running, Self::ShuttingDown, Self::Empty, Self::Down, Self::Dying, Self::Dead];

    fn from_number(number: u8) -> Self {
        Self::ALL.into_iter().find(|state| *state as u8 == number).expect("only states are stored")
    }
    /// Whether a process may be created in it or enter it.
    #[must_use]
    pub const fn admits_processes(self) -> bool {
        matches!(self, Self::Booting | Self::Running)
    }
    /// The word `zoneadm list` shows (administrative state).
    #[must_use]
    pub const fn administrative(self) -> &'static str {
        match self {
            Self::Initialized | Self::Ready => "ready",
            Self::Booting | Self::Running => "running",
            Self::ShuttingDown => "shutting_down",
            Self::Empty | Self::Down | Self::Dying | Self::Dead => "down",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialized => "initialized",
            Self::Ready => "ready",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::ShuttingDown => "shutting down",
            Self::Empty => "empty",
            Self::Down => "down",
            Self::Dying => "dying",
            Self::Dead => "dead",
        })
    }
}

/// Names a layer's data on a zone: the crate that owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataKey(pub &'static str);

/// Lines that a tenant may put on the machine's log in one span.
const LINES: u32 = 256;
const LINES_SPAN: Nanos = Nanos(10_000_000_000);

/// A tenant, or the global zone.
#[allow(missing_debug_implementations, reason = "implemented below, briefly")]
pub struct Zone {
    id: ZoneId,
    name: String,
    uuid: Uuid,
    did: u32,
    brand: Brand,
    root: String,
    privileges: Privileges,
    booted: Nanos,
    booted_realtime: Nanos,
    state: AtomicU8,
    init_pid: AtomicU32,
    /// Which span of [`LINES_SPAN`] the zone last put a line on the log in, how many in it, and how many were left out since the last.
    line_span: AtomicU64,
    lines: AtomicU32,
    lines_left_out: AtomicU32,
    hostname: Mutex<String>,
    data: Mutex<Vec<(DataKey, Arc<dyn Any + Send + Sync>)>>,
    pub(crate) kstats: Mutex<Vec<Registration>>,
    pub(crate) rctls: rctl::Values,
    /// Counters that upper layers bump.
    pub stats: Counters,
}

impl Zone {
    pub(crate) fn new(id: ZoneId, config: Config, default: impl Fn(rctl::Rctl) -> u64) -> Self {
        Self {
            id,
            name: config.name,
            uuid: config.uuid,
            did: config.did,
            brand: config.brand,
            root: config.root,
            privileges: config.privileges,
            booted: kif::clock().monotonic(),
            booted_realtime: kif::clock().realtime(),
            state: AtomicU8::new(State::Initialized as u8),
            init_pid: AtomicU32::new(0),
            line_span: AtomicU64::new(0),
            lines: AtomicU32::new(0),
            lines_left_out: AtomicU32::new(0),
            hostname: Mutex::new(Class::Zone, config.hostname),
            data: Mutex::new(Class::Zone, Vec::new()),
            kstats: Mutex::new(Class::Zone, Vec::new()),
            rctls: rctl::Values::new(default),
            stats: Counters::default(),
        }
    }
    /// Its id: 0 is the global zone.
    #[must_use]
    pub const fn id(&self) -> ZoneId {
        self.id
    }
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its persistent identity.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }
    /// Its persistent number on this host.
    #[must_use]
    pub const fn did(&self) -> u32 {
        self.did
    }
    /// Its brand.
    #[must_use]
    pub const fn brand(&self) -> Brand {
        self.brand
    }
    /// Path of its root directory in the global zone (`/` for the global zone).
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }
    /// Whether its processes may do this at all (the caller's user id is checked beside it).
    #[must_use]
    pub const fn may(&self, privilege: Privilege) -> bool {
        self.privileges.has(privilege)
    }
    /// True for the global zone.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.id == ZoneId::GLOBAL
    }
    /// When it was created, since the boot of the machine: its `btime` and uptime start here.
    #[must_use]
    pub const fn booted_at(&self) -> Nanos {
        self.booted
    }
    /// When it was created, since 1970.
    #[must_use]
    pub const fn booted_at_realtime(&self) -> Nanos {
        self.booted_realtime
    }
    /// Its host name (`uname -n`).
    #[must_use]
    pub fn hostname(&self) -> String {
        self.hostname.lock().clone()
    }
    /// Changes the host name. The caller bounded its length and checked [`Privilege::HostName`].
    pub fn set_hostname(&self, name: &str) {
        let name = name.to_string();
        *self.hostname.lock() = name;
    }
    /// Process id of its init, once started.
    #[must_use]
    pub fn init_pid(&self) -> Option<u32> {
        Some(self.init_pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }
    pub(crate) fn set_init_pid(&self, pid: u32) {
        self.init_pid.store(pid, Ordering::Release);
        watch::note(self);
    }
    /// Puts a line about the zone's own doings (a crash, a kill) on the machine's log: at most [`LINES`] in [`LINES_SPAN`] for a tenant, which
    /// decides how often it crashes. What was left out is counted, and said with the next line that is not.
    pub fn report(&self, line: fmt::Arguments<'_>) {
        let span = kif::clock().monotonic().0 / LINES_SPAN.0;
        if !self.is_global() {
            if self.line_span.swap(span, Ordering::AcqRel) != span {
                self.lines.store(0, Ordering::Relaxed);
            }
            if self.lines.fetch_add(1, Ordering::Relaxed) >= LINES {
                self.lines_left_out.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let left_out = self.lines_left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                kif::log().line(format_args!("zone {}: {left_out} lines left out", self.name));
            }
        }
        kif::log().line(format_args!("zone {}: {line}", self.name));
    }
    /// Lines left out since the last that was not.
    #[cfg(test)]
    pub(crate) fn left_out(&self) -> u32 {
        self.lines_left_out.load(Ordering::Relaxed)
    }
    /// CPU time and load of the zone.
    #[must_use]
    pub fn usage(&self) -> crate::Usage {
        crate::sched::get().usage(self.id)
    }
    /// Its kernel state.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_number(self.state.load(Ordering::Acquire))
    }
    /// Moves on to `to`, unless the zone is there or beyond: states go one way.
    pub(crate) fn advance_to(&self, to: State) {
        self.state.fetch_max(to as u8, Ordering::AcqRel);
        watch::note(self);
    }
    /// Moves from exactly `from` to `to`.
    pub(crate) fn step(&self, from: State, to: State) -> Result<(), ZoneError> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| watch::note(self))
            .map_err(|now| ZoneError::WrongState(State::from_number(now)))
    }
    /// Hangs a layer's data on the zone, replacing what was under this key.
    pub fn set_data(&self, key: DataKey, value: Arc<dyn Any + Send + Sync>) {
        let mut data = self.data.lock();
        // What is replaced is dropped after the lock: its drop may take any lock.
        let old = match data.iter_mut().find(|(at, _)| *at == key) {
            Some((_, slot)) => Some(core::mem::replace(slot, value)),
            None => {
                data.push((key, value));
                None
            }
        };
        drop(data);
        drop(old);
    }
    /// A layer's data.
    #[must_use]
    pub fn data<T: Any + Send + Sync>(&self, key: DataKey) -> Option<Arc<T>> {
        let found = self.data.lock().iter().find(|(at, _)| *at == key).map(|(_, value)| Arc::clone(value));
        found.and_then(|value| value.downcast::<T>().ok())
    }
    /// Takes a layer's data off the zone.
    pub fn take_data(&self, key: DataKey) -> Option<Arc<dyn Any + Send + Sync>> {
        let mut data = self.data.lock();
        let at = data.iter().position(|(at, _)| *at == key)?;
        Some(data.swap_remove(at).1)
    }
    pub(crate) fn clear_data(&self) {
        let old = core::mem::take(&mut *self.data.lock());
        drop(old);
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {} {:?} ({})", self.id.0, self.name, self.state())
    }
}
