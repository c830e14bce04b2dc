//! Terminals: serial lines and pseudo terminals, with job control.
//!
//! # Theory
//! A [`Tty`] joins a line discipline ([`ldisc`], pure) to a line: a serial port, or the master of a pseudo terminal. Output
//! goes through output processing into a bounded buffer and from there to the line; input goes through the
//! discipline, whose echo joins the output and whose signals go to the foreground process group.
//!
//! # States
//! A pseudo terminal lives while its master is open. When the master closes, the slave is *hung up*, for good: reads give end of file,
//! writes fail with `Io`, the session gets SIGHUP. When the last slave closes, the master reads `Io` until a slave is opened again.
//!
//! # Structures
//! `Open` is one open of the slave side; [`pty`] has the master, [`serial`] the port's side. The table of controlling
//! terminals (session -> terminal) is here; the process layer registers [`job::JobControl`] and calls [`session_ended`].
//!
//! # Locking
//! `Class::Tty` (sleeping) around one terminal's state; the controlling table has a lock of class `Vnode`; neither is held over a call
//! to the process layer, a user copy or a sleep. Interrupts only fill a ring (`TtyInput`).
//!
//! # Failure
//! A reader or writer of the wrong process group gets SIGTTIN or SIGTTOU and `Interrupted`: the call is restarted once the
//! process is continued. Orphans get `Io`.
//!
//! # Limits
//! [`OUTPUT_MAX`] bytes of output waiting for the line; [`ldisc::LINE_MAX`] of input; [`pty::PTYS_MAX`] pseudo terminals a zone.
//! `TIOCSTI` is refused always. No packet mode, no modem control.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use kif::{Nanos, ZoneId};
use sync::{Class, Mutex, Woken};

use self::job::{Caller, Group, TtySignal, jobs};
use self::ldisc::{Effects, LineDiscipline};
use self::serial::Serial;
use self::termios::{TERMIOS_BYTES, TERMIOS2_BYTES, Termios, WindowSize, cc, lflag, request};
use crate::file::OpenFlags;
use crate::mount::next_fs_id;
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, DevNo, Io, Kind, NodeId, Vnode, VnodeRef};
use crate::{Result, VfsError, user};

pub mod job;
pub mod ldisc;
pub mod pty;
pub mod serial;
pub mod termios;

pub(crate) use pty::open_slave;

/// Most bytes of output waiting for the line.
pub const OUTPUT_MAX: usize = 8192;
/// Bytes processed at once: bounds what output processing can add beyond [`OUTPUT_MAX`].
const OUTPUT_STEP: usize = 256;
/// One unit of VTIME.
const DECISECOND_NS: u64 = 100_000_000;

/// A terminal, as seen by its slave side.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Tty {
    dev: DevNo,
    id: NodeId,
    line: Line,
    state: Mutex<State>,
    pollee: Pollee,
}

/// What is at the other end.
enum Line {
    Serial(Box<Serial>),
    Pty {
        /// A zone console's output is kept for whoever looks later; the oldest goes first. It never blocks the zone.
        overwrite: bool,
    },
}

struct State {
    ldisc: LineDiscipline,
    window: WindowSize,
    /// Session whose controlling terminal this is; 0: none.
    session: i32,
    /// Zone of that session.
    session_zone: ZoneId,
    /// Foreground process group; 0: none.
    foreground: i32,
    hung_up: bool,
    exclusive: bool,
    /// Output on its way to the line.
    output: VecDeque<u8>,
    /// Opens of the slave side.
    opens: u32,
    was_opened: bool,
    master_open: bool,
    /// The slave may not be opened yet (`TIOCSPTLCK`).
    locked: bool,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl State {
    /// The foreground process group, as job control knows it.
    fn foreground_group(&self) -> Option<Group> {
        (self.foreground != 0).then_some(Group { group: self.foreground, session: self.session, zone: self.session_zone })
    }
}

/// Which queues `TCFLSH` empties.
const TCIFLUSH: u64 = 0;
const TCOFLUSH: u64 = 1;
const TCIOFLUSH: u64 = 2;
/// What `TCXONC` does to output.
const TCOOFF: u64 = 0;
const TCOON: u64 = 1;
/// Modem lines shown as set: DTR, RTS, CTS, carrier, DSR.
const MODEM_LINES: u32 = 0x002 | 0x004 | 0x020 | 0x040 | 0x100;

static CONTROLLING: Mutex<BTreeMap<i32, Arc<Tty>>> = Mutex::new(Class::Vnode, BTreeMap::new());

/// The controlling terminal of a session.
#[must_use]
pub fn controlling(session: i32) -> Option<Arc<Tty>> {
    CONTROLLING.lock().get(&session).cloned()
}

/// Called by the process layer when a session leader ends: the terminal is free again and its foreground group is told.
pub fn session_ended(session: i32) {
    let tty = CONTROLLING.lock().remove(&session);
    if let Some(tty) = tty {
        tty.leave_session(session);
    }
}

impl Tty {
    fn new(dev: DevNo, line: Line) -> Self {
        let state = State {
            ldisc: LineDiscipline::default(),
            window: WindowSize::default(),
            session: 0,
            session_zone: ZoneId::GLOBAL,
            foreground: 0,
            hung_up: false,
            exclusive: false,
            output: VecDeque::new(),
            opens: 0,
            was_opened: false,
            master_open: false,
            locked: false,
            mode: 0o620,
            uid: 0,
            gid: 5,
        };
        let id = NodeId { fs: terminal_fs(), ino: dev.encode() };
        Self { dev, id, line, state: Mutex::new(Class::Tty, state), pollee: Pollee::new() }
    }
    /// Its device number.
    #[must_use]
    pub const fn dev(&self) -> DevNo {
        self.dev
    }
    /// The foreground process group; 0 if none.
    #[must_use]
    pub fn foreground(&self) -> i32 {
        self.state.lock().foreground
    }
    /// Sets the window size without telling anybody (a serial console's first size).
    pub fn set_window(&self, window: WindowSize) {
        self.state.lock().window = window;
    }

    /// Opens the slave side, making it the caller's controlling terminal if that is due.
    ///
    /// # Errors
    /// Hung up, locked, or held exclusively.
    pub fn open(self: &Arc<Self>, flags: OpenFlags) -> Result<VnodeRef> {
        let caller = jobs().and_then(job::JobControl::caller);
        {
            let mut state = self.state.lock();
            if state.hung_up || state.locked {
                return Err(VfsError::Io);
            }
            if state.exclusive && caller.is_some_and(|caller| caller.uid != 0) {
                return Err(VfsError::Busy);
            }
            state.opens += 1;
            state.was_opened = true;
        }
        let open = Arc::new(Open { tty: Arc::clone(self) });
        if let Some(caller) = caller
            && !flags.contains(OpenFlags::NOCTTY)
            && caller.pid == caller.session
        {
            // Another session's terminal stays another's; that is no error for the open.
            if let Err(VfsError::NotPermitted) = self.acquire(&caller, false) {}
        }
        self.pollee.notify();
        Ok(open)
    }

    // ---- Sessions ----

    /// Makes this the controlling terminal of `caller`'s session.
    fn acquire(self: &Arc<Self>, caller: &Caller, steal: bool) -> Result<()> {
        if caller.pid != caller.session {
            return Err(VfsError::NotPermitted);
        }
        let mut table = CONTROLLING.lock();
        if let Some(other) = table.get(&caller.session) {
            return if Arc::ptr_eq(other, self) { Ok(()) } else { Err(VfsError::NotPermitted) };
        }
        let mut state = self.state.lock();
        if state.session != 0 {
            // Root may take a terminal from another session, but not out of another zone.
            let reaches = caller.zone == ZoneId::GLOBAL || caller.zone == state.session_zone;
            if !steal || caller.uid != 0 || !reaches {
                return Err(VfsError::NotPermitted);
            }
            table.remove(&state.session);
        }
        state.session = caller.session;
        state.session_zone = caller.zone;
        state.foreground = caller.group;
        drop(state);
        table.insert(caller.session, Arc::clone(self));
        Ok(())
    }
    fn leave_session(&self, session: i32) {
        let mut state = self.state.lock();
        if state.session != session {
            return;
        }
        let foreground = state.foreground_group();
        state.session = 0;
        state.foreground = 0;
        drop(state);
        if let Some(jobs) = jobs()
            && let Some(foreground) = foreground
        {
            jobs.signal_group(foreground, TtySignal::Hangup);
            jobs.signal_group(foreground, TtySignal::Continue);
        }
    }
    /// The line is gone, for good.
    pub fn hang_up(&self) {
        let mut state = self.state.lock();
        if state.hung_up {
            return;
        }
        state.hung_up = true;
        state.output.clear();
        state.ldisc.flush_input();
        let (session, foreground) = (state.session, state.foreground_group());
        state.session = 0;
        state.foreground = 0;
        drop(state);
        self.pollee.notify();
        if session == 0 {
            return;
        }
        let held = CONTROLLING.lock().remove(&session);
        drop(held);
        if let Some(jobs) = jobs() {
            jobs.signal_leader(session, TtySignal::Hangup);
            jobs.signal_leader(session, TtySignal::Continue);
            if let Some(foreground) = foreground {
                jobs.signal_group(foreground, TtySignal::Hangup);
                jobs.signal_group(foreground, TtySignal::Continue);
            }
        }
    }
    /// Stops a background process that wants to use the terminal.
    fn check_job(&self, signal: TtySignal) -> Result<()> {
        let Some(jobs) = jobs() else { return Ok(()) };
        let Some(caller) = jobs.caller() else { return Ok(()) };
        let (session, foreground) = {
            let state = self.state.lock();
            (state.session, state.foreground)
        };
        if session != caller.session || foreground == caller.group || foreground == 0 {
            return Ok(());
        }
        if jobs.is_refused(signal) {
            return if signal == TtySignal::BackgroundRead { Err(VfsError::Io) } else { Ok(()) };
        }
        if jobs.is_orphaned(caller.group) {
            return Err(VfsError::Io);
        }
        jobs.signal_group(Group { group: caller.group, session: caller.session, zone: caller.zone }, signal);
        Err(VfsError::Interrupted)
    }

    // ---- Data ----

    /// Moves output to a serial port as far as it goes.
    fn drain(&self, state: &mut State) {
        let Line::Serial(serial) = &self.line else { return };
        while !state.ldisc.is_stopped() && !state.output.is_empty() {
            let (front, _) = state.output.as_slices();
            let count = serial.port.transmit(front);
            if count == 0 {
                break;
            }
            state.output.drain(..count);
        }
    }
    fn is_overwriting(&self, state: &State) -> bool {
        matches!(self.line, Line::Pty { overwrite: true }) && !state.master_open
    }
    /// Takes bytes from the line; returns how many. Those beyond the discipline's room are left, or dropped if `lossy`.
    fn feed(&self, bytes: &[u8], lossy: bool) -> usize {
        let mut effects = Effects::default();
        let mut state = self.state.lock();
        if state.hung_up {
            return bytes.len();
        }
        let mut count = 0;
        for byte in bytes {
            if !lossy && state.ldisc.room() == 0 {
                break;
            }
            state.ldisc.input(*byte, &mut effects);
            count += 1;
            if effects.flush_output {
                effects.flush_output = false;
                state.output.clear();
                effects.echo.truncate(effects.echo.len().min(2));
            }
        }
        // Echo nobody reads is dropped rather than kept without bound.
        let room = (OUTPUT_MAX + OUTPUT_STEP).saturating_sub(state.output.len());
        effects.echo.truncate(room);
        state.output.extend(&effects.echo);
        self.drain(&mut state);
        let foreground = state.foreground_group();
        drop(state);
        self.pollee.notify();
        if let Some(jobs) = jobs()
            && let Some(foreground) = foreground
        {
            for signal in effects.signals {
                jobs.signal_group(foreground, signal);
            }
        }
        count
    }
    fn try_write(&self, data: &[u8]) -> Result<usize> {
        let mut state = self.state.lock();
        if state.hung_up {
            return Err(VfsError::Io);
        }
        let mut processed = Vec::new();
        let mut done = 0;
        while done < data.len() {
            if state.output.len() >= OUTPUT_MAX {
                self.drain(&mut state);
            }
            if state.output.len() >= OUTPUT_MAX {
                if !self.is_overwriting(&state) {
                    break;
                }
                state.output.drain(..OUTPUT_MAX / 2);
            }
            let step = &data[done..data.len().min(done + OUTPUT_STEP)];
            processed.clear();
            state.ldisc.output(step, &mut processed);
            state.output.extend(&processed);
            done += step.len();
        }
        self.drain(&mut state);
        if done == 0 && !data.is_empty() { Err(VfsError::WouldBlock) } else { Ok(done) }
    }
    fn write(&self, data: &[u8], io: Io) -> Result<usize> {
        if self.state.lock().ldisc.termios().local(lflag::TOSTOP) {
            self.check_job(TtySignal::BackgroundWrite)?;
        }
        let mut done = 0;
        while done < data.len() {
            let outcome = self.pollee.block(io.nonblock, || self.try_write(&data[done..]));
            if matches!(self.line, Line::Pty { .. }) {
                self.pollee.notify();
            }
            match outcome {
                Ok(count) => done += count,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
            if io.nonblock {
                break;
            }
        }
        Ok(done)
    }
    /// Reads if at least `least` raw bytes (or a line) are there.
    fn try_read(&self, out: &mut [u8], least: usize) -> Result<usize> {
        let mut state = self.state.lock();
        if state.hung_up {
            return Ok(0);
        }
        if !state.ldisc.is_readable(least) {
            return Err(VfsError::WouldBlock);
        }
        let count = state.ldisc.read(out).ok_or(VfsError::WouldBlock)?;
        drop(state);
        if matches!(self.line, Line::Pty { .. }) {
            // The master may be waiting for room.
            self.pollee.notify();
        }
        Ok(count)
    }
    fn read(&self, out: &mut [u8], io: Io) -> Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.check_job(TtySignal::BackgroundRead)?;
        let (canonical, min, time) = {
            let state = self.state.lock();
            let termios = state.ldisc.termios();
            (termios.local(lflag::ICANON), usize::from(termios.cc[cc::VMIN]), u64::from(termios.cc[cc::VTIME]))
        };
        if canonical || (min != 0 && time == 0) {
            // In raw mode a reader that asks for less than MIN is served with what it asks for.
            let least = min.min(out.len());
            return self.pollee.block(io.nonblock, || self.try_read(out, least));
        }
        self.read_timed(out, min, time, io.nonblock)
    }
    /// The raw modes with a timer, and MIN = 0 (`termios(3)`, "noncanonical mode").
    fn read_timed(&self, out: &mut [u8], min: usize, time: u64, nonblock: bool) -> Result<usize> {
        match self.try_read(out, min.min(out.len())) {
            Err(VfsError::WouldBlock) if time == 0 => return Ok(0),
            Err(VfsError::WouldBlock) if nonblock => return Err(VfsError::WouldBlock),
            Err(VfsError::WouldBlock) => {}
            done => return done,
        }
        let mut seen = self.state.lock().ldisc.available();
        let target = min.min(out.len()).max(1);
        loop {
            // With MIN = 0 the timer runs from the call; else from each byte on.
            let deadline = (min == 0 || seen != 0).then(|| kif::clock().monotonic().plus(Nanos(time * DECISECOND_NS)));
            let waited = self.pollee.queue().wait_interruptible(deadline, || {
                let state = self.state.lock();
                let now = state.ldisc.available();
                (now > seen || state.hung_up || state.ldisc.is_readable(target)).then_some(now)
            });
            match waited {
                Err(Woken::TimedOut) => break,
                Err(Woken::Interrupted) if seen == 0 => return Err(VfsError::Interrupted),
                Err(Woken::Interrupted) => break,
                Ok(now) if now >= target || now <= seen => break,
                Ok(now) => seen = now,
            }
        }
        match self.try_read(out, 1) {
            Err(VfsError::WouldBlock) => Ok(0),
            done => done,
        }
    }

    // ---- Control ----

    /// Requests that master and slave share.
    fn control(self: &Arc<Self>, number: u32, argument: u64, from_slave: bool) -> Result<u64> {
        match number {
            request::TCGETS => {
                let bytes = self.state.lock().ldisc.termios().to_bytes();
                user::put(argument, &bytes[..TERMIOS_BYTES])?;
            }
            request::TCGETS2 => {
                let bytes = self.state.lock().ldisc.termios().to_bytes();
                user::put(argument, &bytes)?;
            }
            request::TCSETS | request::TCSETSW | request::TCSETSF => {
                let bytes: [u8; TERMIOS_BYTES] = user::get(argument)?;
                self.set_termios(&bytes, number - request::TCSETS, from_slave)?;
            }
            request::TCSETS2 | request::TCSETSW2 | request::TCSETSF2 => {
                let bytes: [u8; TERMIOS2_BYTES] = user::get(argument)?;
                self.set_termios(&bytes, number - request::TCSETS2, from_slave)?;
            }
            request::TCSBRK | request::TCSBRKP => {
                self.check_change(from_slave)?;
                self.wait_sent()?;
            }
            request::TCXONC => {
                self.check_change(from_slave)?;
                match argument {
                    TCOOFF | TCOON => {
                        let mut state = self.state.lock();
                        state.ldisc.set_stopped(argument == TCOOFF);
                        self.drain(&mut state);
                    }
                    // Sending START or STOP to the line: nobody there listens.
                    2 | 3 => {}
                    _ => return Err(VfsError::Invalid),
                }
                self.pollee.notify();
            }
            request::TCFLSH => {
                self.check_change(from_slave)?;
                if argument > TCIOFLUSH {
                    return Err(VfsError::Invalid);
                }
                let mut state = self.state.lock();
                if argument != TCOFLUSH {
                    state.ldisc.flush_input();
                }
                if argument != TCIFLUSH {
                    state.output.clear();
                }
                drop(state);
                self.pollee.notify();
            }
            request::TIOCEXCL | request::TIOCNXCL => self.state.lock().exclusive = number == request::TIOCEXCL,
            request::TIOCGWINSZ => {
                let window = self.state.lock().window;
                user::put(argument, &window.to_bytes())?;
            }
            request::TIOCSWINSZ => {
                let window = WindowSize::from_bytes(user::get(argument)?);
                self.resize(window);
            }
            request::TIOCOUTQ => {
                let waiting = self.state.lock().output.len();
                user::put_u32(argument, waiting as u32)?;
            }
            request::TIOCGPGRP => {
                let foreground = self.session_value(from_slave, |state| state.foreground)?;
                user::put_u32(argument, shown(foreground).cast_unsigned())?;
            }
            request::TIOCGSID => {
                let session = self.session_value(from_slave, |state| state.session)?;
                user::put_u32(argument, shown(session).cast_unsigned())?;
            }
            request::TIOCSPGRP => {
                let group = user::get_u32(argument)?.cast_signed();
                self.set_foreground(group)?;
            }
            request::TIOCSCTTY => {
                let caller = jobs().and_then(job::JobControl::caller).ok_or(VfsError::NotPermitted)?;
                self.acquire(&caller, argument == 1)?;
            }
            request::TIOCNOTTY => {
                let caller = jobs().and_then(job::JobControl::caller).ok_or(VfsError::NotTty)?;
                if self.state.lock().session != caller.session {
                    return Err(VfsError::NotTty);
                }
                if caller.pid == caller.session {
                    session_ended(caller.session);
                }
            }
            request::TIOCSTI => return Err(VfsError::NotPermitted),
            request::TIOCGETD => user::put_u32(argument, 0)?,
            request::TIOCSETD => {
                if user::get_u32(argument)? != 0 {
                    return Err(VfsError::Invalid);
                }
            }
            request::TIOCMGET if matches!(self.line, Line::Serial(_)) => user::put_u32(argument, MODEM_LINES)?,
            _ => return Err(VfsError::NotTty),
        }
        Ok(0)
    }
    fn check_change(&self, from_slave: bool) -> Result<()> {
        if from_slave { self.check_job(TtySignal::BackgroundWrite) } else { Ok(()) }
    }
    /// `how`: 0 now, 1 when output is sent, 2 also throwing input away.
    fn set_termios(&self, bytes: &[u8], how: u32, from_slave: bool) -> Result<()> {
        self.check_change(from_slave)?;
        if how != 0 {
            self.wait_sent()?;
        }
        let mut state = self.state.lock();
        if how == 2 {
            state.ldisc.flush_input();
        }
        let termios: Termios = state.ldisc.termios().with_bytes(bytes);
        state.ldisc.set_termios(termios);
        self.drain(&mut state);
        drop(state);
        self.pollee.notify();
        Ok(())
    }
    /// Waits until a serial line has sent everything. A pseudo terminal's output counts as sent once it is in the buffer.
    fn wait_sent(&self) -> Result<()> {
        if !matches!(self.line, Line::Serial(_)) {
            return Ok(());
        }
        self.pollee.block(false, || {
            let mut state = self.state.lock();
            self.drain(&mut state);
            if state.output.is_empty() || state.hung_up { Ok(()) } else { Err(VfsError::WouldBlock) }
        })
    }
    fn resize(&self, window: WindowSize) {
        let mut state = self.state.lock();
        if state.window == window {
            return;
        }
        state.window = window;
        let foreground = state.foreground_group();
        drop(state);
        if let Some(jobs) = jobs()
            && let Some(foreground) = foreground
        {
            jobs.signal_group(foreground, TtySignal::WindowSize);
        }
    }
    /// For a slave, only its own session may ask.
    fn session_value(&self, from_slave: bool, value: impl FnOnce(&State) -> i32) -> Result<i32> {
        let caller = jobs().and_then(job::JobControl::caller);
        let state = self.state.lock();
        if from_slave && (state.session == 0 || caller.is_none_or(|caller| caller.session != state.session)) {
            return Err(VfsError::NotTty);
        }
        Ok(value(&state))
    }
    fn set_foreground(&self, group: i32) -> Result<()> {
        let jobs = jobs().ok_or(VfsError::NotTty)?;
        let caller = jobs.caller().ok_or(VfsError::NotTty)?;
        if self.state.lock().session != caller.session {
            return Err(VfsError::NotTty);
        }
        self.check_job(TtySignal::BackgroundWrite)?;
        if group <= 0 {
            return Err(VfsError::Invalid);
        }
        let group = jobs.unshow(group);
        match jobs.group_session(group) {
            None => return Err(VfsError::NoProcess),
            Some(session) if session != caller.session => return Err(VfsError::NotPermitted),
            Some(_) => {}
        }
        self.state.lock().foreground = group;
        Ok(())
    }
}

/// An id as the caller sees it.
fn shown(id: i32) -> i32 {
    jobs().map_or(id, |jobs| jobs.show(id))
}

/// One open of a terminal's slave side.
struct Open {
    tty: Arc<Tty>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.tty.state.lock();
        state.opens -= 1;
        let is_last = state.opens == 0;
        if is_last {
            state.exclusive = false;
        }
        drop(state);
        if is_last {
            self.tty.pollee.notify();
        }
    }
}

impl Vnode for Open {
    fn id(&self) -> NodeId {
        self.tty.id
    }
    fn kind(&self) -> Kind {
        Kind::CharDevice
    }
    fn attr(&self) -> Result<Attr> {
        let state = self.tty.state.lock();
        let simple = Attr::simple(self.tty.id, Kind::CharDevice, state.mode);
        Ok(Attr { uid: state.uid, gid: state.gid, rdev: self.tty.dev, ..simple })
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        self.tty.read(out, io)
    }
    fn write_at(&self, _offset: u64, data: &[u8], io: Io) -> Result<usize> {
        self.tty.write(data, io)
    }
    fn poll(&self) -> Ready {
        let state = self.tty.state.lock();
        if state.hung_up {
            return Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM | Ready::HUP | Ready::ERR;
        }
        let termios = state.ldisc.termios();
        let least = if termios.cc[cc::VTIME] == 0 { usize::from(termios.cc[cc::VMIN]) } else { 1 };
        let mut ready = Ready::empty();
        ready.set(Ready::IN | Ready::RDNORM, state.ldisc.is_readable(least));
        let takes = state.output.len() < OUTPUT_MAX || self.tty.is_overwriting(&state);
        ready.set(Ready::OUT | Ready::WRNORM, takes);
        ready
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.tty.pollee)
    }
    fn ioctl(&self, number: u32, argument: u64, _io: Io) -> Result<u64> {
        if number == request::FIONREAD {
            let state = self.tty.state.lock();
            let available = state.ldisc.available();
            drop(state);
            user::put_u32(argument, available as u32)?;
            return Ok(0);
        }
        if self.tty.state.lock().hung_up {
            return Err(VfsError::Io);
        }
        self.tty.control(number, argument, true)
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// The terminal behind an open file, if it is one.
#[must_use]
pub fn of(vnode: &VnodeRef) -> Option<Arc<Tty>> {
    let open = vnode.as_any()?.downcast_ref::<Open>()?;
    Some(Arc::clone(&open.tty))
}

/// All terminals share one file-system number.
fn terminal_fs() -> u64 {
    static FS: once_cell::race::OnceBox<u64> = once_cell::race::OnceBox::new();
    *FS.get_or_init(|| Box::new(next_fs_id()))
}

/// Drops every terminal that sessions of `zone` still control (zone halt).
pub fn zone_ended(zone: ZoneId) {
    pty::zone_ended(zone);
}
