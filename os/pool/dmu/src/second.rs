//! What goes to cache devices, and whose.
//!
//! The blocks themselves and where they lie are the allocator's ([`pool_spa::CacheDevice`]); what leaves memory next is known to whoever keeps pages. Here the two meet:
//! pages of a file are blocks with pointers, if they were not changed since the last commit, and a dataset says what of it may go there (`secondarycache`) and
//! what stays in memory (`primarycache`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use pool_spa::{SecondCounts, VdevState};

use crate::edit::EditError;
use crate::props::Cached;
use crate::spares::Auxiliary;
use crate::store::Store;

/// What became of pages that were offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Bytes written to a cache device.
    pub written: u64,
    /// Some will be worth another look: they have changed since the last commit.
    pub is_open: bool,
}

impl Store {
    /// Takes the cache devices that are here into use, empty, and lets go of other pools' spares and cache devices. A device that does not work, or a list
    /// that cannot be read, costs speed only.
    pub(crate) fn begin_caches(&mut self) {
        let lists = [Auxiliary::Spare, Auxiliary::Cache].map(|kind| self.auxiliaries(kind));
        if let [Ok(spares), Ok(caches)] = &lists {
            let known: Vec<u64> = spares.iter().chain(caches).map(|device| device.guid).collect();
            self.pool.keep_auxiliary(&known);
            for device in caches {
                self.pool.begin_cache(device.guid);
            }
        }
    }

    /// Takes a cache device out of service or puts it back; what it held is forgotten. It is in service again after the next import. False if it is none.
    pub(crate) fn serve_cache(&mut self, guid: u64, state: VdevState) -> Result<bool, EditError> {
        let known = self.auxiliaries(Auxiliary::Cache)?.into_iter().any(|device| device.guid == guid);
        if known {
            self.pool.serve_cache(guid, state);
        }
        Ok(known)
    }

    /// Bytes of memory for what is known of blocks on cache devices, at most.
    pub fn limit_cache_table(&mut self, bytes: u64) {
        self.pool.limit_cache_table(bytes);
    }

    /// The counters of the cache devices.
    #[must_use]
    pub fn cache_counts(&self) -> Arc<SecondCounts> {
        self.pool.cache_counts()
    }

    /// True if the data of a dataset that is open stays in memory once it was read.
    #[must_use]
    pub fn keeps_data(&self, dataset: u64) -> bool {
        self.heads.get(&dataset).is_none_or(|head| head.style.primary == Cached::All)
    }

    /// The next turn of feeding the cache devices: metadata that leaves memory next is written at once. Bytes that may follow, and how far from the end of a list
    /// to look for them. `None`: no cache device serves.
    pub fn begin_feed(&mut self) -> Option<(u64, u64)> {
        let (bytes, headroom) = self.pool.begin_feed();
        let written = self.pool.feed_interior(bytes);
        (bytes > 0).then_some((bytes.saturating_sub(written), headroom))
    }

    /// Offers the blocks of a file that begin in `range` (bytes) to the cache devices. `contents` gives a block's bytes from its place and length, if all of
    /// it is in memory.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn feed(&mut self, dataset: u64, object: u64, range: core::ops::Range<u64>, contents: &mut dyn FnMut(u64, u64) -> Option<Vec<u8>>) -> Result<Fed, EditError> {
        let mut fed = Fed::default();
        self.edit_dataset(dataset, None)?;
        let Some(head) = self.heads.get(&dataset).filter(|head| head.style.secondary == Cached::All) else { return Ok(fed) };
        let pool = &self.pool;
        head.set.with_view(pool, object, |edit| {
            let size = edit.dnode.block_size;
            for number in range.start.div_ceil(size)..range.end.div_ceil(size) {
                let Some(pointer) = edit.committed(pool, number)? else {
                    fed.is_open = true;
                    continue;
                };
                if pool.is_uncached(&pointer)
                    && let Some(data) = contents(number * size, size)
                {
                    fed.written += pool.offer(&pointer, &data);
                }
            }
            Ok::<_, crate::Error>(())
        })?;
        Ok(fed)
    }
}
