//! Fairness between tenants at one pool: who waits, how long, and who goes first (pool reference, section 7).
//!
//! # Theory
//! Two parts, as in SmartOS, of which the weight `zone.zfs-io-priority` is the measure:
//!
//! The [`throttle`] counts what each zone asks of the disks, weighs it by how long the disks take, and compares it with the zone's fair part. While the disks are
//! overused, who is above that part waits some microseconds before each operation, a few more every quarter of a second; when they are not, less again. A zone that
//! is alone is never slowed.
//!
//! The [`queue`] decides who is next where operations have to follow one another. Classes first: what somebody waits for (reads, synchronous
//! writes) before what nobody waits for, a scrub last. Within a class, once many wait, the zone with the highest score: a high weight and few operations of
//! its own in the queue raise it, and so does having been passed over.
//!
//! # Structures
//! Both are plain state machines: time and weights come in as arguments. The global zone (0) is neither counted nor slowed, and has the greatest weight in the queue.
//!
//! # Locking
//! None; the user has a lock.
//!
//! # Failure
//! None.
//!
//! # Limits
//! Zones that have been idle for some cycles are forgotten.
#![no_std]
extern crate alloc;

pub mod queue;
pub mod throttle;

/// The global zone: the operator's.
pub const GLOBAL: u32 = 0;
/// Weight of a zone that configures none.
pub const PRIORITY_DEFAULT: u64 = 100;
