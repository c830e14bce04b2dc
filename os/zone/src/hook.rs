//! Hooks: what upper layers do when a zone comes and goes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::{Class, Mutex};

use crate::{Zone, ZoneError};

/// A layer's part in a zone's life. Called with no lock held, in order of registration for `created` and in reverse for the
/// others. `shutdown` and `destroyed` must be repeatable and cannot fail: a halt always ends.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "function pointers")]
pub struct Hook {
    /// The layer, for messages.
    pub name: &'static str,
    /// The zone object exists; it has no process yet.
    pub created: fn(&Arc<Zone>) -> Result<(), ()>,
    /// The last process is gone: stop what still runs on the zone's behalf.
    pub shutdown: fn(&Arc<Zone>),
    /// Give back what the layer holds for it (mounts, data). Last call.
    pub destroyed: fn(&Arc<Zone>),
}

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Class::ZoneTable, Vec::new());

/// Registers a layer. Called while the kernel starts, before the first zone.
pub fn register_hook(hook: Hook) {
    HOOKS.lock().push(hook);
}

fn all() -> Vec<Hook> {
    HOOKS.lock().clone()
}

pub(crate) fn created(zone: &Arc<Zone>) -> Result<(), ZoneError> {
    let hooks = all();
    for (done, hook) in hooks.iter().enumerate() {
        if (hook.created)(zone).is_err() {
            for undo in hooks[..done].iter().rev() {
                (undo.destroyed)(zone);
            }
            return Err(ZoneError::HookFailed(hook.name));
        }
    }
    Ok(())
}

pub(crate) fn shutdown(zone: &Arc<Zone>) {
    for hook in all().iter().rev() {
        (hook.shutdown)(zone);
    }
}

pub(crate) fn destroyed(zone: &Arc<Zone>) {
    for hook in all().iter().rev() {
        (hook.destroyed)(zone);
    }
}
