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
    /// Runs that are compared anyway compare the engines: whoever makes them says which is which ([`on_engine`]); elsewhere machines are made to interpret
    /// and to translate in turn.
    Both,
}

static CHOSEN: AtomicU8 = AtomicU8::new(Engine::Interpret as u8);
static MACHINES: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// What the machine being made on this thread does.
    static THIS: Cell<bool> = const { Cell::new(false) };
    /// Inside [`on_engine`]: blocks are translated after so many runs, or never.
    static HERE: Cell<Option<Option<u16>>> = const { Cell::new(None) };
    /// Inside [`on_spoiled_engine`].
    static SPOILED: Cell<bool> = const { Cell::new(false) };
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

/// What was chosen last.
pub fn chosen_engine() -> Engine {
    match CHOSEN.load(Ordering::Relaxed) {
        x if x == Engine::Translate as u8 => Engine::Translate,
        x if x == Engine::Both as u8 => Engine::Both,
        _ => Engine::Interpret,
    }
}

/// Machines that `work` makes on this thread translate blocks after so many runs (`None`: interpret all), whatever was chosen.
pub fn on_engine<T>(after: Option<u16>, work: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also when `work` panics.
    struct Back(Option<Option<u16>>);
    impl Drop for Back {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _back = Back(HERE.replace(Some(after)));
    work()
}

/// Machines that `work` makes on this thread translate wrongly ([`sim_translate::Translator::spoil`]), for tests of what should notice.
pub fn on_spoiled_engine<T>(work: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also when `work` panics.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            SPOILED.set(self.0);
        }
    }
    let _back = Back(SPOILED.replace(true));
    on_engine(Some(1), work)
}

/// Whether the vCPU being made is to translate wrongly.
pub(crate) fn spoiled() -> bool {
    SPOILED.get()
}

/// Runs before a block is translated, for vCPU `vcpu` of the machine being made; `None`: never.
pub(crate) fn chosen(vcpu: u32) -> Option<u16> {
    if let Some(here) = HERE.get() {
        return here;
    }
    let translate = match chosen_engine() {
        Engine::Interpret => false,
        Engine::Translate => true,
        Engine::Both => {
            // The first vCPU decides for its machine; a machine is made on one thread.
            if vcpu == 0 {
                THIS.set(MACHINES.fetch_add(1, Ordering::Relaxed) % 2 == 1);
            }
            THIS.get()
        }
    };
    translate.then_some(HOT)
}
