//! Pipes and FIFOs.
//!
//! # Theory
//! A ring of [`CAPACITY`] bytes in frames that come on first use, charged to the writer; its first [`HEAD`] bytes lie in the pipe itself. A write of up to [`PIPE_BUF`] bytes is
//! all or nothing (`pipe(7)`). A pipe that runs empty starts again at its first byte, so that short messages
//! need no page at all.
//!
//! # Structures
//! [`Pipe`] is shared by its ends; each open is an `End`, whose drop is the close. A named FIFO is a tmpfs node that owns a
//! `Pipe`; an anonymous pipe has a node of its own, so that `/proc/self/fd` can open it again.
//!
//! # Locking
//! `Class::Pipe` (spin), held for at most one page of copying.
//!
//! # Failure
//! No frame: a write gives what it got in, or `NoMemory`. No reader: `BrokenPipe` (the system-call layer adds SIGPIPE).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use kif::{Frame, PAGE_SHIFT, PAGE_SIZE, ZoneId};
use sync::{Class, SpinLock};

use crate::file::{File, OpenFlags};
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, Io, Kind, NodeId, Vnode, VnodeRef};
use crate::{Result, VfsError, mount, user};

/// Bytes a pipe holds.
pub const CAPACITY: usize = PAGES * PAGE_SIZE;
/// Writes up to this size are atomic.
pub const PIPE_BUF: usize = 4096;
/// Bytes at the start of the ring that need no frame.
const HEAD: usize = 64;
/// Frames of a full pipe.
const PAGES: usize = 16;
/// `ioctl`: bytes that can be read.
const FIONREAD: u32 = 0x541b;

/// The shared middle of a pipe.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Pipe {
    ring: SpinLock<Ring>,
    pollee: Pollee,
}

struct Ring {
    head: [u8; HEAD],
    frames: [Option<Frame>; PAGES],
    /// Positions in the endless stream; `write - read` bytes are inside.
    read: u64,
    write: u64,
    readers: u32,
    writers: u32,
    /// How often each side was opened: lets a FIFO's open see a peer that came and went.
    reader_opens: u64,
    writer_opens: u64,
}

impl Ring {
    const fn used(&self) -> usize {
        (self.write - self.read) as usize
    }
    const fn space(&self) -> usize {
        CAPACITY - self.used()
    }
    /// Page, offset in it and bytes up to its end, at a position.
    const fn locate(position: u64) -> (usize, usize, usize) {
        let page = (position >> PAGE_SHIFT) as usize % PAGES;
        let offset = position as usize % PAGE_SIZE;
        (page, offset, PAGE_SIZE - offset)
    }
    /// Copies all of it in, if it fits into the rest of the head.
    fn put_short(&mut self, data: &[u8]) -> bool {
        let at = usize::try_from(self.write).unwrap_or(HEAD);
        let Some(room) = self.head.get_mut(at..).and_then(|rest| rest.get_mut(..data.len())) else { return false };
        room.copy_from_slice(data);
        self.write += data.len() as u64;
        true
    }
    /// Copies out, if there is something and it lies in the head; `None` otherwise.
    fn take_short(&mut self, out: &mut [u8]) -> Option<usize> {
        let (from, to) = (usize::try_from(self.read).ok()?, usize::try_from(self.write).ok()?);
        let inside = self.head.get(from..to).filter(|inside| !inside.is_empty())?;
        let count = inside.len().min(out.len());
        out[..count].copy_from_slice(&inside[..count]);
        if count == inside.len() {
            (self.read, self.write) = (0, 0);
        } else {
            self.read += count as u64;
        }
        Some(count)
    }
    /// Copies at most a page in; the caller has seen to the space.
    fn put(&mut self, data: &[u8], zone: ZoneId) -> Result<usize> {
        let at = self.write as usize % CAPACITY;
        if let Some(room) = self.head.get_mut(at..).filter(|room| !room.is_empty()) {
            let count = room.len().min(data.len()).min(CAPACITY - (self.write - self.read) as usize);
            room[..count].copy_from_slice(&data[..count]);
            self.write += count as u64;
            return Ok(count);
        }
        let (page, offset, room) = Self::locate(self.write);
        let count = room.min(data.len()).min(self.space());
        let slot = &mut self.frames[page];
        if slot.is_none() {
            *slot = Some(Frame::allocate_for_overwrite(zone)?);
        }
        slot.as_ref().expect("just filled").write(offset, &data[..count]);
        self.write += count as u64;
        Ok(count)
    }
    /// Copies at most a page out.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let (page, offset, room) = Self::locate(self.read);
        let mut count = room.min(out.len()).min(self.used());
        if count != 0 {
            match self.head.get(self.read as usize % CAPACITY..) {
                Some(head) if !head.is_empty() => {
                    count = count.min(head.len());
                    out[..count].copy_from_slice(&head[..count]);
                }
                _ => self.frames[page].as_ref().expect("unread bytes lie in a frame").read(offset, &mut out[..count]),
            }
            self.read += count as u64;
            if self.read == self.write {
                (self.read, self.write) = (0, 0);
            }
        }
        count
    }
}

impl Pipe {
    /// An empty pipe with no ends.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let ring = Ring {
            head: [0; HEAD],
            frames: [const { None }; PAGES],
            read: 0,
            write: 0,
            readers: 0,
            writers: 0,
            reader_opens: 0,
            writer_opens: 0,
        };
        Arc::new(Self { ring: SpinLock::new(Class::Pipe, ring), pollee: Pollee::new() })
    }

    fn end(self: &Arc<Self>, id: NodeId, reads: bool, writes: bool) -> Arc<End> {
        let mut ring = self.ring.lock();
        ring.readers += u32::from(reads);
        ring.writers += u32::from(writes);
        ring.reader_opens += u64::from(reads);
        ring.writer_opens += u64::from(writes);
        drop(ring);
        Arc::new(End { pipe: Arc::clone(self), id, reads, writes })
    }

    /// Opens an end as `fifo(7)` says: waits for the other side unless `NONBLOCK` or both directions are asked for.
    ///
    /// # Errors
    /// `NONBLOCK` writing without a reader ([`VfsError::NoSuchDevice`]); interrupted.
    pub fn open(self: &Arc<Self>, id: NodeId, flags: OpenFlags) -> Result<VnodeRef> {
        let (reads, writes) = (flags.contains(OpenFlags::READ), flags.contains(OpenFlags::WRITE));
        let nonblock = flags.contains(OpenFlags::NONBLOCK);
        if writes && !reads && nonblock && self.ring.lock().readers == 0 {
            return Err(VfsError::NoSuchDevice);
        }
        let end = self.end(id, reads, writes);
        // Looked at before the other side is woken: it may do all it wants and be gone before we run again.
        let (is_met, reader_opens, writer_opens) = {
            let ring = self.ring.lock();
            let peers = if reads { ring.writers } else { ring.readers };
            (peers != 0, ring.reader_opens, ring.writer_opens)
        };
        self.pollee.notify();
        if reads != writes && !nonblock && !is_met {
            self.pollee.block(false, || {
                let ring = self.ring.lock();
                let there = if reads {
                    ring.writers != 0 || ring.writer_opens != writer_opens
                } else {
                    ring.readers != 0 || ring.reader_opens != reader_opens
                };
                if there { Ok(()) } else { Err(VfsError::WouldBlock) }
            })?;
        }
        Ok(end)
    }

    fn try_read(&self, out: &mut [u8]) -> Result<usize> {
        // All of it in the head: the usual case of short messages. There is no writer to tell: it had room.
        if let Some(count) = self.ring.lock().take_short(out) {
            return Ok(count);
        }
        self.try_read_long(out)
    }

    #[inline(never)]
    fn try_read_long(&self, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        let mut made_room = false;
        let mut is_drained = false;
        while done < out.len() && !is_drained {
            let mut ring = self.ring.lock();
            if ring.used() == 0 {
                if done == 0 && ring.writers != 0 {
                    return Err(VfsError::WouldBlock);
                }
                break;
            }
            let was_tight = ring.space() < PIPE_BUF;
            done += ring.take(&mut out[done..]);
            made_room |= was_tight && ring.space() >= PIPE_BUF;
            is_drained = ring.used() == 0;
        }
        // A writer waits only while there is less than PIPE_BUF of room.
        if made_room {
            self.pollee.notify();
        }
        Ok(done)
    }

    /// Writes what fits now. All or nothing up to [`PIPE_BUF`].
    fn try_write(&self, data: &[u8], zone: ZoneId) -> Result<usize> {
        let is_done = {
            let mut ring = self.ring.lock();
            ring.readers != 0 && ring.put_short(data)
        };
        if is_done {
            self.pollee.notify();
            return Ok(data.len());
        }
        self.try_write_long(data, zone)
    }

    #[inline(never)]
    fn try_write_long(&self, data: &[u8], zone: ZoneId) -> Result<usize> {
        let mut done = 0;
        let mut result = Ok(());
        let atomic = data.len() <= PIPE_BUF;
        while done < data.len() {
            let mut ring = self.ring.lock();
            if ring.readers == 0 {
                result = Err(VfsError::BrokenPipe);
                break;
            }
            let needed = if atomic { data.len() } else { 1 };
            if done == 0 && ring.space() < needed || ring.space() == 0 {
                result = Err(VfsError::WouldBlock);
                break;
            }
            if atomic {
                // The head and two pages at most; if one cannot be had, what came before is taken back.
                let before = ring.write;
                while done < data.len() && result.is_ok() {
                    match ring.put(&data[done..], zone) {
                        Ok(count) => done += count,
                        Err(error) => result = Err(error),
                    }
                }
                if result.is_err() {
                    ring.write = before;
                    done = 0;
                    break;
                }
            } else {
                match ring.put(&data[done..], zone) {
                    Ok(count) => done += count,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
        }
        if done != 0 {
            self.pollee.notify();
            return Ok(done);
        }
        result.map(|()| 0)
    }

    fn write(&self, data: &[u8], io: Io) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            match self.pollee.block(io.nonblock, || self.try_write(&data[done..], io.zone)) {
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
}

/// One open of a pipe.
struct End {
    pipe: Arc<Pipe>,
    id: NodeId,
    reads: bool,
    writes: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut ring = self.pipe.ring.lock();
        ring.readers -= u32::from(self.reads);
        ring.writers -= u32::from(self.writes);
        let mut frames = [const { None }; PAGES];
        if ring.readers == 0 && ring.writers == 0 {
            core::mem::swap(&mut frames, &mut ring.frames);
            (ring.read, ring.write) = (0, 0);
        }
        drop(ring);
        drop(frames);
        self.pipe.pollee.notify();
    }
}

impl Vnode for End {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Fifo
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::Fifo, 0o600))
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.pipe.pollee.block(io.nonblock, || self.pipe.try_read(out))
    }
    fn write_at(&self, _offset: u64, data: &[u8], io: Io) -> Result<usize> {
        self.pipe.write(data, io)
    }
    fn needs_memory(&self) -> bool {
        // Frames only, and those may be refused.
        false
    }
    fn poll(&self) -> Ready {
        let ring = self.pipe.ring.lock();
        let mut ready = Ready::empty();
        if self.reads {
            ready.set(Ready::IN | Ready::RDNORM, ring.used() != 0);
            ready.set(Ready::HUP, ring.writers == 0 && ring.writer_opens != 0);
        }
        if self.writes {
            ready.set(Ready::OUT | Ready::WRNORM, ring.space() >= PIPE_BUF);
            ready.set(Ready::ERR, ring.readers == 0);
        }
        ready
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.pipe.pollee)
    }
    fn ioctl(&self, request: u32, argument: u64, _io: Io) -> Result<u64> {
        if request != FIONREAD {
            return Err(VfsError::NotTty);
        }
        let used = self.pipe.ring.lock().used();
        user::put_u32(argument, used as u32)?;
        Ok(0)
    }
}

/// The object that an anonymous pipe's descriptors name.
struct Node {
    pipe: Arc<Pipe>,
    id: NodeId,
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Fifo
    }
    fn attr(&self) -> Result<Attr> {
        let time = kif::clock().realtime();
        Ok(Attr { atime: time, mtime: time, ctime: time, ..Attr::simple(self.id, Kind::Fifo, 0o600) })
    }
    fn open(&self, flags: OpenFlags, _zone: ZoneId) -> Result<Option<VnodeRef>> {
        self.pipe.open(self.id, flags).map(Some)
    }
}

/// Makes an anonymous pipe: its reading and its writing end. `flags` may hold `NONBLOCK`.
#[must_use]
pub fn new(flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NodeId { fs: mount::ANONYMOUS_FS, ino: NEXT.fetch_add(1, Ordering::Relaxed) };
    let pipe = Pipe::new();
    let (reader, writer) = (pipe.end(id, true, false), pipe.end(id, false, true));
    let named: VnodeRef = Arc::new(Node { pipe, id });
    let flags = flags & OpenFlags::NONBLOCK;
    (
        File::anonymous_end(Arc::clone(&named), reader, flags | OpenFlags::READ),
        File::anonymous_end(named, writer, flags | OpenFlags::WRITE),
    )
}
