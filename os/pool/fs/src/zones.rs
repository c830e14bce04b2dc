//! What of the pools a zone has: data sets that were delegated to it, with all below, and volumes that it was given as devices.
//!
//! A zone's administrator changes what was delegated (module `os/control`), and sees of the rest the names above it. The global zone has everything.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use kif::ZoneId;
use sync::{Class, SpinLock};

#[derive(Clone, Default)]
struct Given {
    datasets: Vec<String>,
    volumes: Vec<String>,
}

static ZONES: SpinLock<BTreeMap<ZoneId, Given>> = SpinLock::new(Class::PoolNodes, BTreeMap::new());

/// Gives a zone data sets to administer, and volumes to use.
pub fn give(zone: ZoneId, datasets: Vec<String>, volumes: Vec<String>) {
    let before = ZONES.lock().insert(zone, Given { datasets, volumes });
    drop(before);
}

/// A zone is gone.
pub fn forget(zone: ZoneId) {
    let gone = ZONES.lock().remove(&zone);
    drop(gone);
}

fn given(zone: ZoneId) -> Given {
    ZONES.lock().get(&zone).cloned().unwrap_or_default()
}

/// Whether `name` is `top` or below it: a data set, or a snapshot or bookmark of one.
pub(crate) fn is_within(name: &str, top: &str) -> bool {
    name.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@', '#']))
}

/// Data sets that were delegated to `zone`; `None`: the global zone, which has all.
#[must_use]
pub fn delegated(zone: ZoneId) -> Option<Vec<String>> {
    (zone != ZoneId::GLOBAL).then(|| given(zone).datasets)
}

/// What `zone` has, each with all below; `None`: the global zone, which has all.
pub(crate) fn tops(zone: ZoneId) -> Option<Vec<String>> {
    (zone != ZoneId::GLOBAL).then(|| {
        let Given { mut datasets, volumes } = given(zone);
        datasets.extend(volumes.into_iter().filter(|volume| !datasets.iter().any(|top| is_within(volume, top))).collect::<Vec<_>>());
        datasets
    })
}

/// Whether `zone` may use `name`.
pub(crate) fn has(zone: ZoneId, name: &str) -> bool {
    tops(zone).is_none_or(|tops| tops.iter().any(|top| is_within(name, top)))
}

/// Whether `name` is above something that `zone` has, and not itself among it.
pub(crate) fn is_above(zone: ZoneId, name: &str) -> bool {
    tops(zone).is_some_and(|tops| tops.iter().any(|top| top.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))) && !tops.iter().any(|top| is_within(name, top)))
}

/// Whether `zone` administers `name`.
#[must_use]
pub fn administers(zone: ZoneId, name: &str) -> bool {
    delegated(zone).is_none_or(|tops| tops.iter().any(|top| is_within(name, top)))
}

/// What `zone` has in common with what another is to be given. Two zones may use one volume; none administers what another has.
#[must_use]
pub fn overlap(zone: ZoneId, datasets: &[String], volumes: &[String]) -> Option<String> {
    let Given { datasets: its, volumes: used } = given(zone);
    let meet = |one: &str, other: &str| is_within(one, other) || is_within(other, one);
    let dataset = datasets.iter().find(|name| its.iter().chain(&used).any(|other| meet(name, other)));
    dataset.or_else(|| volumes.iter().find(|name| its.iter().any(|other| meet(name, other)))).cloned()
}

/// What a zone that is there was given at or below `name`: it knows that by its name.
#[must_use]
pub(crate) fn given_below(name: &str) -> Option<String> {
    let all: Vec<String> = ZONES.lock().values().flat_map(|given| given.datasets.iter().chain(&given.volumes)).cloned().collect();
    all.into_iter().find(|top| is_within(top, name))
}

/// Whether `name` is the uppermost that was delegated: its limits are the delegator's to set.
#[must_use]
pub fn is_top(zone: ZoneId, name: &str) -> bool {
    delegated(zone).is_some_and(|tops| tops.iter().any(|top| top == name))
}
