//! The workload: random operations on files, with a model of what the pool must hold.
//!
//! Each operation takes the model from one state to the next. The states since the last acknowledged sync are kept: after a power cut the pool
//! must hold one of them, no older than the last acknowledged.

use std::collections::BTreeMap;

use pool_dmu::Store;
use pool_dmu::edit::EditError;
use pool_zpl::{Make, Writer};

use crate::disk::mix;
use crate::rig::{NAME, NEW, NOW};

/// Files by path; directories end with a slash.
pub type Model = BTreeMap<String, Vec<u8>>;

/// One state of the model, cheap to keep: a digest of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u64; 4]);

/// Digest of a model.
#[must_use]
pub fn digest(model: &Model) -> Digest {
    let mut text = Vec::new();
    for (path, data) in model {
        text.extend_from_slice(path.as_bytes());
        text.push(0);
        text.extend_from_slice(&(data.len() as u64).to_le_bytes());
        // Whole words only: the rest goes in as it is. States are compared by the million, so the sum is a fast one.
        let whole = data.len() / 4 * 4;
        for word in codec::fletcher4(&data[..whole]) {
            text.extend_from_slice(&word.to_le_bytes());
        }
        text.extend_from_slice(&data[whole..]);
    }
    text.resize(text.len().next_multiple_of(4), 0);
    Digest(codec::fletcher4(&text))
}

/// Largest write. Larger ones are several log records, and whole only together with their sync.
const WRITE_MAX: u64 = 60 << 10;

/// A workload under way.
#[derive(Debug)]
pub struct Work {
    seed: u64,
    count: u64,
    /// How many directories and files in each, at most.
    room: (u64, u64),
    pub model: Model,
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// The model changed (or the operation found nothing to do).
    Change,
    /// Everything so far is acknowledged as durable.
    Sync,
}

impl Work {
    /// Begins on an empty file system.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, count: 0, room: (4, 16), model: Model::new() }
    }

    /// The same with a few files only: looking at all of them is cheap.
    #[must_use]
    pub const fn small(seed: u64) -> Self {
        Self { seed, count: 0, room: (2, 6), model: Model::new() }
    }

    /// Goes on with a model as it was found.
    #[must_use]
    pub const fn resume(seed: u64, model: Model) -> Self {
        Self { seed, count: 0, room: (4, 16), model }
    }

    fn dice(&mut self) -> u64 {
        self.count += 1;
        mix(mix(self.seed) ^ self.count)
    }

    /// Does the next operation.
    ///
    /// # Errors
    /// What the pool says; the model is as before.
    pub fn step(&mut self, store: &mut Store) -> Result<Did, EditError> {
        let dataset = store.find(NAME)?;
        let pick = self.dice();
        match pick % 16 {
            0 | 1 => {
                store.log_sync(dataset, NOW.0)?;
                return Ok(Did::Sync);
            }
            2 if pick >> 8 & 3 == 0 => {
                store.commit(NOW.0)?;
                return Ok(Did::Sync);
            }
            _ => {}
        }
        let mut writer = Writer::open(store, dataset)?;
        let directory = format!("/d{}/", (pick >> 12) % self.room.0);
        let root = writer.root();
        let name = directory.trim_matches('/').as_bytes();
        let Some(parent) = writer.lookup(root, name)? else {
            writer.make(root, name, Make::Directory, &NEW)?;
            self.model.insert(directory, Vec::new());
            return Ok(Did::Change);
        };
        let file = format!("f{}", (pick >> 16) % self.room.1);
        let path = format!("{directory}{file}");
        let exists = self.model.contains_key(&path);
        match pick >> 24 & 15 {
            0 | 1 if exists => {
                writer.remove(parent, file.as_bytes(), NOW)?;
                self.model.remove(&path);
            }
            2 if exists => {
                let other = format!("f{}", (pick >> 32) % self.room.1);
                if other != file {
                    writer.rename((parent, file.as_bytes()), (parent, other.as_bytes()), false, NOW, false)?;
                    let data = self.model.remove(&path).unwrap_or_default();
                    self.model.insert(format!("{directory}{other}"), data);
                }
            }
            3 if exists => {
                let object = writer.lookup(parent, file.as_bytes())?.ok_or(pool_dmu::Error::NotFound)?;
                let size = (pick >> 32) % 30_000;
                writer.truncate(object, size, NOW)?;
                if let Some(data) = self.model.get_mut(&path) {
                    data.resize(usize::try_from(size).unwrap_or(0), 0);
                }
            }
            _ if !exists => {
                writer.make(parent, file.as_bytes(), Make::File, &NEW)?;
                self.model.insert(path, Vec::new());
            }
            _ => {
                let object = writer.lookup(parent, file.as_bytes())?.ok_or(pool_dmu::Error::NotFound)?;
                let far = if pick >> 36 & 3 == 0 { 60_000 } else { 4000 };
                let offset = (pick >> 40) % far;
                let long = if pick >> 32 & 7 == 0 { WRITE_MAX } else { 3000 };
                let size = usize::try_from(self.dice() % long + 1).unwrap_or(1);
                let fill = self.dice();
                let data: Vec<u8> = (0..size as u64).map(|at| if fill & 1 == 0 { at.to_le_bytes()[0] / 16 } else { mix(fill ^ at).to_le_bytes()[0] }).collect();
                writer.write(object, offset, &data, NOW)?;
                let whole = self.model.entry(path).or_default();
                let from = usize::try_from(offset).unwrap_or(0);
                if whole.len() < from + size {
                    whole.resize(from + size, 0);
                }
                whole[from..from + size].copy_from_slice(&data);
            }
        }
        Ok(Did::Change)
    }
}
