//! The table of live zones and the steps of a zone's life.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use kif::{Nanos, PAGE_SIZE, ZoneId};
use once_cell::race::OnceBox;
use sync::{Class, Mutex};

use crate::rctl::{self, Defaults, Rctl};
use crate::{Brand, Config, Privileges, State, Uuid, Zone, ZoneError, check_name, hook, sched, stats};

/// Live zones, the global one included.
pub const ZONES_MAX: usize = 8192;
/// Ids are handed out from 1 to this, in turn.
const ID_MAX: u32 = 9999;

/// How often a halt looks again.
const KILL_INTERVAL: Nanos = Nanos::from_millis(1);

struct Table {
    live: Vec<Arc<Zone>>,
    /// Destroyed, but something still refers to them: their ids are not free.
    dying: Vec<(ZoneId, Weak<Zone>)>,
    last_id: u32,
}

static TABLE: Mutex<Table> = Mutex::new(Class::ZoneTable, Table { live: Vec::new(), dying: Vec::new(), last_id: 0 });
static GLOBAL: OnceBox<Arc<Zone>> = OnceBox::new();

/// Makes the global zone. Called once, before the first process (later calls, in host tests, return the first one).
pub fn init_global(hostname: &str) -> &'static Arc<Zone> {
    GLOBAL.get_or_init(|| {
        let config = Config {
            name: "global".to_string(),
            uuid: Uuid::default(),
            did: 0,
            brand: Brand::Native,
            hostname: hostname.to_string(),
            root: "/".to_string(),
            privileges: Privileges::ALL,
            rctls: Vec::new(),
        };
        let zone = Arc::new(Zone::new(ZoneId::GLOBAL, config, Defaults::global));
        sched::get().attach(zone.id(), shares(&zone));
        zone.advance_to(State::Running);
        zone.set_init_pid(1);
        TABLE.lock().live.push(Arc::clone(&zone));
        let registered = stats::register(&zone);
        *zone.kstats.lock() = registered;
        Box::new(zone)
    })
}

/// The global zone.
///
/// # Panics
/// Before [`init_global`]: a broken init order.
#[must_use]
pub fn global() -> &'static Arc<Zone> {
    GLOBAL.get().expect("init_global runs before anything asks for a zone")
}

/// The live zone with this id.
#[must_use]
pub fn lookup(id: ZoneId) -> Option<Arc<Zone>> {
    TABLE.lock().live.iter().find(|zone| zone.id() == id).cloned()
}

/// The live zone with this name.
#[must_use]
pub fn lookup_name(name: &str) -> Option<Arc<Zone>> {
    TABLE.lock().live.iter().find(|zone| zone.name() == name).cloned()
}

/// All live zones, by id.
#[must_use]
pub fn live() -> Vec<Arc<Zone>> {
    let mut zones = TABLE.lock().live.clone();
    zones.sort_by_key(|zone| zone.id());
    zones
}

/// Creates a zone: checks the configuration, hands out an id, sets the controls, runs the layers' `created` hooks. Ends in
/// [`State::Initialized`].
///
/// # Errors
/// [`ZoneError::BadName`], [`ZoneError::NameTaken`], [`ZoneError::NoFreeId`], [`ZoneError::BadValue`],
/// [`ZoneError::HookFailed`]; nothing is left behind.
pub fn create(config: Config) -> Result<Arc<Zone>, ZoneError> {
    check_name(&config.name)?;
    for (rctl, value) in &config.rctls {
        let row = rctl.row();
        if *value < row.least || *value > row.most {
            return Err(ZoneError::BadValue { least: row.least, most: row.most });
        }
    }
    let (_, total_frames) = kif::frames().free_total();
    let memory_bytes = total_frames.saturating_mul(PAGE_SIZE as u64);
    let settings = config.rctls.clone();
    let default = |rctl| {
        let set = settings.iter().rev().find(|(name, _)| *name == rctl);
        set.map_or_else(|| Defaults::tenant(rctl, memory_bytes), |(_, value)| *value)
    };
    let zone = {
        let mut table = TABLE.lock();
        if table.live.iter().any(|zone| zone.name() == config.name) {
            return Err(ZoneError::NameTaken);
        }
        let id = table.free_id()?;
        let zone = Arc::new(Zone::new(id, config, default));
        table.live.push(Arc::clone(&zone));
        zone
    };
    sched::get().attach(zone.id(), shares(&zone));
    for row in &rctl::TABLE {
        rctl::apply(&zone, row.rctl, zone.rctl(row.rctl));
    }
    let registered = stats::register(&zone);
    *zone.kstats.lock() = registered;
    if let Err(error) = hook::created(&zone) {
        zone.advance_to(State::Dying);
        remove(&zone);
        return Err(error);
    }
    Ok(zone)
}

/// `Initialized → Ready`: its root and mounts are in place.
///
/// # Errors
/// [`ZoneError::WrongState`].
pub fn ready(zone: &Zone) -> Result<(), ZoneError> {
    zone.step(State::Initialized, State::Ready)
}

/// `Ready → Booting`: from now on processes may be created in it.
///
/// # Errors
/// [`ZoneError::WrongState`].
pub fn boot(zone: &Zone) -> Result<(), ZoneError> {
    zone.step(State::Ready, State::Booting)
}

/// `Booting → Running`: its init is `init_pid`.
///
/// # Errors
/// [`ZoneError::WrongState`]: a halt came first.
pub fn running(zone: &Zone, init_pid: u32) -> Result<(), ZoneError> {
    zone.set_init_pid(init_pid);
    zone.step(State::Booting, State::Running)
}

/// Shuts a zone down as far as it goes: closes it to new processes, lets `kill` end those it has (called again and again, since
/// a fork may slip through) until the last one has given its charges back, then stops the layers. Ends in [`State::Down`]. May be
/// repeated.
///
/// # Errors
/// [`ZoneError::IsGlobal`]; [`ZoneError::Busy`] if processes remain after `patience`, or the caller was interrupted: try again.
pub fn shutdown(zone: &Arc<Zone>, patience: Nanos, mut kill: impl FnMut(&Arc<Zone>)) -> Result<(), ZoneError> {
    if zone.is_global() {
        return Err(ZoneError::IsGlobal);
    }
    // An earlier call may have got further; we go on from there.
    zone.advance_to(State::ShuttingDown);
    let deadline = kif::clock().monotonic().plus(patience);
    while zone.processes() > 0 || zone.lwps() > 0 {
        kill(zone);
        let now = kif::clock().monotonic();
        // What was killed leaves in its own time: it gives its charges back last.
        if now >= deadline || sync::sleep_until(now.plus(KILL_INTERVAL)).is_err() {
            return Err(ZoneError::Busy { processes: zone.processes().max(1) });
        }
    }
    zone.advance_to(State::Empty);
    if zone.state() == State::Empty {
        hook::shutdown(zone);
        zone.advance_to(State::Down);
    }
    Ok(())
}

/// Takes a zone that is down out of the kernel. Its id is free again when the last reference has gone.
///
/// # Errors
/// [`ZoneError::WrongState`] if it is not down; of two callers one wins.
pub fn destroy(zone: &Arc<Zone>) -> Result<(), ZoneError> {
    zone.step(State::Down, State::Dying)?;
    hook::destroyed(zone);
    remove(zone);
    Ok(())
}

/// The last part of [`destroy`]: from here on nobody finds the zone.
fn remove(zone: &Arc<Zone>) {
    let kstats = core::mem::take(&mut *zone.kstats.lock());
    drop(kstats);
    zone.clear_data();
    sched::get().detach(zone.id());
    let ours = {
        let mut table = TABLE.lock();
        let at = table.live.iter().position(|live| Arc::ptr_eq(live, zone)).expect("a dying zone is removed once");
        let ours = table.live.swap_remove(at);
        table.dying.push((zone.id(), Arc::downgrade(zone)));
        ours
    };
    zone.advance_to(State::Dead);
    drop(ours);
}

/// Names of zones that are destroyed but still referenced, with the number of references: what keeps an id from being free.
#[must_use]
pub fn lingering() -> Vec<(ZoneId, String, usize)> {
    let table = TABLE.lock();
    let held = table.dying.iter().filter_map(|(id, weak)| weak.upgrade().map(|zone| (*id, zone)));
    held.map(|(id, zone)| (id, zone.name().to_string(), Arc::strong_count(&zone) - 1)).collect()
}

fn shares(zone: &Zone) -> u32 {
    u32::try_from(zone.rctl(Rctl::CpuShares)).expect("the table bounds shares to 16 bits")
}

impl Table {
    fn free_id(&mut self) -> Result<ZoneId, ZoneError> {
        self.dying.retain(|(_, zone)| zone.strong_count() > 0);
        if self.live.len() >= ZONES_MAX {
            return Err(ZoneError::NoFreeId);
        }
        for _ in 0..ID_MAX {
            self.last_id = self.last_id % ID_MAX + 1;
            let id = ZoneId(self.last_id);
            if !self.live.iter().any(|zone| zone.id() == id) && !self.dying.iter().any(|(taken, _)| *taken == id) {
                return Ok(id);
            }
        }
        Err(ZoneError::NoFreeId)
    }
}
