//! Extended attributes: `setxattr(2)` and its kin, and what their arguments may be.

use alloc::vec::Vec;

use linux_abi::Errno;
use proc::Task;
use vfs::xattr::{self, Existence, NAME_LIMIT, VALUE_LIMIT};
use vfs::{Cx, Follow, Place};

use crate::args::{Fd, Path, Ptr, file};
use crate::fail::Result;
use crate::paths::Paths;

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// What a call names its object by.
enum Object {
    Path(Path, Follow),
    Fd(Fd),
}

impl Object {
    fn on<R>(self, task: &Task, body: impl FnOnce(&Cx<'_>, &Place) -> vfs::Result<R>) -> Result<R> {
        let paths = Paths::of(task)?;
        let place = match self {
            Self::Path(path, follow) => vfs::lookup(&paths.cx(), None, &path.0, follow)?,
            Self::Fd(fd) => file(task, fd)?.place().clone(),
        };
        Ok(body(&paths.cx(), &place)?)
    }
}

/// A name; ERANGE if it is empty or too long.
fn read_name(name: Ptr) -> Result<Vec<u8>> {
    let name = name.read_string(NAME_LIMIT + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE.into()) } else { Ok(name) }
}

/// Writes what there is, if `room` is not 0, and gives its length.
fn give(found: &[u8], to: Ptr, room: u64) -> Result {
    let length = found.len() as u64;
    if room == 0 {
        return Ok(length);
    }
    if length > room {
        return Err(Errno::ERANGE.into());
    }
    to.write(found)?;
    Ok(length)
}

fn set(task: &Task, object: Object, name: Ptr, from: Ptr, size: u64, flags: u32) -> Result {
    let existence = match flags {
        0 => Existence::Any,
        XATTR_CREATE => Existence::New,
        XATTR_REPLACE => Existence::Old,
        _ => return Err(Errno::EINVAL.into()),
    };
    let name = read_name(name)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= VALUE_LIMIT).ok_or(Errno::E2BIG)?;
    let value = from.read_vec(size)?;
    object.on(task, |cx, place| xattr::set(cx, place, &name, Some(&value), existence))?;
    Ok(0)
}
pub fn setxattr(task: &mut Task, path: Path, name: Ptr, from: Ptr, size: u64, flags: u32) -> Result {
    set(task, Object::Path(path, Follow::Yes), name, from, size, flags)
}
pub fn lsetxattr(task: &mut Task, path: Path, name: Ptr, from: Ptr, size: u64, flags: u32) -> Result {
    set(task, Object::Path(path, Follow::No), name, from, size, flags)
}
pub fn fsetxattr(task: &mut Task, fd: Fd, name: Ptr, from: Ptr, size: u64, flags: u32) -> Result {
    set(task, Object::Fd(fd), name, from, size, flags)
}

fn get(task: &Task, object: Object, name: Ptr, to: Ptr, room: u64) -> Result {
    let name = read_name(name)?;
    give(&object.on(task, |cx, place| xattr::get(cx, place, &name))?, to, room)
}
pub fn getxattr(task: &mut Task, path: Path, name: Ptr, to: Ptr, room: u64) -> Result {
    get(task, Object::Path(path, Follow::Yes), name, to, room)
}
pub fn lgetxattr(task: &mut Task, path: Path, name: Ptr, to: Ptr, room: u64) -> Result {
    get(task, Object::Path(path, Follow::No), name, to, room)
}
pub fn fgetxattr(task: &mut Task, fd: Fd, name: Ptr, to: Ptr, room: u64) -> Result {
    get(task, Object::Fd(fd), name, to, room)
}

pub fn listxattr(task: &mut Task, path: Path, to: Ptr, room: u64) -> Result {
    give(&Object::Path(path, Follow::Yes).on(task, xattr::list)?, to, room)
}
pub fn llistxattr(task: &mut Task, path: Path, to: Ptr, room: u64) -> Result {
    give(&Object::Path(path, Follow::No).on(task, xattr::list)?, to, room)
}
pub fn flistxattr(task: &mut Task, fd: Fd, to: Ptr, room: u64) -> Result {
    give(&Object::Fd(fd).on(task, xattr::list)?, to, room)
}

fn remove(task: &Task, object: Object, name: Ptr) -> Result {
    let name = read_name(name)?;
    object.on(task, |cx, place| xattr::set(cx, place, &name, None, Existence::Old))?;
    Ok(0)
}
pub fn removexattr(task: &mut Task, path: Path, name: Ptr) -> Result {
    remove(task, Object::Path(path, Follow::Yes), name)
}
pub fn lremovexattr(task: &mut Task, path: Path, name: Ptr) -> Result {
    remove(task, Object::Path(path, Follow::No), name)
}
pub fn fremovexattr(task: &mut Task, fd: Fd, name: Ptr) -> Result {
    remove(task, Object::Fd(fd), name)
}
