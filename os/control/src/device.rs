//! The devices: headers, sizes, user memory.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use control_abi::{CALL, CALL_BYTES, Call, Code, IN_MAX, MAJOR, MINOR_CONTROL, MINOR_KSTAT, OUT_MAX, Operation, Scope, VERSION};
use kif::ZoneId;
use nv::NvList;
use once_cell::race::OnceBox;
use sync::{Class, Mutex};
use vfs::device::{Driver, Row, Scope as DeviceScope, register};
use vfs::mount::next_fs_id;
use vfs::{Attr, DevNo, Io, Kind, NodeId, OpenFlags, VfsError, Vnode, VnodeRef};

use crate::pools::{self, Stream};
use crate::{System, handlers};

/// Why an operation was refused, as it goes to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub message: alloc::string::String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl core::fmt::Display) -> Self {
        Self { code, message: alloc::format!("{message}") }
    }
}

impl From<nv::FieldError> for Refusal {
    fn from(error: nv::FieldError) -> Self {
        Self::new(Code::Invalid, error)
    }
}

static SYSTEM: OnceBox<&'static dyn System> = OnceBox::new();

/// Registers the devices. Called once by the kernel (the first one wins, for host tests).
pub fn install(system: &'static dyn System) {
    if SYSTEM.set(Box::new(system)).is_err() {
        return;
    }
    let fs = next_fs_id();
    for (name, minor, scope, mode, control) in [
        ("control", MINOR_CONTROL, DeviceScope::GlobalOnly, 0o600, true),
        ("kstat", MINOR_KSTAT, DeviceScope::EveryZone, 0o666, false),
    ] {
        let id = NodeId { fs, ino: minor.into() };
        register(Row {
            name,
            kind: Kind::CharDevice,
            dev: DevNo::new(MAJOR, minor),
            mode,
            gid: 0,
            scope,
            driver: Arc::new(ControlDriver { id, control }),
        });
    }
}

pub(crate) fn system() -> &'static dyn System {
    *SYSTEM.get().expect("no call comes before `install` registered the devices")
}

struct ControlDriver {
    id: NodeId,
    control: bool,
}

impl Driver for ControlDriver {
    fn open(&self, dev: DevNo, _node: &VnodeRef, _flags: OpenFlags, _zone: ZoneId) -> vfs::Result<VnodeRef> {
        Ok(Arc::new(OpenControl { id: self.id, dev, control: self.control, stream: Mutex::new(Class::Control, None) }))
    }
}

struct OpenControl {
    id: NodeId,
    dev: DevNo,
    control: bool,
    /// A send stream on its way through this descriptor.
    stream: Mutex<Option<Stream>>,
}

impl Vnode for OpenControl {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::CharDevice
    }
    fn attr(&self) -> vfs::Result<Attr> {
        Ok(Attr { rdev: self.dev, ..Attr::simple(self.id, Kind::CharDevice, if self.control { 0o600 } else { 0o666 }) })
    }
    fn is_seekable(&self) -> bool {
        false
    }
    fn ioctl(&self, request: u32, argument: u64, io: Io) -> vfs::Result<u64> {
        if request != CALL {
            return Err(VfsError::NotTty);
        }
        let mut bytes = [0; CALL_BYTES];
        kif::user().read(argument, &mut bytes)?;
        let header = Call::from_bytes(bytes);
        let row = Operation::row(header.operation).ok_or(VfsError::Invalid)?;
        if header.version != VERSION || header.in_len > IN_MAX {
            return Err(VfsError::Invalid);
        }
        // The zone is the caller's now, not that of the open: a descriptor that came along into a zone opens nothing there.
        let global = io.zone == ZoneId::GLOBAL;
        let is_allowed = match row.scope {
            Scope::Own => true,
            Scope::Global => self.control && global && system().caller_is_root(),
            Scope::Delegated => (self.control || !global) && system().caller_is_root(),
        };
        if !is_allowed {
            return Err(VfsError::NotPermitted);
        }
        let length = usize::try_from(header.in_len).map_err(|_| VfsError::Invalid)?;
        let mut request = vec![0; length];
        kif::user().read(header.in_addr, &mut request)?;
        let reply = match row.operation {
            Operation::StreamSend | Operation::StreamReceive | Operation::DatasetDiff => answer(&request, |list| pools::stream(row.operation, list, &mut self.stream.lock(), io.zone)),
            operation => call(operation, &request, io.zone),
        };
        let room = header.out_len.min(OUT_MAX);
        if u64::try_from(reply.len()).map_err(|_| VfsError::NoSpace)? > room {
            return Err(VfsError::NoSpace);
        }
        kif::user().write(header.out_addr, &reply)?;
        u64::try_from(reply.len()).map_err(|_| VfsError::NoSpace)
    }
}

/// Answers one request on behalf of a process of zone `viewer`: bytes in, bytes out, no user memory. The caller checked
/// the operation's scope.
#[must_use]
pub fn call(operation: Operation, request: &[u8], viewer: ZoneId) -> Vec<u8> {
    answer(request, |list| handlers::run(operation, list, viewer))
}

fn answer(request: &[u8], run: impl FnOnce(&NvList) -> Result<NvList, Refusal>) -> Vec<u8> {
    let answer = if request.is_empty() {
        run(&NvList::new())
    } else {
        match NvList::decode(request) {
            Ok(list) => run(&list),
            Err(error) => Err(Refusal::new(Code::Invalid, error)),
        }
    };
    let reply = answer.unwrap_or_else(|refusal| {
        NvList::new().with("error", refusal.code.word()).with("message", refusal.message)
    });
    reply.encode()
}
