//! Pseudo terminals: the master side, the table of slaves, and zone consoles.
//!
//! Each zone has its own numbering and can reach only its own. A zone console is a pseudo terminal without a number: its slave is
//! `/dev/console` inside the zone, its master is opened from the global zone; while nobody has, output is kept in the
//! buffer, the oldest giving way.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use kif::ZoneId;
use sync::{Class, Mutex};

use super::job::{self, jobs};
use super::termios::request;
use super::{Line, OUTPUT_MAX, Tty};
use crate::file::{File, OpenFlags};
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, DevNo, Io, Kind, NodeId, SetAttr, Vnode, VnodeRef};
use crate::{Result, VfsError, user};

/// Most pseudo terminals of a zone.
pub const PTYS_MAX: u32 = 1024;
/// Major number of slaves.
pub const SLAVE_MAJOR: u32 = 136;
/// Major number of `/dev/console` and `/dev/ptmx`.
const AUX_MAJOR: u32 = 5;
const CONSOLE_MINOR: u32 = 1;
const PTMX_MINOR: u32 = 2;

static SLAVES: Mutex<BTreeMap<(ZoneId, u32), Weak<Tty>>> = Mutex::new(Class::Vnode, BTreeMap::new());
static CONSOLES: Mutex<BTreeMap<ZoneId, Arc<Tty>>> = Mutex::new(Class::Vnode, BTreeMap::new());

/// Opens a new pseudo terminal for `zone`: what `/dev/ptmx` gives.
///
/// # Errors
/// [`PTYS_MAX`] are open.
pub fn open_master(zone: ZoneId) -> Result<VnodeRef> {
    let uid = jobs().and_then(job::JobControl::caller).map_or(0, |caller| caller.uid);
    let mut slaves = SLAVES.lock();
    let mut index = 0;
    for (_, used) in slaves.range((zone, 0)..=(zone, u32::MAX)).map(|(key, _)| *key) {
        if used != index {
            break;
        }
        index += 1;
    }
    if index >= PTYS_MAX {
        return Err(VfsError::NoSpace);
    }
    let tty = Arc::new(Tty::new(DevNo::new(SLAVE_MAJOR, index), Line::Pty { overwrite: false }));
    {
        let mut state = tty.state.lock();
        state.master_open = true;
        state.locked = true;
        state.uid = uid;
    }
    slaves.insert((zone, index), Arc::downgrade(&tty));
    Ok(Arc::new(Master { tty, number: Some((zone, index)) }))
}

/// The slave `index` of `zone`.
#[must_use]
pub fn slave(zone: ZoneId, index: u32) -> Option<Arc<Tty>> {
    SLAVES.lock().get(&(zone, index)).and_then(Weak::upgrade)
}

/// Numbers of the pseudo terminals of `zone`.
#[must_use]
pub fn numbers(zone: ZoneId) -> Vec<u32> {
    SLAVES.lock().range((zone, 0)..=(zone, u32::MAX)).map(|((_, index), _)| *index).collect()
}

/// Opens the slave behind a device number; `None` if the number is not one of a slave.
pub(crate) fn open_slave(kind: Kind, dev: DevNo, flags: OpenFlags, zone: ZoneId) -> Result<Option<VnodeRef>> {
    if kind != Kind::CharDevice || dev.major != SLAVE_MAJOR {
        return Ok(None);
    }
    let tty = slave(zone, dev.minor).ok_or(VfsError::NoSuchDevice)?;
    tty.open(flags).map(Some)
}

/// Makes the console of `zone`. Called when the zone becomes ready.
pub fn make_console(zone: ZoneId) {
    let tty = Arc::new(Tty::new(DevNo::new(AUX_MAJOR, CONSOLE_MINOR), Line::Pty { overwrite: true }));
    let old = CONSOLES.lock().insert(zone, tty);
    if let Some(old) = old {
        old.hang_up();
    }
}

/// The console of `zone`, as `/dev/console` inside it.
#[must_use]
pub fn console(zone: ZoneId) -> Option<Arc<Tty>> {
    CONSOLES.lock().get(&zone).cloned()
}

/// Opens the far side of the console of `zone`.
///
/// # Errors
/// The zone has no console, or somebody has it open.
pub fn open_console_master(zone: ZoneId) -> Result<Arc<File>> {
    let tty = console(zone).ok_or(VfsError::NoSuchDevice)?;
    {
        let mut state = tty.state.lock();
        if state.master_open {
            return Err(VfsError::Busy);
        }
        state.master_open = true;
    }
    let master = Arc::new(Master { tty, number: None });
    Ok(File::anonymous(master, OpenFlags::READ | OpenFlags::WRITE))
}

/// Hangs up everything of a zone that is being halted.
pub(super) fn zone_ended(zone: ZoneId) {
    let console = CONSOLES.lock().remove(&zone);
    if let Some(console) = console {
        console.hang_up();
    }
    for index in numbers(zone) {
        if let Some(tty) = slave(zone, index) {
            tty.hang_up();
        }
    }
}

impl Tty {
    /// Attributes of the slave's node.
    pub(crate) fn node_attr(&self) -> (u32, u32, u32) {
        let state = self.state.lock();
        (state.mode, state.uid, state.gid)
    }
    /// Changes attributes of the slave's node.
    pub(crate) fn set_node_attr(&self, change: &SetAttr) {
        let mut state = self.state.lock();
        state.mode = change.mode.map_or(state.mode, |mode| mode & 0o777);
        state.uid = change.uid.unwrap_or(state.uid);
        state.gid = change.gid.unwrap_or(state.gid);
    }
}

/// The open master of a pseudo terminal.
struct Master {
    tty: Arc<Tty>,
    /// `None` for a zone console, which lives on.
    number: Option<(ZoneId, u32)>,
}

impl Drop for Master {
    fn drop(&mut self) {
        match self.number {
            Some(key) => {
                SLAVES.lock().remove(&key);
                self.tty.hang_up();
            }
            None => self.tty.state.lock().master_open = false,
        }
    }
}

impl Master {
    fn try_read(&self, out: &mut [u8]) -> Result<usize> {
        let mut state = self.tty.state.lock();
        if state.output.is_empty() || state.ldisc.is_stopped() {
            let gone = state.hung_up || (self.number.is_some() && state.was_opened && state.opens == 0);
            return Err(if gone { VfsError::Io } else { VfsError::WouldBlock });
        }
        let count = state.output.len().min(out.len());
        for (slot, byte) in out.iter_mut().zip(state.output.drain(..count)) {
            *slot = byte;
        }
        drop(state);
        self.tty.pollee.notify();
        Ok(count)
    }
}

impl Vnode for Master {
    fn id(&self) -> NodeId {
        NodeId { fs: self.tty.id.fs, ino: u64::from(AUX_MAJOR) << 32 | self.tty.id.ino }
    }
    fn kind(&self) -> Kind {
        Kind::CharDevice
    }
    fn attr(&self) -> Result<Attr> {
        let simple = Attr::simple(self.id(), Kind::CharDevice, 0o666);
        Ok(Attr { rdev: DevNo::new(AUX_MAJOR, PTMX_MINOR), ..simple })
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.tty.pollee.block(io.nonblock, || self.try_read(out))
    }
    fn write_at(&self, _offset: u64, data: &[u8], io: Io) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.tty.pollee.block(io.nonblock, || match self.tty.feed(data, false) {
            0 => Err(VfsError::WouldBlock),
            count => Ok(count),
        })
    }
    fn poll(&self) -> Ready {
        let state = self.tty.state.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::IN | Ready::RDNORM, !state.output.is_empty() && !state.ldisc.is_stopped());
        ready.set(Ready::OUT | Ready::WRNORM, state.ldisc.room() != 0);
        ready.set(Ready::HUP, state.hung_up || (self.number.is_some() && state.was_opened && state.opens == 0));
        ready
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.tty.pollee)
    }
    fn ioctl(&self, number: u32, argument: u64, _io: Io) -> Result<u64> {
        match number {
            request::TIOCGPTN => {
                let (_, index) = self.number.ok_or(VfsError::NotTty)?;
                user::put_u32(argument, index)?;
            }
            request::TIOCSPTLCK => {
                let locked = user::get_u32(argument)? != 0;
                self.tty.state.lock().locked = locked;
            }
            request::TIOCGPTLCK => {
                let locked = self.tty.state.lock().locked;
                user::put_u32(argument, u32::from(locked))?;
            }
            request::TIOCPKT => {
                if user::get_u32(argument)? != 0 {
                    return Err(VfsError::NotSupported);
                }
            }
            request::FIONREAD => {
                let waiting = self.tty.state.lock().output.len();
                user::put_u32(argument, waiting.min(OUTPUT_MAX * 2) as u32)?;
            }
            request::TIOCSCTTY | request::TIOCNOTTY | request::TIOCSPGRP => return Err(VfsError::NotTty),
            _ => return self.tty.control(number, argument, false),
        }
        Ok(0)
    }
}

/// `/dev/ptmx`.
pub(crate) struct PtmxDriver;

impl crate::device::Driver for PtmxDriver {
    fn open(&self, _dev: DevNo, _node: &VnodeRef, _flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef> {
        open_master(zone)
    }
}
