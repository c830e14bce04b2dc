//! Finding pools on devices and opening one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};
use core::fmt;
use core::sync::atomic::Ordering;

use kif::{BlockDev, BlockError};
use pool_phys::FormatError;
use pool_phys::label::{self, Label, Uberblock};
use pool_phys::nvlist::{List, Value};

use crate::config::VdevConfig;
use crate::event::Event;
use crate::leaf::{Context, Leaf, VdevState};
use crate::vdev::{Leaves, Vdev, VdevStatus, leaf_of};
use crate::Geometry;
use crate::second::SecondLevel;
use crate::zio::Interior;

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
    /// The host that had it last, if its labels say: none of ours, which take that out.
    pub host: Option<String>,
    /// Indices of its devices among those scanned.
    pub devices: Vec<usize>,
    /// Guids of the leaves that these are, in the same order; 0: the label does not say.
    pub leaves: Vec<u64>,
}

struct Candidate {
    /// The configs of the device's valid labels, oldest first.
    configs: Vec<(u64, List)>,
    /// Valid uberblocks, oldest first.
    uberblocks: Vec<Uberblock>,
}

impl Candidate {
    /// The newest config that is not newer than `txg`. One that is newer belongs to a commit that did not finish; it serves only where
    /// there is no other.
    fn config(&self, txg: u64) -> &(u64, List) {
        let known = self.configs.iter().rev().find(|(at, _)| *at <= txg);
        known.unwrap_or(&self.configs[0])
    }

    /// Guid of a spare or cache device: its label names no pool.
    fn auxiliary(&self) -> Option<u64> {
        let (_, config) = self.config(u64::MAX);
        if matches!(config.number("state"), Some(label::STATE_SPARE | label::STATE_CACHE)) { config.number("guid") } else { None }
    }
}

fn read_candidate(device: &dyn BlockDev, parser: &mut label::Parser) -> Option<Candidate> {
    let size = device.size_bytes();
    if size < label::LEAF_MIN {
        return None;
    }
    parser.next_device();
    let mut out = Candidate { configs: Vec::new(), uberblocks: Vec::new() };
    for offset in label::offsets(size) {
        let mut data = vec![0; usize::try_from(label::SIZE).ok()?];
        if device.read(offset, &mut data).is_err() {
            continue;
        }
        let Ok(Label { config, uberblocks }) = parser.parse(&data, offset) else { continue };
        out.configs.push((config.number("txg").unwrap_or(0), config));
        out.uberblocks.extend(uberblocks);
    }
    out.configs.sort_by_key(|(txg, _)| *txg);
    out.uberblocks.sort_by_key(Uberblock::rank);
    out.uberblocks.dedup_by_key(|uberblock| uberblock.rank());
    if out.configs.is_empty() { None } else { Some(out) }
}

fn read_candidates(devices: &[Box<dyn BlockDev>]) -> Vec<Option<Candidate>> {
    let mut parser = label::Parser::default();
    devices.iter().map(|device| read_candidate(&**device, &mut parser)).collect()
}

/// Lists the pools on `devices`.
#[must_use]
pub fn scan(devices: &[Box<dyn BlockDev>]) -> Vec<Found> {
    survey(devices).0
}

/// Lists the pools on `devices`, and the indices of those that are spares or cache devices: of whom, the pools' own lists say.
#[must_use]
pub fn survey(devices: &[Box<dyn BlockDev>]) -> (Vec<Found>, Vec<usize>) {
    let candidates = read_candidates(devices);
    let is_aside = |candidate: &Option<Candidate>| candidate.as_ref().is_some_and(|candidate| candidate.auxiliary().is_some());
    let aside = (0..).zip(&candidates).filter(|(_, candidate)| is_aside(candidate)).map(|(index, _)| index).collect();
    (pools_of(&candidates), aside)
}

/// How new the newest uberblock of a device is; `None`: it has none.
type Rank = Option<(u64, u64, u64)>;

/// Groups devices into pools. A label that is newer than its device's newest uberblock belongs to a commit that did not finish: the other labels say whose the device is. While a
/// pool gets another guid, its devices differ in when they have it; what leads from one to the other are labels of one leaf that has both.
fn pools_of(candidates: &[Option<Candidate>]) -> Vec<Found> {
    let mut same: BTreeMap<u64, u64> = BTreeMap::new();
    let lead = |same: &BTreeMap<u64, u64>, mut guid: u64| {
        while let Some(other) = same.get(&guid) {
            guid = *other;
        }
        guid
    };
    let mut members = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let Some(candidate) = candidate else { continue };
        let newest = candidate.uberblocks.last();
        let (_, config) = candidate.config(newest.map_or(u64::MAX, |uberblock| uberblock.txg));
        // Spares and cache devices name no pool.
        let (Some(guid), Some(name)) = (config.number("pool_guid"), config.text("name")) else { continue };
        let leaf = config.number("guid").unwrap_or(0);
        members.push((index, guid, leaf, name, newest.map(Uberblock::rank), config));
        for (_, other) in candidate.configs.iter().filter(|(_, other)| leaf != 0 && other.number("guid") == Some(leaf)) {
            let (one, other) = (lead(&same, guid), lead(&same, other.number("pool_guid").unwrap_or(guid)));
            if one != other {
                same.insert(one, other);
            }
        }
    }
    let mut pools: BTreeMap<u64, (Rank, Found)> = BTreeMap::new();
    for (index, guid, leaf, name, rank, config) in members {
        let fresh = || Found {
            name: String::from(name),
            guid,
            state: config.number("state").unwrap_or(0),
            host: config.text("hostname").map(String::from),
            devices: Vec::new(),
            leaves: Vec::new(),
        };
        let (best, found) = pools.entry(lead(&same, guid)).or_insert_with(|| (rank, fresh()));
        if rank > *best {
            // It knows more of the pool than those before.
            *best = rank;
            *found = Found { devices: core::mem::take(&mut found.devices), leaves: core::mem::take(&mut found.leaves), ..fresh() };
        }
        found.devices.push(index);
        found.leaves.push(leaf);
    }
    let mut pools: Vec<Found> = pools.into_values().map(|(_, found)| found).collect();
    pools.sort_by_key(|found| found.guid);
    pools
}

/// What the labels of one device say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelOf {
    /// Name of its pool; `None`: it is a spare or cache device.
    pub pool: Option<String>,
    /// Guid of the leaf that it is.
    pub guid: u64,
    /// As in [`Found`]; 3 a spare, 4 a cache device.
    pub state: u64,
}

/// Looks at the labels of a device; `None`: it has none.
#[must_use]
pub fn label_of(device: &dyn BlockDev) -> Option<LabelOf> {
    let candidate = read_candidate(device, &mut label::Parser::default())?;
    let (_, config) = candidate.config(u64::MAX);
    Some(LabelOf { pool: config.text("name").map(String::from), guid: config.number("guid").unwrap_or(0), state: config.number("state").unwrap_or(0) })
}

/// Makes the labels of a device that no pool has invalid. What is no label, at a place where one may be, is somebody else's.
///
/// # Errors
/// It does not take writes.
pub fn clear_labels_of(device: &dyn BlockDev) -> Result<(), BlockError> {
    let empty = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
    let mut parser = label::Parser::default();
    parser.next_device();
    for offset in label::offsets(device.size_bytes()) {
        let mut data = vec![0; empty.len()];
        if device.read(offset, &mut data).is_ok() && parser.parse(&data, offset).is_ok() {
            device.write(offset, &empty)?;
        }
    }
    device.flush()
}

/// How a pool is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions<'a> {
    /// Name or decimal guid; `None` if there is only one.
    pub wanted: Option<&'a str>,
    /// Open the pool as it was at this txg or before, if its uberblock is still there (`zpool import -F -T`).
    pub at_most: Option<u64>,
}

/// An open pool.
pub struct Pool {
    name: String,
    guid: u64,
    state: u64,
    uberblock: Uberblock,
    /// Txgs of the uberblocks found at import, newest first: where a rewind can go.
    found_txgs: Vec<u64>,
    /// Leaves that more than one device said to be.
    doubles: Vec<u64>,
    tops: BTreeMap<u64, Vdev>,
    /// Config of each leaf's label, by leaf guid.
    labels: BTreeMap<u64, List>,
    /// Devices that carry the pool's guid but have no place in its tree.
    strays: Leaves,
    /// Spares and cache devices, of this pool or another: the MOS says which are whose.
    auxiliary: Leaves,
    context: Context,
    interior: RefCell<Interior>,
    /// Blocks that the next commit writes.
    staged: RefCell<Staged>,
    second: SecondLevel,
}

/// Stored blocks by vdev and offset.
pub(crate) type Staged = BTreeMap<(u32, u64), Arc<Vec<u8>>>;

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
        Self::import_with(devices, ImportOptions { wanted, at_most: None })
    }

    /// Opens a pool as `options` say.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import_with(devices: Vec<Box<dyn BlockDev>>, options: ImportOptions<'_>) -> Result<Self, ImportError> {
        let matches = |found: &Found| options.wanted.is_none_or(|wanted| found.name == wanted || wanted.parse() == Ok(found.guid));
        let all = read_candidates(&devices);
        let mut found: Vec<Found> = pools_of(&all).into_iter().filter(matches).collect();
        let pool = found.pop().ok_or(ImportError::NoLabel)?;
        if !found.is_empty() {
            return Err(ImportError::Ambiguous);
        }
        let (mut candidates, mut auxiliary) = (Vec::new(), Leaves::new());
        for (index, (candidate, device)) in all.into_iter().zip(devices).enumerate() {
            let Some(candidate) = candidate else { continue };
            if pool.devices.contains(&index) {
                candidates.push((candidate, device));
            } else if let Some(guid) = candidate.auxiliary() {
                auxiliary.insert(guid, leaf_of(guid, device, None));
            }
        }
        let allowed = |uberblock: &&Uberblock| options.at_most.is_none_or(|limit| uberblock.txg <= limit);
        let all = || candidates.iter().flat_map(|(candidate, _)| &candidate.uberblocks);
        let uberblock = all().filter(allowed).max_by_key(|uberblock| uberblock.rank()).ok_or(ImportError::NoUberblock)?.clone();
        if uberblock.version != 5000 {
            return Err(ImportError::Version(uberblock.version));
        }
        let mut found_txgs: Vec<u64> = all().map(|uberblock| uberblock.txg).collect();
        found_txgs.sort_unstable_by(|a, b| b.cmp(a));
        found_txgs.dedup();
        let mut leaves = Leaves::new();
        let mut labels: BTreeMap<u64, List> = BTreeMap::new();
        let mut configs = Vec::new();
        // Of two devices that say they are the same leaf, one is a copy: the newer is the pool's.
        candidates.sort_by_key(|(candidate, _)| core::cmp::Reverse(candidate.uberblocks.last().map(Uberblock::rank)));
        let mut doubles = Vec::new();
        for (candidate, device) in candidates {
            let newest = candidate.uberblocks.last().map(|uberblock| uberblock.txg);
            let (txg, config) = candidate.config(uberblock.txg).clone();
            if let Some(guid) = config.number("guid") {
                if leaves.contains_key(&guid) {
                    doubles.push(guid);
                    continue;
                }
                leaves.insert(guid, leaf_of(guid, device, newest));
                labels.insert(guid, config.clone());
            }
            configs.push((txg, config));
        }
        // The newest label of each top-level vdev describes it.
        configs.sort_by_key(|(txg, _)| (*txg <= uberblock.txg, *txg));
        let mut trees: BTreeMap<u64, VdevConfig> = BTreeMap::new();
        let mut expected = 0;
        for (txg, config) in &configs {
            expected = config.number("vdev_children").unwrap_or(expected);
            if let Some(features) = config.list("features_for_read") {
                let names = features.pairs.iter().map(|(name, _)| name);
                let unknown: Vec<String> = names.filter(|name| !MOS_FEATURES.contains(&name.as_str())).cloned().collect();
                if !unknown.is_empty() {
                    return Err(ImportError::Features(unknown));
                }
            }
            let tree = config.list("vdev_tree").ok_or(FormatError::new("label", "no vdev_tree", *txg))?;
            let tree = VdevConfig::parse(tree)?;
            trees.insert(tree.id, tree);
        }
        // A vdev being added when the power failed is not yet part of the pool.
        trees.retain(|id, _| *id < expected);
        let holes = configs.iter().filter_map(|(_, config)| config.get("hole_array")).count() as u64;
        if (trees.len() as u64) < expected && holes == 0 {
            return Err(ImportError::MissingTops { found: trees.len(), expected });
        }
        let tops = trees.iter().map(|(id, tree)| (*id, Vdev::open(tree, tree.ashift, &mut leaves))).collect();
        Ok(Self { name: pool.name, guid: pool.guid, state: pool.state, uberblock, found_txgs, doubles, tops, labels, strays: leaves, auxiliary, context: Context::default(), interior: RefCell::default(), staged: RefCell::default(), second: SecondLevel::default() })
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
    /// Guids of leaves that an older device says to be, too: a copy, which was left alone.
    #[must_use]
    pub fn doubles(&self) -> &[u64] {
        &self.doubles
    }
    /// Numbers of the top-level vdevs, in the order of [`Pool::status`].
    pub fn top_ids(&self) -> impl Iterator<Item = u32> {
        self.tops.keys().map(|id| u32::try_from(*id).unwrap_or(u32::MAX))
    }
    /// The vdev tree with its error counts.
    #[must_use]
    pub fn status(&self) -> Vec<VdevStatus> {
        self.retire_tired();
        self.tops.values().map(Vdev::status).collect()
    }
    pub(crate) fn new(name: String, guid: u64, uberblock: Uberblock, tops: BTreeMap<u64, Vdev>, labels: BTreeMap<u64, List>) -> Self {
        Self { name, guid, state: 0, uberblock, found_txgs: Vec::new(), doubles: Vec::new(), tops, labels, strays: Leaves::new(), auxiliary: Leaves::new(), context: Context::default(), interior: RefCell::default(), staged: RefCell::default(), second: SecondLevel::default() }
    }
    /// Calls the pool otherwise. What its labels say stays, unless they are told, too ([`Pool::set_label_text`]).
    pub fn rename(&mut self, name: &str) {
        self.name = String::from(name);
    }
    /// Another guid: in the labels with the next commit that writes them.
    pub const fn set_guid(&mut self, guid: u64) {
        self.guid = guid;
    }
    /// Text that every label has from the next commit that writes labels on; `None`: has no more.
    pub fn set_label_text(&mut self, key: &str, text: Option<&str>) {
        for label in self.labels.values_mut() {
            match text {
                Some(text) => label.set(key, Value::Text(String::from(text))),
                None => drop(label.remove(key)),
            }
        }
    }
    /// Text of the labels.
    #[must_use]
    pub fn label_text(&self, key: &str) -> Option<String> {
        self.labels.values().find_map(|label| label.text(key)).map(String::from)
    }

    /// A pool of its own of what another left on `devices`: the vdevs `trees`, as they were at `uberblock`. `config` is what all labels are to say.
    #[must_use]
    pub fn assemble(config: &List, uberblock: Uberblock, trees: &[VdevConfig], devices: Vec<(u64, Box<dyn BlockDev>)>) -> Self {
        let mut leaves: Leaves = devices.into_iter().map(|(guid, device)| (guid, leaf_of(guid, device, Some(uberblock.txg)))).collect();
        let tops = trees.iter().map(|tree| (tree.id, Vdev::open(tree, tree.ashift, &mut leaves))).collect();
        let mut labels = BTreeMap::new();
        for leaf in trees.iter().flat_map(VdevConfig::leaves) {
            let mut label = config.clone();
            label.remove("vdev_tree");
            label.set("guid", Value::Number(leaf.guid));
            labels.insert(leaf.guid, label);
        }
        let name = config.text("name").unwrap_or_default();
        Self::new(String::from(name), config.number("pool_guid").unwrap_or(0), uberblock, tops, labels)
    }

    pub(crate) const fn set_state(&mut self, state: u64) {
        self.state = state;
    }
    pub(crate) fn set_uberblock(&mut self, uberblock: Uberblock) {
        self.uberblock = uberblock;
    }
    pub(crate) const fn labels(&self) -> &BTreeMap<u64, List> {
        &self.labels
    }
    pub(crate) const fn labels_mut(&mut self) -> &mut BTreeMap<u64, List> {
        &mut self.labels
    }
    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }
    pub(crate) fn interior(&self) -> RefMut<'_, Interior> {
        self.interior.borrow_mut()
    }
    pub(crate) fn staged(&self) -> RefMut<'_, Staged> {
        self.staged.borrow_mut()
    }
    pub(crate) const fn second(&self) -> &SecondLevel {
        &self.second
    }
    pub(crate) const fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }
    /// Posts an event to the sink, if there is one.
    pub fn post(&self, event: Event) {
        self.context.post(event);
    }
    /// Txgs of the uberblocks found at import, newest first.
    #[must_use]
    pub fn found_txgs(&self) -> &[u64] {
        &self.found_txgs
    }
    pub(crate) const fn tops(&self) -> &BTreeMap<u64, Vdev> {
        &self.tops
    }
    pub(crate) const fn tops_mut(&mut self) -> &mut BTreeMap<u64, Vdev> {
        &mut self.tops
    }
    pub(crate) const fn strays_mut(&mut self) -> &mut Leaves {
        &mut self.strays
    }
    pub(crate) const fn auxiliary(&self) -> &Leaves {
        &self.auxiliary
    }
    pub(crate) const fn auxiliary_mut(&mut self) -> &mut Leaves {
        &mut self.auxiliary
    }
    /// Wrapping sum of all guids, as the uberblock holds it.
    pub(crate) fn guid_sum(&self) -> u64 {
        self.tops.values().fold(self.guid, |sum, top| sum.wrapping_add(top.config().guid_sum()))
    }
    pub(crate) fn for_each_leaf(&self, visit: &mut dyn FnMut(&Leaf, u32)) {
        self.tops.values().for_each(|top| top.for_each_leaf(visit));
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
    /// Allocatable bytes of all top-level vdevs.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.tops.values().fold(0, |sum, top| sum.saturating_add(top.config().asize))
    }
    /// Every top-level vdev has enough children to be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.tops.values().all(|top| top.state() <= VdevState::Degraded)
    }
    /// Takes leaves out of service that failed too often in a row. One that has what no other has stays: what it still gives is better than nothing.
    pub(crate) fn retire_tired(&self) {
        if !self.context.has_tired.swap(false, Ordering::Relaxed) {
            return;
        }
        for top in self.tops.values() {
            top.for_each_leaf(&mut |leaf, _| {
                let is_whole = |other: &Leaf| other.guid() != leaf.guid() && !other.has_missed() && other.lacking().is_empty();
                if leaf.is_tired() && leaf.is_usable() && top.bears(&is_whole) {
                    leaf.set_service(VdevState::Faulted, &self.context);
                }
            });
        }
        for leaf in self.auxiliary.values().filter(|leaf| leaf.is_tired() && leaf.is_usable()) {
            leaf.set_service(VdevState::Faulted, &self.context);
        }
    }
    pub(crate) fn top(&self, id: u32) -> Option<&Vdev> {
        self.retire_tired();
        self.tops.get(&u64::from(id))
    }
}
