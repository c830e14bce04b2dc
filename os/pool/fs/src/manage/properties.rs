//! Properties of datasets: looked at, set, inherited.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::{DatasetInfo, DatasetKind, Datasets};
use vfs::Cx;

use super::datasets::{at_and_below, bytes};
use super::mounts::{is_option, remount, without_mounts};
use super::pools::pool_of;
use super::{Refused, Result, alone, edit, edit_failed, failed};
use crate::Storage;
use crate::storage::{MEMORY_MIN, now};

/// Room for an answer: who asks for more than that is told so before it is put together.
#[derive(Debug)]
pub struct Room {
    left: usize,
    taken: usize,
}

impl Room {
    /// Least bytes of an answer that a dataset takes, and each of its properties.
    pub(super) const DATASET: usize = 120;
    pub(super) const VALUE: usize = 100;
    /// Bytes that go through memory for one dataset, no more.
    const COST: u64 = 4096;
    /// An answer of so many bytes or datasets is given in little memory, too.
    const SMALL: usize = 64 << 10;
    const FEW: usize = 500;

    /// Room for `bytes`.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Self { left: bytes, taken: 0 }
    }

    /// How many datasets there is room for at most, in the answer and in memory.
    fn datasets(&self) -> usize {
        let free = (kif::frames().free_total().0 * kif::PAGE_SIZE as u64).saturating_sub(MEMORY_MIN) / Self::COST;
        usize::try_from(free).map_or(usize::MAX, |free| free.max(Self::FEW).min(self.left / Self::DATASET))
    }

    pub(super) fn take(&mut self, bytes: usize) -> core::result::Result<(), EditError> {
        self.taken += bytes;
        if self.taken > Self::SMALL && kif::frames().free_total().0 * (kif::PAGE_SIZE as u64) < MEMORY_MIN {
            return Err(EditError::Busy("no memory for so long an answer; ask for less"));
        }
        self.left = self.left.checked_sub(bytes).ok_or(EditError::Invalid("the answer would be too long; ask for a part of the tree, or for single properties"))?;
        Ok(())
    }

    /// The datasets at and below `name`.
    pub(super) fn list(&self, datasets: &Datasets<'_>, name: &str) -> core::result::Result<Vec<DatasetInfo>, EditError> {
        let most = self.datasets();
        let infos = datasets.list_some(name, most)?;
        if infos.len() > most { Err(EditError::Invalid("there are too many for one answer; ask for a part of the tree")) } else { Ok(infos) }
    }
}

/// A property as `zfs get` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub dataset: String,
    pub property: String,
    pub value: String,
    /// The value for programs: sizes in bytes.
    pub exact: String,
    pub source: String,
    /// What a stream brought for it, whatever hides that; `-`: nothing.
    pub received: String,
    /// `filesystem`, `volume` or `snapshot`.
    pub kind: &'static str,
}

/// Properties of the dataset `name`, and with `recursive` of all below it; all there are if none is named. There is `room` for them.
///
/// # Errors
/// See [`Refused`].
pub fn get(name: &str, properties: &[String], recursive: bool, room: &mut Room) -> Result<Vec<Value>> {
    let pool = pool_of(name)?;
    pool.settle().map_err(|error| failed(name, error))?;
    let mut out = Vec::new();
    if let Some(unknown) = properties.iter().find(|name| !name.contains(':') && !pool_dmu::is_property(pool_dmu::full_name(name))) {
        return Err(Refused::Invalid(format!("'{unknown}' is no property: {}", pool_dmu::hint(unknown))));
    }
    // Of a receive that was broken off: the dataset's own list does not have it.
    if properties == ["receive_resume_token"] {
        let token = crate::streams::token_of(name)?.unwrap_or_else(|| String::from("-"));
        return Ok([Value { dataset: name.to_string(), property: properties[0].clone(), value: token.clone(), exact: token, source: String::from("-"), received: String::from("-"), kind: "filesystem" }].into());
    }
    edit(&pool, name, |store| {
        let datasets = Datasets::open(store.pool())?;
        let infos = if recursive { room.list(&datasets, name)? } else { [datasets.find(name)?].into() };
        for info in infos {
            let shown = if properties.is_empty() {
                datasets.show_all(&info)?
            } else {
                let mut shown = Vec::new();
                for property in properties {
                    shown.extend(datasets.show(&info, property)?);
                }
                shown
            };
            let is_mounted = pool.has_mounted(info.object);
            let texts = shown.iter().map(|one| Room::VALUE + info.name.len() + one.name.len() + one.value.len() + one.exact.len() + one.source.len());
            room.take(texts.sum())?;
            for one in shown {
                // The pool's format does not know what is mounted.
                let mounted = one.name == "mounted" && is_mounted;
                let pick = |text: String| if mounted { String::from("yes") } else { text };
                let received = if one.source == "-" { None } else { datasets.received(&info, &one.name)? }.unwrap_or_else(|| String::from("-"));
                out.push(Value { dataset: info.name.clone(), value: pick(one.value), exact: pick(one.exact), property: one.name, source: one.source, received, kind: kind_word(info.kind) });
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// A kind of dataset as `zfs list -t` has it.
#[must_use]
pub const fn kind_word(kind: DatasetKind) -> &'static str {
    match kind {
        DatasetKind::Filesystem => "filesystem",
        DatasetKind::Volume => "volume",
        DatasetKind::Snapshot => "snapshot",
    }
}

pub(super) fn put_property(pool: &Storage, name: &str, property: &str, text: &str) -> Result<()> {
    let what = format!("{name}: {property}={text}");
    edit(pool, &what, |store| {
        let value = pool_dmu::parse_property(property, text)?;
        store.set_property(name, pool_dmu::full_name(property), &value)?;
        store.commit(now().0)
    })
    .map_err(|refusal| match refusal {
        Refused::Invalid(why) if pool_dmu::parse_property(property, text).is_err() => Refused::Invalid(format!("{why}: {}", pool_dmu::hint(property))),
        refusal => refusal,
    })
}

/// Whether a change of this property moves file systems.
fn moves(property: &str) -> bool {
    matches!(property, "mountpoint" | "canmount" | "zoned" | "exec" | "setuid" | "devices" | "readonly")
}

/// A property's new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewValue<'t> {
    /// From text.
    Text(&'t str),
    /// What is above.
    Inherited,
    /// What a stream brought, or else what is above.
    Received,
}

/// Whether `readonly` will be on with this value.
fn will_be_read_only(pool: &Storage, name: &str, value: NewValue<'_>) -> Result<bool> {
    if let NewValue::Text(text) = value {
        return Ok(text == "on");
    }
    edit(pool, name, |store| {
        let datasets = Datasets::open(store.pool())?;
        let received = if value == NewValue::Received { datasets.received(&datasets.find(name)?, "readonly")? } else { None };
        let above = || match name.rsplit_once('/') {
            Some((above, _)) => Ok::<_, EditError>(datasets.show(&datasets.find(above)?, "readonly")?.map(|shown| shown.value)),
            None => Ok(None),
        };
        Ok(received.map_or_else(above, |received| Ok(Some(received)))?.as_deref() == Some("on"))
    })
}

/// Object numbers of `name` and those below it that have what it has: nothing between them and it says something else.
fn follow(datasets: &Datasets<'_>, name: &str, property: &str) -> core::result::Result<Vec<u64>, EditError> {
    let mut out = Vec::new();
    for info in datasets.list(name)? {
        if info.kind == DatasetKind::Snapshot {
            continue;
        }
        let source = datasets.show(&info, property)?.map(|shown| shown.source).unwrap_or_default();
        let says = source.strip_prefix("inherited from ").unwrap_or(if matches!(source.as_str(), "local" | "received") { &info.name } else { "" });
        let is_below = says.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        if info.name == name || !is_below {
            out.push(info.object);
        }
    }
    Ok(out)
}

/// Sets a property. File systems follow their mount points.
///
/// # Errors
/// See [`Refused`].
pub fn set(cx: &Cx<'_>, name: &str, property: &str, value: NewValue<'_>) -> Result<()> {
    let property = pool_dmu::full_name(property);
    let _alone = alone();
    let pool = pool_of(name)?;
    if let ("volsize", NewValue::Text(text)) = (property, value) {
        let size = bytes(name, text)?;
        return pool.resize_volume(name, size).map_err(|error| failed(name, error))?.map_err(|error| edit_failed(name, &error));
    }
    let change = |pool: &Arc<Storage>| match value {
        NewValue::Text(text) => put_property(pool, name, property, text),
        NewValue::Inherited | NewValue::Received => edit(pool, name, |store| {
            store.inherit_property(name, pool_dmu::full_name(property), value == NewValue::Received)?;
            store.commit(now().0)
        }),
    };
    if property == "atime" {
        change(&pool)?;
        pool.look_at_atime();
        return Ok(());
    }
    if !moves(property) || name.contains('@') {
        return change(&pool);
    }
    let inside = at_and_below(&pool, name)?;
    if property == "readonly" && will_be_read_only(&pool, name, value)? {
        let datasets = edit(&pool, name, |store| follow(&Datasets::open(store.pool())?, name, property))?;
        if !pool.bar_changes(&datasets) {
            return Err(Refused::Busy(format!("{name}: a program has a file of it mapped for writing: end it first (fuser or /proc/*/maps tell which)")));
        }
    }
    let changed = if is_option(property) {
        // It stays mounted, and the mount obeys.
        change(&pool).and_then(|()| inside.iter().try_for_each(|name| remount(cx, &pool, name)))
    } else {
        without_mounts(cx, &pool, &inside, change)
    };
    if property == "readonly" {
        pool.look_at_read_only();
    }
    changed
}
