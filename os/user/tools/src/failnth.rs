//! `failnth`: makes an allocation in the kernel fail, for tests.

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::Failure;

pub const HELP: &str = "\
usage: failnth N

The N-th allocation from now that may fail does fail, once (0: none). What it hits must answer with an error and lose
nothing.

example:
  failnth 12; ls /etc
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let [number] = arguments else { return Err(Failure::usage("give one number")) };
    let number: u64 = number.parse().map_err(|_| Failure::usage(format!("'{number}' is not a number")))?;
    call(Operation::HeapFailNth, &NvList::new().with("n", number))?;
    Ok(0)
}
