//! Feature flags of a pool (format section 15).

use alloc::string::String;
use alloc::vec::Vec;

use pool_phys::nvlist::Value;
use pool_phys::zap::Entry;

use crate::edit::EditError;
use crate::store::{OBJECT_DIRECTORY, Store, ZAP_METADATA};
use crate::zap_edit as zap;
use crate::{Datasets, Error};

/// A feature that we may count up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
pub(crate) const EMPTY_BPOBJ: Feature = Feature {
    guid: "com.delphix:empty_bpobj",
    text: "Snapshots use less space.",
    read: false,
};
/// Metaslabs' recent changes are in logs of their own (`foreign.rs` retires them).
pub(crate) const LOG_SPACEMAP: Feature = known("com.delphix:log_spacemap", false);
/// Counts the space maps with a histogram. We make none, and keep those that are there.
pub(crate) const SPACEMAP_HISTOGRAM: Feature = known("com.delphix:spacemap_histogram", false);
/// Counts the clones that list what they wrote (`foreign.rs` retires them).
pub(crate) const LIVELIST: Feature = known("com.delphix:livelist", false);
/// Count bookmarks of more than three words, and among them those that count what was freed since (`foreign.rs` retires both).
pub(crate) const BOOKMARK_V2: Feature = known("com.datto:bookmark_v2", true);
pub(crate) const BOOKMARK_WRITTEN: Feature = known("com.delphix:bookmark_written", true);
/// Counts the datasets that have blocks above 128 KiB.
pub(crate) const LARGE_BLOCKS: Feature = Feature { guid: "org.open-zfs:large_blocks", text: "Support for blocks larger than 128KB.", read: true };
/// Counts the datasets that have dnodes above 512 bytes. We keep them and make none.
const LARGE_DNODE: Feature = known("org.zfsonlinux:large_dnode", true);
/// Count the datasets that account objects by owner, and both by project.
pub(crate) const USEROBJ_ACCOUNTING: Feature = known("org.zfsonlinux:userobj_accounting", false);
pub(crate) const PROJECT_QUOTA: Feature = known("org.zfsonlinux:project_quota", false);
/// Counts the datasets with SHA-512/256 sums.
pub(crate) const SHA512: Feature = Feature { guid: "org.illumos:sha512", text: "SHA-512/256 hash algorithm.", read: true };
/// Counts the datasets with blocks that zstd packed.
pub(crate) const ZSTD: Feature = Feature { guid: "org.freebsd:zstd_compress", text: "zstd compression algorithm support.", read: true };
pub(crate) const HOLE_BIRTH: &str = "com.delphix:hole_birth";
/// Features that count datasets: each dataset and snapshot that has one says so in an extra field, which clones and snapshots take over.
const PER_DATASET: [Feature; 6] = [LARGE_BLOCKS, LARGE_DNODE, USEROBJ_ACCOUNTING, PROJECT_QUOTA, SHA512, ZSTD];

const fn known(guid: &'static str, read: bool) -> Feature {
    Feature { guid, text: "", read }
}

/// Features of pools we make, with the count they begin with.
const OURS: [(Feature, u64); 7] = [(LZ4, 1), (ASYNC_DESTROY, 0), (EXTENSIBLE_DATASET, 0), (BOOKMARKS, 0), (LARGE_BLOCKS, 0), (SHA512, 0), (ZSTD, 0)];
/// Features that may be active in a pool we write.
const WRITABLE: [&str; 21] = [
    LZ4.guid,
    ASYNC_DESTROY.guid,
    EXTENSIBLE_DATASET.guid,
    BOOKMARKS.guid,
    EMPTY_BPOBJ.guid,
    HOLE_BIRTH,
    "com.delphix:embedded_data",
    SPACEMAP_HISTOGRAM.guid,
    // Only says when other features were enabled.
    "com.delphix:enabled_txg",
    // Entries of two words are read; those of one are as good.
    "com.delphix:spacemap_v2",
    LOG_SPACEMAP.guid,
    LIVELIST.guid,
    BOOKMARK_V2.guid,
    BOOKMARK_WRITTEN.guid,
    LARGE_BLOCKS.guid,
    LARGE_DNODE.guid,
    USEROBJ_ACCOUNTING.guid,
    PROJECT_QUOTA.guid,
    SHA512.guid,
    ZSTD.guid,
    // Volumes may take a kernel's memory image.
    "com.joyent:multi_vdev_crash_dump",
];
/// Features whose structures a reader must know, and does: all that may be written, and those that only keep some blocks from being read.
const READABLE: [&str; 5] = [
    "org.illumos:skein",
    "org.illumos:edonr",
    "com.datto:encryption",
    "com.delphix:redaction_bookmarks",
    "com.delphix:redacted_datasets",
];

/// Active features of a pool that keep it from being written.
///
/// # Errors
/// Unreadable, malformed.
pub fn unwritable(datasets: &Datasets<'_>) -> Result<Vec<String>, Error> {
    let active = datasets
        .features()?
        .into_iter()
        .filter(|(name, count, _)| *count > 0 && !WRITABLE.contains(&name.as_str()));
    Ok(active.map(|(name, ..)| name).collect())
}

/// Active features of a pool that keep it from being read as a whole.
///
/// # Errors
/// Unreadable, malformed.
pub fn unreadable(datasets: &Datasets<'_>) -> Result<Vec<String>, Error> {
    let is_known = |name: &str| WRITABLE.contains(&name) || READABLE.contains(&name);
    let active = datasets
        .features()?
        .into_iter()
        .filter(|(name, count, read)| *count > 0 && *read && !is_known(name));
    Ok(active.map(|(name, ..)| name).collect())
}

const fn table_name(feature: &Feature) -> &'static str {
    if feature.read { "features_for_read" } else { "features_for_write" }
}

/// A feature's name without that of who defined it, as properties have it.
fn short(guid: &str) -> &str {
    guid.rsplit(':').next().unwrap_or(guid)
}

/// Names and descriptions of the features that the pools we make have.
pub fn own_features() -> impl Iterator<Item = (&'static str, &'static str)> {
    OURS.into_iter().map(|(feature, _)| (short(feature.guid), feature.text))
}

impl Store {
    /// Puts the features of a new pool into its tables.
    pub(crate) fn list_features(&mut self) -> Result<(), EditError> {
        OURS.into_iter().try_for_each(|(feature, count)| self.list_feature(&feature, count))
    }

    fn list_feature(&mut self, feature: &Feature, count: u64) -> Result<(), EditError> {
        let table = self.feature_table(table_name(feature))?;
        self.set_number(table, feature.guid, count)?;
        let texts = self.feature_table("feature_descriptions")?;
        let value: Vec<u64> = feature.text.bytes().chain([0]).map(u64::from).collect();
        let entry = Entry { name: feature.guid.as_bytes().to_vec(), integer_size: 1, value };
        zap::set(self.mos.edit(&self.pool, texts)?, &self.pool, entry)
    }

    /// Gives the pool a feature, and what that needs; it is there with the next commit. False if the pool has it.
    ///
    /// # Errors
    /// None that we make.
    pub(crate) fn enable_feature(&mut self, name: &str) -> Result<bool, EditError> {
        let is_it = |(feature, _): &(Feature, u64)| feature.guid == name || short(feature.guid) == name;
        let (feature, count) = OURS.into_iter().find(is_it).ok_or(EditError::Invalid("not a feature that this system gives a pool; see 'zpool upgrade -v'"))?;
        if self.feature(&feature)?.is_some() {
            return Ok(false);
        }
        // What the others build on.
        if feature != EXTENSIBLE_DATASET && feature != LZ4 && feature != ASYNC_DESTROY {
            self.enable_feature(EXTENSIBLE_DATASET.guid)?;
        }
        self.list_feature(&feature, count)?;
        let dates = known("com.delphix:enabled_txg", false);
        if self.feature(&dates)?.is_some() {
            let table = match self.number_in(OBJECT_DIRECTORY, "feature_enabled_txg")? {
                Some(table) => table,
                None => {
                    let table = self.table(ZAP_METADATA)?;
                    self.note("feature_enabled_txg", table)?;
                    table
                }
            };
            self.set_number(table, feature.guid, self.txg)?;
            self.count_feature(&dates, 1)?;
        }
        Ok(true)
    }

    /// Gives the pool all features that the pools we make have. Returns the names of those that it had not.
    ///
    /// # Errors
    /// Unreadable or malformed, or a failed commit.
    pub fn upgrade(&mut self, now: u64) -> Result<Vec<&'static str>, EditError> {
        let new = self.lacking_features()?;
        for name in &new {
            self.enable_feature(name)?;
        }
        self.commit(now)?;
        Ok(new)
    }

    /// Features that the pools we make have and this one has not.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn lacking_features(&self) -> Result<Vec<&'static str>, EditError> {
        let mut out = Vec::new();
        for (feature, _) in &OURS {
            if self.feature(feature)?.is_none() {
                out.push(short(feature.guid));
            }
        }
        Ok(out)
    }

    /// Short names of all features that the pool has or could have here, with their states.
    pub(crate) fn feature_states(&self) -> Result<Vec<(String, &'static str)>, EditError> {
        let mut out: Vec<(String, &'static str)> = self.lacking_features()?.into_iter().map(|name| (name.into(), "disabled")).collect();
        for table in ["features_for_read", "features_for_write"] {
            let object = self.feature_table(table)?;
            for entry in zap::entries(&*self.mos.view(&self.pool, object)?, &self.pool, None)? {
                let state = if entry.value.first().is_some_and(|count| *count > 0) { "active" } else { "enabled" };
                out.push((short(&String::from_utf8_lossy(&entry.name)).into(), state));
            }
        }
        out.sort();
        Ok(out)
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

    /// True if the pool has the feature and it is in use.
    pub(crate) fn is_active(&self, feature: &Feature) -> Result<bool, EditError> {
        Ok(self.feature(feature)?.unwrap_or(0) > 0)
    }

    /// Marks a dataset as a user of a feature that counts datasets.
    pub(crate) fn mark(&mut self, dataset: u64, feature: &Feature) -> Result<(), EditError> {
        if self.extra(dataset, feature.guid)?.is_none() {
            self.set_extra(dataset, feature.guid, &Value::Number(0))?;
            self.count_feature(feature, 1)?;
        }
        Ok(())
    }

    /// A dataset's marks become those of another.
    pub(crate) fn copy_marks(&mut self, from: u64, to: u64) -> Result<(), EditError> {
        for feature in &PER_DATASET {
            if self.extra(from, feature.guid)?.is_some() {
                self.mark(to, feature)?;
            } else {
                self.unmark(to, feature)?;
            }
        }
        Ok(())
    }

    /// Two datasets exchange their marks.
    pub(crate) fn swap_marks(&mut self, one: u64, other: u64) -> Result<(), EditError> {
        for feature in &PER_DATASET {
            match (
                self.extra(one, feature.guid)?.is_some(),
                self.extra(other, feature.guid)?.is_some(),
            ) {
                (true, false) => {
                    self.mark(other, feature)?;
                    self.unmark(one, feature)?;
                }
                (false, true) => {
                    self.mark(one, feature)?;
                    self.unmark(other, feature)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A dataset goes, and its marks with it.
    pub(crate) fn drop_marks(&mut self, dataset: u64) -> Result<(), EditError> {
        self.forget_bootfs(dataset)?;
        PER_DATASET
            .iter()
            .try_for_each(|feature| self.unmark(dataset, feature))
    }

    fn unmark(&mut self, dataset: u64, feature: &Feature) -> Result<(), EditError> {
        if self.remove_extra(dataset, feature.guid)? {
            self.count_feature(feature, -1)
        } else {
            Ok(())
        }
    }
}
