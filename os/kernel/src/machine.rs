//! The platform: every seam of `kif`, one line each.

use alloc::boxed::Box;

use kif::{Clock, Frames, Log, Mmu, OutOfMemory, Platform, Rng, Spawn, UserContext, UserMem, ZoneId};

use crate::HEAP;
use crate::console::KernelLog;
use crate::random::Random;
use crate::threads::Spawner;

/// The log.
pub static LOG: KernelLog = KernelLog::new();
/// The random-number generator.
pub static RANDOM: Random = Random::new();

/// The machine this kernel runs on.
pub struct Machine;

impl Platform for Machine {
    fn clock(&self) -> &dyn Clock {
        &hal::time::HalClock
    }
    fn rng(&self) -> &dyn Rng {
        &RANDOM
    }
    fn log(&self) -> &dyn Log {
        &LOG
    }
    fn frames(&self) -> &dyn Frames {
        &HEAP
    }
    fn mmu(&self) -> &dyn Mmu {
        &hal::paging::HalMmu
    }
    fn user(&self) -> &dyn UserMem {
        &hal::user::UserCopy
    }
    fn spawn(&self) -> &dyn Spawn {
        &Spawner
    }
    fn new_user_context(&self, from: Option<&mut dyn UserContext>) -> Result<Box<dyn UserContext>, OutOfMemory> {
        HEAP.fallible_call()?;
        Ok(hal::user::new_context(from))
    }
    fn reserve(&self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory> {
        HEAP.reserve(zone, bytes)
    }
    fn unreserve(&self, zone: ZoneId, bytes: u64) {
        HEAP.unreserve(zone, bytes);
    }
}
