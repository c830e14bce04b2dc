//! The open vdev tree: reading with reconstruction and self-heal, writing, scrub and resilver of one block.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use kif::{BlockDev, BlockError};
use pool_phys::raidz::{self, Shape};

use crate::WriteError;
use crate::config::{VdevConfig, VdevKind};
use crate::leaf::{Context, Leaf, LeafStatus, VdevState};

/// An open vdev.
pub(crate) struct Vdev {
    config: VdevConfig,
    ashift: u32,
    body: Body,
}

enum Body {
    Leaf(Leaf),
    Mirror(Vec<Vdev>),
    Raidz { shape: Shape, children: Vec<Vdev> },
    Absent,
}

/// A vdev as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdevStatus {
    /// `mirror-0`, `raidz2-1`, or a leaf's path.
    pub name: String,
    pub guid: u64,
    pub state: VdevState,
    pub is_log: bool,
    pub leaf: Option<LeafStatus>,
    pub children: Vec<Self>,
}

/// What a scrub of one block found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The block can be read, perhaps by rebuilding.
    pub good: bool,
    /// Places (sides, columns) that were wrong, could not be read, or were known to lack the block.
    pub bad: u32,
    /// Places of those that were written afresh.
    pub repaired: u32,
}

impl Scrubbed {
    /// Both findings about one block.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { good: self.good || other.good, bad: self.bad + other.bad, repaired: self.repaired + other.repaired }
    }
}

/// Where a block lies on a vdev, when it was written, and what to do about damage.
#[derive(Clone, Copy)]
pub(crate) struct Io<'a> {
    pub offset: u64,
    pub size: usize,
    pub birth: u64,
    /// A raidz has no parity of it: a dump device of illumos.
    pub no_parity: bool,
    pub context: &'a Context,
}

impl<'a> Io<'a> {
    const fn at(self, offset: u64, size: usize) -> Self {
        Self { offset, size, ..self }
    }
}

/// Devices and leaves looking for their place in a tree, by guid.
pub(crate) type Leaves = BTreeMap<u64, Leaf>;

impl Vdev {
    /// Opens a vdev; leaves are taken from `leaves`, those not there have no device.
    pub fn open(config: &VdevConfig, ashift: u32, leaves: &mut Leaves) -> Self {
        let mut children = || config.children.iter().map(|child| Self::open(child, ashift, leaves)).collect::<Vec<_>>();
        let body = match config.kind {
            VdevKind::Mirror => Body::Mirror(children()),
            VdevKind::Raidz { parity } => {
                let children = children();
                Body::Raidz { shape: Shape { children: children.len(), parity, ashift }, children }
            }
            VdevKind::Hole | VdevKind::Missing => Body::Absent,
            VdevKind::Leaf => Body::Leaf(leaves.remove(&config.guid).unwrap_or_else(|| Leaf::new(config.guid, None, None))),
        };
        Self { config: config.clone(), ashift, body }
    }

    /// Takes the tree apart into its leaves.
    pub fn into_leaves(self, out: &mut Leaves) {
        match self.body {
            Body::Leaf(leaf) => drop(out.insert(leaf.guid(), leaf)),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.into_iter().for_each(|child| child.into_leaves(out)),
            Body::Absent => {}
        }
    }

    const fn unit(&self) -> usize {
        1 << self.ashift
    }

    /// No place below is known to have what was written in txg `birth`.
    fn lacks(&self, birth: u64) -> bool {
        match &self.body {
            Body::Leaf(leaf) => leaf.lacks(birth),
            Body::Mirror(sides) => sides.iter().all(|side| side.lacks(birth)),
            Body::Raidz { .. } | Body::Absent => false,
        }
    }

    /// Some leaf below, in service, is known to lack what was written in txg `birth`.
    pub fn wants(&self, birth: u64) -> bool {
        match &self.body {
            Body::Leaf(leaf) => leaf.is_usable() && leaf.lacks(birth),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.iter().any(|child| child.wants(birth)),
            Body::Absent => false,
        }
    }

    /// State of this vdev, from its children's.
    pub fn state(&self) -> VdevState {
        let (children, bearable) = match &self.body {
            Body::Leaf(leaf) => return leaf.state(),
            Body::Absent => return VdevState::Online,
            Body::Mirror(sides) => (sides, sides.len().saturating_sub(1)),
            Body::Raidz { shape, children } => (children, shape.parity),
        };
        let lost = children.iter().filter(|child| child.state() > VdevState::Degraded).count();
        match lost {
            lost if lost > bearable => VdevState::Unavail,
            0 if children.iter().all(|child| child.state() == VdevState::Online) => VdevState::Online,
            _ => VdevState::Degraded,
        }
    }

    /// Calls `accept` with every way this vdev can give the bytes until one is accepted. Counts a checksum error at each leaf that is shown to have been
    /// wrong and writes its bytes afresh. Returns what was accepted.
    ///
    /// `io.size` is a multiple of 512; device reads are rounded up to the allocation unit.
    pub fn read(&self, io: Io<'_>, accept: &mut dyn FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        match &self.body {
            Body::Absent => None,
            Body::Leaf(leaf) => {
                let mut data = leaf.read(io.offset, io.size, self.unit(), io.context)?;
                data.truncate(io.size);
                let good = accept(&data);
                if !good && !leaf.lacks(io.birth) {
                    leaf.blame(io.offset, io.size, io.context);
                }
                good.then_some(data)
            }
            Body::Mirror(sides) => {
                let mut order: Vec<&Self> = sides.iter().collect();
                order.sort_by_key(|side| side.lacks(io.birth));
                let mut wrong: Vec<&Self> = Vec::new();
                for side in order {
                    if let Some(data) = side.read(io, accept) {
                        for side in wrong {
                            side.repair(io, &data);
                        }
                        return Some(data);
                    }
                    if !side.lacks(io.birth) {
                        wrong.push(side);
                    }
                }
                None
            }
            Body::Raidz { shape, children } => read_raidz(*shape, children, io, accept, true),
        }
    }

    /// Reads one raidz column: mirrors below a raidz (replacing, spare) give their first side that answers.
    fn read_column(&self, io: Io<'_>) -> Option<Vec<u8>> {
        match &self.body {
            Body::Leaf(leaf) => leaf.read(io.offset, io.size, 512, io.context),
            Body::Mirror(sides) => {
                let mut order: Vec<&Self> = sides.iter().collect();
                order.sort_by_key(|side| side.lacks(io.birth));
                order.into_iter().find_map(|side| side.read_column(io))
            }
            Body::Raidz { .. } | Body::Absent => None,
        }
    }

    /// Reads every place that holds the block, as a scrub does: each side of a mirror, each column of a raidz. Blames leaves whose bytes are wrong, counts
    /// places that are wrong or could not be read, and writes them afresh. `accept` says whether a whole block is right.
    pub fn scrub(&self, io: Io<'_>, accept: &mut dyn FnMut(&[u8]) -> bool) -> Scrubbed {
        match &self.body {
            Body::Absent | Body::Leaf(_) => {
                let good = self.read(io, accept).is_some();
                Scrubbed { good, bad: u32::from(!good), repaired: 0 }
            }
            Body::Mirror(sides) => {
                let (mut right, mut sum, mut wrong) = (None, Scrubbed::default(), Vec::new());
                for side in sides {
                    let found = side.scrub(io, &mut |data| {
                        let good = accept(data);
                        if good && right.is_none() {
                            right = Some(data.to_vec());
                        }
                        good
                    });
                    sum = sum.and(found);
                    if !found.good {
                        wrong.push(side);
                    }
                }
                if let Some(data) = right {
                    sum.repaired += wrong.into_iter().map(|side| side.repair(io, &data)).sum::<u32>();
                }
                sum
            }
            Body::Raidz { shape, children } => {
                let Some(right) = read_raidz(*shape, children, io, accept, false) else { return Scrubbed { good: false, bad: 1, repaired: 0 } };
                if io.no_parity {
                    return Scrubbed { good: true, ..Scrubbed::default() };
                }
                let columns = shape.columns(io.offset, io.size as u64);
                let wanted = raidz_columns(*shape, &columns, &right);
                let mut sum = Scrubbed { good: true, ..Scrubbed::default() };
                for (column, wanted) in columns.iter().zip(wanted) {
                    let io = io.at(column.offset, wanted.len());
                    sum = sum.and(children[column.child].scrub_column(io, &wanted));
                }
                sum
            }
        }
    }

    fn scrub_column(&self, io: Io<'_>, wanted: &[u8]) -> Scrubbed {
        match &self.body {
            Body::Leaf(leaf) => {
                match leaf.read(io.offset, io.size, 512, io.context) {
                    Some(found) if found == wanted => return Scrubbed { good: true, ..Scrubbed::default() },
                    Some(_) if !leaf.lacks(io.birth) => leaf.blame(io.offset, io.size, io.context),
                    _ => {}
                }
                Scrubbed { good: false, bad: 1, repaired: self.repair(io, wanted) }
            }
            Body::Mirror(sides) => sides.iter().map(|side| side.scrub_column(io, wanted)).fold(Scrubbed::default(), Scrubbed::and),
            Body::Raidz { .. } | Body::Absent => Scrubbed { good: false, bad: 1, repaired: 0 },
        }
    }

    /// Writes known good bytes to every place below that holds the block. Returns how many places took them.
    pub fn repair(&self, io: Io<'_>, data: &[u8]) -> u32 {
        match &self.body {
            Body::Absent => 0,
            Body::Leaf(leaf) => u32::from(leaf.repair(io.offset, data, self.unit(), io.context)),
            Body::Mirror(sides) => sides.iter().map(|side| side.repair(io, data)).sum(),
            Body::Raidz { shape, children } => {
                let columns = shape.columns(io.offset, data.len() as u64);
                let all = raidz_columns(*shape, &columns, data);
                columns.iter().zip(all).map(|(column, bytes)| children[column.child].repair(io.at(column.offset, bytes.len()), &bytes)).sum()
            }
        }
    }

    /// Writes known good bytes where the block is known to be lacking. Returns how many places lacked it and how many took it.
    pub fn resilver(&self, io: Io<'_>, data: &[u8]) -> Scrubbed {
        match &self.body {
            Body::Leaf(leaf) if leaf.is_usable() && leaf.lacks(io.birth) => Scrubbed { good: true, bad: 1, repaired: self.repair(io, data) },
            Body::Absent | Body::Leaf(_) => Scrubbed { good: true, ..Scrubbed::default() },
            Body::Mirror(sides) => sides.iter().map(|side| side.resilver(io, data)).fold(Scrubbed::default(), Scrubbed::and),
            Body::Raidz { shape, children } => {
                let columns = shape.columns(io.offset, data.len() as u64);
                let all = raidz_columns(*shape, &columns, data);
                let each = columns.iter().zip(all).map(|(column, bytes)| children[column.child].resilver(io.at(column.offset, bytes.len()), &bytes));
                each.fold(Scrubbed { good: true, ..Scrubbed::default() }, Scrubbed::and)
            }
        }
    }

    /// The leaves of a vdev that all hold the same; `None` where they do not.
    fn sides(&self) -> Option<Vec<&Leaf>> {
        match &self.body {
            Body::Leaf(leaf) => Some(vec![leaf]),
            Body::Mirror(sides) => sides.iter().map(Self::sides).try_fold(Vec::new(), |mut all, leaves| {
                all.extend(leaves?);
                Some(all)
            }),
            Body::Raidz { .. } | Body::Absent => None,
        }
    }

    /// Some leaf in service lacks anything.
    pub fn lacks_any(&self) -> bool {
        match &self.body {
            Body::Leaf(leaf) => leaf.is_usable() && !leaf.lacking().is_empty(),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.iter().any(Self::lacks_any),
            Body::Absent => false,
        }
    }

    /// All sides hold the same, so that one can be copied to another.
    pub fn is_mirrored(&self) -> bool {
        self.sides().is_some()
    }

    /// Copies what a whole side has at `offset` to the sides that lack anything, whatever it is.
    pub fn copy_over(&self, offset: u64, size: usize, context: &Context) -> Scrubbed {
        let sides = self.sides().unwrap_or_default();
        let (whole, lacking): (Vec<&Leaf>, Vec<&Leaf>) = sides.into_iter().filter(|leaf| leaf.is_usable() && !leaf.has_missed()).partition(|leaf| leaf.lacking().is_empty());
        let Some(data) = whole.iter().find_map(|leaf| leaf.read(offset, size, self.unit(), context)) else { return Scrubbed { good: false, bad: 1, repaired: 0 } };
        let repaired = lacking.iter().filter(|leaf| leaf.repair(offset, &data, self.unit(), context)).count();
        Scrubbed { good: true, bad: u32::try_from(lacking.len()).unwrap_or(u32::MAX), repaired: u32::try_from(repaired).unwrap_or(u32::MAX) }
    }

    /// Writes a stored block (a multiple of 512 bytes, padded here to the allocation unit) to every place that holds it. Failures up to the redundancy
    /// are survived: the leaves concerned note that they missed the open txg.
    pub fn write(&self, offset: u64, data: &[u8], context: &Context) -> Result<(), WriteError> {
        let gone = WriteError::Device { guid: self.config.guid, error: BlockError::Gone };
        match &self.body {
            Body::Absent => Err(gone),
            Body::Leaf(leaf) => leaf.write(offset, data, self.unit(), context),
            Body::Mirror(sides) => {
                let mut done = Err(gone);
                for side in sides {
                    done = match (side.write(offset, data, context), done) {
                        (Ok(()), _) | (_, Ok(())) => Ok(()),
                        (failure, _) => failure,
                    };
                }
                done
            }
            Body::Raidz { shape, children } => {
                let columns = shape.columns(offset, data.len() as u64);
                let all = raidz_columns(*shape, &columns, data);
                let (mut failures, mut last) = (0, gone);
                for (column, bytes) in columns.iter().zip(all) {
                    if let Err(error) = children[column.child].write(column.offset, &bytes, context) {
                        (failures, last) = (failures + 1, error);
                    }
                }
                if failures > shape.parity { Err(last) } else { Ok(()) }
            }
        }
    }

    /// The vdev's data is there if only the leaves that `good` accepts have it.
    pub fn bears(&self, good: &dyn Fn(&Leaf) -> bool) -> bool {
        match &self.body {
            Body::Leaf(leaf) => good(leaf),
            Body::Mirror(sides) => sides.iter().any(|side| side.bears(good)),
            Body::Raidz { shape, children } => children.iter().filter(|child| !child.bears(good)).count() <= shape.parity,
            Body::Absent => true,
        }
    }

    /// Calls `visit` with every leaf below and the top-level vdev's ashift.
    pub fn for_each_leaf(&self, visit: &mut dyn FnMut(&Leaf, u32)) {
        match &self.body {
            Body::Leaf(leaf) => visit(leaf, self.ashift),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.iter().for_each(|child| child.for_each_leaf(visit)),
            Body::Absent => {}
        }
    }

    /// Calls `visit` with every leaf below.
    pub fn for_each_leaf_mut(&mut self, visit: &mut dyn FnMut(&mut Leaf)) {
        match &mut self.body {
            Body::Leaf(leaf) => visit(leaf),
            Body::Mirror(children) | Body::Raidz { children, .. } => children.iter_mut().for_each(|child| child.for_each_leaf_mut(visit)),
            Body::Absent => {}
        }
    }

    pub const fn config(&self) -> &VdevConfig {
        &self.config
    }

    /// Shape of a raidz.
    pub const fn shape(&self) -> Option<Shape> {
        if let Body::Raidz { shape, .. } = &self.body { Some(*shape) } else { None }
    }

    fn blame(&self, io: Io<'_>) {
        match &self.body {
            Body::Leaf(leaf) if !leaf.lacks(io.birth) => leaf.blame(io.offset, io.size, io.context),
            Body::Mirror(sides) => sides.iter().for_each(|side| side.blame(io)),
            Body::Leaf(_) | Body::Raidz { .. } | Body::Absent => {}
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
        let (guid, is_log) = (self.config.guid, self.config.is_log);
        VdevStatus { name, guid, state: self.state(), is_log, leaf, children: children.iter().map(Self::status).collect() }
    }
}

/// A leaf for a device found to carry `guid`.
pub(crate) fn leaf_of(guid: u64, device: Box<dyn BlockDev>, found_txg: Option<u64>) -> Leaf {
    Leaf::new(guid, Some(device), found_txg)
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
/// taken for lost in turn (those that did not read or lack the block are always in it) and rebuilt.
/// `blame`: count a checksum error at each leaf whose column a rebuild showed to be wrong, and write it afresh.
fn read_raidz(shape: Shape, children: &[Vdev], io: Io<'_>, accept: &mut dyn FnMut(&[u8]) -> bool, blame: bool) -> Option<Vec<u8>> {
    let lacking = |index: usize| children.get(index).is_none_or(|child| child.lacks(io.birth));
    let found = read_raidz_columns(shape, children, io, accept, blame, &lacking);
    // Columns that should lack the block are the last resort.
    found.or_else(|| if !io.no_parity && (0..children.len()).any(lacking) { read_raidz_columns(shape, children, io, accept, false, &|_| false) } else { None })
}

fn read_raidz_columns(shape: Shape, children: &[Vdev], io: Io<'_>, accept: &mut dyn FnMut(&[u8]) -> bool, blame: bool, skip: &dyn Fn(usize) -> bool) -> Option<Vec<u8>> {
    let columns = shape.columns(io.offset, io.size as u64);
    let column_size = |index: usize| usize::try_from(columns[index].size).unwrap_or(0);
    let column_io = |index: usize| io.at(columns[index].offset, column_size(index));
    let read = |index: usize| {
        let child = columns[index].child;
        if skip(child) { None } else { children.get(child)?.read_column(column_io(index)) }
    };
    let count = columns.len();
    let parity = shape.parity.min(count);
    let mut stored: Vec<Option<Vec<u8>>> = (0..count).map(|index| if index < parity { None } else { read(index) }).collect();
    let join = |data: &[&[u8]]| {
        let mut whole = data.concat();
        whole.truncate(io.size);
        whole
    };
    let whole: Option<Vec<&[u8]>> = stored[parity..].iter().map(Option::as_deref).collect();
    if let Some(data) = whole.map(|data| join(&data)).filter(|data| accept(data)) {
        return Some(data);
    }
    if io.no_parity {
        return None;
    }
    for (index, slot) in stored.iter_mut().enumerate().take(parity) {
        *slot = read(index);
    }
    let dead: Vec<usize> = (0..count).filter(|index| stored[*index].is_none()).collect();
    if dead.len() > parity {
        return None;
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
                let rebuilt = raidz::rebuild(&mut data, &missing, &rows).then(|| join(&data.iter().map(Vec::as_slice).collect::<Vec<_>>()));
                if let Some(whole) = rebuilt.filter(|whole| accept(whole)) {
                    if blame {
                        suspects.iter().for_each(|index| children[columns[*index].child].blame(column_io(*index)));
                        if io.context.heal {
                            let right = raidz_columns(shape, &columns, &whole);
                            for index in lost.into_iter().filter(|index| !skip(columns[*index].child)) {
                                children[columns[index].child].repair(column_io(index), &right[index]);
                            }
                        }
                    }
                    return Some(whole);
                }
            }
            if !next_combination(&mut pick, alive.len()) {
                break;
            }
        }
    }
    None
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
