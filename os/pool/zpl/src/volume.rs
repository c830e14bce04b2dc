//! What stays known of a file system between changes: its tables, and how attributes are laid out.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Deref;

use pool_dmu::edit::{BONUS_MAX, BONUS_WITH_SPILL, EditError, Set};
use pool_dmu::{Error, Store, zap_edit as zap};
use pool_phys::FormatError;
use pool_phys::sa::{self, Registry};
use pool_phys::zap::Entry;
use pool_spa::Pool;

use crate::MASTER_NODE;
use crate::write::owners;

/// Bytes of an attribute: nearly all are one or two words.
#[derive(Clone, Debug)]
pub enum Value {
    Few([u8; 16], u8),
    Many(Vec<u8>),
}

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Few(bytes, length) => &bytes[..usize::from(*length)],
            Self::Many(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        let mut bytes = [0; 16];
        match (bytes.get_mut(..value.len()), u8::try_from(value.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(value);
                Self::Few(bytes, length)
            }
            _ => Self::Many(value.to_vec()),
        }
    }
}

/// Attributes of a file: number and bytes, in the order they are stored.
pub type Values = Vec<(u16, Value)>;

/// Numbers of the attributes we read or write by number.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub mode: u16,
    pub size: u16,
    pub generation: u16,
    pub uid: u16,
    pub gid: u16,
    pub parent: u16,
    pub flags: u16,
    pub atime: u16,
    pub mtime: u16,
    pub ctime: u16,
    pub crtime: u16,
    pub links: u16,
    pub rdev: u16,
    pub acl_count: u16,
    pub aces: u16,
    pub symlink: u16,
}

/// A file system's tables.
#[derive(Clone, Debug)]
pub struct Volume {
    pub(crate) dataset: u64,
    pub(crate) root: u64,
    /// Objects without a name that are still open.
    pub(crate) unlinked: u64,
    pub(crate) registry: Registry,
    pub(crate) numbers: Numbers,
    layouts: u64,
}

impl Volume {
    /// Reads the tables of file system `dataset`.
    ///
    /// # Errors
    /// Not a file system of ZPL version 5, unreadable, malformed.
    pub fn open(store: &mut Store, dataset: u64) -> Result<Self, EditError> {
        let (set, pool) = store.edit_dataset(dataset, Some(owners))?;
        let number = |object: u64, name: &[u8]| set.with_view(pool, object, |edit| zap::number(edit, pool, name));
        let root = number(MASTER_NODE, b"ROOT")?.ok_or(EditError::Invalid("the dataset is not a file system"))?;
        let attributes = number(MASTER_NODE, b"SA_ATTRS")?.ok_or(EditError::Invalid("file systems before ZPL version 5 can only be read"))?;
        let unlinked = number(MASTER_NODE, b"DELETE_QUEUE")?.ok_or(FormatError::new("master node", "has no delete queue", dataset))?;
        let layouts = number(attributes, b"LAYOUTS")?.ok_or(Error::NotFound)?;
        let registry = number(attributes, b"REGISTRY")?.ok_or(Error::NotFound)?;
        let table = |object: u64| set.with_view(pool, object, |edit| zap::entries(edit, pool, None));
        let registry = Registry::new(&table(registry)?, &table(layouts)?)?;
        let find = |name: &str| {
            // OpenZFS registers an attribute when it is first used; we do not add to the registry of others.
            registry.number(name.as_bytes()).ok_or(EditError::Invalid("the file system has not registered all attributes; it can be read"))
        };
        let numbers = Numbers {
            mode: find("ZPL_MODE")?,
            size: find("ZPL_SIZE")?,
            generation: find("ZPL_GEN")?,
            uid: find("ZPL_UID")?,
            gid: find("ZPL_GID")?,
            parent: find("ZPL_PARENT")?,
            flags: find("ZPL_FLAGS")?,
            atime: find("ZPL_ATIME")?,
            mtime: find("ZPL_MTIME")?,
            ctime: find("ZPL_CTIME")?,
            crtime: find("ZPL_CRTIME")?,
            links: find("ZPL_LINKS")?,
            rdev: find("ZPL_RDEV")?,
            acl_count: find("ZPL_DACL_COUNT")?,
            aces: find("ZPL_DACL_ACES")?,
            symlink: find("ZPL_SYMLINK")?,
        };
        Ok(Self { dataset, root, unlinked, registry, numbers, layouts })
    }

    /// Object number of the root directory.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }
    /// Object number of the dataset.
    #[must_use]
    pub const fn dataset(&self) -> u64 {
        self.dataset
    }

    /// All attributes of an object.
    pub(crate) fn load(&self, set: &Set, pool: &Pool, object: u64) -> Result<Values, EditError> {
        set.with_view(pool, object, |edit| {
            if edit.dnode.bonus_kind != pool_phys::dnode::kind::SYSTEM_ATTRIBUTES {
                return Err(EditError::Invalid("not a file of ZPL version 5"));
            }
            let mut values = self.registry.split::<Value>(&edit.dnode.bonus)?;
            if let Some(spill) = edit.spill(pool)? {
                values.extend(self.registry.split::<Value>(&spill)?);
            }
            Ok(values)
        })
    }

    /// An SA buffer of these attributes; a layout that is not there yet is registered.
    fn encode(&mut self, set: &mut Set, pool: &Pool, values: &[(u16, Value)]) -> Result<Vec<u8>, EditError> {
        let order = values.iter().map(|(number, _)| *number);
        let layout = match self.registry.layout(order.clone()) {
            Some(layout) => layout,
            None => {
                let layout = self.registry.add_layout(order.clone().collect())?;
                let value = order.map(u64::from).collect();
                zap::set(set.edit(pool, self.layouts)?, pool, Entry { name: layout.to_string().into_bytes(), integer_size: 2, value })?;
                layout
            }
        };
        let list: Vec<(bool, &[u8])> = values.iter().map(|(number, value)| (self.registry.is_variable(*number), &**value)).collect();
        Ok(sa::encode(layout, &list))
    }

    /// Splits attributes into what fits the bonus and what goes to a spill block: from the first attribute on that does not fit.
    pub(crate) fn arrange(&mut self, set: &mut Set, pool: &Pool, values: &Values) -> Result<(Vec<u8>, Option<Vec<u8>>), EditError> {
        if encoded_len(&self.registry, values) <= BONUS_MAX {
            return Ok((self.encode(set, pool, values)?, None));
        }
        let split = (1..values.len()).rev().find(|split| encoded_len(&self.registry, &values[..*split]) <= BONUS_WITH_SPILL);
        let (first, rest) = values.split_at(split.ok_or(EditError::Invalid("attributes too long"))?);
        if encoded_len(&self.registry, rest) > 128 << 10 {
            return Err(EditError::Invalid("attributes too long"));
        }
        let bonus = self.encode(set, pool, first)?;
        Ok((bonus, Some(self.encode(set, pool, rest)?)))
    }

    /// Stores all attributes of an object.
    pub(crate) fn save(&mut self, set: &mut Set, pool: &Pool, object: u64, values: &Values) -> Result<(), EditError> {
        let (bonus, spill) = self.arrange(set, pool, values)?;
        let edit = set.edit(pool, object)?;
        if spill.is_some() || edit.spill(pool)?.is_some() {
            edit.set_spill(spill);
        }
        edit.dnode.bonus = bonus;
        Ok(())
    }
}

fn encoded_len(registry: &Registry, values: &[(u16, Value)]) -> usize {
    let variable = values.iter().filter(|(number, _)| registry.is_variable(*number)).count();
    let header = if variable <= 1 { 8 } else { 8 + (2 * (variable - 1)).next_multiple_of(8) };
    header + values.iter().map(|(_, value)| value.len().next_multiple_of(8)).sum::<usize>()
}

/// The number stored as attribute `number`; 0 if it is not there.
pub(crate) fn word(values: &Values, number: u16) -> u64 {
    let bytes = values.iter().find(|(known, _)| *known == number).and_then(|(_, value)| value.get(..8));
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Sets attribute `number`, behind all others if it is new.
pub(crate) fn put(values: &mut Values, number: u16, value: &[u8]) {
    let value = Value::from(value);
    match values.iter_mut().find(|(known, _)| *known == number) {
        Some((_, old)) => *old = value,
        None => values.push((number, value)),
    }
}

/// Sets attribute `number` to a number.
pub(crate) fn put_word(values: &mut Values, number: u16, value: u64) {
    put(values, number, &value.to_le_bytes());
}

/// Sets attribute `number` to a time.
pub(crate) fn put_time(values: &mut Values, number: u16, time: sa::Time) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&time.0.to_le_bytes());
    bytes[8..].copy_from_slice(&time.1.to_le_bytes());
    put(values, number, &bytes);
}
