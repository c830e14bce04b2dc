//! Feature flags of a pool (format section 15).

use alloc::vec::Vec;

use pool_phys::zap::Entry;

use crate::edit::EditError;
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::zap_edit as zap;
use crate::Error;

/// A feature that we may count up and down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature {
    pub guid: &'static str,
    pub text: &'static str,
    /// Readers must know it.
    pub read: bool,
}

pub(crate) const LZ4: Feature = Feature { guid: "org.illumos:lz4_compress", text: "LZ4 compression algorithm support.", read: true };
/// Blocks of destroyed datasets wait in a tree list until they are freed; counts 1 while there are such.
pub(crate) const ASYNC_DESTROY: Feature = Feature { guid: "com.delphix:async_destroy", text: "Destroy filesystems asynchronously.", read: false };
/// Counts the objects that became tables.
pub(crate) const EXTENSIBLE_DATASET: Feature = Feature { guid: "com.delphix:extensible_dataset", text: "Enhanced dataset functionality, used by other features.", read: true };
/// Counts the datasets that have bookmarks.
pub(crate) const BOOKMARKS: Feature = Feature { guid: "com.delphix:bookmarks", text: "\"zfs bookmark\" command", read: false };
/// Counts the places that refer to the one list that stands for all empty ones. We make no such places.
pub(crate) const EMPTY_BPOBJ: Feature = Feature { guid: "com.delphix:empty_bpobj", text: "Snapshots use less space.", read: false };
pub(crate) const HOLE_BIRTH: &str = "com.delphix:hole_birth";

/// Features of pools we make, with the count they begin with.
const OURS: [(Feature, u64); 4] = [(LZ4, 1), (ASYNC_DESTROY, 0), (EXTENSIBLE_DATASET, 0), (BOOKMARKS, 0)];
/// Features that may be active in a pool we write.
pub(crate) const WRITABLE: [&str; 9] = [
    LZ4.guid,
    ASYNC_DESTROY.guid,
    EXTENSIBLE_DATASET.guid,
    BOOKMARKS.guid,
    EMPTY_BPOBJ.guid,
    HOLE_BIRTH,
    "com.delphix:embedded_data",
    "com.delphix:spacemap_histogram",
    // Only says when other features were enabled.
    "com.delphix:enabled_txg",
];

const fn table_name(feature: &Feature) -> &'static str {
    if feature.read { "features_for_read" } else { "features_for_write" }
}

impl Store {
    /// Puts the features of a new pool into its tables.
    pub(crate) fn list_features(&mut self) -> Result<(), EditError> {
        for (feature, count) in OURS {
            let table = self.feature_table(table_name(&feature))?;
            self.set_number(table, feature.guid, count)?;
            let texts = self.feature_table("feature_descriptions")?;
            let value: Vec<u64> = feature.text.bytes().chain([0]).map(u64::from).collect();
            let entry = Entry { name: feature.guid.as_bytes().to_vec(), integer_size: 1, value };
            zap::set(self.mos.edit(&self.pool, texts)?, &self.pool, entry)?;
        }
        Ok(())
    }

    fn feature_table(&self, name: &str) -> Result<u64, EditError> {
        self.number_in(OBJECT_DIRECTORY, name)?.ok_or_else(|| Error::NotFound.into())
    }

    /// How often a feature is in use; `None`: the pool does not have it.
    pub(crate) fn feature(&self, feature: &Feature) -> Result<Option<u64>, EditError> {
        self.number_in(self.feature_table(table_name(feature))?, feature.guid)
    }

    /// Counts a feature's uses up or down.
    pub(crate) fn count_feature(&mut self, feature: &Feature, by: i64) -> Result<(), EditError> {
        let table = self.feature_table(table_name(feature))?;
        let count = self.number_in(table, feature.guid)?.ok_or(EditError::Invalid("the pool does not have a feature that this needs"))?;
        self.set_number(table, feature.guid, count.saturating_add_signed(by))
    }
}
