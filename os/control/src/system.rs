//! What the control operations need from the kernel.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::Nanos;
use vfs::{Filesystem, Place};
use zone::Zone;

/// Why a process could not be started in, or moved into, a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The program is not there or not executable, in words.
    Program(String),
    /// No memory, or the zone's limits do not allow it.
    Limit,
    /// The caller has several threads, or is not a process.
    Caller,
}

/// One CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    pub id: u32,
    pub brand: String,
    pub mhz: u64,
    /// Online since (monotonic).
    pub since: Nanos,
}

/// The layers above and beside: implemented by `os/kernel` over `proc`, `vfs` and `hal`.
pub trait System: Sync {
    /// The root of the global zone.
    fn global_root(&self) -> Place;
    /// The file systems every zone gets, as (directory, file system): /proc, /dev, /tmp and the like, made for this zone.
    fn zone_mounts(&self, zone: &Arc<Zone>) -> Vec<(&'static str, Arc<dyn Filesystem>)>;
    /// Starts the first process of a zone with `root` as its root directory. Returns its process id (as the global zone sees it).
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    fn start_init(&self, zone: &Arc<Zone>, root: &Place, path: &str, args: &[String]) -> Result<u32, StartError>;
    /// Moves the calling process into a zone: root and working directory `root`, the zone's privileges. Descriptors stay.
    ///
    /// # Errors
    /// See [`StartError`].
    fn enter_zone(&self, zone: &Arc<Zone>, root: &Place) -> Result<(), StartError>;
    /// Sends SIGKILL to every process of a zone. The caller waits, and calls again.
    fn kill_all(&self, zone: &Arc<Zone>);
    /// The CPUs.
    fn cpus(&self) -> Vec<CpuInfo>;
    /// Makes the n-th fallible allocation from now fail, once (0: none).
    fn fail_nth(&self, n: u64);
    /// True if the calling process is root (in whatever zone).
    fn caller_is_root(&self) -> bool;
}
