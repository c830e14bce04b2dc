//! Processes and zones: entering, and ending all of a zone's processes.

use alloc::sync::Arc;

use kif::Nanos;
use zone::{Limit, Zone};

use crate::exit::kill_all;
use crate::process::{Directories, Lwp};
use crate::{ProcError, Result, table};

/// Moves the process of `lwp` into `zone` with `root` as root and working directory. It must have one LWP and no child;
/// it stays in its session and keeps its descriptors (the caller closes what should not come along).
///
/// # Errors
/// [`ProcError::Invalid`] for a process that has more than one LWP; [`ProcError::TryAgain`] at a limit of the zone or if it takes no
/// processes.
pub fn enter_zone(lwp: &Arc<Lwp>, zone: &Arc<Zone>, root: vfs::Place) -> Result<()> {
    let process = lwp.process();
    if process.lwps().len() != 1 {
        return Err(ProcError::Invalid);
    }
    let processes = zone.charge(Limit::Processes).map_err(|_| ProcError::TryAgain)?;
    let lwps = zone.charge(Limit::Lwps).map_err(|_| ProcError::TryAgain)?;
    let init = {
        let table = table::lock();
        let init = table.processes().find(|other| other.zone_id() == zone.id() && other.is_zone_init()).map_or(0, |init| init.pid());
        process.set_zone(zone, init);
        init
    };
    if init == 0 && !zone.is_global() {
        kif::log().line(format_args!("zone {}: pid {} entered before its init", zone.name(), process.pid()));
    }
    process.set_visitor(true);
    process.set_cred(process.cred().in_zone(zone.id()));
    process.set_directories(Directories { root: root.clone(), cwd: root });
    process.set_charge(Some(processes));
    lwp.set_charge(Some(lwps));
    if let Some(thread) = lwp.thread() {
        kif::spawn().move_to_zone(thread, zone.id());
    }
    Ok(())
}

/// Ends all processes of a zone and waits until none is left, at most `patience`. True if none is left (zombies whose parent lies
/// outside count as left until that parent waits for them).
pub fn kill_zone(zone: &Zone, patience: Nanos) -> bool {
    let deadline = kif::clock().monotonic().plus(patience);
    loop {
        kill_all(zone.id(), None);
        let left = table::list(zone.id()).into_iter().filter(|process| process.zombie().is_none()).count();
        if left == 0 {
            return true;
        }
        let now = kif::clock().monotonic();
        if now >= deadline {
            return false;
        }
        if sync::sleep_until(now.plus(Nanos::from_millis(1))).is_err() {
            return false;
        }
    }
}
