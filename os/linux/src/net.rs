//! Sockets. The network stack is not there yet: no address family is offered.

use linux_abi::Errno;
use proc::Task;

use crate::args::{Fd, file};
use crate::fail::Result;

pub fn socket(_task: &mut Task, _family: u32, _kind: u32, _protocol: u32) -> Result {
    Err(Errno::EAFNOSUPPORT.into())
}
pub fn socketpair(_task: &mut Task, _family: u32, _kind: u32, _protocol: u32, _to: u64) -> Result {
    Err(Errno::EAFNOSUPPORT.into())
}
/// Calls on a socket: whatever is open is none.
pub fn on_socket(task: &mut Task, fd: Fd) -> Result {
    file(task, fd)?;
    Err(Errno::ENOTSOCK.into())
}
