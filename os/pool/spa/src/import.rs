//! Finding pools on devices and opening one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use kif::BlockDev;
use pool_phys::FormatError;
use pool_phys::label::{self, Label, Uberblock};
use pool_phys::nvlist::List;

use crate::config::VdevConfig;
use crate::vdev::{Leaf, Vdev, VdevStatus};
use crate::{Geometry, WriteError};

/// Features a reader of the MOS must know, among those a label can list (`features_for_read`).
const MOS_FEATURES: [&str; 2] = ["com.delphix:hole_birth", "com.delphix:embedded_data"];

/// Why a pool could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// No device carries a valid label of this pool.
    NoLabel,
    /// Several pools are on the devices and none was named, or two bear the same name: use the guid.
    Ambiguous,
    /// No label of any device holds a valid uberblock.
    NoUberblock,
    /// Pool version other than 5000 (feature flags).
    Version(u64),
    /// Features in use that we cannot read.
    Features(Vec<String>),
    /// Top-level vdevs for which no device was found.
    MissingTops { found: usize, expected: u64 },
    Format(FormatError),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLabel => write!(f, "no such pool on the given devices (none has a valid label of it)"),
            Self::Ambiguous => write!(f, "several pools match; name one, or give its guid"),
            Self::NoUberblock => write!(f, "no valid uberblock in any label"),
            Self::Version(version) => write!(f, "pool version {version} is not supported (5000, feature flags, is)"),
            Self::Features(names) => write!(f, "the pool uses features that are not supported: {}", names.join(", ")),
            Self::MissingTops { found, expected } => {
                write!(f, "devices for only {found} of {expected} top-level vdevs were given; add the missing ones")
            }
            Self::Format(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ImportError {}

impl From<FormatError> for ImportError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// A pool seen on devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub guid: u64,
    /// 0 active, 1 exported, 2 destroyed.
    pub state: u64,
    /// Indices of its devices among those scanned.
    pub devices: Vec<usize>,
}

struct Candidate {
    /// Newest valid config of the device's labels.
    config: List,
    txg: u64,
    best: Option<Uberblock>,
}

fn read_candidate(device: &dyn BlockDev) -> Option<Candidate> {
    let size = device.size_bytes();
    if size < label::LEAF_MIN {
        return None;
    }
    let mut out: Option<Candidate> = None;
    for offset in label::offsets(size) {
        let mut data = vec![0; usize::try_from(label::SIZE).ok()?];
        if device.read(offset, &mut data).is_err() {
            continue;
        }
        let Ok(Label { config, uberblocks }) = label::parse(&data, offset) else { continue };
        let txg = config.number("txg").unwrap_or(0);
        let best = uberblocks.into_iter().max_by_key(Uberblock::rank);
        let candidate = out.get_or_insert(Candidate { config: config.clone(), txg: 0, best: None });
        if txg >= candidate.txg {
            (candidate.config, candidate.txg) = (config, txg);
        }
        if best.as_ref().map(Uberblock::rank) > candidate.best.as_ref().map(Uberblock::rank) {
            candidate.best = best;
        }
    }
    out
}

/// Lists the pools on `devices`.
#[must_use]
pub fn scan(devices: &[Box<dyn BlockDev>]) -> Vec<Found> {
    let mut pools: BTreeMap<u64, Found> = BTreeMap::new();
    for (index, device) in devices.iter().enumerate() {
        let Some(candidate) = read_candidate(&**device) else { continue };
        let (Some(guid), Some(name)) = (candidate.config.number("pool_guid"), candidate.config.text("name")) else { continue };
        let state = candidate.config.number("state").unwrap_or(0);
        let entry = pools.entry(guid).or_insert_with(|| Found { name: String::from(name), guid, state, devices: Vec::new() });
        entry.devices.push(index);
    }
    pools.into_values().collect()
}

/// An open pool (read-only).
pub struct Pool {
    name: String,
    guid: u64,
    state: u64,
    uberblock: Uberblock,
    tops: BTreeMap<u64, Vdev>,
    /// Config of each leaf's label, by leaf guid.
    labels: BTreeMap<u64, List>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} {:#x} txg {})", self.name, self.guid, self.uberblock.txg)
    }
}

impl Pool {
    /// Opens the pool called `wanted` (a name or a decimal guid; `None` if there is only one) from `devices`. Devices of other
    /// pools are dropped.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(devices: Vec<Box<dyn BlockDev>>, wanted: Option<&str>) -> Result<Self, ImportError> {
        let matches = |found: &Found| wanted.is_none_or(|wanted| found.name == wanted || wanted.parse() == Ok(found.guid));
        let mut found: Vec<Found> = scan(&devices).into_iter().filter(matches).collect();
        let pool = found.pop().ok_or(ImportError::NoLabel)?;
        if !found.is_empty() {
            return Err(ImportError::Ambiguous);
        }
        let mut leaves: BTreeMap<u64, Box<dyn BlockDev>> = BTreeMap::new();
        let mut labels: BTreeMap<u64, List> = BTreeMap::new();
        let mut candidates = Vec::new();
        for (index, device) in devices.into_iter().enumerate() {
            if !pool.devices.contains(&index) {
                continue;
            }
            let Some(candidate) = read_candidate(&*device) else { continue };
            if let Some(guid) = candidate.config.number("guid") {
                leaves.insert(guid, device);
                labels.insert(guid, candidate.config.clone());
            }
            candidates.push(candidate);
        }
        let best = candidates.iter().filter_map(|candidate| candidate.best.clone()).max_by_key(Uberblock::rank);
        let uberblock = best.ok_or(ImportError::NoUberblock)?;
        if uberblock.version != 5000 {
            return Err(ImportError::Version(uberblock.version));
        }
        // The newest label of each top-level vdev describes it. A label newer than the uberblock belongs to a commit that did not
        // finish; it is used only where nothing older describes that vdev.
        candidates.sort_by_key(|candidate| (candidate.txg <= uberblock.txg, candidate.txg));
        let mut trees: BTreeMap<u64, VdevConfig> = BTreeMap::new();
        let mut expected = 0;
        for candidate in &candidates {
            expected = candidate.config.number("vdev_children").unwrap_or(expected);
            if let Some(features) = candidate.config.list("features_for_read") {
                let names = features.pairs.iter().map(|(name, _)| name);
                let unknown: Vec<String> = names.filter(|name| !MOS_FEATURES.contains(&name.as_str())).cloned().collect();
                if !unknown.is_empty() {
                    return Err(ImportError::Features(unknown));
                }
            }
            let tree = candidate.config.list("vdev_tree").ok_or(FormatError::new("label", "no vdev_tree", candidate.txg))?;
            let tree = VdevConfig::parse(tree)?;
            trees.insert(tree.id, tree);
        }
        let holes = candidates.iter().filter_map(|candidate| candidate.config.get("hole_array")).count() as u64;
        if (trees.len() as u64) < expected && holes == 0 {
            return Err(ImportError::MissingTops { found: trees.len(), expected });
        }
        let tops = trees.iter().map(|(id, tree)| (*id, Vdev::open(tree, tree.ashift, &mut |guid| leaves.remove(&guid)))).collect();
        Ok(Self { name: pool.name, guid: pool.guid, state: pool.state, uberblock, tops, labels })
    }

    /// Name in the labels.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Guid of the pool.
    #[must_use]
    pub const fn guid(&self) -> u64 {
        self.guid
    }
    /// 0 active (perhaps in use elsewhere), 1 exported, 2 destroyed.
    #[must_use]
    pub const fn state(&self) -> u64 {
        self.state
    }
    /// The uberblock the pool was opened at.
    #[must_use]
    pub const fn uberblock(&self) -> &Uberblock {
        &self.uberblock
    }
    /// The vdev tree with its error counts.
    #[must_use]
    pub fn status(&self) -> Vec<VdevStatus> {
        self.tops.values().map(Vdev::status).collect()
    }
    pub(crate) const fn new(name: String, guid: u64, uberblock: Uberblock, tops: BTreeMap<u64, Vdev>, labels: BTreeMap<u64, List>) -> Self {
        Self { name, guid, state: 0, uberblock, tops, labels }
    }
    pub(crate) const fn set_state(&mut self, state: u64) {
        self.state = state;
    }
    pub(crate) fn set_uberblock(&mut self, uberblock: Uberblock) {
        self.uberblock = uberblock;
    }
    pub(crate) fn label_of(&self, leaf: u64) -> Option<&List> {
        self.labels.get(&leaf)
    }
    /// Wrapping sum of all guids, as the uberblock holds it.
    pub(crate) fn guid_sum(&self) -> u64 {
        self.tops.values().fold(self.guid, |sum, top| sum.wrapping_add(top.config().guid_sum()))
    }
    pub(crate) fn for_each_leaf(&self, visit: &mut dyn FnMut(&Leaf, u32) -> Result<(), WriteError>) -> Result<(), WriteError> {
        self.tops.values().try_for_each(|top| top.for_each_leaf(top.config().ashift, visit))
    }
    /// Space geometry of the top-level vdevs, from their configs.
    #[must_use]
    pub fn geometry(&self) -> Vec<(u32, Geometry)> {
        let of = |top: &Vdev| {
            let config = top.config();
            Geometry {
                ashift: config.ashift,
                shape: top.shape(),
                asize: config.asize,
                metaslab_shift: config.metaslab_shift,
                array_object: config.metaslab_array,
                is_log: config.is_log,
            }
        };
        self.tops.iter().filter(|(_, top)| top.config().asize > 0).map(|(id, top)| (u32::try_from(*id).unwrap_or(u32::MAX), of(top))).collect()
    }
    /// Every leaf has its device: what writing needs.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.for_each_leaf(&mut |leaf, _| if leaf.size() > 0 { Ok(()) } else { Err(WriteError::Device { guid: leaf.guid(), error: kif::BlockError::Gone }) }).is_ok()
    }
    pub(crate) fn top(&self, id: u32) -> Option<&Vdev> {
        self.tops.get(&u64::from(id))
    }
}
