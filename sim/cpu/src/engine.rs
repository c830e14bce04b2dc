//! Which engine new vCPUs run on. A choice of the host: no guest can see it, so it is no part of a machine's description.

use crate::hot::HOT;
use sim_translate::{Translator, Unavailable};
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// How vCPUs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The interpreter does everything.
    #[default]
    Interpret,
    /// Hot blocks are translated.
    Translate,
    /// Machines are made to interpret and to translate in turn, so that runs that are compared anyway compare the engines.
    Both,
}

static CHOSEN: AtomicU8 = AtomicU8::new(Engine::Interpret as u8);
static MACHINES: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// With [`Engine::Both`]: what the machine being made on this thread does.
    static THIS: Cell<bool> = const { Cell::new(false) };
}

/// Chooses the engine of vCPUs made from now on.
///
/// # Errors
/// The host has no translator; nothing is changed.
pub fn choose_engine(engine: Engine) -> Result<(), Unavailable> {
    if engine != Engine::Interpret {
        drop(Translator::new()?);
    }
    CHOSEN.store(engine as u8, Ordering::Relaxed);
    Ok(())
}

/// Runs before a block is translated, for vCPU `vcpu` of the machine being made; `None`: never.
pub(crate) fn chosen(vcpu: u32) -> Option<u16> {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    let translate = if chosen == Engine::Both as u8 {
        // The first vCPU decides for its machine; a machine is made on one thread.
        if vcpu == 0 {
            THIS.set(MACHINES.fetch_add(1, Ordering::Relaxed) % 2 == 1);
        }
        THIS.get()
    } else {
        chosen == Engine::Translate as u8
    };
    translate.then_some(HOT)
}
