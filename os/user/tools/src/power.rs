//! `poweroff`, `halt`, `reboot`: end zones, then the machine.

use control_abi::Operation;
use nv::NvList;
use rustix::system::RebootCommand;

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: poweroff [-f]    (also: halt)
       reboot [-f]

Halts all zones, writes file systems out, and stops or restarts the machine. Inside a zone: ends the zone.

  -f   at once, without halting zones first
";

pub fn poweroff(arguments: &[String]) -> Result<u8, Failure> {
    end(arguments, RebootCommand::PowerOff)
}

pub fn reboot(arguments: &[String]) -> Result<u8, Failure> {
    end(arguments, RebootCommand::Restart)
}

fn end(arguments: &[String], how: RebootCommand) -> Result<u8, Failure> {
    let (steps, _) = usage::options(arguments, "fnp")?;
    if !steps.contains(&Step::Flag('f')) {
        halt_zones();
    }
    rustix::fs::sync();
    rustix::system::reboot(how).map_err(|error| Failure::new(format!("reboot: {error}")))?;
    Ok(0)
}

/// Halts every zone that is in the kernel. What fails is said and left behind: the machine goes down anyway.
pub fn halt_zones() {
    let Ok(reply) = call(Operation::ZoneList, &NvList::new()) else { return };
    for zone in reply.lists("zones").unwrap_or_default() {
        let (Ok(id), Ok(name)) = (zone.number("id"), zone.string("name")) else { continue };
        if id != 0
            && let Err(refused) = call(Operation::ZoneHalt, &NvList::new().with("zone", id))
        {
            eprintln!("poweroff: zone {name}: {}", refused.message);
        }
    }
}
