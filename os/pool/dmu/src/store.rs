//! A pool open for writing: transaction groups, datasets, snapshots.
//!
//! # Theory
//! Changes collect in memory, in the object sets of the datasets that were touched and in the MOS. [`Store::commit`] makes them one
//! transaction group: each dirty dataset is written out, its space is accounted up the tree, and then the MOS is written with the space maps of all that
//! was allocated and freed. Writing the MOS itself takes space, which changes the space maps, which are in the MOS. MOS blocks are stored uncompressed, so
//! their sizes are known before their contents: the MOS is synced into memory again and again, each time with the addresses of the time before,
//! until no new address was needed; then its blocks are written where the space maps say they are.
//!
//! # Locking
//! None: one writer owns the store. The kernel puts it behind one lock until transaction groups overlap.
//!
//! # States
//! A commit has two parts. The first is work in memory: the blocks of the txg get their addresses and are staged in the pool below. The second writes: blocks, labels,
//! uberblock ([`pool_spa::Pool::commit`]). *Working*: the usual. *Stalled*: too few devices serve. A commit that would begin does not, and nothing in memory is
//! changed by it; one that was writing is kept as it is (`Closing`), with its blocks. Either way nothing is lost: [`Store::retry`] goes on once devices are back
//! ([`Store::revive`]). *Broken*: the work in memory met an error (a block on its way that no device gives, malformed metadata), and cannot be done again: the pool is
//! what its last commit and its intent logs say, and must be opened anew. Devices that go break a store only if they do so within the work in memory, and it then wants
//! what is in no cache: before it begins, each device is asked for a sector, and after it nothing is read.
//!
//! # Failure
//! A crash at any write leaves the last committed txg, or the new one. Stalled or broken, the store is suspended: it answers with [`EditError::Suspended`] to whoever
//! wants to change it, and gives to read what devices and memory have.
//!
//! # Limits
//! Pools whose active features `features.rs` lists; what of OpenZFS's own bookkeeping is retired says `foreign.rs`. Data is summed by fletcher4, fletcher2 or SHA-256, metadata by fletcher4.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::blkptr::{BlockPointer, Checksum, Compression, Dva, Target};
use pool_phys::dnode::kind;
use pool_phys::dsl::{Dataset, DslDir};
use pool_phys::nvlist::{self, List};
use pool_phys::spacemap;
use pool_spa::{Allocator, Commit, Event, FIRST_ARRAY_OBJECT, Place, Pool};

use crate::dsl::{
    CLONES, NEXT_CLONES, Part, SNAPSHOT_NAMES, Space, dir, ds, put, shift, signed, word,
};
use crate::edit::{About, Accounts, Amount, EditError, Need, Owners, Set, Sink};
use crate::features::{Feature, HOLE_BIRTH, LARGE_BLOCKS, PROJECT_QUOTA, SHA512, USEROBJ_ACCOUNTING, ZSTD};
use crate::props::{Cached, Style};
use crate::log::{OpenLog, PendingLog};
use crate::owned::Quotas;
use crate::quota::Limits;
use crate::rebuild::Rebuild;
use crate::scan::Scan;
use crate::zap_edit as zap;
use crate::{Datasets, Error};

pub(crate) const OBJECT_DIRECTORY: u64 = 1;
/// Longest delay of the write throttle.
const DELAY_MAX_US: u64 = 100_000;
const COPIES_MOS: usize = 3;
/// Metadata that one change touches: blocks of a directory or two, of dnodes, and of pointers.
const CHANGE_NEED: Amount = Amount::new(96 << 10, 6);
/// What a dataset with changes writes into the MOS: blocks of dnodes with it and its directory.
const HEAD_NEED: Amount = Amount::new(32 << 10, 2);
/// The same for each of its lists of dead blocks: a block of it, pointers, and a block of dnodes.
const LIST_NEED: Amount = Amount::new(36 << 10, 3);
/// Bytes of the MOS for a block that another replaces: its pointer in such a list, and entries in space maps.
const LEFT_BYTES: u64 = 128 + 4 * 8;
pub(crate) const SPACE_MAP_BLOCK: u64 = 16 << 10;
/// Object types used here only.
pub(crate) const ZAP_METADATA: u8 = 0xC4;
pub(crate) const OBJECT_ARRAY: u8 = 2;
const PACKED_NVLIST: u8 = 3;
const NVLIST_SIZE: u8 = 4;
pub(crate) const SPACE_MAP_HEADER: u8 = 7;
pub(crate) const SPACE_MAP: u8 = 8;

/// States of a pool in its labels (format section 2).
const STATE_EXPORTED: u64 = 1;
const STATE_DESTROYED: u64 = 2;
/// Metaslabs of a vdev at most: as many as OpenZFS makes. Each costs memory, and how many there are is read from the disk.
const METASLABS_MAX: u64 = 1 << 17;
/// Newest txg of a pool that we write. What a device lacks of them is noted by an entry per 2^15: so the largest dirty time log is the largest that is read (16 MiB).
const TXG_MAX: u64 = 1 << 36;
/// Largest block that needs no feature.
pub(crate) const SMALL_BLOCK_MAX: u64 = 128 << 10;

/// Whether a store can be changed: see the module's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Working,
    Stalled,
    Broken,
}

/// A dataset with changes.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) set: Set,
    pub(crate) style: Style,
    /// ZPL sets account space by owner.
    owners: Option<Owners>,
    /// Bytes accepted for it since the last commit.
    pub(crate) pending: u64,
    /// Lists that its dead blocks may go into, as far as it was asked since the last commit.
    pub(crate) lists: u64,
    /// The intent log of what was done since the last commit.
    pub(crate) log: OpenLog,
    /// What users and groups may have of it; `None`: not read yet.
    pub(crate) quotas: Option<Quotas>,
}

/// A pool open for writing.
pub struct Store {
    pub(crate) pool: Pool,
    pub(crate) space: Allocator,
    pub(crate) mos: Set,
    pub(crate) heads: BTreeMap<u64, Head>,
    /// The open transaction group.
    pub(crate) txg: u64,
    pub(crate) root_dir: u64,
    mos_dir: u64,
    /// The pool config as the MOS has it; its vdev tree is that of the pool.
    pub(crate) config: List,
    pub(crate) config_dirty: bool,
    /// Datasets with an intent log to be replayed.
    pub(crate) pending_logs: BTreeMap<u64, PendingLog>,
    /// A scrub or resilver under way.
    pub(crate) scan: Option<Scan>,
    /// What is to be written about scans.
    pub(crate) scan_notes: crate::scan_state::Notes,
    /// A sequential resilver under way.
    pub(crate) rebuild: Option<Rebuild>,
    /// Bytes written into memory since the last commit.
    pub(crate) dirty_bytes: u64,
    health: Health,
    /// A commit that has still to be written, or of which no device took enough.
    closing: Option<Commit>,
    /// Nothing of it is written.
    read_only: bool,
    /// What may still be written where, as far as it was asked since the last commit.
    pub(crate) limits: Limits,
    /// Limits on numbers of file systems and snapshots hold.
    pub(crate) counts_enforced: bool,
    /// Blocks could not be freed in the last txg; their list waits for better times.
    pub(crate) drain_stuck: bool,
    /// Bytes that rested behind the last txgs that were made only to let others ripen.
    pub(crate) churn: u64,
    /// Blocks of what was destroyed that are freed with one commit.
    pub(crate) frees_per_txg: u64,
    /// Change of the MOS's size in the last txg, not yet accounted.
    mos_space: Space,
    /// State to write into the labels with the next commit.
    pub(crate) state: Option<u64>,
    /// The pool's feature `hole_birth` is active.
    holes_have_births: bool,
    pub(crate) random: Box<dyn FnMut() -> u64 + Send>,
    /// Datasets freed by the change under way, of which something is open: it goes once the change is made, and stays if that is refused.
    pub(crate) freed_heads: Vec<u64>,
}

impl core::fmt::Debug for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Store({:?}, open txg {})", self.pool, self.txg)
    }
}

impl Store {
    /// Makes the first two txgs of a new pool on `pool` (from [`pool_spa::create`]) with its `config`, an empty root file system still to be formatted.
    ///
    /// # Errors
    /// No space, or a device failed.
    pub fn create(pool: Pool, config: List, now: u64, mut random: Box<dyn FnMut() -> u64 + Send>) -> Result<Self, EditError> {
        let mut space = Allocator::default();
        let geometry = pool.geometry();
        geometry.iter().for_each(|(id, geometry)| space.add_top(*id, geometry));
        let mut mos = Set::create(1);
        mos.claim(OBJECT_DIRECTORY, kind::OBJECT_DIRECTORY, 512, 0, Vec::new());
        for (id, geometry) in &geometry {
            let bytes = ((geometry.asize >> geometry.metaslab_shift) * 8).next_multiple_of(512);
            mos.claim(FIRST_ARRAY_OBJECT + u64::from(*id), OBJECT_ARRAY, bytes, 0, Vec::new());
            mos.edit(&pool, FIRST_ARRAY_OBJECT + u64::from(*id))?.put_block(0, vec![0; usize::try_from(bytes).unwrap_or(512)]);
        }
        let txg = 4;
        let mut store = Self {
            pool,
            space,
            mos,
            heads: BTreeMap::new(),
            txg,
            root_dir: 0,
            mos_dir: 0,
            config,
            config_dirty: false,
            pending_logs: BTreeMap::new(),
            scan: None,
            scan_notes: crate::scan_state::Notes::default(),
            rebuild: None,
            dirty_bytes: 0,
            health: Health::Working,
            closing: None,
            read_only: false,
            limits: Limits::default(),
            counts_enforced: false,
            drain_stuck: false,
            churn: 0,
            frees_per_txg: crate::drain::FREES_PER_TXG,
            mos_space: Space::default(),
            state: Some(0),
            holes_have_births: false,
            random: Box::new(|| 0),
            freed_heads: Vec::new(),
        };
        store.pool.set_healing(true);
        store.table_at(OBJECT_DIRECTORY, 0)?;
        for name in ["features_for_read", "features_for_write", "feature_descriptions"] {
            let table = store.table(ZAP_METADATA)?;
            store.note(name, table)?;
        }
        store.list_features()?;
        store.note("deflate", 1)?;
        store.note("creation_version", 5000)?;
        for name in ["sync_bplist", "free_bpobj"] {
            let object = store.bpobj()?;
            store.note(name, object)?;
        }
        let packed = nvlist::encode(&store.config);
        let config_object = store.mos.allocate(&store.pool, PACKED_NVLIST, 16 << 10, NVLIST_SIZE, (packed.len() as u64).to_le_bytes().to_vec())?;
        store.mos.edit(&store.pool, config_object)?.write_at(&store.pool, 0, &packed)?;
        store.note("config", config_object)?;
        store.root_dir = store.directory(0, now)?;
        let root = store.root_dir;
        store.note("root_dataset", root)?;
        for name in ["$MOS", "$FREE", "$ORIGIN"] {
            let child = store.directory(root, now)?;
            store.add_child(root, name, child)?;
            if name == "$MOS" {
                store.mos_dir = child;
            }
            if name == "$ORIGIN" {
                store.make_origin(child, now, &mut random)?;
            }
        }
        store.random = random;
        Ok(store)
    }

    /// Opens a pool for writing.
    ///
    /// # Errors
    /// Features we cannot write, missing devices, a pending intent log, or damage.
    pub fn open(mut pool: Pool, random: Box<dyn FnMut() -> u64 + Send>) -> Result<Self, EditError> {
        let config = crate::topology::load_config(&mut pool)?;
        Self::open_as(pool, config, random)
    }

    /// Opens a pool whose tree is as `config` says, whatever the MOS does.
    pub(crate) fn open_as(mut pool: Pool, config: List, random: Box<dyn FnMut() -> u64 + Send>) -> Result<Self, EditError> {
        if !pool.is_writable() {
            return Err(EditError::Invalid("too many devices are missing to write the pool"));
        }
        let unknown = crate::features::unwritable(&Datasets::open(&pool)?)?;
        if !unknown.is_empty() {
            return Err(EditError::Features(unknown));
        }
        pool.set_healing(true);
        let mut store = Self::load(pool, config, random)?;
        store.state = (store.pool.state() != 0).then_some(0);
        // Who had it before has it no more: left there, its name would keep this host from the pool after a crash.
        if store.config.get("hostname").is_some() || store.config.get("hostid").is_some() || store.pool.label_text("hostname").is_some() {
            ["hostname", "hostid"].into_iter().for_each(|key| store.set_config_text(key, None));
        }
        store.load_dirty_logs()?;
        store.begin_caches();
        store.claim_logs()?;
        store.retire_foreign()?;
        store.load_scan_notes()?;
        Ok(store)
    }

    /// Opens a pool for reading: nothing is written to its devices. What intent logs hold is not seen.
    ///
    /// # Errors
    /// Features that a reader must know, missing devices, or damage.
    pub fn open_for_reading(mut pool: Pool, random: Box<dyn FnMut() -> u64 + Send>) -> Result<Self, EditError> {
        let config = crate::topology::load_config(&mut pool)?;
        let unknown = crate::features::unreadable(&Datasets::open(&pool)?)?;
        if !unknown.is_empty() {
            return Err(EditError::Features(unknown));
        }
        let mut store = Self::load(pool, config, random)?;
        store.read_only = true;
        store.load_dirty_logs()?;
        Ok(store)
    }

    /// Reads what every store has in memory.
    fn load(pool: Pool, config: List, random: Box<dyn FnMut() -> u64 + Send>) -> Result<Self, EditError> {
        // Behind every uberblock that is there: those that a rewind left out must not win at the next import.
        let newest = pool.found_txgs().first().copied().unwrap_or(0).max(pool.uberblock().txg);
        let txg = newest.saturating_add(1);
        if txg > TXG_MAX {
            return Err(FormatError::new("uberblock", "its transaction group is beyond those of any pool", txg - 1).into());
        }
        let features = Datasets::open(&pool)?.features()?;
        let mos = Set::open(&pool, &pool.uberblock().root)?;
        let space = load_space(&pool, &mos)?;
        let directory = mos.view(&pool, OBJECT_DIRECTORY)?;
        let root_dir = zap::number(&directory, &pool, b"root_dataset")?.ok_or(Error::NotFound)?;
        let children = DslDir::parse(&mos.view(&pool, root_dir)?.dnode.bonus)?.children;
        let mos_dir = zap::number(&*mos.view(&pool, children)?, &pool, b"$MOS")?.ok_or(Error::NotFound)?;
        Ok(Self {
            pool,
            space,
            mos,
            heads: BTreeMap::new(),
            txg,
            root_dir,
            mos_dir,
            config,
            config_dirty: false,
            pending_logs: BTreeMap::new(),
            scan: None,
            scan_notes: crate::scan_state::Notes::default(),
            rebuild: None,
            dirty_bytes: 0,
            health: Health::Working,
            closing: None,
            read_only: false,
            limits: Limits::default(),
            counts_enforced: false,
            drain_stuck: false,
            churn: 0,
            frees_per_txg: crate::drain::FREES_PER_TXG,
            mos_space: Space::default(),
            state: None,
            holes_have_births: features.iter().any(|(name, count, _)| *count > 0 && name == HOLE_BIRTH),
            random,
            freed_heads: Vec::new(),
        })
    }

    /// The pool below, as of the last commit.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Number of the open transaction group.
    #[must_use]
    pub const fn txg(&self) -> u64 {
        self.txg
    }

    /// Free and total bytes.
    #[must_use]
    pub fn free_total(&self) -> (u64, u64) {
        self.space.free_total()
    }

    /// Bytes that can be allocated now, without what was freed with the last few txgs, and total bytes.
    #[must_use]
    pub fn usable_total(&self) -> (u64, u64) {
        self.space.usable_total()
    }

    /// Bytes of each top-level vdev and those in use, in the order of [`Pool::status`].
    #[must_use]
    pub fn space_of_vdevs(&self) -> Vec<(u64, u64)> {
        self.pool.top_ids().map(|id| self.space.space_of(id)).collect()
    }

    /// How fragmented the free space of each top-level vdev is, in percent, in the same order.
    #[must_use]
    pub fn fragmentation_of_vdevs(&self) -> Vec<u64> {
        self.pool.top_ids().map(|id| self.space.fragmentation(Some(id))).collect()
    }

    /// Accepts that `bytes` more, in blocks of `block` bytes, are to be written with the open txg, if they fit with all copies and what keeps the pool able to free space again.
    ///
    /// # Errors
    /// [`EditError::NoSpace`]; [`EditError::Suspended`].
    pub fn reserve(&mut self, bytes: u64, block: u64) -> Result<(), EditError> {
        if self.is_suspended() {
            return Err(EditError::Suspended);
        }
        if self.read_only {
            return Err(EditError::ReadOnly);
        }
        self.check_room(bytes, block, false)?;
        self.dirty_bytes += bytes;
        Ok(())
    }

    /// Refuses a change that the open group's commit might have no room for: one of `bytes` in blocks of `block` bytes, of a few blocks where it begins and ends, and of the metadata
    /// that one change touches. What the pool keeps free stays free; half of it is for what `frees`, which takes what is at rest still as there: it is, behind the next few commits.
    ///
    /// # Errors
    /// [`EditError::NoSpace`]: asking again behind a commit may help.
    pub fn check_room(&self, bytes: u64, block: u64, frees: bool) -> Result<(), EditError> {
        let (usable, total) = self.space.usable_total();
        let block = block.max(512);
        let (blocks, copies) = (bytes / block + 2, self.heads.values().map(|head| head.style.copies as u64).max().unwrap_or(1));
        let data = if bytes == 0 { 0 } else { self.space.worst(blocks.saturating_mul(block), blocks).saturating_mul(copies) };
        let change = data.saturating_add(self.space.worst(CHANGE_NEED.bytes, CHANGE_NEED.blocks) * (copies + 1).min(3));
        let wanted = self.need().saturating_add(change);
        // Whoever frees has to get to those commits.
        let lacks = if frees {
            wanted.saturating_add(headroom(total) / 2) > self.space.free_total().0
        } else {
            wanted.saturating_add(headroom(total)) > usable
        };
        if lacks { Err(EditError::NoSpace) } else { Ok(()) }
    }

    /// Bytes that the open group's commit takes at most, but for the space maps and what a pool always writes, which the headroom is for.
    fn need(&self) -> u64 {
        let mut sum = 0_u64;
        let mut mos = self.mos.need().metadata;
        for head in self.heads.values().filter(|head| head.set.is_dirty()) {
            let Need { data, metadata } = head.set.need();
            let copies = head.style.copies as u64;
            sum = sum.saturating_add(self.space.worst(data.bytes, data.blocks).saturating_mul(copies));
            sum = sum.saturating_add(self.space.worst(metadata.bytes, metadata.blocks).saturating_mul((copies + 1).min(3)));
            // Each block may leave one behind that goes into a list, and changes a space map in two places.
            let (lists, left) = (head.lists.min(data.blocks + metadata.blocks), data.blocks + metadata.blocks);
            mos.bytes = mos.bytes.saturating_add(HEAD_NEED.bytes + lists * LIST_NEED.bytes + left * LEFT_BYTES);
            mos.blocks = mos.blocks.saturating_add(HEAD_NEED.blocks + lists * LIST_NEED.blocks);
        }
        sum.saturating_add(self.space.worst(mos.bytes, mos.blocks).saturating_mul(COPIES_MOS as u64))
    }

    /// Refuses a change of the dataset layer that a full pool cannot take: what it keeps free is for removing. One that adds little wants half of that (`share` 2).
    pub(crate) fn check_headroom(&self, share: u64) -> Result<(), EditError> {
        let (free, total) = self.space.usable_total();
        if free < headroom(total) / share { Err(EditError::NoSpace) } else { Ok(()) }
    }

    /// Bytes accepted since the last commit: a caller that keeps memory bounded commits when they become many.
    #[must_use]
    pub const fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// How long a writer should wait before its next change so that dirty data stays below `limit`: nothing up to 60 %, then rising, in microseconds.
    #[must_use]
    pub const fn write_delay_us(&self, limit: u64) -> u64 {
        let low = limit / 10 * 6;
        if self.dirty_bytes <= low {
            return 0;
        }
        if self.dirty_bytes >= limit {
            return DELAY_MAX_US;
        }
        let delay = 500 * (self.dirty_bytes - low) / (limit - self.dirty_bytes);
        if delay > DELAY_MAX_US { DELAY_MAX_US } else { delay }
    }

    pub(crate) fn note(&mut self, name: &str, value: u64) -> Result<(), EditError> {
        zap::set_number(self.mos.edit(&self.pool, OBJECT_DIRECTORY)?, &self.pool, name.as_bytes(), value)
    }

    pub(crate) fn table_at(&mut self, number: u64, normalisation: u64) -> Result<(), EditError> {
        zap::format(self.mos.edit(&self.pool, number)?, normalisation);
        Ok(())
    }

    pub(crate) fn table(&mut self, kind: u8) -> Result<u64, EditError> {
        let number = self.mos.allocate(&self.pool, kind, 512, 0, Vec::new())?;
        // Snapshot names hash folded to upper case (format section 10.3).
        self.table_at(number, if kind == SNAPSHOT_NAMES { 2 } else { 0 })?;
        Ok(number)
    }

    /// The hidden dataset `$ORIGIN` with its one snapshot, of which every dataset is a clone.
    fn make_origin(&mut self, origin_dir: u64, now: u64, random: &mut dyn FnMut() -> u64) -> Result<(), EditError> {
        let names = self.table(SNAPSHOT_NAMES)?;
        let mut head = vec![0; ds::SIZE];
        put(&mut head, ds::DIR, origin_dir);
        put(&mut head, ds::CREATED, now);
        put(&mut head, ds::CREATED_TXG, 1);
        put(&mut head, ds::FLAGS, ds::UNIQUE_ACCURATE);
        let mut snapshot = head.clone();
        for bonus in [&mut head, &mut snapshot] {
            put(bonus, ds::FSID, random() & ((1 << 56) - 1));
            put(bonus, ds::GUID, random());
        }
        put(&mut snapshot, ds::CHILDREN, 1);
        put(&mut snapshot, ds::DEADLIST, self.deadlist(&[])?);
        put(&mut snapshot, ds::NEXT_CLONES, self.table(NEXT_CLONES)?);
        let snapshot = self.mos.allocate(&self.pool, kind::DSL_DATASET, 512, kind::DSL_DATASET, snapshot)?;
        put(&mut head, ds::SNAPSHOTS, names);
        put(&mut head, ds::PREVIOUS, snapshot);
        put(&mut head, ds::PREVIOUS_TXG, 1);
        put(&mut head, ds::DEADLIST, self.deadlist(&[0])?);
        let head = self.mos.allocate(&self.pool, kind::DSL_DATASET, 512, kind::DSL_DATASET, head)?;
        put(self.ds_words(snapshot)?, ds::NEXT, head);
        self.set_number(names, "$ORIGIN", snapshot)?;
        let clones = self.table(CLONES)?;
        let bonus = self.dir_words(origin_dir)?;
        put(bonus, dir::HEAD, head);
        put(bonus, dir::CLONES, clones);
        Ok(())
    }

    /// The hidden dataset's directory and its snapshot.
    pub(crate) fn origin(&self) -> Result<(u64, u64), EditError> {
        let children = self.peek(self.root_dir, dir::CHILDREN)?;
        let origin_dir = zap::number(&*self.mos.view(&self.pool, children)?, &self.pool, b"$ORIGIN")?.ok_or(Error::NotFound)?;
        let head = word(&self.mos.view(&self.pool, origin_dir)?.dnode.bonus, dir::HEAD);
        let snapshot = word(&self.mos.view(&self.pool, head)?.dnode.bonus, ds::PREVIOUS);
        Ok((origin_dir, snapshot))
    }

    /// Makes a dataset of os type `os_kind` (2 ZPL, 3 zvol) with an empty object set, which the caller fills in the same txg. `name` is the pool's own for
    /// the root dataset of a new pool.
    ///
    /// # Errors
    /// The name is taken, the parent is missing, or a device failed.
    pub fn create_dataset(&mut self, name: &str, os_kind: u64, now: u64) -> Result<u64, EditError> {
        let (_, origin) = self.origin()?;
        let dataset = self.try_change(|store| {
            let directory = if name == store.name() {
                if store.peek(store.root_dir, dir::HEAD)? != 0 {
                    return Err(EditError::Exists);
                }
                store.root_dir
            } else {
                store.check_headroom(1)?;
                let (parent, last) = store.place_for(name)?;
                store.check_counts(parent, 1, 0)?;
                let child = store.directory(parent, now)?;
                store.add_child(parent, last, child)?;
                child
            };
            store.begin_head(directory, origin, now)
        })?;
        let directory = self.peek(dataset, ds::DIR)?;
        let style = self.style_of(directory)?;
        let mut set = Set::create(os_kind);
        if os_kind == 2 {
            let accounts = self.accounts(None)?;
            set.make_accounting(accounts);
            for (feature, is_used) in [
                (USEROBJ_ACCOUNTING, accounts.objects),
                (PROJECT_QUOTA, accounts.projects),
            ] {
                if is_used {
                    self.mark(dataset, &feature)?;
                }
            }
        }
        self.heads.insert(dataset, Head { set, style, pending: 0, lists: 1, owners: None, log: OpenLog::default(), quotas: None });
        Ok(dataset)
    }

    /// The object set of a dataset for changing, with the pool to read from. `owners` tells a file's owner and group from its dnode.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn edit_dataset(&mut self, dataset: u64, owners: Option<Owners>) -> Result<(&mut Set, &Pool), EditError> {
        if !self.heads.contains_key(&dataset) {
            let phys = Dataset::parse(&self.mos.view(&self.pool, dataset)?.dnode.bonus)?;
            let set = Set::open(&self.pool, &phys.root)?;
            if self.pending_logs.contains_key(&dataset) {
                return Err(EditError::Invalid("the dataset has an intent log to be replayed first"));
            }
            let style = self.style_of(phys.dir)?;
            let log = OpenLog::new(set.log_header()?);
            self.heads.insert(dataset, Head { set, style, pending: 0, lists: 1, owners, log, quotas: None });
        }
        let head = self.heads.get_mut(&dataset).ok_or(Error::NotFound)?;
        head.owners = owners.or(head.owners);
        self.pool.cache_metadata(head.style.secondary != Cached::None);
        Ok((&mut head.set, &self.pool))
    }

    /// Largest block of new files of a dataset that is open for changing.
    #[must_use]
    pub fn record_size(&self, dataset: u64) -> u64 {
        self.heads.get(&dataset).map_or(SMALL_BLOCK_MAX, |head| head.style.record_size)
    }

    /// How files are accounted in this pool.
    fn accounts(&self, owners: Option<Owners>) -> Result<Accounts, EditError> {
        Ok(Accounts {
            owners,
            objects: self.is_active(&USEROBJ_ACCOUNTING)?,
            projects: self.is_active(&PROJECT_QUOTA)?,
        })
    }

    fn sync_dataset(&mut self, dataset: u64) -> Result<(), EditError> {
        let phys = Dataset::parse(self.ds_words(dataset)?)?;
        let Some(mut head) = self.heads.remove(&dataset) else { return Ok(()) };
        self.sync_log(dataset, &mut head)?;
        let accounts = self.accounts(head.owners)?;
        let mut sink = DatasetSink {
            pool: &self.pool,
            space: &mut self.space,
            txg: self.txg,
            holes_have_births: self.holes_have_births,
            style: head.style,
            used: BTreeSet::new(),
            previous_txg: phys.previous_snapshot_txg,
            born: Space::default(),
            referenced: Space::default(),
            dead: Vec::new(),
        };
        let root = head.set.sync(&self.pool, &mut sink, accounts)?;
        if !phys.root.is_hole() {
            sink.free(&phys.root)?;
        }
        let DatasetSink { born, referenced, dead, used, .. } = sink;
        used.into_iter().try_for_each(|feature| self.mark(dataset, feature))?;
        let reserved = signed(self.refreservation(phys.dir)?);
        let bonus = self.ds_words(dataset)?;
        referenced.shift(bonus, ds::REFERENCED);
        let unique = signed(word(bonus, ds::UNIQUE));
        shift(bonus, ds::UNIQUE, born.used);
        bonus[ds::ROOT..ds::ROOT + 128].copy_from_slice(&root.encode());
        let deadlist = word(bonus, ds::DEADLIST);
        // What the head reserved is used up first.
        let seen = (unique + born.used).max(reserved) - unique.max(reserved);
        self.account(phys.dir, Some(Part::HeadReserved), Part::Head, Space { used: seen, ..born }, born.used)?;
        if !dead.is_empty() {
            self.bury(deadlist, &dead)?;
            self.account_dead(dataset, &phys, &dead)?;
        }
        self.heads.insert(dataset, head);
        Ok(())
    }

    /// Blocks left the head and stay with its snapshots: those that are this directory's own become space of its snapshots, and those that the last snapshot alone has
    /// become unique to it.
    fn account_dead(&mut self, dataset: u64, phys: &Dataset, dead: &[(BlockPointer, u64)]) -> Result<(), EditError> {
        let since = |txg: u64| dead.iter().filter(|(pointer, _)| pointer.birth > txg).map(|(_, deflated)| signed(*deflated)).sum::<i64>();
        let own = since(self.origin_txg(phys.dir)?);
        self.transfer(phys.dir, Part::Head, Part::Snapshots, own)?;
        // The snapshot that a clone was made from has a next one of its own.
        if phys.previous_snapshot != 0 && self.peek(phys.previous_snapshot, ds::NEXT)? == dataset {
            let unique = since(self.peek(phys.previous_snapshot, ds::PREVIOUS_TXG)?);
            shift(self.ds_words(phys.previous_snapshot)?, ds::UNIQUE, unique);
        }
        Ok(())
    }

    /// True while too few devices serve for a commit, and after one that failed in memory.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.health != Health::Working
    }

    /// True if what was changed since the last commit cannot be committed any more: the store is to be opened anew.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.health == Health::Broken
    }

    /// True if the pool was opened for reading.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Forgets every change since the last commit.
    fn forget_changes(&mut self) -> Result<(), EditError> {
        self.heads.clear();
        self.limits.clear();
        self.mos = Set::open(&self.pool, &self.pool.uberblock().root)?;
        (self.dirty_bytes, self.config_dirty, self.state) = (0, false, None);
        Ok(())
    }

    /// Makes all changes since the last commit durable as one transaction group. `now` is UTC seconds.
    ///
    /// # Errors
    /// See the module's failure model.
    pub fn commit(&mut self, now: u64) -> Result<(), EditError> {
        if self.is_suspended() {
            return Err(EditError::Suspended);
        }
        if self.read_only {
            if !self.mos.is_dirty() && !self.config_dirty && !self.heads.values().any(|head| head.set.is_dirty()) {
                return Ok(());
            }
            self.forget_changes()?;
            return Err(EditError::ReadOnly);
        }
        let done = self.commit_all(now);
        self.note_failure(&done);
        done
    }

    /// What an attempt to commit leaves behind.
    fn note_failure(&mut self, done: &Result<(), EditError>) {
        if done.is_ok() {
            return;
        }
        if self.closing.is_none() && self.health != Health::Stalled {
            self.health = Health::Broken;
            self.pool.forget_staged();
        } else {
            self.health = Health::Stalled;
        }
        self.pool.post(Event::Suspended { txg: self.txg });
    }

    /// Puts devices that answer again back into service ([`Pool::revive`]): how many came back, and the leaves whose devices do not answer. [`Store::retry`] must follow,
    /// and a resilver if anything is lacking.
    pub fn revive(&mut self) -> (usize, Vec<u64>) {
        let revived = self.pool.revive();
        if revived.0 > 0 {
            self.rebuild_anew();
        }
        revived
    }

    /// Goes on with the commit that stalled, or commits what is open: everything done since the last commit is durable then, and the store works again.
    ///
    /// # Errors
    /// Too few devices serve still: nothing changed, it can be asked again. Others as [`Store::commit`].
    pub fn retry(&mut self, now: u64) -> Result<(), EditError> {
        if self.is_broken() {
            return Err(EditError::Suspended);
        }
        self.health = Health::Working;
        let done = if self.closing.is_some() { self.finish_commit() } else { Ok(()) };
        let done = done.and_then(|()| if self.read_only { Ok(()) } else { self.commit_all(now) });
        self.note_failure(&done);
        done
    }

    /// Something is to be committed.
    fn has_changes(&self) -> bool {
        self.mos.is_dirty() || self.state.is_some() || self.config_dirty || self.heads.values().any(|head| head.set.is_dirty())
    }

    fn commit_all(&mut self, now: u64) -> Result<(), EditError> {
        // A device that fails late in a txg missed it; the next one records that. A few devices fail once each; more is no device trouble.
        for _ in 0..8 {
            self.commit_once(now)?;
            if !self.pool.has_dirty_logs() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn commit_once(&mut self, now: u64) -> Result<(), EditError> {
        // Once the work in memory has begun, what a device does not give it is missed for good.
        let has_changes = self.has_changes();
        if !has_changes && !self.pool.bears_losses() {
            return Ok(());
        }
        if has_changes && !self.pool.serves() {
            self.health = Health::Stalled;
            return Err(EditError::Suspended);
        }
        self.pause_scan();
        self.drain_step();
        let dirty: Vec<u64> = self.heads.iter().filter(|(_, head)| head.set.is_dirty()).map(|(number, _)| *number).collect();
        for dataset in dirty {
            self.sync_dataset(dataset)?;
        }
        let pending = core::mem::take(&mut self.mos_space);
        if pending.used != 0 {
            self.did_use(self.mos_dir, Part::Head, pending)?;
        }
        let is_empty = |store: &Self| !store.mos.is_dirty() && store.state.is_none() && !store.config_dirty && !store.pool.has_dirty_logs();
        self.write_scan_notes(is_empty(self))?;
        if is_empty(self) {
            return Ok(());
        }
        // Those that are out of service lack this txg, and it says so itself.
        self.pool.begin_commit();
        self.pool.close_txg(self.txg);
        self.write_dirty_logs()?;
        if core::mem::take(&mut self.config_dirty) {
            self.write_config()?;
            self.state.get_or_insert(self.pool.state());
            self.pool.post(Event::ConfigChanged { txg: self.txg });
        }
        let root = self.sync_mos()?;
        self.closing = Some(Commit { txg: self.txg, timestamp: now, root, state: self.state.take() });
        self.finish_commit()
    }

    /// Writes the commit that is closing. After an error it is closing still.
    fn finish_commit(&mut self) -> Result<(), EditError> {
        let Some(commit) = self.closing.clone() else { return Ok(()) };
        self.pool.commit(commit)?;
        self.closing = None;
        self.pool.close_txg(self.txg);
        self.space.committed();
        self.dirty_bytes = 0;
        for head in self.heads.values_mut() {
            head.pending = 0;
            head.quotas.iter_mut().for_each(Quotas::committed);
        }
        self.limits.clear();
        self.txg += 1;
        Ok(())
    }

    /// Commits and marks the pool as exported.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn export(&mut self, now: u64) -> Result<(), EditError> {
        self.close(STATE_EXPORTED, now)
    }

    /// Commits and marks the pool as destroyed: its devices are free for others, and until one takes them it can still be imported by those who ask for it.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn destroy_pool(&mut self, now: u64) -> Result<(), EditError> {
        self.close(STATE_DESTROYED, now)
    }

    fn close(&mut self, state: u64, now: u64) -> Result<(), EditError> {
        self.drop_logs();
        self.keep_scan_place();
        // Once more for the space of the MOS, which is accounted one txg late.
        self.commit(now)?;
        self.state = Some(state);
        self.commit(now)
    }

    /// Finds addresses for all MOS blocks, with the space maps that say so, and writes them.
    fn sync_mos(&mut self) -> Result<BlockPointer, EditError> {
        let old_root = self.pool.uberblock().root.clone();
        let mut addresses: Vec<(u64, Place)> = Vec::new();
        let mut freed: BTreeSet<(u32, u64)> = BTreeSet::new();
        // What the turn before would have written: most of it stays.
        let mut before: Vec<(BlockPointer, Vec<u8>)> = Vec::new();
        // What a turn wrote of the space maps, and how, the later ones do, too: what a turn freed must be free in the last one.
        let mut touched: BTreeMap<(u32, usize), bool> = BTreeMap::new();
        // Each turn can only add addresses, and a space map grows by a few words per address: it settles after two or three.
        for _ in 0..64 {
            let mut mos = self.mos.clone();
            let slabs = self.write_space_maps(&mut mos, &mut touched)?;
            let mut sink = MosSink {
                space: &mut self.space,
                txg: self.txg,
                holes_have_births: self.holes_have_births,
                addresses: &mut addresses,
                next: 0,
                changed: false,
                before: core::mem::take(&mut before),
                writes: Vec::new(),
                frees: Vec::new(),
            };
            let root = mos.sync(&self.pool, &mut sink, Accounts::default())?;
            if !old_root.is_hole() {
                sink.free(&old_root)?;
            }
            let MosSink { next, mut changed, writes, frees, .. } = sink;
            for (_, unused) in addresses.drain(next..) {
                self.space.release(&unused);
                changed = true;
            }
            let mut seen = 0;
            for pointer in &frees {
                for dva in places(&self.pool, pointer)? {
                    seen += 1;
                    if freed.insert((dva.vdev, dva.offset)) {
                        self.space.free(&dva)?;
                        changed = true;
                    }
                }
            }
            if changed {
                before = writes;
                continue;
            }
            if seen != freed.len() {
                return Err(EditError::Invalid("a block of the MOS that an earlier turn freed is in use"));
            }
            let mut delta = Space::default();
            for ((pointer, data), (_, place)) in writes.into_iter().zip(&addresses) {
                delta.add(&pointer, self.space.deflated(&pointer), 1);
                let data = Arc::new(data);
                stage(&self.pool, place, &data, self.txg);
                self.pool.remember(&pointer, data);
            }
            frees.iter().for_each(|pointer| delta.add(pointer, self.space.deflated(pointer), -1));
            self.mos = mos;
            self.mos_space = delta;
            for (top, index, object, header) in slabs {
                if let Some(slab) = self.space.tops_mut().get_mut(&top).and_then(|top| top.metaslabs.get_mut(index)) {
                    (slab.object, slab.header) = (object, header);
                }
            }
            return Ok(root);
        }
        Err(EditError::Invalid("the space maps did not settle"))
    }

    /// Puts the txg's allocations and frees into the space maps of `mos`. Returns (vdev, metaslab, object, header) of those it changed. `touched`: the space maps that
    /// this commit has written before, and whether anew.
    fn write_space_maps(&self, mos: &mut Set, touched: &mut BTreeMap<(u32, usize), bool>) -> Result<Vec<(u32, usize, u64, spacemap::Header)>, EditError> {
        let mut out = Vec::new();
        for (id, top) in self.space.tops() {
            let deferred = self.space.deferred(*id);
            for (index, slab) in top.metaslabs.iter().enumerate() {
                if !slab.is_dirty() && !touched.contains_key(&(*id, index)) {
                    continue;
                }
                let is_anew = touched.entry((*id, index)).or_default();
                let (mut object, mut header) = (slab.object, slab.header);
                if object == 0 {
                    object = mos.allocate(&self.pool, SPACE_MAP, SPACE_MAP_BLOCK, SPACE_MAP_HEADER, vec![0; 24])?;
                    // OpenZFS makes these with small indirect blocks (format section 13).
                    mos.edit(&self.pool, object)?.dnode.indirect_shift = 14;
                    mos.edit(&self.pool, top.array_object)?.write_at(&self.pool, index as u64 * 8, &object.to_le_bytes())?;
                }
                let edit = mos.edit(&self.pool, object)?;
                let changes = spacemap::encode(slab.changes(top.ashift), self.txg);
                let condensed = spacemap::encode(slab.condensed(top.ashift, &deferred), self.txg);
                let appended = header.length + changes.len() as u64;
                *is_anew |= slab.is_unflushed() || appended > (2 * condensed.len() as u64).max(SPACE_MAP_BLOCK);
                if *is_anew {
                    edit.write_at(&self.pool, 0, &condensed)?;
                    header.length = condensed.len() as u64;
                    edit.cut(header.length.div_ceil(edit.dnode.block_size).max(1));
                } else {
                    edit.write_at(&self.pool, header.length, &changes)?;
                    header.length = appended;
                }
                header.allocated = slab.allocated_bytes();
                put(&mut edit.dnode.bonus, 8, header.length);
                put(&mut edit.dnode.bonus, 16, header.allocated);
                if header.histogram {
                    for (bucket, count) in slab.histogram(top.ashift, &deferred).into_iter().enumerate() {
                        put(&mut edit.dnode.bonus, 64 + bucket * 8, count);
                    }
                }
                out.push((*id, index, object, header));
            }
        }
        Ok(out)
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> String {
        self.pool.name().to_string()
    }
}

/// Has a stored block written to its places with the commit.
fn stage(pool: &Pool, place: &Place, data: &Arc<Vec<u8>>, txg: u64) {
    for (dva, part) in place.writes(data, txg) {
        pool.stage(&dva, match part {
            Cow::Borrowed(part) if part.len() == data.len() => Arc::clone(data),
            part => Arc::new(part.into_owned()),
        });
    }
}

/// Stages a dataset's blocks, accounting as it goes.
struct DatasetSink<'a> {
    pool: &'a Pool,
    space: &'a mut Allocator,
    txg: u64,
    holes_have_births: bool,
    style: Style,
    /// Features that count datasets and that a block needs.
    used: BTreeSet<&'static Feature>,
    /// Blocks born at or before belong to a snapshot too.
    previous_txg: u64,
    /// Space born and freed: what the directory's use changes by.
    born: Space,
    /// What the dataset's references change by.
    referenced: Space,
    dead: Vec<(BlockPointer, u64)>,
}

impl Sink for DatasetSink<'_> {
    fn write(&mut self, data: Vec<u8>, about: About) -> Result<BlockPointer, EditError> {
        let is_data = about.level == 0 && matches!(about.kind, kind::FILE | kind::ZVOL);
        let wanted = if is_data { self.style.compression } else { Compression::Lz4 };
        let lsize = data.len() as u64;
        // Worth it from one eighth on (format section 7).
        let limit = data.len() - data.len() / 8;
        let packed = match wanted {
            Compression::Lz4 => codec::lz4_encode(&data, limit),
            Compression::Lzjb => codec::lzjb_encode(&data, limit),
            Compression::Zle => codec::zle_encode(&data, limit),
            Compression::Gzip(level) => codec::gzip_encode(&data, level, limit),
            Compression::Zstd => codec::zstd_encode(&data, limit),
            Compression::Off => None,
        };
        let packed = packed.filter(|packed| packed.len().next_multiple_of(512) <= limit);
        let (compression, mut stored) = packed.map_or((Compression::Off, data), |packed| (wanted, packed));
        stored.resize(stored.len().next_multiple_of(512), 0);
        // Pointers right above data have no further copy where the property says so.
        let is_plain = is_data || !self.style.redundant && about.level == 1 && matches!(about.kind, kind::FILE | kind::ZVOL);
        let place = self.space.place(stored.len() as u64, if is_plain { self.style.copies } else { (self.style.copies + 1).min(3) })?;
        let checksum = if is_data { self.style.checksum } else { Checksum::Fletcher4 };
        let pointer = BlockPointer { checksum, ..pointer_with(sum(checksum, &stored), place.dvas(), stored.len() as u64, lsize, compression, about, self.txg) };
        self.used.extend((lsize > SMALL_BLOCK_MAX).then_some(&LARGE_BLOCKS));
        self.used.extend((pointer.compression == Compression::Zstd).then_some(&ZSTD));
        self.used.extend((pointer.checksum == Checksum::Sha512).then_some(&SHA512));
        // Its room may have been made for all of the block as it was before it was packed.
        stored.shrink_to_fit();
        stage(self.pool, &place, &Arc::new(stored), self.txg);
        let deflated = self.space.deflated(&pointer);
        self.born.add(&pointer, deflated, 1);
        self.referenced.add(&pointer, deflated, 1);
        Ok(pointer)
    }

    fn free(&mut self, pointer: &BlockPointer) -> Result<(), EditError> {
        let deflated = self.space.deflated(pointer);
        self.referenced.add(pointer, deflated, -1);
        if pointer.birth > self.previous_txg {
            self.born.add(pointer, deflated, -1);
            // What cannot be read cannot be given back: a gang header that is lost keeps its pieces.
            for dva in places(self.pool, pointer).unwrap_or_default() {
                self.space.free(&dva)?;
            }
        } else {
            self.dead.push((pointer.clone(), deflated));
        }
        Ok(())
    }

    fn deflated(&self, pointer: &BlockPointer) -> u64 {
        self.space.deflated(pointer)
    }

    fn makes_holes(&self) -> bool {
        self.style.compression != Compression::Off
    }

    fn hole_birth(&self) -> Option<u64> {
        self.holes_have_births.then_some(self.txg)
    }
}

/// Collects the MOS's blocks; addresses stay the same from turn to turn.
struct MosSink<'a> {
    space: &'a mut Allocator,
    txg: u64,
    holes_have_births: bool,
    addresses: &'a mut Vec<(u64, Place)>,
    next: usize,
    changed: bool,
    /// The writes of the turn before: a block that is the same has the same sum.
    before: Vec<(BlockPointer, Vec<u8>)>,
    writes: Vec<(BlockPointer, Vec<u8>)>,
    frees: Vec<BlockPointer>,
}

impl Sink for MosSink<'_> {
    fn write(&mut self, data: Vec<u8>, about: About) -> Result<BlockPointer, EditError> {
        let size = data.len() as u64;
        if self.addresses.get(self.next).is_none_or(|(known, _)| *known != size) {
            let place = self.space.place(size, COPIES_MOS)?;
            self.addresses.insert(self.next, (size, place));
            self.changed = true;
        }
        let dvas = self.addresses[self.next].1.dvas();
        let known = self.before.get(self.next).filter(|(_, old)| *old == data).map(|(pointer, _)| pointer.words);
        self.next += 1;
        let words = known.unwrap_or_else(|| codec::fletcher4(&data));
        let pointer = pointer_with(words, dvas, size, size, Compression::Off, about, self.txg);
        self.writes.push((pointer.clone(), data));
        Ok(pointer)
    }

    fn free(&mut self, pointer: &BlockPointer) -> Result<(), EditError> {
        self.frees.push(pointer.clone());
        Ok(())
    }

    fn deflated(&self, pointer: &BlockPointer) -> u64 {
        self.space.deflated(pointer)
    }

    fn makes_holes(&self) -> bool {
        false
    }

    fn hole_birth(&self) -> Option<u64> {
        self.holes_have_births.then_some(self.txg)
    }
}

/// Bytes that we keep free in a pool of `total` bytes, for its own records and for what makes room. What OpenZFS keeps back, and shows as not available, is of `quota.rs`.
#[must_use]
pub fn headroom(total: u64) -> u64 {
    (total / 32).max(4 << 20)
}

/// Free and total bytes of a pool that is only looked at.
///
/// # Errors
/// Unreadable or malformed.
pub fn free_total(pool: &Pool) -> Result<(u64, u64), EditError> {
    let mos = Set::open(pool, &pool.uberblock().root)?;
    Ok(load_space(pool, &mos)?.free_total())
}

/// Reads all space maps, and what is not in them yet.
pub(crate) fn load_space(pool: &Pool, mos: &Set) -> Result<Allocator, EditError> {
    let mut space = Allocator::default();
    let geometry = pool.geometry();
    for (id, geometry) in &geometry {
        let count = geometry.asize >> geometry.metaslab_shift;
        if count > METASLABS_MAX {
            return Err(FormatError::new("vdev", "has too many metaslabs", count).into());
        }
        space.add_top(*id, geometry);
        let array = mos.view(pool, geometry.array_object)?;
        for index in 0..count {
            let mut bytes = [0; 8];
            array.read_at(pool, index * 8, &mut bytes)?;
            let object = u64::from_le_bytes(bytes);
            if object == 0 {
                continue;
            }
            let (header, log) = crate::foreign::map_bytes(pool, mos, object)?;
            let index =
                usize::try_from(index).map_err(|_| EditError::Invalid("too many metaslabs"))?;
            space.load(*id, index, object, header, spacemap::parse(&log)?)?;
        }
    }
    crate::foreign::replay_logs(pool, mos, &mut space)?;
    Ok(space)
}

/// Every place that a block to be freed takes; it is cached no more.
pub(crate) fn places(pool: &Pool, pointer: &BlockPointer) -> Result<Vec<Dva>, EditError> {
    pool.forget_cached(pointer);
    let lost = FormatError::new("gang block", "its header cannot be read, so its pieces cannot be freed", pointer.birth);
    Ok(pool.places(pointer).ok_or(lost)?)
}

fn sum(checksum: Checksum, data: &[u8]) -> codec::Words {
    match checksum {
        Checksum::Off => [0; 4],
        Checksum::Fletcher2 => codec::fletcher2(data),
        Checksum::Sha256 => codec::sha256(data),
        Checksum::Sha512 => codec::sha512(data),
        _ => codec::fletcher4(data),
    }
}

fn pointer_with(words: codec::Words, dvas: [Option<Dva>; 3], psize: u64, lsize: u64, compression: Compression, about: About, txg: u64) -> BlockPointer {
    BlockPointer {
        target: Target::Stored(dvas),
        lsize,
        psize,
        compression,
        checksum: Checksum::Fletcher4,
        kind: about.kind,
        level: about.level,
        encrypted: false,
        dedup: false,
        physical_birth: txg,
        birth: txg,
        fill: about.fill,
        words,
    }
}

