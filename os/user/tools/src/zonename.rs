//! `zonename`: the name of the current or another zone.

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::{self, Failure};

pub const HELP: &str = "\
usage: zonename [ID]

Prints the name of the zone the command runs in, or of the zone with this id.

examples:
  zonename          global
  zonename 3        web01
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (_, operands) = usage::options(arguments, "")?;
    let request = match &operands[..] {
        [] => NvList::new(),
        [id] => {
            let number: u64 = id.parse().map_err(|_| Failure::usage(format!("'{id}' is not a zone id")))?;
            NvList::new().with("zone", number)
        }
        _ => return Err(Failure::usage("at most one zone id")),
    };
    let zone = call(Operation::ZoneGet, &request).map_err(Failure::from)?;
    let name = zone.string("name").map_err(Failure::new)?;
    usage::print(&format!("{name}\n"));
    Ok(0)
}
