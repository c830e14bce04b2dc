//! The open vdev tree and reading from it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kif::{BlockDev, BlockError};
use pool_phys::label;
use pool_phys::raidz::{self, Shape};

use crate::WriteError;
use crate::config::{VdevConfig, VdevKind};

/// An open vdev.
pub(crate) struct Vdev {
    config: VdevConfig,
    body: Body,
}

enum Body {
    Leaf(Leaf),
    Mirror(Vec<Vdev>),
    Raidz { shape: Shape, children: Vec<Vdev> },
    Absent,
}

pub(crate) struct Leaf {
    guid: u64,
    device: Option<Box<dyn BlockDev>>,
    reads: AtomicU64,
    read_errors: AtomicU64,
    checksum_errors: AtomicU64,
}

/// Error counters of a leaf since import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    pub reads: u64,
    pub read_errors: u64,
    pub checksum_errors: u64,
}

/// Whether a leaf can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafState {
    Online,
    /// Present, but a read or a checksum failed since import.
    Degraded,
    /// No device carries its guid.
    Missing,
}

/// A leaf as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafStatus {
    pub guid: u64,
    pub path: Option<String>,
    pub state: LeafState,
    pub counts: LeafCounts,
}

/// A vdev as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdevStatus {
    /// `mirror-0`, `raidz2-1`, or a leaf's path.
    pub name: String,
    pub leaf: Option<LeafStatus>,
    pub children: Vec<Self>,
}

impl Vdev {
    /// Opens a vdev: `find` gives the device with a leaf's guid, if any.
    pub fn open(config: &VdevConfig, ashift: u32, find: &mut dyn FnMut(u64) -> Option<Box<dyn BlockDev>>) -> Self {
        let mut children = || config.children.iter().map(|child| Self::open(child, ashift, find)).collect::<Vec<_>>();
        let body = match config.kind {
            VdevKind::Mirror => Body::Mirror(children()),
            VdevKind::Raidz { parity } => {
                let children = children();
                Body::Raidz { shape: Shape { children: children.len(), parity, ashift }, children }
            }
            VdevKind::Hole | VdevKind::Missing => Body::Absent,
            VdevKind::Leaf => Body::Leaf(Leaf {
                guid: config.guid,
                device: find(config.guid),
                reads: AtomicU64::new(0),
                read_errors: AtomicU64::new(0),
                checksum_errors: AtomicU64::new(0),
            }),
        };
        Self { config: config.clone(), body }
    }

    /// Calls `accept` with every way this vdev can give the `size` bytes at `offset` until one is accepted; counts a checksum error
    /// at each leaf that a later accepted candidate shows to have been wrong. Returns whether one was accepted.
    ///
    /// `size` is a multiple of 512; device reads are rounded up to the allocation unit.
    pub fn read(&self, offset: u64, size: usize, accept: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        match &self.body {
            Body::Absent => false,
            Body::Leaf(leaf) => {
                let Some(data) = leaf.read(offset, size, self.unit()) else { return false };
                let good = accept(&data[..size]);
                if !good {
                    leaf.checksum_errors.fetch_add(1, Ordering::Relaxed);
                }
                good
            }
            Body::Mirror(sides) => sides.iter().any(|side| side.read(offset, size, accept)),
            Body::Raidz { shape, children } => read_raidz(*shape, children, offset, size, accept, true),
        }
    }

    fn unit(&self) -> usize {
        1 << self.config.ashift
    }

    /// Reads one raidz column: mirrors below a raidz (replacing, spare) give their first side that answers.
    fn read_column(&self, offset: u64, size: usize) -> Option<Vec<u8>> {
        match &self.body {
            Body::Leaf(leaf) => leaf.read(offset, size, 512),
            Body::Mirror(sides) => sides.iter().find_map(|side| side.read_column(offset, size)),
            Body::Raidz { .. } | Body::Absent => None,
        }
    }

    /// Reads every place that holds the block, as a scrub does: each side of a mirror, each column of a raidz. Blames leaves whose bytes are wrong and
    /// counts places that are wrong or could not be read. `accept` says whether a whole block is right.
    pub fn scrub(&self, offset: u64, size: usize, accept: &mut dyn FnMut(&[u8]) -> bool) -> Scrubbed {
        match &self.body {
            Body::Absent | Body::Leaf(_) => {
                let good = self.read(offset, size, accept);
                Scrubbed { good, bad: u32::from(!good) }
            }
            Body::Mirror(sides) => sides.iter().map(|side| side.scrub(offset, size, accept)).fold(Scrubbed::default(), |sum, side| Scrubbed {
                good: sum.good || side.good,
                bad: sum.bad + side.bad,
            }),
            Body::Raidz { shape, children } => {
                let mut right = None;
                let mut keep = |data: &[u8]| {
                    let good = accept(data);
                    if good {
                        right = Some(data.to_vec());
                    }
                    good
                };
                if !read_raidz(*shape, children, offset, size, &mut keep, false) {
                    return Scrubbed { good: false, bad: 1 };
                }
                let columns = shape.columns(offset, size as u64);
                let wanted = raidz_columns(*shape, &columns, &right.unwrap_or_default());
                let mut bad = 0;
                for (column, wanted) in columns.iter().zip(wanted) {
                    match children[column.child].read_column(column.offset, wanted.len()) {
                        Some(found) if found == wanted => {}
                        Some(_) => {
                            children[column.child].blame();
                            bad += 1;
                        }
                        None => bad += 1,
                    }
                }
                Scrubbed { good: true, bad }
            }
        }
    }

    /// Writes a stored block (a multiple of 512 bytes, padded here to the allocation unit) to every place that holds it.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), WriteError> {
        let gone = Err(WriteError::Device { guid: self.config.guid, error: BlockError::Gone });
        match &self.body {
            Body::Absent => gone,
            Body::Leaf(leaf) => leaf.write(offset, data, self.unit()),
            Body::Mirror(sides) => sides.iter().try_for_each(|side| side.write(offset, data)),
            Body::Raidz { shape, children } => {
                let columns = shape.columns(offset, data.len() as u64);
                let all = raidz_columns(*shape, &columns, data);
                columns.iter().zip(all).try_for_each(|(column, bytes)| children[column.child].write(column.offset, &bytes))
            }
        }
    }

    /// Calls `visit` with every leaf below and the top-level vdev's ashift.
    pub fn for_each_leaf(&self, ashift: u32, visit: &mut dyn FnMut(&Leaf, u32) -> Result<(), WriteError>) -> Result<(), WriteError> {
        match &self.body {
            Body::Leaf(leaf) => visit(leaf, ashift),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.iter().try_for_each(|child| child.for_each_leaf(ashift, visit)),
            Body::Absent => Ok(()),
        }
    }

    pub const fn config(&self) -> &VdevConfig {
        &self.config
    }

    /// Shape of a raidz.
    pub const fn shape(&self) -> Option<Shape> {
        if let Body::Raidz { shape, .. } = &self.body { Some(*shape) } else { None }
    }

    fn blame(&self) {
        match &self.body {
            Body::Leaf(leaf) => {
                leaf.checksum_errors.fetch_add(1, Ordering::Relaxed);
            }
            Body::Mirror(sides) => sides.iter().for_each(Self::blame),
            Body::Raidz { .. } | Body::Absent => {}
        }
    }

    pub fn status(&self) -> VdevStatus {
        let (leaf, children) = match &self.body {
            Body::Leaf(leaf) => (Some(leaf.status(&self.config)), &[][..]),
            Body::Mirror(children) | Body::Raidz { children, .. } => (None, children.as_slice()),
            Body::Absent => (None, &[][..]),
        };
        let name = match (&self.config.kind, &self.config.path) {
            (VdevKind::Leaf, Some(path)) => path.clone(),
            (VdevKind::Raidz { parity }, _) => alloc::format!("raidz{parity}-{}", self.config.id),
            _ => alloc::format!("{}-{}", self.config.type_name, self.config.id),
        };
        VdevStatus { name, leaf, children: children.iter().map(Self::status).collect() }
    }
}

impl Leaf {
    pub const fn guid(&self) -> u64 {
        self.guid
    }

    /// Bytes of the device; 0 if it is missing.
    pub fn size(&self) -> u64 {
        self.device.as_ref().map_or(0, |device| device.size_bytes())
    }

    /// Writes at a byte offset of the device itself.
    pub fn write_raw(&self, at: u64, data: &[u8]) -> Result<(), WriteError> {
        let error = |error| WriteError::Device { guid: self.guid, error };
        self.device.as_ref().ok_or(error(BlockError::Gone))?.write(at, data).map_err(error)
    }

    fn write(&self, offset: u64, data: &[u8], unit: usize) -> Result<(), WriteError> {
        let at = offset.checked_add(label::FRONT).ok_or(WriteError::Device { guid: self.guid, error: BlockError::OutOfRange })?;
        if data.len().is_multiple_of(unit) {
            return self.write_raw(at, data);
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(unit), 0);
        self.write_raw(at, &padded)
    }

    pub fn flush(&self) -> Result<(), WriteError> {
        let error = |error| WriteError::Device { guid: self.guid, error };
        self.device.as_ref().ok_or(error(BlockError::Gone))?.flush().map_err(error)
    }

    fn read(&self, offset: u64, size: usize, unit: usize) -> Option<Vec<u8>> {
        let device = self.device.as_ref()?;
        let mut data = vec![0; size.next_multiple_of(unit)];
        self.reads.fetch_add(1, Ordering::Relaxed);
        let at = offset.checked_add(label::FRONT)?;
        if device.read(at, &mut data).is_err() {
            self.read_errors.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(data)
    }

    fn status(&self, config: &VdevConfig) -> LeafStatus {
        let counts = LeafCounts {
            reads: self.reads.load(Ordering::Relaxed),
            read_errors: self.read_errors.load(Ordering::Relaxed),
            checksum_errors: self.checksum_errors.load(Ordering::Relaxed),
        };
        let state = match (&self.device, counts.read_errors + counts.checksum_errors) {
            (None, _) => LeafState::Missing,
            (Some(_), 0) => LeafState::Online,
            (Some(_), _) => LeafState::Degraded,
        };
        LeafStatus { guid: config.guid, path: config.path.clone(), state, counts }
    }
}

/// What a scrub of one block found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The block can be read, perhaps by rebuilding.
    pub good: bool,
    /// Places (sides, columns) that are wrong or could not be read.
    pub bad: u32,
}

/// All columns of a stored block, parity first, as they lie on the children.
fn raidz_columns(shape: Shape, columns: &[raidz::Column], data: &[u8]) -> Vec<Vec<u8>> {
    let mut padded = data.to_vec();
    padded.resize(data.len().next_multiple_of(1 << shape.ashift), 0);
    let mut rest = padded.as_slice();
    let mut parts: Vec<&[u8]> = Vec::new();
    for column in &columns[shape.parity..] {
        let (part, after) = rest.split_at(usize::try_from(column.size).expect("a column of a block fits memory"));
        parts.push(part);
        rest = after;
    }
    let parity = raidz::generate(&parts, shape.parity);
    parity.into_iter().chain(parts.into_iter().map(<[u8]>::to_vec)).collect()
}

/// Reads a block from a raidz: first the data columns as they are; if that is not accepted, every set of at most `parity` columns is
/// taken for lost in turn (those that did not read are always in it) and rebuilt.
/// `blame`: count a checksum error at each leaf whose column a rebuild showed to be wrong.
fn read_raidz(shape: Shape, children: &[Vdev], offset: u64, size: usize, accept: &mut dyn FnMut(&[u8]) -> bool, blame: bool) -> bool {
    let columns = shape.columns(offset, size as u64);
    let column_size = |index: usize| usize::try_from(columns[index].size).unwrap_or(0);
    let read = |index: usize| {
        let column = &columns[index];
        children.get(column.child)?.read_column(column.offset, column_size(index))
    };
    let count = columns.len();
    let parity = shape.parity.min(count);
    let mut stored: Vec<Option<Vec<u8>>> = (0..count).map(|index| if index < parity { None } else { read(index) }).collect();
    let join = |data: &[Vec<u8>]| {
        let mut whole = data.concat();
        whole.truncate(size);
        whole
    };
    let whole: Option<Vec<Vec<u8>>> = stored[parity..].iter().cloned().collect();
    if whole.is_some_and(|data| accept(&join(&data))) {
        return true;
    }
    for (index, slot) in stored.iter_mut().enumerate().take(parity) {
        *slot = read(index);
    }
    let dead: Vec<usize> = (0..count).filter(|index| stored[*index].is_none()).collect();
    if dead.len() > parity {
        return false;
    }
    let alive: Vec<usize> = (0..count).filter(|index| stored[*index].is_some()).collect();
    for extra in 0..=parity - dead.len() {
        let mut pick: Vec<usize> = (0..extra).collect();
        loop {
            let suspects: Vec<usize> = pick.iter().map(|index| alive[*index]).collect();
            let lost: Vec<usize> = dead.iter().chain(&suspects).copied().collect();
            // Without a lost data column this is the first attempt again.
            if lost.iter().any(|index| *index >= parity) {
                let mut data: Vec<Vec<u8>> = (parity..count)
                    .map(|index| stored[index].as_ref().filter(|_| !lost.contains(&index)).cloned().unwrap_or_else(|| vec![0; column_size(index)]))
                    .collect();
                let missing: Vec<usize> = lost.iter().filter_map(|index| index.checked_sub(parity)).collect();
                let rows: Vec<(usize, &[u8])> = (0..parity)
                    .filter(|index| !lost.contains(index))
                    .filter_map(|index| stored[index].as_deref().map(|bytes| (index, bytes)))
                    .collect();
                if raidz::rebuild(&mut data, &missing, &rows) && accept(&join(&data)) {
                    for index in suspects.into_iter().filter(|_| blame) {
                        children[columns[index].child].blame();
                    }
                    return true;
                }
            }
            if !next_combination(&mut pick, alive.len()) {
                break;
            }
        }
    }
    false
}

/// Steps `pick`, a rising list of indices below `limit`, to the next combination; false after the last.
fn next_combination(pick: &mut [usize], limit: usize) -> bool {
    let size = pick.len();
    let Some(position) = (0..size).rev().find(|index| pick[*index] + size - index < limit) else { return false };
    pick[position] += 1;
    for index in position + 1..size {
        pick[index] = pick[index - 1] + 1;
    }
    true
}
