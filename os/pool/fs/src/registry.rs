//! The pools of this machine.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::{Class, SpinLock};

use crate::{Storage, cache, gate, volume};

static POOLS: SpinLock<Vec<Arc<Storage>>> = SpinLock::new(Class::PoolNodes, Vec::new());

/// Adds a pool; false if one of its name is there.
#[must_use]
pub fn add(pool: &Arc<Storage>) -> bool {
    let mut pools = POOLS.lock();
    let fresh = pools.iter().all(|known| known.name() != pool.name());
    if fresh {
        pools.push(Arc::clone(pool));
    }
    fresh
}

/// Takes a pool out (after its export). With the last one goes what was learnt of tenants' use of disks: nothing of it says anything about the next pool's.
pub fn remove(pool: &Arc<Storage>) {
    let (gone, is_last) = {
        let mut pools = POOLS.lock();
        let place = pools.iter().position(|known| Arc::ptr_eq(known, pool));
        let gone = place.map(|place| pools.remove(place));
        (gone, pools.is_empty())
    };
    volume::forget(pool.name(), None);
    drop(gone);
    if is_last {
        gate::forget_all();
        cache::forget_all();
    }
}

/// All pools, by name.
#[must_use]
pub fn all() -> Vec<Arc<Storage>> {
    let mut pools = POOLS.lock().clone();
    pools.sort_by_key(|pool| String::from(pool.name()));
    pools
}

/// The pool that a dataset or pool name starts with.
#[must_use]
pub fn find(name: &str) -> Option<Arc<Storage>> {
    let pool = name.split(['/', '@']).next()?;
    POOLS.lock().iter().find(|known| known.name() == pool).map(Arc::clone)
}
