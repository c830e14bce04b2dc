//! What changed in a file system, and whose it is.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pool_dmu::{Datasets, Holder, Holding};
use pool_phys::objset::ObjsetKind;
use pool_zpl::DiffMemory;
use sync::{Class, SpinLock};

use super::datasets::settle;
use super::pools::pool_of;
use super::{Refused, Result, edit};

/// Blocks of dnodes that are compared before others have their turn with the pool, and bytes of lines that are enough for an answer.
const STEPS: usize = 64;
const TEXT: usize = 256 << 10;
/// Users in an answer.
const HOLDINGS: usize = 8192;

/// How `zfs diff` writes its lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffForm {
    pub kinds: bool,
    pub script: bool,
    pub times: bool,
}

/// What the last comparison knows of directories, and whose it is: one is kept for all, whatever the number of those who compare.
static KEPT: SpinLock<Option<(u64, DiffMemory)>> = SpinLock::new(Class::PoolNodes, None);
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Somebody who compares, part by part: from one to the next it is kept which names directories have.
#[derive(Debug)]
pub struct Comparing(u64);

impl Comparing {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self(NUMBERS.fetch_add(1, Relaxed))
    }

    fn take(&self) -> Option<DiffMemory> {
        let mut kept = KEPT.lock();
        if kept.as_ref().is_some_and(|(whose, _)| *whose == self.0) { kept.take().map(|(_, memory)| memory) } else { None }
    }

    /// What differs between snapshot `from` and `to`, a later one or a file system: lines, and the place to go on from if that was not all. A file system is compared as
    /// it is when each part is asked for.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn part(&self, from: &str, to: Option<&str>, place: u64, form: DiffForm) -> Result<(String, Option<u64>)> {
        let (text, place, memory) = diff(from, to, place, form, self.take())?;
        let before = if place.is_some() { KEPT.lock().replace((self.0, memory)) } else { None };
        drop(before);
        Ok((text, place))
    }
}

impl Drop for Comparing {
    fn drop(&mut self) {
        drop(self.take());
    }
}

fn diff(from: &str, to: Option<&str>, place: u64, form: DiffForm, memory: Option<DiffMemory>) -> Result<(String, Option<u64>, DiffMemory)> {
    let pool = pool_of(from)?;
    settle(&pool)?;
    edit(&pool, from, |store| {
        let (mut diff, mount) = pool_zpl::diff(&Datasets::open(store.pool())?, from, to)?;
        diff.seek(place);
        if let Some(memory) = memory {
            diff.recall(memory);
        }
        let (mut text, mut found) = (String::new(), Vec::new());
        for _ in 0..STEPS {
            let more = diff.step(&mut found)?;
            found.drain(..).for_each(|one| text.push_str(&one.line(&mount, form.kinds, form.script, form.times)));
            if !more {
                return Ok((text, None, diff.into_memory()));
            }
            if text.len() > TEXT {
                break;
            }
        }
        let place = diff.place();
        Ok((text, Some(place), diff.into_memory()))
    })
}

/// What each user, group or project has of a file system or snapshot of one, and may have: so many as an answer takes, from number `from` on, and the number to go on
/// from if there are more.
///
/// # Errors
/// See [`Refused`].
pub fn holdings(name: &str, holder: Holder, from: u64) -> Result<(Vec<Holding>, Option<u64>)> {
    let pool = pool_of(name)?;
    settle(&pool)?;
    let found = edit(&pool, name, |store| {
        let datasets = Datasets::open(store.pool())?;
        let set = datasets.open_dataset(&datasets.find(name)?)?;
        if set.kind() != ObjsetKind::Zpl || !set.counts(holder, false) {
            return Ok(None);
        }
        Ok(Some(set.holdings_from(holder, from, HOLDINGS)?))
    })?;
    let found = found.map(|all| {
        let next = all.last().filter(|_| all.len() == HOLDINGS).and_then(|last| last.id.checked_add(1));
        (all, next)
    });
    found.ok_or_else(|| Refused::Invalid(format!("{name}: not a file system that counts what these have")))
}
