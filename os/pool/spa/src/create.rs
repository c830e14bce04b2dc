//! Making a pool: the vdev tree and the labels' configs.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kif::BlockDev;
use pool_phys::FormatError;
use pool_phys::blkptr::BlockPointer;
use pool_phys::label::{self, Uberblock};
use pool_phys::nvlist::{List, Value};

use crate::config::{VdevConfig, VdevKind};
use crate::vdev::{Leaves, Vdev, leaf_of};
use crate::{Pool, WriteError, usable_bytes};

/// MOS object of the first top-level vdev's metaslab array; the DMU makes the objects in this order.
pub const FIRST_ARRAY_OBJECT: u64 = 64;

/// One top-level vdev to be made: kind and devices (path hint and device).
#[allow(missing_debug_implementations, reason = "holds devices")]
pub struct Layout {
    /// `None`: a single disk. `Some(0)`: a mirror. `Some(p)`: raidz of parity p.
    pub redundancy: Option<usize>,
    pub devices: Vec<(String, Box<dyn BlockDev>)>,
}

/// log2 of the metaslab size for a vdev of `asize` bytes (format section 4): about 200 metaslabs, 16 MiB to 16 GiB each.
fn metaslab_shift(asize: u64) -> u32 {
    let shift = match asize >> 29 {
        0..16 => (asize / 16).max(1).ilog2() + 1,
        16..=200 => 29,
        _ => (asize / 200).ilog2() + 1,
    };
    shift.clamp(24, 34)
}

/// Builds the vdev tree of a new pool on `layouts` and returns it open, without any uberblock: the DMU's first commit makes it one. `random` gives
/// guids.
///
/// # Errors
/// A device too small or a layout that cannot be (mirror of one, raidz with no data column), named; or a device that cannot be written.
pub fn create(name: &str, layouts: Vec<Layout>, ashift: u32, random: &mut dyn FnMut() -> u64) -> Result<(Pool, List), CreateError> {
    let mut guid = || loop {
        let value = random();
        if value != 0 {
            return value;
        }
    };
    let pool_guid = guid();
    let count = layouts.len() as u64;
    if count == 0 {
        return Err(CreateError::Layout("no devices"));
    }
    let mut tops = BTreeMap::new();
    let mut trees: Vec<VdevConfig> = Vec::new();
    for (id, layout) in layouts.into_iter().enumerate() {
        let id = id as u64;
        let (mut tree, devices) = plan_top(layout, id, ashift, 4, &mut guid)?;
        tree.set("metaslab_array", Some(Value::Number(FIRST_ARRAY_OBJECT + id))).map_err(CreateError::Format)?;
        let mut leaves: Leaves = devices.into_iter().map(|(guid, device)| (guid, leaf_of(guid, device, None))).collect();
        tops.insert(id, Vdev::open(&tree, ashift, &mut leaves));
        trees.push(tree);
    }
    let mut pool_config = List::default();
    pool_config.set("version", Value::Number(5000));
    pool_config.set("name", Value::Text(name.to_string()));
    pool_config.set("state", Value::Number(0));
    pool_config.set("txg", Value::Number(4));
    pool_config.set("pool_guid", Value::Number(pool_guid));
    pool_config.set("errata", Value::Number(0));
    let mut labels = BTreeMap::new();
    for leaf in trees.iter().flat_map(VdevConfig::leaves) {
        let mut label = pool_config.clone();
        label.set("guid", Value::Number(leaf.guid));
        label.set("features_for_read", Value::List(List::default()));
        labels.insert(leaf.guid, label);
    }
    // The MOS copy of the config has the whole tree.
    let mut root = List::default();
    root.set("type", Value::Text("root".to_string()));
    root.set("id", Value::Number(0));
    root.set("guid", Value::Number(pool_guid));
    root.set("children", Value::Lists(trees.iter().map(VdevConfig::to_list).collect()));
    let mut config = pool_config;
    config.set("vdev_children", Value::Number(count));
    config.set("vdev_tree", Value::List(root));
    config.set("features_for_read", Value::List(List::default()));
    let uberblock = Uberblock {
        version: 5000,
        txg: 0,
        guid_sum: 0,
        timestamp: 0,
        root: BlockPointer::hole(),
        mmp_sequence: 0,
        multihost: false,
    };
    let pool = Pool::new(name.to_string(), pool_guid, uberblock, tops, labels);
    pool.clear_rings().map_err(CreateError::Write)?;
    Ok((pool, config))
}

/// Type of a leaf by its path. The kernel of OpenZFS opens a `file` through a file system, and refuses a device there.
#[must_use]
pub fn leaf_type(path: &str) -> &'static str {
    if path.starts_with("/dev/") { "disk" } else { "file" }
}

/// Devices that join a pool, by the guids of their leaves.
pub type NewDevices = Vec<(u64, Box<dyn BlockDev>)>;

/// Describes one top-level vdev to be made, and gives its devices by guid. The metaslab array is left to the caller.
///
/// # Errors
/// A device too small or a layout that cannot be, named.
pub fn plan_top(layout: Layout, id: u64, ashift: u32, txg: u64, random: &mut dyn FnMut() -> u64) -> Result<(VdevConfig, NewDevices), CreateError> {
    let children = layout.devices.len();
    let fits = match layout.redundancy {
        None => children == 1,
        Some(0) => children >= 2,
        Some(parity) => parity <= 3 && children > parity,
    };
    if !fits {
        return Err(CreateError::Layout("a disk takes one device, a mirror two or more, raidz more than its parity"));
    }
    let mut least = u64::MAX;
    for (path, device) in &layout.devices {
        if device.size_bytes() < label::LEAF_MIN {
            return Err(CreateError::TooSmall { path: path.clone(), bytes: device.size_bytes() });
        }
        least = least.min(usable_bytes(device.size_bytes(), ashift));
    }
    let asize = match layout.redundancy {
        Some(parity) if parity > 0 => least * children as u64,
        _ => least,
    };
    let mut guid = || loop {
        let value = random();
        if value != 0 {
            return value;
        }
    };
    let (mut devices, mut leaves) = (Vec::new(), Vec::new());
    for (index, (path, device)) in layout.devices.into_iter().enumerate() {
        let leaf = guid();
        devices.push((leaf, device));
        let mut list = List::default();
        list.set("type", Value::Text(leaf_type(&path).to_string()));
        list.set("id", Value::Number(index as u64));
        list.set("guid", Value::Number(leaf));
        list.set("path", Value::Text(path));
        list.set("create_txg", Value::Number(txg));
        leaves.push(list);
    }
    let mut top = match layout.redundancy {
        None => leaves[0].clone(),
        Some(parity) => {
            let mut list = List::default();
            list.set("type", Value::Text(if parity == 0 { "mirror" } else { "raidz" }.to_string()));
            list.set("guid", Value::Number(guid()));
            if parity > 0 {
                list.set("nparity", Value::Number(parity as u64));
            }
            list
        }
    };
    top.set("id", Value::Number(id));
    top.set("metaslab_array", Value::Number(0));
    top.set("metaslab_shift", Value::Number(u64::from(metaslab_shift(asize))));
    top.set("ashift", Value::Number(u64::from(ashift)));
    top.set("asize", Value::Number(asize));
    top.set("is_log", Value::Number(0));
    top.set("create_txg", Value::Number(txg));
    if layout.redundancy.is_some() {
        top.set("children", Value::Lists(leaves));
    }
    let config = VdevConfig::parse(&top).map_err(CreateError::Format)?;
    assert!(config.kind != VdevKind::Missing, "we only make kinds we know");
    Ok((config, devices))
}

/// Why a pool could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateError {
    Layout(&'static str),
    /// A device below 64 MiB.
    TooSmall { path: String, bytes: u64 },
    Format(FormatError),
    Write(WriteError),
}

impl core::fmt::Display for CreateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Layout(why) => f.write_str(why),
            Self::TooSmall { path, bytes } => write!(f, "{path} has {bytes} bytes; a device needs 64 MiB"),
            Self::Format(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CreateError {}
