//! Timers that are files (`timerfd_create(2)`).
//!
//! # Theory
//! What has expired follows from the deadline, the interval and the time, and is worked out when somebody looks; the alarm thread only announces it.
//!
//! # Locking
//! `Class::Pipe` (spin) around the setting; the alarm thread's queue is never entered under it.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use kif::Nanos;
use sync::{Class, SpinLock};
use vfs::mount::ANONYMOUS_FS;
use vfs::{Attr, File, Io, Kind, NodeId, OpenFlags, Pollee, Ready, VfsError, Vnode};

use crate::timer::{self, Entered};

/// Inode numbers of timers begin here, to tell them from other objects without a name.
const FIRST_INO: u64 = 3 << 32;

#[derive(Default)]
struct Setting {
    deadline: Option<Nanos>,
    interval: Nanos,
    /// Expiries that nobody has read.
    expired: u64,
    /// Counts settings: an alarm on its way out finds that it was for another.
    generation: u64,
    entered: Option<Entered>,
}

impl Setting {
    /// Moves past what has expired.
    fn advance(&mut self, now: Nanos) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return };
        if self.interval == Nanos(0) {
            self.expired += 1;
            self.deadline = None;
        } else {
            let times = now.since(deadline).0 / self.interval.0 + 1;
            self.expired = self.expired.saturating_add(times);
            self.deadline = Some(deadline.plus(Nanos(self.interval.0.saturating_mul(times))));
        }
    }
    fn left(&self, now: Nanos) -> (Nanos, Nanos) {
        // A timer that runs never shows zero.
        (self.deadline.map_or(Nanos(0), |deadline| Nanos(deadline.since(now).0.max(1))), self.interval)
    }
}

/// A timer.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct TimerFile {
    id: NodeId,
    /// Absolute times are of the wall clock.
    is_real: bool,
    me: alloc::sync::Weak<Self>,
    setting: SpinLock<Setting>,
    pollee: Pollee,
}

/// Makes a timer that is not set. `is_real`: absolute times given to it are of the wall clock. `flags` may hold `NONBLOCK`.
#[must_use]
pub fn new(is_real: bool, flags: OpenFlags) -> Arc<File> {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST_INO);
    let id = NodeId { fs: ANONYMOUS_FS, ino: NEXT.fetch_add(1, Ordering::Relaxed) };
    let setting = SpinLock::new(Class::Pipe, Setting::default());
    let timer = Arc::new_cyclic(|me| TimerFile { id, is_real, me: alloc::sync::Weak::clone(me), setting, pollee: Pollee::new() });
    File::anonymous(timer, flags & OpenFlags::NONBLOCK | OpenFlags::READ)
}

/// The timer behind a file, if it is one.
#[must_use]
pub fn of(file: &File) -> Option<&TimerFile> {
    file.object().as_any()?.downcast_ref::<TimerFile>()
}

impl TimerFile {
    /// Whether absolute times are of the wall clock.
    #[must_use]
    pub const fn is_real(&self) -> bool {
        self.is_real
    }
    /// Sets the first expiry (monotonic; `None`: off) and the interval. Returns what was left, and the old interval.
    pub fn set(&self, deadline: Option<Nanos>, interval: Nanos) -> (Nanos, Nanos) {
        let now = kif::clock().monotonic();
        let (old, entered, generation) = {
            let mut setting = self.setting.lock();
            setting.advance(now);
            let old = setting.left(now);
            let entered = setting.entered.take();
            let generation = setting.generation + 1;
            *setting = Setting { deadline, interval, expired: 0, generation, entered: None };
            (old, entered, generation)
        };
        if let Some(entered) = entered {
            timer::take_out(entered);
        }
        if let Some(deadline) = deadline {
            self.enter(deadline, generation);
        }
        old
    }
    /// What is left until the next expiry, and the interval.
    pub fn left(&self) -> (Nanos, Nanos) {
        let now = kif::clock().monotonic();
        let mut setting = self.setting.lock();
        setting.advance(now);
        setting.left(now)
    }
    fn enter(&self, deadline: Nanos, generation: u64) {
        let entered = timer::enter_file(&self.me, deadline, generation);
        let mut setting = self.setting.lock();
        if setting.generation == generation {
            setting.entered = Some(entered);
        } else {
            drop(setting);
            timer::take_out(entered);
        }
    }
    /// The alarm thread calls: an expiry has come.
    pub(crate) fn due(&self, generation: u64, now: Nanos) {
        let next = {
            let mut setting = self.setting.lock();
            if setting.generation != generation {
                return;
            }
            setting.entered = None;
            setting.advance(now);
            setting.deadline
        };
        if let Some(deadline) = next {
            self.enter(deadline, generation);
        }
        self.pollee.notify();
    }
}

impl Drop for TimerFile {
    fn drop(&mut self) {
        if let Some(entered) = self.setting.get_mut().entered.take() {
            timer::take_out(entered);
        }
    }
}

impl Vnode for TimerFile {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Anonymous
    }
    fn attr(&self) -> vfs::Result<Attr> {
        Ok(Attr::simple(self.id, Kind::Anonymous, 0o600))
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], io: Io) -> vfs::Result<usize> {
        let out = out.get_mut(..8).ok_or(VfsError::Invalid)?;
        let expired = self.pollee.block(io.nonblock, || {
            let mut setting = self.setting.lock();
            setting.advance(kif::clock().monotonic());
            match core::mem::take(&mut setting.expired) {
                0 => Err(VfsError::WouldBlock),
                expired => Ok(expired),
            }
        })?;
        out.copy_from_slice(&expired.to_le_bytes());
        Ok(8)
    }
    fn poll(&self) -> Ready {
        let mut setting = self.setting.lock();
        setting.advance(kif::clock().monotonic());
        if setting.expired > 0 { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.pollee)
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
