//! The vdev tree as a config nvlist describes it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::nvlist::{List, Value};

const CHILDREN_MAX: usize = 255;
const DEPTH_MAX: usize = 6;

/// Kind of a vdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdevKind {
    /// A disk or file.
    Leaf,
    /// Mirror, `replacing` and `spare`: every child holds everything.
    Mirror,
    /// Parity 1 to 3.
    Raidz { parity: usize },
    /// A removed top-level vdev; nothing points to it any more.
    Hole,
    /// A vdev whose config was lost, or of a kind we do not read (indirect, draid).
    Missing,
}

/// One vdev of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdevConfig {
    pub kind: VdevKind,
    /// Type as the config spells it.
    pub type_name: String,
    pub id: u64,
    pub guid: u64,
    /// log2 of the allocation unit (top-level vdevs).
    pub ashift: u32,
    /// Allocatable bytes (top-level vdevs).
    pub asize: u64,
    /// log2 of a metaslab's bytes, and the MOS object that lists the space maps (top-level vdevs).
    pub metaslab_shift: u32,
    pub metaslab_array: u64,
    pub is_log: bool,
    /// Hint where the device was last seen (leaves).
    pub path: Option<String>,
    /// MOS object of the leaf's dirty time log; 0 = none.
    pub dtl: u64,
    pub children: Vec<Self>,
    /// Its keys as found, without the children: keys we do not know survive.
    raw: List,
}

impl VdevConfig {
    /// Parses a `vdev_tree` nvlist.
    ///
    /// # Errors
    /// Missing keys; raidz parity that does not fit; too many or too deep children.
    pub fn parse(list: &List) -> Result<Self, FormatError> {
        Self::parse_at(list, 0)
    }

    fn parse_at(list: &List, depth: usize) -> Result<Self, FormatError> {
        let bad = |why, value| FormatError::new("vdev tree", why, value);
        let number = |name, why| list.number(name).ok_or_else(|| bad(why, depth as u64));
        if depth > DEPTH_MAX {
            return Err(bad("nested too deeply", depth as u64));
        }
        let nested = list.lists("children");
        if nested.len() > CHILDREN_MAX {
            return Err(bad("too many children", nested.len() as u64));
        }
        let children = nested.iter().map(|child| Self::parse_at(child, depth + 1)).collect::<Result<Vec<_>, _>>()?;
        let type_name = list.text("type").ok_or_else(|| bad("no type", depth as u64))?;
        let parity = list.number("nparity").unwrap_or(1);
        let kind = match type_name {
            "disk" | "file" => VdevKind::Leaf,
            "mirror" | "replacing" | "spare" | "root" => VdevKind::Mirror,
            "raidz" => VdevKind::Raidz {
                parity: usize::try_from(parity)
                    .ok()
                    .filter(|parity| (1..=3).contains(parity) && *parity < children.len())
                    .ok_or_else(|| bad("raidz parity does not fit its children", parity))?,
            },
            "hole" => VdevKind::Hole,
            _ => VdevKind::Missing,
        };
        if kind == VdevKind::Mirror && children.is_empty() {
            return Err(bad("interior vdev without children", depth as u64));
        }
        let ashift = list.number("ashift").unwrap_or(9);
        Ok(Self {
            kind,
            type_name: String::from(type_name),
            id: number("id", "no id")?,
            guid: number("guid", "no guid")?,
            ashift: u32::try_from(ashift).ok().filter(|shift| (9..=16).contains(shift)).ok_or_else(|| bad("ashift out of range", ashift))?,
            asize: list.number("asize").unwrap_or(0),
            metaslab_shift: list.number("metaslab_shift").and_then(|shift| u32::try_from(shift).ok()).filter(|shift| *shift < 48).unwrap_or(34),
            metaslab_array: list.number("metaslab_array").unwrap_or(0),
            is_log: list.number("is_log") == Some(1),
            path: list.text("path").map(String::from),
            dtl: list.number("DTL").unwrap_or(0),
            children,
            raw: {
                let mut raw = list.clone();
                raw.remove("children");
                raw
            },
        })
    }

    /// A new vdev of type `type_name` over `children`.
    ///
    /// # Errors
    /// As [`VdevConfig::parse`].
    pub fn new(type_name: &str, guid: u64, children: Vec<Self>) -> Result<Self, FormatError> {
        let mut list = List::default();
        list.set("type", Value::Text(type_name.to_string()));
        list.set("id", Value::Number(0));
        list.set("guid", Value::Number(guid));
        if !children.is_empty() {
            list.set("children", Value::Lists(children.iter().map(Self::to_list).collect()));
        }
        Self::parse(&list)
    }

    /// The nvlist of this vdev and all below.
    #[must_use]
    pub fn to_list(&self) -> List {
        let mut list = self.raw.clone();
        if !self.children.is_empty() {
            list.set("children", Value::Lists(self.children.iter().map(Self::to_list).collect()));
        }
        list
    }

    /// Sets a key (`None` removes it).
    ///
    /// # Errors
    /// The value does not fit this vdev.
    pub fn set(&mut self, key: &str, value: Option<Value>) -> Result<(), FormatError> {
        let mut list = self.to_list();
        match value {
            Some(value) => list.set(key, value),
            None => drop(list.remove(key)),
        }
        *self = Self::parse(&list)?;
        Ok(())
    }

    /// A flag or number as the config has it.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.raw.number(key)
    }

    /// Replaces the children and numbers them.
    ///
    /// # Errors
    /// As [`VdevConfig::parse`].
    pub fn set_children(&mut self, mut children: Vec<Self>) -> Result<(), FormatError> {
        for (index, child) in children.iter_mut().enumerate() {
            child.set("id", Some(Value::Number(index as u64)))?;
        }
        let mut list = self.raw.clone();
        list.set("children", Value::Lists(children.iter().map(Self::to_list).collect()));
        *self = Self::parse(&list)?;
        Ok(())
    }

    /// The vdev with `guid`, at or below this one.
    #[must_use]
    pub fn find(&self, guid: u64) -> Option<&Self> {
        if self.guid == guid { Some(self) } else { self.children.iter().find_map(|child| child.find(guid)) }
    }

    /// The parent of the vdev with `guid`, below this one.
    #[must_use]
    pub fn parent_of(&self, guid: u64) -> Option<&Self> {
        if self.children.iter().any(|child| child.guid == guid) { Some(self) } else { self.children.iter().find_map(|child| child.parent_of(guid)) }
    }

    /// Gives every vdev at or below this one to `edit`, children first.
    ///
    /// # Errors
    /// The first that `edit` returns; an edit that makes the tree malformed.
    pub fn edit(&mut self, edit: &mut dyn FnMut(&mut Self) -> Result<(), FormatError>) -> Result<(), FormatError> {
        let mut children = core::mem::take(&mut self.children);
        for child in &mut children {
            child.edit(edit)?;
        }
        if !children.is_empty() {
            self.set_children(children)?;
        }
        edit(self)
    }

    /// Wrapping sum of the guids of this vdev and all below it.
    #[must_use]
    pub fn guid_sum(&self) -> u64 {
        self.children.iter().fold(self.guid, |sum, child| sum.wrapping_add(child.guid_sum()))
    }

    /// All leaves below (or this one).
    #[must_use]
    pub fn leaves(&self) -> Vec<&Self> {
        if self.kind == VdevKind::Leaf { [self].to_vec() } else { self.children.iter().flat_map(Self::leaves).collect() }
    }
}
