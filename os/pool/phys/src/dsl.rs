//! DSL directories and datasets: bonus buffers of MOS objects.

use crate::FormatError;
use crate::blkptr::BlockPointer;
use crate::bytes::View;

/// A DSL directory: a place in the dataset tree. Object numbers are 0 where absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DslDir {
    pub head_dataset: u64,
    pub parent: u64,
    /// The snapshot this was cloned from.
    pub origin: u64,
    /// ZAP: child name to directory object.
    pub children: u64,
    pub used_bytes: u64,
    pub quota: u64,
    pub reserved: u64,
    /// ZAP of properties.
    pub props: u64,
}

impl DslDir {
    /// Parses the bonus buffer (256 bytes).
    ///
    /// # Errors
    /// Too short.
    pub fn parse(bonus: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("DSL directory", bonus);
        let word = view.words::<12>(0)?;
        Ok(Self {
            head_dataset: word[1],
            parent: word[2],
            origin: word[3],
            children: word[4],
            used_bytes: word[5],
            quota: word[8],
            reserved: word[9],
            props: word[10],
        })
    }
}

/// A dataset or snapshot. Object numbers are 0 where absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub dir: u64,
    pub previous_snapshot: u64,
    pub previous_snapshot_txg: u64,
    /// For snapshots: the next snapshot or the head.
    pub next_snapshot: u64,
    /// ZAP: snapshot name to dataset object (heads only).
    pub snapshot_names: u64,
    pub creation_time: u64,
    pub creation_txg: u64,
    pub deadlist: u64,
    pub referenced_bytes: u64,
    pub compressed_bytes: u64,
    pub uncompressed_bytes: u64,
    pub unique_bytes: u64,
    pub guid: u64,
    pub flags: u64,
    /// The object set.
    pub root: BlockPointer,
}

impl Dataset {
    /// Parses the bonus buffer (320 bytes).
    ///
    /// # Errors
    /// Too short, or a bad block pointer.
    pub fn parse(bonus: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("dataset", bonus);
        let word = view.words::<16>(0)?;
        Ok(Self {
            dir: word[0],
            previous_snapshot: word[1],
            previous_snapshot_txg: word[2],
            next_snapshot: word[3],
            snapshot_names: word[4],
            creation_time: word[6],
            creation_txg: word[7],
            deadlist: word[8],
            referenced_bytes: word[9],
            compressed_bytes: word[10],
            uncompressed_bytes: word[11],
            unique_bytes: word[12],
            guid: word[14],
            flags: word[15],
            root: BlockPointer::parse(view.slice(128, 128)?)?,
        })
    }
}
