//! `psrinfo`: the processors.

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: psrinfo [-v | -p] [ID...]

  (none)  one line for each virtual processor: id, state, since when (seconds after boot)
  -v      more about each
  -p      the number of processors only

examples:
  psrinfo
  psrinfo -v 0
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "vp")?;
    let verbose = steps.contains(&Step::Flag('v'));
    let mut wanted = Vec::new();
    for operand in &operands {
        wanted.push(operand.parse::<u64>().map_err(|_| Failure::usage(format!("'{operand}' is not a processor id")))?);
    }
    let reply = call(Operation::CpuInfo, &NvList::new())?;
    let cpus = reply.lists("cpus").map_err(Failure::new)?;
    if steps.contains(&Step::Flag('p')) {
        usage::print(&format!("{}\n", cpus.len()));
        return Ok(0);
    }
    let mut out = String::new();
    let mut found = 0;
    for cpu in cpus {
        let field = |name: &str| cpu.number(name).map_err(Failure::new);
        let text = |name: &str| cpu.string(name).map_err(Failure::new);
        let id = field("id")?;
        if !wanted.is_empty() && !wanted.contains(&id) {
            continue;
        }
        found += 1;
        let since = field("since")? / 1_000_000_000;
        if verbose {
            out.push_str(&format!(
                "Status of virtual processor {id}\n  {} since {since} s after boot.\n  The x86-64 processor operates at {} MHz: {}\n",
                text("state")?,
                field("mhz")?,
                text("brand")?
            ));
        } else {
            out.push_str(&format!("{id}\t{}   since {since} s\n", text("state")?));
        }
    }
    usage::print(&out);
    if !wanted.is_empty() && found < wanted.len() {
        return Err(Failure::new("no such processor"));
    }
    Ok(0)
}
