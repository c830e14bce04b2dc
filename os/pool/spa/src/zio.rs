//! Reading one block: copies, gang trees, checksum, decompression.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use pool_phys::blkptr::{BlockPointer, Checksum, Compression, Dva, SIZE, Target};
use pool_phys::dnode::kind;
use pool_phys::{intent_log, label};

use crate::event::Event;
use crate::leaf::Context;
use crate::vdev::Io;
use crate::{Pool, Scrubbed};

/// Blocks of metadata kept, and their bytes.
const INTERIOR_MAX: usize = 1024;
const INTERIOR_BYTES: usize = 8 << 20;
/// So many uses of others leave a block's place among them as it is.
const YOUNG: u64 = 64;
const GANG_DEPTH_MAX: u32 = 8;
pub(crate) const GANG_HEADER: usize = 512;

/// Why a block could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No copy on any device matched the checksum, or none could be read.
    NoGoodCopy,
    /// Its bytes matched the checksum but do not decompress: a writer's bug or an attack.
    Damaged,
    /// The checksum needs the pool's salt (skein, edonr, blake3) or is sha512.
    UnsupportedChecksum,
    /// zstd.
    UnsupportedCompression,
    /// Native encryption; the key is not ours.
    Encrypted,
}

/// A block that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub reason: Reason,
    /// First copy, if the block has an address.
    pub dva: Option<Dva>,
    pub birth: u64,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::NoGoodCopy => "no copy matches its checksum",
            Reason::Damaged => "checksum matches, contents do not decompress",
            Reason::UnsupportedChecksum => "checksum algorithm not supported",
            Reason::UnsupportedCompression => "compression algorithm not supported",
            Reason::Encrypted => "encrypted",
        };
        match self.dva {
            Some(dva) => write!(f, "block {}:{:#x} born in txg {}: {why}", dva.vdev, dva.offset, self.birth),
            None => write!(f, "embedded block born in txg {}: {why}", self.birth),
        }
    }
}

impl core::error::Error for ReadError {}

pub(crate) fn checksum_ok(algorithm: Checksum, words: codec::Words, data: &[u8]) -> Result<bool, Reason> {
    Ok(match algorithm {
        Checksum::Off | Checksum::NoParity => true,
        Checksum::Fletcher2 => codec::fletcher2(data) == words,
        Checksum::Fletcher4 => codec::fletcher4(data) == words,
        Checksum::Sha256 => codec::sha256(data) == words,
        Checksum::Sha512 => codec::sha512(data) == words,
        Checksum::Label | Checksum::GangHeader | Checksum::Zilog | Checksum::Zilog2 | Checksum::Foreign(_) => {
            return Err(Reason::UnsupportedChecksum);
        }
    })
}

/// Unpacks a block as stored; `out` has its logical size.
///
/// # Errors
/// Damaged.
pub fn decompress(algorithm: Compression, data: &[u8], out: &mut [u8]) -> Result<(), Reason> {
    let result = match algorithm {
        Compression::Off => {
            let Some(data) = data.get(..out.len()) else { return Err(Reason::Damaged) };
            out.copy_from_slice(data);
            Ok(())
        }
        Compression::Lzjb => codec::lzjb_decode(data, out),
        Compression::Gzip(_) => codec::gzip_decode(data, out),
        Compression::Zle => codec::zle_decode(data, out),
        Compression::Lz4 => codec::lz4_decode(data, out),
        Compression::Zstd => codec::zstd_decode(data, out),
    };
    result.map_err(|codec::Damaged| Reason::Damaged)
}

impl Pool {
    /// Reads a block: `lsize` bytes that matched the checksum, decompressed. A hole gives `lsize` zeros (none if it was never
    /// written and so has no size).
    ///
    /// # Errors
    /// See [`Reason`]; the error names the block.
    pub fn read(&self, pointer: &BlockPointer) -> Result<Vec<u8>, ReadError> {
        if let Some(known) = self.interior().get(pointer) {
            return Ok(known.to_vec());
        }
        let data = self.read_device(pointer)?;
        self.interior().put(pointer, self.wants_metadata(), || Arc::new(data.clone()));
        Ok(data)
    }

    /// The same, shared with the cache of interior blocks.
    ///
    /// # Errors
    /// As [`Pool::read`].
    pub fn read_shared(&self, pointer: &BlockPointer) -> Result<Arc<Vec<u8>>, ReadError> {
        if let Some(known) = self.interior().get(pointer) {
            return Ok(known);
        }
        let data = Arc::new(self.read_device(pointer)?);
        self.interior().put(pointer, self.wants_metadata(), || Arc::clone(&data));
        Ok(data)
    }

    /// A block of metadata that was just written: whoever wants it next need not read it back.
    pub fn remember(&self, pointer: &BlockPointer, data: impl Into<Arc<Vec<u8>>>) {
        self.interior().put(pointer, false, || data.into());
    }

    fn read_device(&self, pointer: &BlockPointer) -> Result<Vec<u8>, ReadError> {
        let fail = |reason| fail(pointer, reason);
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| fail(Reason::Damaged));
        let lsize = size(pointer.lsize)?;
        match &pointer.target {
            Target::Hole => Ok(vec![0; lsize]),
            Target::Embedded(payload) => {
                let data = payload.get(..size(pointer.psize)?).ok_or_else(|| fail(Reason::Damaged))?;
                let mut out = vec![0; lsize];
                decompress(pointer.compression, data, &mut out).map_err(fail)?;
                Ok(out)
            }
            Target::Stored(_) if pointer.encrypted => Err(fail(Reason::Encrypted)),
            Target::Stored(_) => {
                let stored = self.read_second(pointer).map_or_else(|| self.read_stored(pointer, 0), Ok).map_err(fail)?;
                if pointer.compression == Compression::Off && stored.len() == lsize {
                    return Ok(stored);
                }
                let mut out = vec![0; lsize];
                decompress(pointer.compression, &stored, &mut out).map_err(fail)?;
                Ok(out)
            }
        }
    }

    /// Checks a block wherever it is stored, as a scrub does: every copy, every side of a mirror, every column of a raidz. Wrong places are written afresh
    /// if the pool is open for writing.
    ///
    /// # Errors
    /// An algorithm that is not supported.
    pub fn verify(&self, pointer: &BlockPointer) -> Result<Scrubbed, ReadError> {
        self.verify_at(pointer, 0).map_err(|reason| fail(pointer, reason))
    }

    fn verify_at(&self, pointer: &BlockPointer, depth: u32) -> Result<Scrubbed, Reason> {
        let mut sum = Scrubbed { good: pointer.copies().next().is_none(), ..Scrubbed::default() };
        let (mut right, mut wrong) = (None, Vec::new());
        for dva in pointer.copies() {
            let check = Check::of(pointer, dva)?;
            let found = self.top(dva.vdev).map(|top| {
                top.scrub(self.io(&check, dva.offset), &mut |data| {
                    let good = check.accepts(data);
                    if good && right.is_none() {
                        right = Some(data.to_vec());
                    }
                    good
                })
            });
            let found = found.unwrap_or(Scrubbed { good: false, bad: 1, repaired: 0 });
            if !found.good {
                wrong.push((dva, check));
            }
            sum = sum.and(found);
        }
        if let Some(data) = &right {
            for (dva, check) in wrong {
                sum.repaired += self.top(dva.vdev).map_or(0, |top| top.repair(self.io(&check, dva.offset), data));
            }
            if is_gang(pointer) {
                for piece in gang_pieces(data, depth)? {
                    let found = self.verify_at(&piece, depth + 1)?;
                    sum = Scrubbed { good: sum.good && found.good, ..sum.and(found) };
                }
            }
        }
        if !sum.good {
            self.post(Event::Data { dva: pointer.copies().next(), birth: pointer.birth });
        }
        Ok(sum)
    }

    /// Writes a block afresh to the leaves that are known to lack it.
    ///
    /// # Errors
    /// The block cannot be read.
    pub fn resilver(&self, pointer: &BlockPointer) -> Result<Scrubbed, ReadError> {
        self.resilver_at(pointer, 0).map_err(|reason| fail(pointer, reason))
    }

    fn resilver_at(&self, pointer: &BlockPointer, depth: u32) -> Result<Scrubbed, Reason> {
        let mut sum = Scrubbed { good: true, ..Scrubbed::default() };
        let wanted = pointer.copies().any(|dva| self.top(dva.vdev).is_some_and(|top| top.wants(pointer.physical_birth)));
        if !wanted && !is_gang(pointer) {
            return Ok(sum);
        }
        // There is nothing to fill a raidz's column from.
        if pointer.checksum == Checksum::NoParity && pointer.copies().any(|dva| self.top(dva.vdev).is_some_and(|top| top.shape().is_some())) {
            return Ok(sum);
        }
        let data = self.read_raw(pointer)?;
        for dva in pointer.copies() {
            let check = Check::of(pointer, dva)?;
            if let Some(top) = self.top(dva.vdev) {
                sum = sum.and(top.resilver(self.io(&check, dva.offset), &data));
            }
        }
        if is_gang(pointer) {
            for piece in gang_pieces(&data, depth)? {
                sum = sum.and(self.resilver_at(&piece, depth + 1)?);
            }
        }
        Ok(sum)
    }

    /// Every place on the vdevs that a block takes: its copies, and for gang blocks the headers and the pieces. `None` for a piece list that cannot be read.
    #[must_use]
    pub fn places(&self, pointer: &BlockPointer) -> Option<Vec<Dva>> {
        let mut out = Vec::new();
        self.places_at(pointer, 0, &mut out).then_some(out)
    }

    fn places_at(&self, pointer: &BlockPointer, depth: u32, out: &mut Vec<Dva>) -> bool {
        if !is_gang(pointer) {
            out.extend(pointer.copies());
            return true;
        }
        for dva in pointer.copies() {
            let shape = self.top(dva.vdev).and_then(|top| top.shape());
            let unit = self.top(dva.vdev).map_or(512, |top| 1 << top.config().ashift);
            let asize = shape.map_or((GANG_HEADER as u64).next_multiple_of(unit), |shape| shape.asize(GANG_HEADER as u64));
            out.push(Dva { asize, ..dva });
        }
        let Ok(pieces) = self.read_raw(pointer).and_then(|header| gang_pieces(&header, depth)) else { return false };
        pieces.iter().all(|piece| self.places_at(piece, depth + 1, out))
    }

    fn io<'a>(&'a self, check: &Check, offset: u64) -> Io<'a> {
        Io { offset, size: check.size, birth: check.birth, no_parity: check.no_parity(), context: self.context() }
    }

    /// The stored (compressed) bytes.
    /// A block as it is stored, not unpacked: `psize` bytes that matched the checksum. Not for holes and embedded blocks.
    ///
    /// # Errors
    /// As [`Pool::read`].
    pub fn read_packed(&self, pointer: &BlockPointer) -> Result<Vec<u8>, ReadError> {
        self.read_stored(pointer, 0).map_err(|reason| fail(pointer, reason))
    }

    fn read_stored(&self, pointer: &BlockPointer, depth: u32) -> Result<Vec<u8>, Reason> {
        let raw = self.read_raw(pointer)?;
        if !is_gang(pointer) {
            return Ok(raw);
        }
        // A gang header holds three block pointers whose data, joined, is the stored block.
        let size = usize::try_from(pointer.psize).map_err(|_| Reason::Damaged)?;
        let mut whole = Vec::new();
        for piece in gang_pieces(&raw, depth)? {
            whole.extend_from_slice(&self.read_stored(&piece, depth + 1)?);
            if whole.len() > size {
                return Err(Reason::Damaged);
            }
        }
        if whole.len() == size && checksum_ok(pointer.checksum, pointer.words, &whole)? { Ok(whole) } else { Err(Reason::NoGoodCopy) }
    }

    /// What the pointer's addresses hold, from the first copy that verifies: the stored block, or a gang header. Copies before it that were wrong are
    /// written afresh.
    fn read_raw(&self, pointer: &BlockPointer) -> Result<Vec<u8>, Reason> {
        let mut wrong = Vec::new();
        for dva in pointer.copies() {
            let check = Check::of(pointer, dva)?;
            if let Some(data) = self.staged_at(dva, &check) {
                return Ok(data);
            }
            let right = self.top(dva.vdev).and_then(|top| top.read(self.io(&check, dva.offset), &mut |data| check.accepts(data)));
            if let Some(data) = right {
                for (dva, check) in wrong {
                    let dva: Dva = dva;
                    if let Some(top) = self.top(dva.vdev) {
                        top.repair(self.io(&check, dva.offset), &data);
                    }
                }
                return Ok(data);
            }
            wrong.push((dva, check));
        }
        self.post(Event::Data { dva: pointer.copies().next(), birth: pointer.birth });
        Err(Reason::NoGoodCopy)
    }

    /// A block that the commit has still to write.
    fn staged_at(&self, dva: Dva, check: &Check) -> Option<Vec<u8>> {
        let staged = self.staged();
        let data = staged.get(&(dva.vdev, dva.offset))?;
        (data.len() == check.size && check.accepts(data)).then(|| data.to_vec())
    }

    /// Reads an intent-log block (format section 16): `None` where the chain ends. Its bytes are in no checksum tree, so nothing is counted or healed.
    ///
    /// # Errors
    /// No device gave what is there: whether the chain goes on nobody knows.
    pub fn read_log_block(&self, pointer: &BlockPointer) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(size) = usize::try_from(pointer.psize).ok().filter(|size| *size <= 128 << 10) else { return Ok(None) };
        let quiet = Context { events: self.context().events.clone(), heal: false, speculative: true, ..Context::default() };
        let mut was_seen = false;
        let found = pointer.copies().find_map(|dva| {
            self.top(dva.vdev)?.read(Io { offset: dva.offset, size, birth: pointer.birth, no_parity: false, context: &quiet }, &mut |data| {
                was_seen = true;
                intent_log::is_sealed(data, pointer.words)
            })
        });
        if found.is_none() && !was_seen {
            self.post(Event::Data { dva: pointer.copies().next(), birth: pointer.birth });
            return Err(fail(pointer, Reason::NoGoodCopy));
        }
        Ok(found)
    }
}

/// What a block is known by: vdev, offset, birth.
pub(crate) type Key = (u32, u64, u64);

/// One of them.
#[derive(Debug)]
struct Held {
    used: u64,
    data: Arc<Vec<u8>>,
    /// For a cache device, once it leaves memory.
    second: Option<Box<BlockPointer>>,
}

/// Blocks of pointers, dnodes and name tables read last. Every way to a file's data leads through several, most of them the same ones; decompressing
/// them again and again is most of what a small read would cost. A block is known by its address and birth: neither changes while anything
/// refers to it.
#[derive(Debug, Default)]
pub(crate) struct Interior {
    blocks: BTreeMap<Key, Held>,
    /// By when they were used last.
    order: BTreeMap<u64, Key>,
    bytes: usize,
    /// Uses so far.
    uses: u64,
}

impl Interior {
    fn key(pointer: &BlockPointer) -> Option<Key> {
        let is_interior = pointer.level > 0 || !matches!(pointer.kind, kind::FILE | kind::ZVOL);
        let dva = pointer.copies().next().filter(|_| is_interior)?;
        Some((dva.vdev, dva.offset, pointer.physical_birth))
    }

    fn get(&mut self, pointer: &BlockPointer) -> Option<Arc<Vec<u8>>> {
        let key = Self::key(pointer)?;
        let Held { used, data, .. } = self.blocks.get_mut(&key)?;
        self.uses += 1;
        // One that was used a moment ago is young enough.
        if self.uses - *used > YOUNG {
            self.order.remove(used);
            *used = self.uses;
            self.order.insert(self.uses, key);
        }
        (data.len() as u64 == pointer.lsize).then(|| Arc::clone(data))
    }

    fn put(&mut self, pointer: &BlockPointer, for_second: bool, data: impl FnOnce() -> Arc<Vec<u8>>) {
        let Some(key) = Self::key(pointer) else { return };
        let data = data();
        self.bytes += data.len();
        self.uses += 1;
        self.order.insert(self.uses, key);
        let held = Held { used: self.uses, data, second: for_second.then(|| Box::new(pointer.clone())) };
        if let Some(old) = self.blocks.insert(key, held) {
            self.order.remove(&old.used);
            self.bytes -= old.data.len();
        }
        while self.bytes > INTERIOR_BYTES || self.blocks.len() > INTERIOR_MAX {
            let Some((_, key)) = self.order.pop_first() else { break };
            if let Some(old) = self.blocks.remove(&key) {
                self.bytes -= old.data.len();
            }
        }
    }

    /// What leaves memory next and may go to a cache device, each once: up to so many bytes as stored, the oldest first.
    pub(crate) fn tail(&mut self, bytes: u64) -> Vec<(BlockPointer, Arc<Vec<u8>>)> {
        let mut out = Vec::new();
        let mut left = bytes;
        for key in self.order.values() {
            let Some(held) = self.blocks.get_mut(key) else { continue };
            let Some(pointer) = held.second.take_if(|pointer| pointer.psize <= left) else { continue };
            left -= pointer.psize;
            out.push((*pointer, Arc::clone(&held.data)));
        }
        out
    }
}

/// How the bytes of one copy are recognised.
struct Check {
    size: usize,
    birth: u64,
    kind: CheckKind,
}

enum CheckKind {
    Sum(Checksum, codec::Words),
    Gang(codec::Words),
}

impl Check {
    fn of(pointer: &BlockPointer, dva: Dva) -> Result<Self, Reason> {
        let birth = pointer.physical_birth;
        if dva.gang {
            // All copies of a header are sealed with the first one's address.
            let first = pointer.copies().next().unwrap_or(dva);
            return Ok(Self { size: GANG_HEADER, birth, kind: CheckKind::Gang([u64::from(first.vdev), first.offset, birth, 0]) });
        }
        checksum_ok(pointer.checksum, pointer.words, &[])?;
        let size = usize::try_from(pointer.psize).map_err(|_| Reason::Damaged)?;
        Ok(Self { size, birth, kind: CheckKind::Sum(pointer.checksum, pointer.words) })
    }

    /// Nothing but the data was written, not even parity.
    const fn no_parity(&self) -> bool {
        matches!(self.kind, CheckKind::Sum(Checksum::NoParity, _))
    }

    fn accepts(&self, data: &[u8]) -> bool {
        match self.kind {
            CheckKind::Sum(algorithm, words) => checksum_ok(algorithm, words, data) == Ok(true),
            CheckKind::Gang(verifier) => label::embedded_checksum_ok(data, verifier),
        }
    }
}

fn fail(pointer: &BlockPointer, reason: Reason) -> ReadError {
    ReadError { reason, dva: pointer.copies().next(), birth: pointer.birth }
}

/// The pointer's addresses hold gang headers.
pub(crate) fn is_gang(pointer: &BlockPointer) -> bool {
    pointer.copies().next().is_some_and(|dva| dva.gang)
}

fn gang_pieces(header: &[u8], depth: u32) -> Result<Vec<BlockPointer>, Reason> {
    if depth == GANG_DEPTH_MAX {
        return Err(Reason::Damaged);
    }
    let pieces = header.chunks_exact(SIZE).take(3).map(BlockPointer::parse).collect::<Result<Vec<_>, _>>().map_err(|_| Reason::Damaged)?;
    Ok(pieces.into_iter().filter(|piece| !piece.is_hole()).collect())
}
