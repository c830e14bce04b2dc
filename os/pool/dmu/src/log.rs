//! The intent log: what `fsync` makes durable between commits, and what an import finds of it.
//!
//! # Theory
//! Each change to a dataset leaves an item in memory. [`Store::log_sync`] writes the items as records into a chain of blocks whose head the dataset's
//! object set names, and flushes: that is all an `fsync` costs. A commit makes the records needless; the chain then goes on from its last block, which was
//! allocated but never written, so that the head on disk always names a block that holds nothing older than itself. The first `fsync` of a dataset finds no
//! head on disk and is a commit. One `fsync` is whole or nothing: of several blocks the first is written last.
//!
//! A chain found at import is read up to the first block that fails its check. Its blocks are kept out of use ([`pool_spa::Allocator::claim`]), its records are
//! replayed by the file system (`pool_zpl::replay_logs`), and the next commit drops it. A crash before that commit finds the same chain again.
//!
//! # Failure
//! A device that does not give a log block at import: the log is not replayed, unless the operator gives up what may follow. A device that does not take one, or no space for one: the `fsync` becomes a commit. An item that has no record type makes the next `fsync` a
//! commit.

use alloc::vec;
use alloc::vec::Vec;

use pool_phys::blkptr::{BlockPointer, Checksum};
use pool_phys::dnode::kind;
use pool_phys::intent_log::{self, BLOCK_HEADER, BLOCK_MAX, BLOCK_MIN, Change, Header, Record};
use pool_spa::Event;

use crate::Error;
use crate::edit::EditError;
use crate::props::SyncStyle;
use crate::store::{Head, Store};

/// Longest data of one write record; longer writes become several records.
const DATA_MAX: u64 = 120 << 10;
/// Items kept; more make the next `fsync` a commit.
const ITEMS_MAX: usize = 64 << 10;
/// Longest chain read at import, in blocks.
const CHAIN_MAX: usize = 1 << 20;

/// Something done to a dataset since the last commit.
#[derive(Clone, Debug)]
enum Item {
    Change(Change),
    /// The data is in the object's changed blocks.
    Write { object: u64, offset: u64, length: u64 },
}

/// The log of an open dataset.
#[derive(Debug, Default)]
pub struct OpenLog {
    items: Vec<Item>,
    /// Where the next block goes: allocated, named by its predecessor, not written.
    next: Option<BlockPointer>,
    /// Blocks that the next commit makes needless.
    spent: Vec<BlockPointer>,
    /// Number of the last record.
    sequence: u64,
    /// Somebody syncs: the next commit is to leave a chain behind.
    wanted: bool,
    /// Something was done that no record tells.
    incomplete: bool,
}

/// A log found at import.
#[derive(Debug)]
pub struct PendingLog {
    blocks: Vec<BlockPointer>,
    records: Vec<Record>,
    /// No device gave the block where it ends for now: more may follow.
    is_cut: bool,
}

impl PendingLog {
    /// Number of records to be replayed.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.records.len()
    }

    /// Blocks that the log keeps out of use.
    pub(crate) fn into_blocks(self) -> Vec<BlockPointer> {
        self.blocks
    }
}

impl OpenLog {
    /// The log of a dataset whose chain, if it had one, was replayed.
    pub fn new(header: Header) -> Self {
        Self { sequence: header.replay_seq.max(header.claim_record_seq), ..Self::default() }
    }

    /// Blocks that the log has allocated.
    pub(crate) fn into_blocks(self) -> Vec<BlockPointer> {
        self.spent.into_iter().chain(self.next).collect()
    }

    fn note(&mut self, item: Item) {
        if self.items.len() < ITEMS_MAX { self.items.push(item) } else { self.incomplete = true }
    }
}

impl Store {
    /// Notes a change for the intent log. `None`: something was done that no record can tell, so the next [`Store::log_sync`] is a commit.
    pub fn log_change(&mut self, dataset: u64, change: Option<Change>) {
        if let Some(head) = self.heads.get_mut(&dataset) {
            match change {
                Some(change) => head.log.note(Item::Change(change)),
                None => head.log.incomplete = true,
            }
        }
    }

    /// Notes a write, whose data the intent log takes from the changed blocks when it is needed.
    pub fn log_write(&mut self, dataset: u64, object: u64, offset: u64, length: u64) {
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.log.note(Item::Write { object, offset, length });
        }
    }

    /// True if everything done to a dataset is to be made durable at once, asked or not (`sync=always`).
    #[must_use]
    pub fn is_always_synced(&self, dataset: u64) -> bool {
        self.heads.get(&dataset).is_some_and(|head| head.style.always_sync)
    }

    /// Makes everything done to a dataset durable: `fsync`. Writes the intent log where there is one, else commits; the properties `sync` and `logbias` may
    /// ask for another way.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn log_sync(&mut self, dataset: u64, now: u64) -> Result<(), EditError> {
        // What the commit that failed has put away looks clean, and is not durable.
        if self.is_suspended() {
            return Err(EditError::Suspended);
        }
        let Some(head) = self.heads.get_mut(&dataset) else { return Ok(()) };
        match head.style.sync {
            SyncStyle::Never => return Ok(()),
            SyncStyle::Commit => return self.commit(now),
            SyncStyle::Log => {}
        }
        if head.log.items.is_empty() && !head.log.incomplete && !head.set.is_dirty() {
            return Ok(());
        }
        if head.log.items.is_empty() && !head.log.incomplete && head.log.next.is_some() {
            return Ok(());
        }
        if head.log.incomplete || head.log.next.is_none() || self.write_log(dataset).is_err() {
            if let Some(head) = self.heads.get_mut(&dataset) {
                head.log.wanted = true;
                // A block that was not written may be in the chain: nothing behind it would be found.
                head.log.incomplete = true;
            }
            return self.commit(now);
        }
        Ok(())
    }

    fn encode_items(&mut self, dataset: u64) -> Result<Vec<Vec<u8>>, EditError> {
        let txg = self.txg;
        let Self { heads, pool, .. } = self;
        let Some(Head { set, log, .. }) = heads.get_mut(&dataset) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        let mut sequence = log.sequence;
        let mut put = |change: &Change| {
            sequence += 1;
            out.push(change.encode(txg, sequence));
        };
        for item in &log.items {
            match item {
                Item::Change(change) => put(change),
                Item::Write { object, offset, length } => {
                    // A file removed since has no data to be saved.
                    let edit = match set.edit(pool, *object) {
                        Ok(edit) => edit,
                        Err(Error::NotFound) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let (mut at, end) = (*offset, offset + length);
                    while at < end {
                        let count = (end - at).min(DATA_MAX);
                        let mut data = vec![0; usize::try_from(count).unwrap_or(0)];
                        edit.read_at(pool, at, &mut data)?;
                        put(&Change::Write { object: *object, offset: at, data });
                        at += count;
                    }
                }
            }
        }
        log.sequence = sequence;
        Ok(out)
    }

    fn write_log(&mut self, dataset: u64) -> Result<(), EditError> {
        let records = self.encode_items(dataset)?;
        let txg = self.txg;
        // What a full pool gives a log is no more there for the commit that makes it needless.
        let bytes = records.iter().map(|record| record.len() as u64).sum::<u64>() * 2;
        self.check_room(bytes, BLOCK_MAX as u64, true)?;
        let mut blocks: Vec<(BlockPointer, Vec<u8>)> = Vec::new();
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let Some(current) = self.heads.get(&dataset).and_then(|head| head.log.next.clone()) else { return Err(EditError::Invalid("no intent log")) };
            let size = usize::try_from(current.psize).unwrap_or(BLOCK_MIN);
            let (mut taken, mut length) = (Vec::new(), 0);
            while let Some(record) = records.next_if(|record| BLOCK_HEADER + length + record.len() <= size) {
                length += record.len();
                taken.push(record);
            }
            // As large as the next record needs, or as this one was used: the next sync is likely to be like this one.
            let wanted = records.peek().map_or(length, Vec::len) + BLOCK_HEADER;
            let next_size = wanted.next_multiple_of(BLOCK_MIN).clamp(BLOCK_MIN, BLOCK_MAX);
            let dvas = self.space.allocate_log(next_size as u64)?;
            let mut words = current.words;
            words[3] += 1;
            let next = intent_log::pointer(dvas, next_size, txg, words);
            let block = intent_log::seal(size, &taken, &next, current.words);
            if let Some(head) = self.heads.get_mut(&dataset) {
                head.log.spent.push(current.clone());
                head.log.next = Some(next);
            }
            blocks.push((current, block));
        }
        // The first block makes the others part of the chain: written last, it makes the sync whole or nothing. A record has the data as it is now, so part
        // of a sync could show what never was.
        let write = |(pointer, block): &(BlockPointer, Vec<u8>)| pointer.copies().try_for_each(|dva| self.pool.write_block(&dva, block));
        if let Some((first, rest)) = blocks.split_first() {
            if !rest.is_empty() {
                rest.iter().try_for_each(write)?;
                self.pool.flush()?;
            }
            write(first)?;
            self.pool.flush()?;
        }
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.log.items.clear();
        }
        Ok(())
    }

    /// Part of a dataset's sync: the records since the last commit are needless.
    pub(crate) fn sync_log(&mut self, dataset: u64, head: &mut Head) -> Result<(), EditError> {
        let log = &mut head.log;
        log.items.clear();
        log.incomplete = false;
        for pointer in log.spent.drain(..) {
            pointer.copies().try_for_each(|dva| self.space.free_log(&dva))?;
        }
        if core::mem::take(&mut log.wanted) && log.next.is_none() {
            // Without space the next fsync is a commit again.
            if let Ok(dvas) = self.space.allocate_log(BLOCK_MIN as u64) {
                let words = [(self.random)(), (self.random)(), dataset, 1];
                log.next = Some(intent_log::pointer(dvas, BLOCK_MIN, self.txg, words));
            }
        }
        let first = log.next.clone().unwrap_or_else(BlockPointer::hole);
        if head.set.log_header()?.first != first {
            head.set.set_log_header(&Header::new(first));
        }
        Ok(())
    }

    /// Gives up the chains of all datasets with the next commit, as before an export.
    pub(crate) fn drop_logs(&mut self) {
        let heads: Vec<u64> = self.heads.keys().copied().collect();
        heads.into_iter().for_each(|head| self.drop_log(head));
    }

    /// Gives up the chain of one dataset with the next commit.
    pub(crate) fn drop_log(&mut self, dataset: u64) {
        if let Some(head) = self.heads.get_mut(&dataset)
            && let Some(next) = head.log.next.take()
        {
            head.log.spent.push(next);
            head.set.set_log_header(&Header::new(BlockPointer::hole()));
        }
    }

    /// Finds the logs that datasets have, and keeps their blocks out of use.
    pub(crate) fn claim_logs(&mut self) -> Result<(), EditError> {
        let mut found: Vec<(u64, BlockPointer)> = Vec::new();
        crate::ObjectSet::mos(&self.pool)?.for_each(|number, dnode| {
            if dnode.bonus_kind == kind::DSL_DATASET {
                let phys = pool_phys::dsl::Dataset::parse(&dnode.bonus)?;
                // The header in a snapshot is that of its head then.
                if phys.next_snapshot == 0 && !phys.root.is_hole() {
                    found.push((number, phys.root));
                }
            }
            Ok(())
        })?;
        for (dataset, root) in found {
            let header = Header::parse(&self.pool.read(&root).map_err(Error::from)?)?;
            if !header.first.is_hole() {
                let log = self.claim_log(&header)?;
                self.pending_logs.insert(dataset, log);
            }
        }
        Ok(())
    }

    fn claim_log(&mut self, header: &Header) -> Result<PendingLog, EditError> {
        let first_txg = if header.claim_txg == 0 { self.pool.uberblock().txg + 1 } else { header.claim_txg };
        let mut log = PendingLog { blocks: Vec::new(), records: Vec::new(), is_cut: false };
        let mut next = header.first.clone();
        while next.checksum == Checksum::Zilog2 && !next.is_hole() && log.blocks.len() < CHAIN_MAX {
            if header.claim_txg != 0 && next.words[3] > header.claim_block_seq {
                break;
            }
            if next.copies().any(|dva| self.space.claim(&dva).is_err()) {
                break;
            }
            log.blocks.push(next.clone());
            let Ok(block) = self.pool.read_log_block(&next) else {
                log.is_cut = true;
                break;
            };
            let Some(block) = block else { break };
            let Ok((after, records)) = intent_log::parse_block(&block) else { break };
            for record in records {
                if record.seq <= header.replay_seq || record.txg < first_txg || header.flags & 2 != 0 && record.seq > header.claim_record_seq {
                    continue;
                }
                if let Ok(Change::WriteIndirect { block, .. }) = Change::parse(&record)
                    && block.birth >= first_txg
                {
                    block.copies().try_for_each(|dva| self.space.claim(&dva))?;
                    log.blocks.push(block);
                }
                log.records.push(record);
            }
            let expected = next.words[3].checked_add(1);
            if after.words[..3] != next.words[..3] || Some(after.words[3]) != expected {
                break;
            }
            next = after;
        }
        Ok(log)
    }

    /// Datasets whose intent log is to be replayed before they can be changed.
    #[must_use]
    pub fn pending_logs(&self) -> Vec<u64> {
        self.pending_logs.keys().copied().collect()
    }

    /// Takes the intent logs that devices failed to give for ended where that was: what was synced behind is given up. Returns how many these are.
    pub fn give_up_log_ends(&mut self) -> usize {
        self.pending_logs.values_mut().filter_map(|log| core::mem::take(&mut log.is_cut).then_some(())).count()
    }

    /// Begins the replay of a dataset's log: gives its records, and drops the chain with the next commit. The caller applies them all and commits, or
    /// drops the store.
    ///
    /// # Errors
    /// Unreadable, malformed; a device did not give all of the log ([`Store::give_up_log_ends`]).
    pub fn begin_replay(&mut self, dataset: u64) -> Result<Vec<Record>, EditError> {
        if self.pending_logs.get(&dataset).is_some_and(|log| log.is_cut) {
            return Err(EditError::Invalid("a device fails to give part of an intent log, which has what was synced last: 'zpool import -m' gives that up, '-o readonly=on' reads the rest"));
        }
        let Some(log) = self.pending_logs.remove(&dataset) else { return Ok(Vec::new()) };
        self.edit_dataset(dataset, None)?;
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.log = OpenLog { spent: log.blocks, ..OpenLog::default() };
            head.set.set_log_header(&Header::new(BlockPointer::hole()));
        }
        self.pool.post(Event::LogReplayed { dataset, records: log.records.len() as u64 });
        Ok(log.records)
    }
}
