//! Address space calls.

use alloc::sync::Arc;

use kif::PAGE_SIZE;
use linux_abi::Errno;
use linux_abi::consts::mman::*;
use proc::Task;
use vfs::{OpenFlags, VfsError};
use vm::{Advice, Backing, BackingError, Label, MapRequest, Object, Place, Protection, VmError};

use crate::args::{Fd, Ptr};
use crate::fail::Result;

const PAGE: u64 = PAGE_SIZE as u64;

fn protection(bits: u64) -> Result<Protection> {
    if bits & !(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN) != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(Protection { read: bits & PROT_READ != 0, write: bits & PROT_WRITE != 0, execute: bits & PROT_EXEC != 0 })
}

pub fn mmap(task: &mut Task, address: u64, length: u64, prot: u64, flags: u64, fd: u64, offset: u64) -> Result {
    // Bits of other architectures and of no meaning here are passed over, as Linux does for MAP_PRIVATE and MAP_SHARED.
    let shared = match flags & MAP_TYPE {
        MAP_PRIVATE => false,
        MAP_SHARED => true,
        MAP_SHARED_VALIDATE if flags & MAP_SYNC == 0 => true,
        MAP_SHARED_VALIDATE => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    if !offset.is_multiple_of(PAGE) || (flags & MAP_FIXED != 0 && !address.is_multiple_of(PAGE)) {
        return Err(Errno::EINVAL.into());
    }
    if flags & MAP_HUGETLB != 0 {
        // No huge pages are set aside.
        return Err(Errno::ENOMEM.into());
    }
    let place = if flags & MAP_FIXED_NOREPLACE != 0 {
        Place::FixedEmpty(address)
    } else if flags & MAP_FIXED != 0 {
        Place::Fixed(address)
    } else if flags & MAP_32BIT != 0 {
        Place::Low
    } else {
        Place::Hint(address)
    };
    let protection = protection(prot)?;
    let mut may_write = true;
    let object = if flags & MAP_ANONYMOUS != 0 {
        None
    } else {
        let Fd(fd) = crate::args::Arg::parse(fd)?;
        let file = task.files.get(fd)?;
        let open = file.flags();
        if !open.contains(OpenFlags::READ) || (shared && protection.write && !open.contains(OpenFlags::WRITE)) {
            return Err(Errno::EACCES.into());
        }
        if protection.execute && file.place().mount.flags().contains(vfs::MountFlags::NOEXEC) {
            return Err(Errno::EPERM.into());
        }
        may_write = !shared || open.contains(OpenFlags::WRITE);
        let backing: Arc<dyn Backing> = file.backing().ok_or(VfsError::NoDevice)?;
        Some(Object { backing, first_page: offset / PAGE })
    };
    let mapped = task.space.map(MapRequest {
        place,
        length,
        protection,
        shared,
        object,
        may_write,
        grows_down: flags & MAP_GROWSDOWN != 0,
        label: Label::None,
        populate: flags & (MAP_POPULATE | MAP_LOCKED) != 0 && flags & MAP_NONBLOCK == 0,
    });
    match mapped {
        // Fixed below the lowest address that may be mapped.
        Err(VmError::Denied) if matches!(place, Place::Fixed(_) | Place::FixedEmpty(_)) && may_write => Err(Errno::EPERM.into()),
        other => Ok(other?),
    }
}

pub fn munmap(task: &mut Task, address: u64, length: u64) -> Result {
    task.space.unmap(address, length)?;
    Ok(0)
}

pub fn mprotect(task: &mut Task, address: u64, length: u64, prot: u64) -> Result {
    task.space.protect(address, length, protection(prot)?)?;
    Ok(0)
}

pub fn mremap(task: &mut Task, old: u64, old_length: u64, new_length: u64, flags: u64, target: u64) -> Result {
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0 || (flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0) {
        return Err(Errno::EINVAL.into());
    }
    let target = (flags & MREMAP_FIXED != 0).then_some(target);
    Ok(task.space.remap(old, old_length, new_length, flags & MREMAP_MAYMOVE != 0, target)?)
}

pub fn brk(task: &mut Task, end: u64) -> Result {
    Ok(task.space.brk(end))
}

pub fn madvise(task: &mut Task, address: u64, length: u64, advice: u32) -> Result {
    let advice = match advice {
        MADV_DONTNEED | MADV_FREE => Advice::DontNeed,
        MADV_DONTFORK => Advice::DontFork,
        MADV_DOFORK => Advice::DoFork,
        MADV_WIPEONFORK => Advice::WipeOnFork,
        MADV_KEEPONFORK => Advice::KeepOnFork,
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_HUGEPAGE | MADV_NOHUGEPAGE | MADV_DONTDUMP
        | MADV_DODUMP | MADV_COLD | MADV_PAGEOUT => Advice::Note,
        _ => return Err(Errno::EINVAL.into()),
    };
    task.space.advise(address, length, advice)?;
    Ok(0)
}

pub fn msync(task: &mut Task, address: u64, length: u64, flags: u32) -> Result {
    crate::io::only(flags, MS_ASYNC | MS_INVALIDATE | MS_SYNC)?;
    if flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC {
        return Err(Errno::EINVAL.into());
    }
    task.space.check(address, length)?;
    if flags & MS_SYNC == 0 {
        // A shared mapping stores into the file's own pages, which go to the disks some time.
        return Ok(0);
    }
    let limit = address.saturating_add(length);
    let mut at = address;
    while at < limit
        && let Some((end, object)) = task.space.shared_object(at, limit)
    {
        object.sync().map_err(|error| match error {
            BackingError::OutOfMemory => Errno::ENOMEM,
            BackingError::Interrupted => Errno::EINTR,
            BackingError::Io | BackingError::PastEnd => Errno::EIO,
        })?;
        at = end;
    }
    Ok(0)
}

pub fn mincore(task: &mut Task, address: u64, length: u64, to: Ptr) -> Result {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    if length == 0 {
        return Ok(0);
    }
    to.write(&task.space.resident_map(address, length)?)?;
    Ok(0)
}

/// Nothing is ever paged out: locked is what everything is.
pub fn mlock(task: &mut Task, address: u64, length: u64) -> Result {
    let start = address & !(PAGE - 1);
    let length = length.checked_add(address - start).ok_or(Errno::EINVAL)?;
    task.space.check(start, length)?;
    Ok(0)
}
pub fn mlock2(task: &mut Task, address: u64, length: u64, flags: u32) -> Result {
    crate::io::only(flags, 1)?;
    mlock(task, address, length)
}
pub fn mlockall(_task: &mut Task, flags: u32) -> Result {
    if flags == 0 { Err(Errno::EINVAL.into()) } else { crate::io::only(flags, 7).map(|()| 0) }
}
pub fn munlockall(_task: &mut Task) -> Result {
    Ok(0)
}

/// `membarrier(2)`: with one CPU running user code of a process at a time every return to user mode is a barrier; QUERY says which
/// commands there are.
pub fn membarrier(_task: &mut Task, command: u32, flags: u32) -> Result {
    const QUERY: u32 = 0;
    /// GLOBAL, PRIVATE_EXPEDITED and its registration.
    const KNOWN: u32 = 1 | 1 << 3 | 1 << 4;
    crate::io::only(flags, 0)?;
    match command {
        QUERY => Ok(KNOWN.into()),
        _ if command.is_power_of_two() && command & KNOWN != 0 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
