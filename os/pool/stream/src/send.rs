//! Making a stream: what is in a snapshot, or what changed since another.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pool_dmu::{DatasetInfo, Datasets, ObjectSet};
use pool_phys::blkptr::{BlockPointer, Compression, Target};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::nvlist::{self, List, Value};
use pool_phys::objset::ObjsetKind;
use pool_spa::Pool;

use crate::record::{Begin, ObjectRecord, Record, SPILL_FLAG, TO_END, WriteRecord, Writer, flag, padded};
use crate::{Feature, StreamError, Token, Why};

/// [`Sender::next`] gives about this much at a time.
const PIECE: usize = 1 << 20;
/// Largest block where the receiver does not know `large_blocks`.
const BLOCK_OLD: u64 = 128 << 10;
/// A data set that is being received.
const INCONSISTENT: u64 = 1;

/// How blocks are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions {
    /// Blocks that are in their pointers go as they are (`-e`).
    pub embed: bool,
    /// Blocks past 128 KiB go whole (`-L`).
    pub large_blocks: bool,
    /// Blocks go as they are compressed on disk (`-c`).
    pub compressed: bool,
}

/// The snapshot or bookmark that an incremental stream starts from.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    pub guid: u64,
    /// The txg it was taken in.
    pub txg: u64,
    /// It is the origin of the file system that is sent.
    pub is_origin: bool,
}

#[derive(Debug)]
enum State {
    Begin,
    /// Looking for changed dnodes, from this number on.
    Objects { next: u64 },
    /// In an object's blocks.
    Data { object: u64, next: u64, spill: Option<Box<BlockPointer>>, slots: u64 },
    End,
    Done,
}

/// A stream being made.
#[derive(Debug)]
pub struct Sender {
    root: BlockPointer,
    begin: Begin,
    /// Resumed: the list behind BEGIN.
    list: Vec<u8>,
    since: u64,
    resume: Option<(u64, u64)>,
    writer: Writer,
    state: State,
    records: u64,
    /// A FREE or FREEOBJECTS that may still grow.
    pending: Option<Record>,
    /// The block of dnodes that was read last.
    dnodes: Option<(u64, Vec<u8>)>,
}

impl Sender {
    /// A stream of snapshot `to`, from `base` on if there is one. `resume` goes on where a receiver stopped.
    ///
    /// # Errors
    /// Not a snapshot, half received, a base that is not older; unreadable.
    pub fn new(tree: &Datasets<'_>, to: &DatasetInfo, base: Option<Base>, options: SendOptions, resume: Option<(u64, u64)>) -> Result<Self, StreamError> {
        Self::open(tree, to, base, options, resume).map_err(|why| StreamError { offset: 0, record: 0, why })
    }

    /// Goes on where the receiver that gave `token` stopped. A token is words of whoever brings it: `is_allowed` tells which snapshots he may have.
    ///
    /// # Errors
    /// The snapshots are not here any more, or not for him; as [`Sender::new`].
    pub fn resume(tree: &Datasets<'_>, token: &Token, is_allowed: fn(&str) -> bool) -> Result<Self, StreamError> {
        let at = |why| StreamError { offset: 0, record: 0, why };
        let pool = token.name.split(['/', '@']).next().unwrap_or_default();
        let gone = || at(Why::Target("the snapshot of this token is not here any more", token.name.clone()));
        let all = tree.list(pool).map_err(|_| gone())?;
        let by_guid = |guid: u64| all.iter().find(|info| info.dataset.guid == guid && info.name.contains('@') && is_allowed(&info.name));
        let to = by_guid(token.to_guid).ok_or_else(gone)?;
        let base = match token.from_guid {
            None => None,
            Some(guid) => {
                let from = by_guid(guid).ok_or_else(|| at(Why::Target("the base of this token is not here any more", token.name.clone())))?;
                let is_origin = from.name.split('@').next() != to.name.split('@').next();
                Some(Base { guid, txg: from.dataset.creation_txg, is_origin })
            }
        };
        Self::new(tree, to, base, token.options, Some((token.object, token.offset)))
    }

    fn open(tree: &Datasets<'_>, to: &DatasetInfo, base: Option<Base>, options: SendOptions, resume: Option<(u64, u64)>) -> Result<Self, Why> {
        let about = |why| Why::Target(why, to.name.clone());
        if !to.name.contains('@') {
            return Err(about("only snapshots can be sent"));
        }
        if to.dataset.flags & INCONSISTENT != 0 {
            return Err(about("is half received"));
        }
        if base.is_some_and(|base| base.txg >= to.dataset.creation_txg) {
            return Err(about("is not younger than the base of the stream"));
        }
        let set = tree.open_dataset(to)?;
        let features = tree.features()?;
        let active = |guid: &str| features.iter().any(|(name, count, _)| *count > 0 && name == guid);
        let os_kind = match set.kind() {
            ObjsetKind::Zpl => 2,
            ObjsetKind::Zvol => 3,
            _ => return Err(about("is neither a file system nor a volume")),
        };
        let mut bits = 0;
        if os_kind == 2 && set.lookup_number(1, "VERSION").is_ok_and(|version| version >= 5) {
            bits |= Feature::SA_SPILL.0;
        }
        if options.embed && active("com.delphix:embedded_data") {
            bits |= Feature::EMBED_DATA.0;
        }
        if options.compressed {
            bits |= Feature::COMPRESSED.0;
        }
        if (options.embed || options.compressed) && active("org.illumos:lz4_compress") {
            bits |= Feature::LZ4.0;
        }
        if options.compressed && active("org.freebsd:zstd_compress") {
            bits |= Feature::ZSTD.0;
        }
        if options.large_blocks && active("org.open-zfs:large_blocks") {
            bits |= Feature::LARGE_BLOCKS.0;
        }
        if active("org.zfsonlinux:large_dnode") {
            bits |= Feature::LARGE_DNODE.0;
        }
        let list = match resume {
            None => Vec::new(),
            Some((object, offset)) => {
                bits |= Feature::RESUMING.0;
                let pairs = [("resume_object", object), ("resume_offset", offset)];
                nvlist::encode(&List { pairs: pairs.map(|(name, value)| (name.into(), Value::Number(value))).into() })
            }
        };
        // Payloads are multiples of eight bytes.
        let list = padded(&list, list.len().next_multiple_of(8));
        let begin = Begin {
            compound: false,
            features: bits,
            creation_time: to.dataset.creation_time,
            os_kind,
            flags: flag::FREE_RECORDS | flag::SPILL_BLOCK | if base.is_some_and(|base| base.is_origin) { flag::CLONE } else { 0 },
            to_guid: to.dataset.guid,
            from_guid: base.map_or(0, |base| base.guid),
            name: to.name.clone(),
            payload: u32::try_from(list.len()).unwrap_or(0),
        };
        let state = State::Begin;
        let since = base.map_or(0, |base| base.txg);
        let root = to.dataset.root.clone();
        Ok(Self { root, begin, list, since, resume, writer: Writer::default(), state, records: 0, pending: None, dnodes: None })
    }

    /// Name of the snapshot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.begin.name
    }

    /// Bytes made so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.writer.bytes
    }

    /// Appends the next piece of the stream to `out`. False: that was all.
    ///
    /// # Errors
    /// A block that cannot be read: its object and place; malformed structures.
    pub fn next(&mut self, pool: &Pool, out: &mut Vec<u8>) -> Result<bool, StreamError> {
        let done = self.advance(pool, out);
        done.map_err(|why| StreamError { offset: self.writer.bytes, record: self.records, why })
    }

    fn advance(&mut self, pool: &Pool, out: &mut Vec<u8>) -> Result<bool, Why> {
        let set = ObjectSet::open(pool, &self.root)?;
        let limit = out.len() + PIECE;
        while out.len() < limit {
            match &self.state {
                State::Begin => {
                    let (record, list) = (Record::Begin(self.begin.clone()), core::mem::take(&mut self.list));
                    self.put(out, &record, &list);
                    self.state = State::Objects { next: self.resume.map_or(0, |(object, _)| object) };
                }
                State::Objects { next } => {
                    let next = *next;
                    self.objects(&set, next, out)?;
                }
                State::Data { .. } => self.data(&set, out, limit)?,
                State::End => {
                    self.flush(out);
                    self.put(out, &Record::End { checksum: [0; 4] }, &[]);
                    self.state = State::Done;
                }
                State::Done => return Ok(false),
            }
        }
        Ok(true)
    }

    fn put(&mut self, out: &mut Vec<u8>, record: &Record, payload: &[u8]) {
        self.records += 1;
        self.writer.put(out, record, self.begin.to_guid, payload);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some(record) = self.pending.take() {
            self.put(out, &record, &[]);
        }
    }

    /// Object numbers that are free. What follows on what is pending joins it.
    fn free_objects(&mut self, out: &mut Vec<u8>, first: u64, count: u64) {
        if let Some(Record::FreeObjects { first: start, count: pending }) = &mut self.pending
            && start.saturating_add(*pending) == first
        {
            *pending += count;
            return;
        }
        self.flush(out);
        self.pending = Some(Record::FreeObjects { first, count });
    }

    fn free(&mut self, out: &mut Vec<u8>, object: u64, offset: u64, length: u64) {
        if let Some(Record::Free { object: pending, offset: start, length: so_far }) = &mut self.pending
            && *pending == object
            && *so_far != TO_END
            && start.saturating_add(*so_far) == offset
        {
            *so_far = if length == TO_END { TO_END } else { *so_far + length };
            return;
        }
        self.flush(out);
        self.pending = Some(Record::Free { object, offset, length });
    }

    /// The next changed block of dnodes: one of them, or the free ones up to it.
    fn objects(&mut self, set: &ObjectSet<'_>, next: u64, out: &mut Vec<u8>) -> Result<(), Why> {
        let mut meta = set.meta();
        let per_block = meta.dnode().block_size / dnode::SLOT as u64;
        let Some(changed) = meta.next_change(next / per_block, self.since)? else {
            self.state = State::End;
            return Ok(());
        };
        let mut number = next.max(changed.first.saturating_mul(per_block));
        let limit = changed.first.saturating_add(changed.count).saturating_mul(per_block);
        if changed.pointer.is_hole() {
            self.free_objects(out, number, limit - number);
            self.state = State::Objects { next: limit };
            return Ok(());
        }
        if self.dnodes.as_ref().is_none_or(|(known, _)| *known != changed.first) {
            self.dnodes = Some((changed.first, meta.block(changed.first)?));
        }
        let data = self.dnodes.as_ref().map_or_else(Vec::new, |(_, data)| data.clone());
        while number < limit {
            let at = usize::try_from(number % per_block).unwrap_or(0) * dnode::SLOT;
            let Some(dnode) = Dnode::parse(&data[at..])? else {
                self.free_objects(out, number, 1);
                number += 1;
                continue;
            };
            self.object(set, number, &dnode, out)?;
            return Ok(());
        }
        self.state = State::Objects { next: number };
        Ok(())
    }

    /// OBJECT, the FREE of what is behind its last block, and a spill block that did not change.
    fn object(&mut self, set: &ObjectSet<'_>, number: u64, dnode: &Dnode, out: &mut Vec<u8>) -> Result<(), Why> {
        let offset = self.resume.take().filter(|(object, _)| *object == number).map_or(0, |(_, offset)| offset);
        let changed_spill = dnode.spill.as_ref().filter(|spill| spill.birth > self.since).cloned();
        let slots = dnode.slots as u64;
        self.state = State::Data { object: number, next: offset / dnode.block_size.max(1), spill: changed_spill.clone().map(Box::new), slots };
        if offset > 0 {
            return Ok(());
        }
        self.flush(out);
        let large = self.begin.features & Feature::LARGE_BLOCKS.0 != 0;
        let record = ObjectRecord {
            object: number,
            kind: dnode.kind,
            bonus_kind: dnode.bonus_kind,
            block_size: u32::try_from(if large { dnode.block_size } else { dnode.block_size.min(BLOCK_OLD) }).unwrap_or(0),
            bonus_size: u32::try_from(dnode.bonus.len()).unwrap_or(0),
            checksum: dnode.checksum,
            compression: dnode.compression,
            slots: u8::try_from(dnode.slots).unwrap_or(1),
            flags: if dnode.spill.is_some() { SPILL_FLAG } else { 0 },
        };
        self.put(out, &Record::Object(record), &padded(&dnode.bonus, dnode.bonus.len().next_multiple_of(8)));
        self.free(out, number, dnode.last_block.saturating_add(1).saturating_mul(dnode.block_size), TO_END);
        if let (Some(spill), None) = (&dnode.spill, changed_spill) {
            self.spill(set, number, spill, SPILL_FLAG, out)?;
        }
        Ok(())
    }

    fn spill(&mut self, set: &ObjectSet<'_>, object: u64, pointer: &BlockPointer, flags: u8, out: &mut Vec<u8>) -> Result<(), Why> {
        self.flush(out);
        let mut data = set.pool().read(pointer).map_err(|error| Why::Unreadable { object, block: None, error })?;
        data.resize(data.len().next_multiple_of(512).max(512), 0);
        let record = Record::Spill { object, size: data.len() as u64, flags, compression: 0, packed: 0, kind: pointer.kind };
        self.put(out, &record, &data);
        Ok(())
    }

    /// Blocks of an object until `out` is long enough, then its spill block.
    fn data(&mut self, set: &ObjectSet<'_>, out: &mut Vec<u8>, limit: usize) -> Result<(), Why> {
        let State::Data { object: number, next, spill, slots } = &self.state else { return Ok(()) };
        let (number, mut next, spill, slots) = (*number, *next, spill.clone(), *slots);
        let mut object = set.object(number)?;
        let size = object.dnode().block_size;
        while out.len() < limit {
            let Some(changed) = object.next_change(next, self.since)? else {
                if let Some(spill) = spill {
                    self.spill(set, number, &spill, 0, out)?;
                }
                self.state = State::Objects { next: number + slots };
                return Ok(());
            };
            let offset = changed.first.saturating_mul(size);
            if changed.pointer.is_hole() {
                self.free(out, number, offset, changed.count.saturating_mul(size));
            } else {
                self.flush(out);
                self.block(set.pool(), number, changed.first, offset, &changed.pointer, out)?;
            }
            next = changed.first.saturating_add(changed.count);
        }
        self.state = State::Data { object: number, next, spill, slots };
        Ok(())
    }

    fn block(&mut self, pool: &Pool, object: u64, block: u64, offset: u64, pointer: &BlockPointer, out: &mut Vec<u8>) -> Result<(), Why> {
        let has = |feature: Feature| self.begin.features & feature.0 != 0;
        let unreadable = |error| Why::Unreadable { object, block: Some(block), error };
        let lz4_goes = pointer.compression != Compression::Lz4 || has(Feature::LZ4);
        if let Target::Embedded(payload) = &pointer.target
            && has(Feature::EMBED_DATA)
            && lz4_goes
            && pointer.compression != Compression::Zstd
        {
            let (lsize, psize) = (u32::try_from(pointer.lsize).unwrap_or(0), u32::try_from(pointer.psize).unwrap_or(0));
            let bytes = payload.get(..usize::try_from(psize).unwrap_or(0)).unwrap_or_default();
            let record = Record::Embedded { object, offset, length: pointer.lsize, compression: pointer.compression.id(), lsize, psize };
            self.put(out, &record, &padded(bytes, bytes.len().next_multiple_of(8)));
            return Ok(());
        }
        let is_stored = matches!(pointer.target, Target::Stored(_));
        let splits = pointer.lsize > BLOCK_OLD && !has(Feature::LARGE_BLOCKS);
        let mut record = WriteRecord {
            object,
            kind: pointer.kind,
            offset,
            size: pointer.lsize,
            checksum: if is_stored { pointer.checksum.id() } else { 2 },
            compression: 0,
            packed: 0,
            key: pointer.words,
            key_prop: (pointer.lsize / 512).wrapping_sub(1) & 0xFFFF | ((pointer.psize / 512).wrapping_sub(1) & 0xFFFF) << 16 | u64::from(pointer.compression.id()) << 32,
        };
        if has(Feature::COMPRESSED) && is_stored && !splits && lz4_goes && !is_metadata(pointer.kind) && pointer.compression != Compression::Off {
            (record.compression, record.packed) = (pointer.compression.id(), pointer.psize);
            let data = pool.read_packed(pointer).map_err(unreadable)?;
            self.put(out, &Record::Write(record), &data);
            return Ok(());
        }
        let data = pool.read(pointer).map_err(unreadable)?;
        let step = usize::try_from(if splits { BLOCK_OLD } else { pointer.lsize }).unwrap_or(usize::MAX);
        for (index, part) in data.chunks(step.max(1)).enumerate() {
            let part_record = WriteRecord { offset: offset + (index * step) as u64, size: part.len() as u64, ..record };
            self.put(out, &Record::Write(part_record), part);
        }
        Ok(())
    }
}

/// Blocks of this type are metadata, which is never sent compressed.
fn is_metadata(kind_of: u8) -> bool {
    if kind_of & 0x80 != 0 { kind_of & 0x40 != 0 } else { !matches!(kind_of, kind::FILE | kind::ZVOL | 25 | 26 | 49) }
}
