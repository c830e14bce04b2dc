//! Who writes a file and who executes it: never both (ETXTBSY of `open(2)` and `execve(2)`).
//!
//! # Locking
//! One table of files in use, with a mutex of class `FileLocks`, held for a look-up.

use alloc::collections::BTreeMap;
use sync::{Class, Mutex};

use crate::vnode::NodeId;
use crate::{Result, VfsError};

/// Openings for writing, if positive; programs running, if negative.
static TABLE: Mutex<BTreeMap<NodeId, i64>> = Mutex::new(Class::FileLocks, BTreeMap::new());

/// One writer or one program of a file, as long as it lives.
#[derive(Debug)]
pub struct Use {
    id: NodeId,
    step: i64,
}

fn enter(id: NodeId, step: i64) -> Result<Use> {
    let mut table = TABLE.lock();
    let count = table.entry(id).or_insert(0);
    if count.signum() == -step {
        return Err(VfsError::TextBusy);
    }
    *count += step;
    Ok(Use { id, step })
}

/// Somebody opens a file for writing.
///
/// # Errors
/// It is being executed.
pub(crate) fn write(id: NodeId) -> Result<Use> {
    enter(id, 1)
}

/// Somebody executes a file.
///
/// # Errors
/// It is open for writing.
pub fn execute(id: NodeId) -> Result<Use> {
    enter(id, -1)
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        if let Some(count) = table.get_mut(&self.id) {
            *count -= self.step;
            if *count == 0 {
                table.remove(&self.id);
            }
        }
    }
}
