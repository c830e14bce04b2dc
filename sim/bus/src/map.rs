//! Address decode: which node answers at a port or a guest-physical address.

use crate::device::{NodeId, Region};

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: NodeId,
    pub region: Region,
    pub offset: u64,
}

/// Why a window was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The window wraps around or is empty.
    Range { base: u64, length: u64 },
    /// It overlaps one that is there.
    Overlap { base: u64, length: u64, with: u64 },
}

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MapError::Range { base, length } => write!(f, "window {base:#x}+{length:#x} is empty or wraps"),
            MapError::Overlap { base, length, with } => {
                write!(f, "window {base:#x}+{length:#x} overlaps the one at {with:#x}")
            }
        }
    }
}

impl std::error::Error for MapError {}

#[derive(Clone, Copy, Debug)]
struct Window {
    base: u64,
    last: u64,
    node: NodeId,
    region: Region,
}

/// One address space: ports or MMIO. Windows are disjoint and sorted.
#[derive(Clone, Debug, Default)]
pub struct AddressMap {
    windows: Vec<Window>,
    /// Index of the window that answered last: guests poll.
    last_hit: usize,
}

impl AddressMap {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a window.
    pub fn insert(&mut self, base: u64, length: u64, node: NodeId, region: Region) -> Result<(), MapError> {
        let last = length
            .checked_sub(1)
            .and_then(|less| base.checked_add(less))
            .ok_or(MapError::Range { base, length })?;
        let index = self.windows.partition_point(|window| window.base < base);
        let before = index.checked_sub(1).and_then(|before| self.windows.get(before));
        if let Some(with) = before.filter(|window| window.last >= base).or(self.windows.get(index).filter(|window| window.base <= last))
        {
            return Err(MapError::Overlap { base, length, with: with.base });
        }
        self.windows.insert(index, Window { base, last, node, region });
        self.last_hit = 0;
        Ok(())
    }

    /// Removes the windows of a region.
    pub fn remove(&mut self, node: NodeId, region: Region) {
        self.windows.retain(|window| window.node != node || window.region != region);
        self.last_hit = 0;
    }

    /// The window that covers `address`.
    pub fn find(&mut self, address: u64) -> Option<Target> {
        let hit = |window: &Window| window.base <= address && address <= window.last;
        let index = if self.windows.get(self.last_hit).is_some_and(hit) {
            self.last_hit
        } else {
            let index = self.windows.partition_point(|window| window.base <= address).checked_sub(1)?;
            if !hit(&self.windows[index]) {
                return None;
            }
            self.last_hit = index;
            index
        };
        let window = self.windows[index];
        Some(Target { node: window.node, region: window.region, offset: address - window.base })
    }

    /// All windows: base, last address, node, region.
    pub fn windows(&self) -> impl Iterator<Item = (u64, u64, NodeId, Region)> + '_ {
        self.windows.iter().map(|window| (window.base, window.last, window.node, window.region))
    }
}
