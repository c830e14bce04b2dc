//! What users, groups and projects have of a file system, and may have: `zfs userspace`, `userused@`, `userquota@`.
//!
//! # Theory
//! What each has is in tables beside the meta-dnode, kept with every sync (`edit.rs`): bytes under the number in hexadecimal, files under `obj-` and that.
//! What each may have is in tables of the file system, which its master node names as the property is called (`userquota@`). So both belong to a
//! snapshot as to a head, and go with a stream.
//!
//! Whoever writes asks first ([`Store::reserve_for`]): what is used as of the last commit, what was accepted since, and what is asked for must fit. OpenZFS
//! looks at the first only, some seconds late.
//!
//! # Failure
//! A file system that keeps no such tables (one that OpenZFS made before version 15 and never upgraded) has nothing to show, and takes no quota.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_phys::nvlist::Value;
use pool_phys::objset::ObjsetKind;
use pool_phys::zap::Entry;

use crate::datasets::DatasetInfo;
use crate::edit::{COMPLETE_SPACE, EditError, Owner, Owners};
use crate::features::{PROJECT_QUOTA, USEROBJ_ACCOUNTING};
use crate::object::ObjectSet;
use crate::props::{Shown, human, parse_size};
use crate::store::Store;
use crate::zap_edit as zap;
use crate::{Datasets, Error};

const MASTER_NODE: u64 = 1;
/// Type of a table of quotas.
const QUOTA_TABLE: u8 = 40;
const OBJECTS: &str = "obj-";

/// Whom space is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    User,
    Group,
    Project,
}

impl Holder {
    const ALL: [Self; 3] = [Self::User, Self::Group, Self::Project];

    const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Project => "project",
        }
    }
}

/// A property of one holder: `userobjquota@1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedProperty {
    pub holder: Holder,
    pub id: u64,
    /// Files rather than bytes.
    pub objects: bool,
    /// What may be had, rather than what is.
    pub quota: bool,
}

impl OwnedProperty {
    /// Whose, and which, from the part before the `@`.
    fn of(head: &str) -> Option<Self> {
        let (holder, rest) = Holder::ALL.iter().find_map(|holder| Some((*holder, head.strip_prefix(holder.word())?)))?;
        let (objects, rest) = rest.strip_prefix("obj").map_or((false, rest), |rest| (true, rest));
        let quota = match rest {
            "used" => false,
            "quota" => true,
            _ => return None,
        };
        Some(Self { holder, id: 0, objects, quota })
    }

    /// A property's name with a number behind the `@`. `None`: it is none of these.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (head, id) = name.split_once('@')?;
        Some(Self { id: id.parse().ok().filter(|id: &u64| u32::try_from(*id).is_ok())?, ..Self::of(head)? })
    }

    /// Splits a name into property and holder where it is one of these, whoever the holder is: for tools that know names.
    #[must_use]
    pub fn split(name: &str) -> Option<(Holder, &str, &str)> {
        let (head, who) = name.split_once('@')?;
        Some((Self::of(head)?.holder, head, who))
    }

    /// Name of the table of quotas in the master node.
    fn table(self) -> String {
        format!("{}{}quota@", self.holder.word(), if self.objects { "obj" } else { "" })
    }

    fn key(self) -> String {
        let id = self.id;
        if self.objects && !self.quota { format!("{OBJECTS}{id:x}") } else { format!("{id:x}") }
    }
}

/// What a holder has, and may have; `None` of a quota: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    pub id: u64,
    /// `None`: it is not counted.
    pub used: Option<u64>,
    pub quota: Option<u64>,
    pub objects: Option<u64>,
    pub object_quota: Option<u64>,
}

/// Where a property's number is in an object set: read, or being changed.
fn quota_table(set: &ObjectSet<'_>, property: OwnedProperty) -> Result<Option<u64>, Error> {
    match set.lookup_number(MASTER_NODE, &property.table()) {
        Ok(table) => Ok(Some(table)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

impl ObjectSet<'_> {
    /// What there is of a property of a holder; nothing set or used is 0.
    ///
    /// # Errors
    /// Not a file system with accounts; unreadable, malformed.
    pub fn owned(&self, property: OwnedProperty) -> Result<u64, Error> {
        let key = property.key();
        let found = if property.quota {
            match quota_table(self, property)? {
                Some(table) => self.lookup(table, key.as_bytes()),
                None => Err(Error::NotFound),
            }
        } else {
            let mut found = Err(Error::NotFound);
            self.each_account(property.holder, &mut |entry| {
                if entry.name == key.as_bytes() {
                    found = Ok(entry);
                }
            })?;
            found
        };
        match found {
            Ok(entry) => Ok(entry.number().unwrap_or(0)),
            Err(Error::NotFound) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// All users, groups or projects that have something of a file system, or a quota, by number.
    ///
    /// # Errors
    /// As [`ObjectSet::owned`].
    pub fn holdings(&self, holder: Holder) -> Result<Vec<Holding>, Error> {
        self.holdings_from(holder, 0, usize::MAX)
    }

    /// The first `most` of them from number `from` on: there may be as many as there are files.
    ///
    /// # Errors
    /// As [`ObjectSet::owned`].
    pub fn holdings_from(&self, holder: Holder, from: u64, most: usize) -> Result<Vec<Holding>, Error> {
        let mut out: BTreeMap<u64, Holding> = BTreeMap::new();
        let mut add = |key: &str, put: &dyn Fn(&mut Holding)| {
            // Other keys are of Windows domains, which nobody here is in.
            if let Ok(id) = u64::from_str_radix(key, 16)
                && id >= from
            {
                put(out.entry(id).or_insert_with(|| Holding { id, ..Holding::default() }));
                if out.len() > most {
                    out.pop_last();
                }
            }
        };
        self.each_account(holder, &mut |entry| {
            let (text, number) = (entry.text(), entry.number());
            match text.strip_prefix(OBJECTS) {
                Some(id) => add(id, &|holding| holding.objects = number),
                None => add(&text, &|holding| holding.used = number),
            }
        })?;
        for objects in [false, true] {
            let Some(table) = quota_table(self, OwnedProperty { holder, id: 0, objects, quota: true })? else { continue };
            self.zap_each(table, &mut |_, entry| {
                let number = entry.number();
                add(&entry.text(), &|holding| if objects { holding.object_quota = number } else { holding.quota = number });
            })?;
        }
        Ok(out.into_values().collect())
    }
}

impl Datasets<'_> {
    /// A property of a holder as `zfs get` shows it. `None`: the dataset counts for nobody.
    pub(crate) fn show_owned(&self, info: &DatasetInfo, name: &str, property: OwnedProperty) -> Result<Option<Shown>, Error> {
        let set = self.open_dataset(info)?;
        if set.kind() != ObjsetKind::Zpl || !set.counts(property.holder, property.objects) {
            return Ok(None);
        }
        let number = set.owned(property)?;
        let value = match (property.quota && number == 0, property.objects) {
            (true, _) => String::from("none"),
            (false, true) => number.to_string(),
            (false, false) => human(number),
        };
        Ok(Some(Shown { name: name.to_string(), value, exact: number.to_string(), source: String::from("local") }))
    }
}

/// The quotas of a file system that is open for changing, and what is known of those who have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas {
    /// By holder, objects, number.
    limits: BTreeMap<(Holder, bool, u64), u64>,
    /// Used as of the last commit, as far as it was asked, and accepted since.
    used: BTreeMap<(Holder, bool, u64), u64>,
    pending: BTreeMap<(Holder, bool, u64), u64>,
}

impl Quotas {
    /// What was accepted is on disk.
    pub(crate) fn committed(&mut self) {
        self.used.clear();
        self.pending.clear();
    }
}

/// The value of a quota in words.
pub(crate) fn parse_quota(name: &str, text: &str) -> Result<Value, EditError> {
    let property = OwnedProperty::parse(name).ok_or(EditError::Invalid("of whom? write the name or number of a user or group behind the @"))?;
    if !property.quota {
        return Err(EditError::Invalid("this is counted, not set; userquota@ and groupquota@ limit it"));
    }
    if text == "none" {
        return Ok(Value::Number(0));
    }
    parse_size(text).map(Value::Number).ok_or(EditError::Invalid("not a value of this property"))
}

impl Store {
    /// Reads a head's quotas where that is not done.
    fn load_quotas(&mut self, dataset: u64, owners: Owners) -> Result<(), EditError> {
        if self.heads.get(&dataset).is_some_and(|head| head.quotas.is_some()) {
            return Ok(());
        }
        let (set, pool) = self.edit_dataset(dataset, Some(owners))?;
        let mut limits = BTreeMap::new();
        for holder in Holder::ALL {
            for objects in [false, true] {
                let property = OwnedProperty { holder, id: 0, objects, quota: true };
                let Some(table) = set.with_view(pool, MASTER_NODE, |edit| zap::number(edit, pool, property.table().as_bytes()))? else { continue };
                for entry in set.with_view(pool, table, |edit| zap::entries(edit, pool, None))? {
                    if let (Ok(id), Some(limit)) = (u64::from_str_radix(&entry.text(), 16), entry.number().filter(|limit| *limit != 0)) {
                        limits.insert((holder, objects, id), limit);
                    }
                }
            }
        }
        if let Some(head) = self.heads.get_mut(&dataset) {
            head.quotas = Some(Quotas { limits, ..Quotas::default() });
        }
        Ok(())
    }

    /// Whether anybody has a quota on a head: without one nobody need ask whose a file is.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn has_quotas(&mut self, dataset: u64, owners: Owners) -> Result<bool, EditError> {
        self.load_quotas(dataset, owners)?;
        Ok(self.heads.get(&dataset).and_then(|head| head.quotas.as_ref()).is_some_and(|quotas| !quotas.limits.is_empty()))
    }

    /// Accepts that an owner has `bytes` and `objects` more of a file system with the open txg.
    ///
    /// # Errors
    /// [`EditError::Quota`]; unreadable, malformed.
    pub fn reserve_for(&mut self, dataset: u64, owners: Owners, owner: Owner, bytes: u64, objects: u64) -> Result<(), EditError> {
        if !self.has_quotas(dataset, owners)? {
            return Ok(());
        }
        let copies = self.heads.get(&dataset).map_or(1, |head| head.style.copies as u64);
        let owners = [(Holder::User, owner.user), (Holder::Group, owner.group), (Holder::Project, owner.project)];
        self.accept_for(dataset, &owners, bytes.saturating_mul(copies), objects)
    }

    /// Accepts that one holder has `bytes` on disk and `objects` more: a file changes hands.
    ///
    /// # Errors
    /// As [`Store::reserve_for`].
    pub fn reserve_for_one(&mut self, dataset: u64, owners: Owners, (holder, id): (Holder, u64), bytes: u64, objects: u64) -> Result<(), EditError> {
        if self.has_quotas(dataset, owners)? { self.accept_for(dataset, &[(holder, id)], bytes, objects) } else { Ok(()) }
    }

    fn accept_for(&mut self, dataset: u64, holders: &[(Holder, u64)], bytes: u64, objects: u64) -> Result<(), EditError> {
        let both = |(holder, id): &(Holder, u64)| [((*holder, false, *id), bytes), ((*holder, true, *id), objects)];
        let wanted: Vec<((Holder, bool, u64), u64)> = holders.iter().flat_map(both).filter(|(_, more)| *more > 0).collect();
        for (key, more) in &wanted {
            let Some(limit) = self.heads.get(&dataset).and_then(|head| head.quotas.as_ref()?.limits.get(key).copied()) else { continue };
            let used = self.used_by(dataset, *key)?;
            let quotas = self.heads.get(&dataset).and_then(|head| head.quotas.as_ref()).ok_or(Error::NotFound)?;
            let pending = quotas.pending.get(key).copied().unwrap_or(0);
            if used.saturating_add(pending).saturating_add(*more) > limit {
                return Err(EditError::Quota);
            }
        }
        if let Some(quotas) = self.heads.get_mut(&dataset).and_then(|head| head.quotas.as_mut()) {
            for (key, more) in wanted {
                let pending = quotas.pending.entry(key).or_default();
                *pending = pending.saturating_add(more);
            }
        }
        Ok(())
    }

    fn used_by(&mut self, dataset: u64, key: (Holder, bool, u64)) -> Result<u64, EditError> {
        let head = self.heads.get_mut(&dataset).ok_or(Error::NotFound)?;
        if let Some(known) = head.quotas.as_ref().and_then(|quotas| quotas.used.get(&key)) {
            return Ok(*known);
        }
        let (holder, objects, id) = key;
        let name = OwnedProperty { holder, id, objects, quota: false }.key();
        let used = head.set.accounted(&self.pool, holder as usize, name.as_bytes())?;
        if let Some(quotas) = &mut head.quotas {
            quotas.used.insert(key, used);
        }
        Ok(used)
    }

    /// Sets what a holder may have of a file system (0: what it likes), with the open txg.
    pub(crate) fn set_owned(&mut self, dataset: &str, property: OwnedProperty, value: &Value) -> Result<(), EditError> {
        let Value::Number(number) = value else { return Err(EditError::Invalid("not a value of this property")) };
        if !property.quota || dataset.contains('@') {
            return Err(EditError::Invalid("this is counted, not set; userquota@ and groupquota@ of the file system limit it"));
        }
        let head = self.find(dataset)?;
        if property.holder == Holder::Project && !self.is_active(&PROJECT_QUOTA)? {
            return Err(EditError::Invalid("nothing is counted by project: the feature project_quota is not active in this pool"));
        }
        if property.objects && !self.is_active(&USEROBJ_ACCOUNTING)? {
            return Err(EditError::Invalid("files are not counted by owner, only bytes: the feature userobj_accounting is not active in this pool"));
        }
        let (set, pool) = self.edit_dataset(head, None)?;
        if set.os_kind() != 2 || set.flags() & COMPLETE_SPACE == 0 {
            return Err(EditError::Invalid("only a file system that counts what its users have takes such a quota"));
        }
        let name = property.table();
        let table = match set.with_view(pool, MASTER_NODE, |edit| zap::number(edit, pool, name.as_bytes()))? {
            Some(table) => table,
            None if *number == 0 => return Ok(()),
            None => {
                let table = set.allocate(pool, QUOTA_TABLE, 512, 0, Vec::new())?;
                zap::format(set.edit(pool, table)?, 0);
                zap::set_number(set.edit(pool, MASTER_NODE)?, pool, name.as_bytes(), table)?;
                table
            }
        };
        let key = property.key();
        let edit = set.edit(pool, table)?;
        if *number == 0 {
            zap::remove(edit, pool, key.as_bytes())?;
        } else {
            zap::set(edit, pool, Entry { name: key.into_bytes(), integer_size: 8, value: [*number].into() })?;
        }
        if let Some(head) = self.heads.get_mut(&head) {
            head.quotas = None;
        }
        Ok(())
    }
}
