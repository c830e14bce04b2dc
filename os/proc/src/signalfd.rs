//! Signals read from a file (`signalfd(2)`).
//!
//! # Limits
//! A read takes the signals of the process that reads, as on Linux; a wait is woken by those of the process that made the file.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::{SigDetail, SigInfo};
use vfs::mount::ANONYMOUS_FS;
use vfs::{Attr, File, Io, Kind, NodeId, OpenFlags, Pollee, Ready, VfsError, Vnode};

use crate::process::Process;
use crate::signal::SigSet;
use crate::table;

/// Inode numbers begin here, to tell them from other objects without a name.
const FIRST_INO: u64 = 4 << 32;
/// `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// A set of signals that can be read.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct SignalFile {
    id: NodeId,
    set: AtomicU64,
    events: Arc<Pollee>,
}

/// Makes one for `process`. `flags` may hold `NONBLOCK`.
#[must_use]
pub fn new(process: &Process, set: SigSet, flags: OpenFlags) -> Arc<File> {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST_INO);
    let id = NodeId { fs: ANONYMOUS_FS, ino: NEXT.fetch_add(1, Ordering::Relaxed) };
    let file = SignalFile { id, set: AtomicU64::new(0), events: Arc::clone(&process.signal_events) };
    file.set_signals(set);
    File::anonymous(Arc::new(file), flags & OpenFlags::NONBLOCK | OpenFlags::READ)
}

/// What is behind a file, if it is one of these.
#[must_use]
pub fn of(file: &File) -> Option<&SignalFile> {
    file.object().as_any()?.downcast_ref::<SignalFile>()
}

impl SignalFile {
    /// Changes the set. SIGKILL and SIGSTOP are never in it.
    pub fn set_signals(&self, set: SigSet) {
        self.set.store(set.without(SigSet::UNBLOCKABLE).0, Ordering::Relaxed);
        self.events.notify();
    }
    fn signals(&self) -> SigSet {
        SigSet(self.set.load(Ordering::Relaxed))
    }
    /// Takes a pending signal of the calling LWP or its process.
    fn take(&self) -> Option<SigInfo> {
        let lwp = table::current()?;
        let mut state = lwp.process().signals.lock();
        let own = lwp.pending.lock().pop(self.signals());
        own.or_else(|| state.shared.pop(self.signals()))
    }
}

/// `signalfd_siginfo`: signo 0, errno 4, code 8, pid 12, uid 16, fd 20, tid 24, band 28, overrun 32, trapno 36, status 40, int 44, ptr 48, utime 56,
/// stime 64, addr 72.
fn encode(info: &SigInfo, out: &mut [u8]) {
    out.fill(0);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &info.signal.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    match info.detail {
        SigDetail::None => {}
        SigDetail::Sender { pid, uid, value } => {
            put(12, &pid.to_le_bytes());
            put(16, &uid.to_le_bytes());
            put(44, &value.to_le_bytes()[..4]);
            put(48, &value.to_le_bytes());
        }
        SigDetail::Child { pid, uid, status, user_ticks, system_ticks } => {
            put(12, &pid.to_le_bytes());
            put(16, &uid.to_le_bytes());
            put(40, &status.to_le_bytes());
            put(56, &user_ticks.to_le_bytes());
            put(64, &system_ticks.to_le_bytes());
        }
        SigDetail::Fault { address } => put(72, &address.to_le_bytes()),
        SigDetail::Timer { id, overrun, value } => {
            put(24, &id.to_le_bytes());
            put(32, &overrun.to_le_bytes());
            put(44, &value.to_le_bytes()[..4]);
            put(48, &value.to_le_bytes());
        }
    }
}

impl Vnode for SignalFile {
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
        let mut records = out.chunks_exact_mut(RECORD);
        let first = records.next().ok_or(VfsError::Invalid)?;
        let info = self.events.block(io.nonblock, || self.take().ok_or(VfsError::WouldBlock))?;
        encode(&info, first);
        let mut done = RECORD;
        for record in records {
            let Some(info) = self.take() else { break };
            encode(&info, record);
            done += RECORD;
        }
        Ok(done)
    }
    fn poll(&self) -> Ready {
        let Some(lwp) = table::current() else { return Ready::empty() };
        let state = lwp.process().signals.lock();
        let pending = SigSet(state.shared.set().0 | lwp.pending.lock().set().0);
        if pending.0 & self.signals().0 != 0 { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.events)
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
