//! Taking a stream in.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use pool_dmu::edit::{BONUS_MAX, BONUS_WITH_SPILL, Edit, EditError, Owners, Set};
use pool_dmu::{Datasets, Error, Store};
use pool_phys::blkptr::Compression;
use pool_phys::dnode::kind;
use pool_phys::nvlist::Value;
use pool_phys::nvlist_native;
use pool_spa::Pool;

use crate::parse::Parsed;
use crate::record::{Begin, ObjectRecord, Record, SIZE, SPILL_FLAG, TO_END, WriteRecord, flag};
use crate::{Feature, SendOptions, StreamError, Token, Why};

/// Changes are committed when they take this much memory.
const COMMIT_BYTES: u64 = 16 << 20;
/// Objects freed with one commit.
const FREE_STEP: usize = 8192;
/// Bytes that a dnode may take.
const OBJECT_COST: u64 = 1024;
/// Largest block and spill block without the feature `large_blocks`.
const BLOCK_OLD: u64 = 128 << 10;
/// Largest offset: what a signed 64-bit number reaches.
const OFFSET_MAX: u64 = i64::MAX as u64;
/// Last part of the name of the clone that an incremental stream goes into.
const TEMPORARY: &str = "%recv";
const COMPRESSIONS: u8 = 16;
const CHECKSUMS: u8 = 14;
/// Where a data set that is being received says how far it is.
mod field {
    pub const FROM_GUID: &str = "com.delphix:resume_fromguid";
    pub const TO_GUID: &str = "com.delphix:resume_toguid";
    pub const TO_NAME: &str = "com.delphix:resume_toname";
    pub const OBJECT: &str = "com.delphix:resume_object";
    pub const OFFSET: &str = "com.delphix:resume_offset";
    pub const BYTES: &str = "com.delphix:resume_bytes";
    pub const LARGE_BLOCKS: &str = "com.delphix:resume_largeblockok";
    pub const EMBED: &str = "com.delphix:resume_embedok";
    pub const COMPRESSED: &str = "com.delphix:resume_compressok";
    pub const ALL: [&str; 9] = [FROM_GUID, TO_GUID, TO_NAME, OBJECT, OFFSET, BYTES, LARGE_BLOCKS, EMBED, COMPRESSED];
}

/// How a stream is received.
#[derive(Clone, Debug, Default)]
pub struct ReceiveOptions {
    /// Roll the target back to the base of the stream first, and overwrite a file system without snapshots (`-F`).
    pub force: bool,
    /// Keep what was received when the stream ends too early (`-s`).
    pub resumable: bool,
    /// Tells the owners of files, whose space is accounted.
    pub owners: Option<Owners>,
    /// Tells which snapshots a clone may be made of (any, where there is no such function): who sends may know the guid of anybody's.
    pub origins: Option<fn(&str) -> bool>,
    /// Says what would be received, and changes nothing (`-n`).
    pub dry: bool,
    /// Properties of the uppermost file system that goes before what the stream brings (`-o`), and those that are not taken from it anywhere (`-x`).
    pub properties: Vec<(String, Value)>,
    pub excluded: Vec<String>,
}

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Full name of the new snapshot.
    pub snapshot: String,
    pub guid: u64,
    /// Bytes and records of the stream.
    pub bytes: u64,
    pub records: u64,
}

/// Where the stream goes.
#[derive(Debug)]
struct Body {
    begin: Begin,
    /// The file system or volume, and the last part of the snapshot's name.
    target: String,
    snapshot: String,
    /// The data set that is written, and its name.
    dataset: u64,
    name: String,
    place: Place,
    /// Object and offset of the last record applied.
    object: u64,
    offset: u64,
    /// Where the stream begins in what it came with: bytes, records.
    start: (u64, u64),
    /// Bytes received before this stream, and with it.
    earlier: u64,
    received: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The target itself, made for this.
    New,
    /// A clone that takes the place of the head.
    Clone { head: u64 },
    /// A new data set that takes the place of one without snapshots.
    Instead,
}

/// A stream being received.
#[derive(Debug)]
pub struct Receiver {
    target: String,
    options: ReceiveOptions,
    body: Option<Body>,
    done: Option<Received>,
}

/// The data set that holds a stream received in part for `target`: its name, object and token.
fn partial(store: &Store, target: &str) -> Result<Option<(String, u64, Option<Token>)>, Why> {
    for name in [target.to_string(), format!("{target}/{TEMPORARY}"), instead_of(target)] {
        let Ok(dataset) = store.find(&name) else { continue };
        if store.is_inconsistent(dataset)? {
            let token = token_of(store, dataset)?;
            return Ok(Some((name, dataset, token)));
        }
    }
    Ok(None)
}

fn token_of(store: &Store, dataset: u64) -> Result<Option<Token>, Why> {
    let number = |name: &str| -> Result<Option<u64>, Why> { Ok(store.extra(dataset, name)?.and_then(|entry| entry.number())) };
    let Some(to_guid) = number(field::TO_GUID)? else { return Ok(None) };
    let has = |name: &str| -> Result<bool, Why> { Ok(store.extra(dataset, name)?.is_some()) };
    let name = store.extra(dataset, field::TO_NAME)?.and_then(|entry| entry.bytes()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    Ok(Some(Token {
        to_guid,
        from_guid: number(field::FROM_GUID)?,
        object: number(field::OBJECT)?.unwrap_or(0),
        offset: number(field::OFFSET)?.unwrap_or(0),
        bytes: number(field::BYTES)?.unwrap_or(0),
        name,
        options: SendOptions { embed: has(field::EMBED)?, large_blocks: has(field::LARGE_BLOCKS)?, compressed: has(field::COMPRESSED)? },
    }))
}

/// The new data set that will stand in place of `target`: beside it.
fn instead_of(target: &str) -> String {
    target.rsplit_once('/').map_or_else(|| format!("{target}/{TEMPORARY}"), |(parent, last)| format!("{parent}/{TEMPORARY}-{last}"))
}

/// The token of a stream that was received in part for `target`, as `receive_resume_token` shows it.
///
/// # Errors
/// Unreadable, malformed.
pub fn resume_token(store: &Store, target: &str) -> Result<Option<Token>, Why> {
    Ok(partial(store, target)?.and_then(|(_, _, token)| token))
}

/// Removes what was received in part for `target` (`zfs receive -A`). False: nothing was.
///
/// # Errors
/// The pool.
pub fn abort(store: &mut Store, target: &str, now: u64) -> Result<bool, Why> {
    let Some((name, _, _)) = partial(store, target)? else { return Ok(false) };
    store.destroy_dataset(&name, now)?;
    Ok(true)
}

impl Receiver {
    /// Will receive into `target`: a file system or volume (the snapshot is called as at the sender), or a snapshot's full name.
    #[must_use]
    pub fn new(target: &str, options: ReceiveOptions) -> Self {
        Self { target: target.into(), options, body: None, done: None }
    }

    /// Takes the next record in; [`Received`] with the last one.
    ///
    /// # Errors
    /// What is wrong with the stream or the target. What was made is removed (or kept to be resumed).
    pub fn take(&mut self, store: &mut Store, parsed: &Parsed, now: u64) -> Result<Option<Received>, StreamError> {
        let taken = self.apply(store, parsed, now);
        taken.map_err(|why| {
            let error = StreamError { offset: parsed.offset, record: parsed.number, why };
            self.give_up(store, now);
            error
        })
    }

    /// The stream ends here, whatever it should have: removes what was made, or keeps it to be resumed.
    pub fn give_up(&mut self, store: &mut Store, now: u64) {
        let Some(body) = self.body.take() else { return };
        let kept = self.options.resumable && save_place(store, &body).and_then(|()| Ok(store.commit(now)?)).is_ok();
        if !kept {
            // The pool is in trouble if this fails; the next receive or `abort` finds the data set, which is marked inconsistent.
            drop(store.destroy_dataset(&body.name, now));
        }
    }

    fn apply(&mut self, store: &mut Store, parsed: &Parsed, now: u64) -> Result<Option<Received>, Why> {
        if self.done.is_some() {
            return Err(Why::Trailing);
        }
        if let Record::Begin(begin) = &parsed.record {
            let mut body = self.begin(store, begin, &parsed.payload, now)?;
            body.start = (parsed.offset, parsed.number);
            self.body = Some(body);
            return Ok(None);
        }
        let Some(body) = &mut self.body else { return Err(Why::Order("a record before the stream begins")) };
        if parsed.guid != body.begin.to_guid {
            return Err(Why::Field("snapshot guid", parsed.guid));
        }
        if let Record::End { .. } = parsed.record {
            let received = finish(store, body, parsed, self.options.force, now)?;
            self.body = None;
            self.done = Some(received.clone());
            return Ok(Some(received));
        }
        let owners = self.options.owners;
        let wanted = match &parsed.record {
            Record::Write(record) => record.size,
            Record::Object(_) => OBJECT_COST,
            Record::Spill { size, .. } => *size,
            Record::Embedded { lsize, .. } => u64::from(*lsize),
            _ => 0,
        };
        if let Err(EditError::NoSpace | EditError::Quota) = store.reserve_in(body.dataset, wanted, wanted) {
            // What is open counts as if it overwrote nothing: a commit tells.
            if self.options.resumable {
                save_place(store, body)?;
            }
            store.commit(now)?;
            store.reserve_in(body.dataset, wanted, wanted)?;
        }
        let owners = owners.filter(|_| body.begin.os_kind == 2);
        if let Record::FreeObjects { first, count } = parsed.record {
            // One record may name all objects there are: so many with each commit.
            loop {
                let (set, pool) = store.edit_dataset(body.dataset, owners)?;
                if free_objects(set, pool, first, count)? {
                    break;
                }
                store.commit(now)?;
            }
        }
        let (set, pool) = store.edit_dataset(body.dataset, owners)?;
        change(set, pool, &body.begin, parsed)?;
        match &parsed.record {
            Record::Object(record) => (body.object, body.offset) = (record.object, 0),
            Record::Write(record) => (body.object, body.offset) = (record.object, record.offset),
            Record::Embedded { object, offset, .. } => (body.object, body.offset) = (*object, *offset),
            _ => {}
        }
        body.received = body.earlier + (parsed.offset - body.start.0) + parsed.payload.len() as u64;
        if set.dirty_bytes() > COMMIT_BYTES {
            if self.options.resumable {
                save_place(store, body)?;
            }
            store.commit(now)?;
        }
        Ok(None)
    }

    fn begin(&self, store: &mut Store, begin: &Begin, list: &[u8], now: u64) -> Result<Body, Why> {
        if begin.compound {
            return Err(Why::Order("a package within a stream"));
        }
        let unknown = begin.features & !Feature::KNOWN;
        if unknown != 0 {
            return Err(Why::Feature(Feature(1 << unknown.trailing_zeros())));
        }
        if !matches!(begin.os_kind, 2 | 3) {
            return Err(Why::Field("kind of data set", u64::from(begin.os_kind)));
        }
        if begin.to_guid == 0 {
            return Err(Why::Field("snapshot guid", 0));
        }
        let (target, snapshot) = match self.target.split_once('@') {
            Some((target, snapshot)) => (target, snapshot),
            None => (self.target.as_str(), begin.name.split_once('@').map_or("", |(_, snapshot)| snapshot)),
        };
        if snapshot.is_empty() || snapshot.contains(['/', '@', '#', '%']) {
            return Err(Why::Target("the stream does not name its snapshot", begin.name.clone()));
        }
        if target.contains('%') {
            return Err(Why::Target("is not a dataset name", target.into()));
        }
        // What the trees below show is what is committed.
        store.commit(now)?;
        let body = |dataset: u64, name: String, place: Place| Body {
            begin: begin.clone(),
            target: target.into(),
            snapshot: snapshot.into(),
            dataset,
            name,
            place,
            object: 0,
            offset: 0,
            start: (0, 0),
            earlier: 0,
            received: 0,
        };
        if begin.features & Feature::RESUMING.0 != 0 {
            return resumed(store, begin, list, target, body);
        }
        if let Some((name, _, token)) = partial(store, target)? {
            if token.is_some() {
                return Err(Why::Target("has a stream received in part: resume it or abort it (-A)", name));
            }
            // Left behind by a crash: nobody can go on with it.
            store.destroy_dataset(&name, now)?;
        }
        let mut body = match (store.find(target), begin.from_guid) {
            (Err(EditError::Read(Error::NotFound)), 0) => {
                let dataset = store.create_dataset(target, u64::from(begin.os_kind), now)?;
                body(dataset, target.into(), Place::New)
            }
            (Err(EditError::Read(Error::NotFound)), guid) => {
                if begin.flags & flag::CLONE == 0 {
                    return Err(Why::Target("does not exist: an incremental stream needs the data set that has its base", target.into()));
                }
                let (_, origin) = store
                    .find_by_guid(guid)?
                    .filter(|(_, origin)| self.options.origins.is_none_or(|may| may(origin)))
                    .ok_or_else(|| Why::Target("the origin of this clone is not in the pool", target.into()))?;
                let dataset = store.clone_dataset(&origin, target, now)?;
                body(dataset, target.into(), Place::New)
            }
            (Err(error), _) => return Err(error.into()),
            (Ok(head), 0) => self.replace(store, begin, (target, head), now, body)?,
            (Ok(head), guid) => {
                let origin = self.check_base(store, (target, head), guid, snapshot, now)?;
                let name = format!("{target}/{TEMPORARY}");
                let dataset = store.clone_dataset(&origin, &name, now)?;
                body(dataset, name, Place::Clone { head })
            }
        };
        store.set_inconsistent(body.dataset, true)?;
        body.object = 0;
        if self.options.resumable {
            start_place(store, &body)?;
        }
        store.commit(now)?;
        Ok(body)
    }

    /// A full stream for a data set that is there: a new one beside it, to take its place.
    fn replace(&self, store: &mut Store, begin: &Begin, (target, _): (&str, u64), now: u64, body: impl Fn(u64, String, Place) -> Body) -> Result<Body, Why> {
        if !self.options.force {
            return Err(Why::Target("exists: a full stream makes a new data set (-F overwrites one without snapshots)", target.into()));
        }
        let below = Datasets::open(store.pool())?.list(target)?;
        if below.len() > 1 {
            return Err(Why::Target("has snapshots or children: they must be destroyed before a full stream can overwrite it", target.into()));
        }
        if !target.contains('/') {
            return Err(Why::Target("is the pool's own data set, which cannot be overwritten by a full stream: name one below it", target.into()));
        }
        let name = instead_of(target);
        let dataset = store.create_dataset(&name, u64::from(begin.os_kind), now)?;
        Ok(body(dataset, name, Place::Instead))
    }

    /// The head stands at the base of the stream, or is made to (`force`). Returns the base's name.
    fn check_base(&self, store: &mut Store, (target, head): (&str, u64), guid: u64, snapshot: &str, now: u64) -> Result<String, Why> {
        let about = |why| Why::Target(why, target.into());
        let mismatch = || about("its most recent snapshot does not match the base of the stream");
        let list = snapshots_of(store, target)?;
        let at = list.iter().position(|(_, known)| *known == guid).ok_or_else(mismatch)?;
        let newer: Vec<&str> = list[at + 1..].iter().map(|(name, _)| name.as_str()).collect();
        if !newer.is_empty() {
            if !self.options.force {
                return Err(mismatch());
            }
            store.destroy_snapshots(&newer, false, now)?;
        }
        if list[..=at].iter().any(|(name, _)| name.split_once('@').is_some_and(|(_, name)| name == snapshot)) {
            return Err(Why::Target("has a snapshot of this name already", format!("{target}@{snapshot}")));
        }
        if store.is_modified_since_snapshot(head)? {
            if !self.options.force {
                return Err(about("was modified since its most recent snapshot (-F rolls it back)"));
            }
            store.rollback(target, now)?;
        }
        Ok(list[at].0.clone())
    }
}

/// Names and guids of a data set's own snapshots, as committed, oldest first. A guid may be in several data sets: each received it.
pub fn snapshots_of(store: &Store, target: &str) -> Result<Vec<(String, u64)>, Why> {
    let tree = Datasets::open(store.pool())?;
    let prefix = format!("{target}@");
    Ok(tree.list(target)?.into_iter().filter(|info| info.name.starts_with(&prefix)).map(|info| (info.name, info.dataset.guid)).collect())
}

/// Goes on with what was received in part.
fn resumed(store: &mut Store, begin: &Begin, list: &[u8], target: &str, body: impl Fn(u64, String, Place) -> Body) -> Result<Body, Why> {
    let about = |why| Why::Target(why, target.into());
    let (name, dataset, token) = partial(store, target)?.ok_or_else(|| about("there is nothing received in part that this stream could go on with"))?;
    let token = token.ok_or_else(|| about("what was received in part cannot be resumed"))?;
    let list = nvlist_native::parse_either(list).map_err(|error| Why::Store(error.into()))?;
    let place = (list.number("resume_object").unwrap_or(u64::MAX), list.number("resume_offset").unwrap_or(u64::MAX));
    if token.to_guid != begin.to_guid || token.from_guid.unwrap_or(0) != begin.from_guid || place != (token.object, token.offset) {
        return Err(about("the stream does not go on where the receive stopped"));
    }
    let place = if name == target {
        Place::New
    } else if name == instead_of(target) && begin.from_guid == 0 {
        Place::Instead
    } else {
        Place::Clone { head: store.find(target)? }
    };
    let mut body = body(dataset, name, place);
    (body.object, body.offset) = (token.object, token.offset);
    (body.earlier, body.received) = (token.bytes, token.bytes);
    Ok(body)
}

fn start_place(store: &mut Store, body: &Body) -> Result<(), Why> {
    let has = |feature: Feature| body.begin.features & feature.0 != 0;
    store.set_extra(body.dataset, field::TO_GUID, &Value::Number(body.begin.to_guid))?;
    store.set_extra(body.dataset, field::TO_NAME, &Value::Text(body.begin.name.clone()))?;
    if body.begin.from_guid != 0 {
        store.set_extra(body.dataset, field::FROM_GUID, &Value::Number(body.begin.from_guid))?;
    }
    for (feature, name) in [(Feature::LARGE_BLOCKS, field::LARGE_BLOCKS), (Feature::EMBED_DATA, field::EMBED), (Feature::COMPRESSED, field::COMPRESSED)] {
        if has(feature) {
            store.set_extra(body.dataset, name, &Value::Number(1))?;
        }
    }
    save_place(store, body)
}

/// Notes with the open txg how far the stream is: the last record may be sent again.
fn save_place(store: &mut Store, body: &Body) -> Result<(), Why> {
    for (name, value) in [(field::OBJECT, body.object), (field::OFFSET, body.offset), (field::BYTES, body.received)] {
        store.set_extra(body.dataset, name, &Value::Number(value))?;
    }
    Ok(())
}

/// The stream is whole: the data set becomes what it is to be, and gets its snapshot.
fn finish(store: &mut Store, body: &Body, end: &Parsed, force: bool, now: u64) -> Result<Received, Why> {
    // What is written must be on disk before it changes places.
    store.commit(now)?;
    match body.place {
        Place::New => store.set_inconsistent(body.dataset, false)?,
        Place::Clone { head } => {
            if store.is_modified_since_snapshot(head)? {
                if !force {
                    return Err(Why::Target("was modified while the stream was received (-F rolls it back)", body.target.clone()));
                }
                store.rollback(&body.target, now)?;
            }
            store.swap_clone(head, body.dataset, now)?;
            store.destroy_dataset(&body.name, now)?;
        }
        Place::Instead => {
            store.destroy_dataset(&body.target, now)?;
            store.rename(&body.name, &body.target, now)?;
            store.set_inconsistent(body.dataset, false)?;
        }
    }
    if !matches!(body.place, Place::Clone { .. }) {
        for name in field::ALL {
            store.remove_extra(body.dataset, name)?;
        }
    }
    store.snapshot_with(&body.target, &body.snapshot, Some(body.begin.to_guid), Some(body.begin.creation_time), now)?;
    Ok(Received { snapshot: format!("{}@{}", body.target, body.snapshot), guid: body.begin.to_guid, bytes: body.earlier + (end.offset + SIZE as u64 - body.start.0), records: end.number + 1 - body.start.1 })
}

/// Frees some of the objects from `first` on; tells whether these are all.
fn free_objects(set: &mut Set, pool: &Pool, first: u64, count: u64) -> Result<bool, Why> {
    let limit = first.saturating_add(count);
    let mut next = first;
    for _ in 0..FREE_STEP {
        let Some(number) = set.next_object(pool, next)?.filter(|number| *number < limit) else { return Ok(true) };
        set.free(pool, number)?;
        next = number + 1;
    }
    Ok(false)
}

/// Applies a record to the object set.
fn change(set: &mut Set, pool: &Pool, begin: &Begin, parsed: &Parsed) -> Result<(), Why> {
    let payload = &parsed.payload;
    match &parsed.record {
        Record::Object(record) => object(set, pool, begin, record, payload),
        // Done already ([`free_objects`]).
        Record::FreeObjects { .. } => Ok(()),
        Record::Write(record) => write(set, pool, record, payload),
        Record::Embedded { object, offset, compression, lsize, psize, .. } => {
            let data = unpack(*compression, &payload[..usize::try_from(*psize).unwrap_or(0)], u64::from(*lsize))?;
            put(set, pool, *object, *offset, data)
        }
        Record::Free { object, offset, length } => free(set, pool, *object, *offset, *length),
        Record::Spill { object, size, flags, compression, packed, kind: of } => {
            if *size > BLOCK_OLD || *of != kind::SYSTEM_ATTRIBUTES {
                return Err(Why::Field("spill block", *size));
            }
            let data = if *packed == 0 { payload.clone() } else { unpack(*compression, payload, *size)? };
            let edit = known(set, pool, *object)?;
            if edit.dnode.pointers.len() != 1 || edit.dnode.bonus.len() > BONUS_WITH_SPILL {
                return Err(Why::Field("spill block of an object without room for its pointer", *object));
            }
            if flags & SPILL_FLAG == 0 || edit.spill(pool)?.is_none() {
                edit.set_spill(Some(data));
            }
            Ok(())
        }
        Record::Begin(_) | Record::End { .. } => Err(Why::Order("a record where none of its kind may be")),
    }
}

fn known<'s>(set: &'s mut Set, pool: &Pool, object: u64) -> Result<&'s mut Edit, Why> {
    set.edit(pool, object).map_err(|error| if error == Error::NotFound { Why::Field("object", object) } else { error.into() })
}

fn object(set: &mut Set, pool: &Pool, begin: &Begin, record: &ObjectRecord, bonus: &[u8]) -> Result<(), Why> {
    if record.slots > 1 {
        return Err(Why::Feature(Feature::LARGE_DNODE));
    }
    if u64::from(record.block_size) > BLOCK_OLD {
        return Err(Why::Feature(Feature::LARGE_BLOCKS));
    }
    if record.compression > COMPRESSIONS || record.checksum > CHECKSUMS {
        return Err(Why::Field("compression or checksum of an object", u64::from(record.compression)));
    }
    let bonus = bonus.get(..usize::try_from(record.bonus_size).unwrap_or(usize::MAX)).unwrap_or_default();
    let has_spill = record.flags & SPILL_FLAG != 0;
    let is_sa = record.bonus_kind == kind::SYSTEM_ATTRIBUTES;
    if bonus.len() > if has_spill { BONUS_WITH_SPILL } else { BONUS_MAX } || has_spill && !is_sa {
        return Err(Why::Field("bonus size", bonus.len() as u64));
    }
    let pointers = if is_sa { 1 } else { 1 + 2.min((BONUS_MAX - bonus.len()) / 128) };
    let size = u64::from(record.block_size);
    let same = set.with_view(pool, record.object, |old| {
        Ok::<_, Error>(old.dnode.kind == record.kind && old.dnode.bonus_kind == record.bonus_kind && old.dnode.pointers.len() == pointers && old.dnode.slots == 1)
    });
    match same {
        Ok(true) => {}
        Ok(false) => {
            // Made anew at the sender since: all it has will come.
            set.free(pool, record.object)?;
            set.claim(record.object, record.kind, size, record.bonus_kind, bonus.to_vec());
        }
        Err(Error::NotFound) => set.claim(record.object, record.kind, size, record.bonus_kind, bonus.to_vec()),
        Err(error) => return Err(error.into()),
    }
    let edit = known(set, pool, record.object)?;
    if edit.dnode.block_size != size {
        edit.cut(0);
        edit.dnode.block_size = size;
    }
    if !has_spill && edit.spill(pool)?.is_some() {
        if begin.flags & flag::SPILL_BLOCK == 0 && bonus.len() > BONUS_WITH_SPILL {
            return Err(Why::Field("bonus size", bonus.len() as u64));
        }
        if begin.flags & flag::SPILL_BLOCK != 0 {
            edit.set_spill(None);
        }
    }
    edit.dnode.bonus = bonus.to_vec();
    (edit.dnode.checksum, edit.dnode.compression) = (record.checksum, record.compression);
    Ok(())
}

fn unpack(compression: u8, data: &[u8], size: u64) -> Result<Vec<u8>, Why> {
    let algorithm = Compression::from_id(compression).ok_or(Why::Field("compression", u64::from(compression)))?;
    if algorithm == Compression::Zstd {
        return Err(Why::Feature(Feature::ZSTD));
    }
    let mut out = vec![0; usize::try_from(size).map_err(|_| Why::Field("block size", size))?];
    pool_spa::decompress(algorithm, data, &mut out).map_err(|_| Why::Field("compressed block: it does not unpack to its size", size))?;
    Ok(out)
}

fn write(set: &mut Set, pool: &Pool, record: &WriteRecord, payload: &[u8]) -> Result<(), Why> {
    if record.size > BLOCK_OLD {
        return Err(Why::Feature(Feature::LARGE_BLOCKS));
    }
    let data = if record.compression == 0 { payload.to_vec() } else { unpack(record.compression, payload, record.size)? };
    put(set, pool, record.object, record.offset, data)
}

/// Puts data at an offset. Zeros stay a block: the sender has one there.
fn put(set: &mut Set, pool: &Pool, object: u64, offset: u64, data: Vec<u8>) -> Result<(), Why> {
    if offset.checked_add(data.len() as u64).is_none_or(|end| end > OFFSET_MAX) {
        return Err(Why::Field("offset", offset));
    }
    let edit = known(set, pool, object)?;
    let size = edit.dnode.block_size;
    if data.len() as u64 == size && offset.is_multiple_of(size) {
        edit.put_block(offset / size, data);
    } else {
        edit.write_at(pool, offset, &data)?;
    }
    Ok(())
}

fn free(set: &mut Set, pool: &Pool, object: u64, offset: u64, length: u64) -> Result<(), Why> {
    let edit = known(set, pool, object)?;
    let size = edit.dnode.block_size;
    let have = edit.dnode.last_block.saturating_add(1).saturating_mul(size);
    let limit = if length == TO_END { have } else { offset.saturating_add(length).min(have) };
    if offset < limit {
        // Parts of blocks at both ends become zeros.
        let first = offset.next_multiple_of(size).min(limit);
        let last = (limit - limit % size).max(first);
        for (from, to) in [(offset, first), (last, limit)] {
            if from < to && edit.seek(pool, from / size, false)? == Some(from / size) {
                edit.write_at(pool, from, &vec![0; usize::try_from(to - from).unwrap_or(0)])?;
            }
        }
        if last > first {
            edit.punch(first / size, (last - first) / size);
        }
    }
    if length == TO_END {
        edit.cut(offset.div_ceil(size));
    }
    Ok(())
}
