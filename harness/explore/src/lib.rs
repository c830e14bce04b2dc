//! Finding bugs on purpose: a guest is booted once, and from a snapshot of it every plan is tried.
//!
//! # Theory
//! A scenario's `[explore]` table names a command and what must hold. The guest is booted to its shell's prompt and a snapshot is taken there. Every trial is
//! a fork of it, so none pays for the boot.
//!
//! *Power cuts.* One reference run types the command and notes, for each promise it prints (a line that begins as `promise` says), how many writes the disk had seen.
//! From the disk's journal comes the disk as a power cut after write n leaves it, with the volatile cache losing nothing, everything, a seeded
//! subset, or parts of writes. That disk is swapped into the snapshot of the booted guest, which mounts and checks it: whatever was promised before write n must be
//! found. A promise that was printed after write n - 1 and before write n counts at n: the power was on when it was made.
//!
//! *Failures of single requests.* The n-th request fails once; the disk as it is afterwards is checked in the same way. Requests are counted from the snapshot's tick on, so the
//! same failure stands in the board's plan from power-on where a capsule repeats it.
//!
//! *Interleavings.* The vCPUs take turns by another seed, adversarially with `chaos`; a line that begins as `bug` says is a bug found.
//!
//! # Structures
//! | module | holds |
//! |---|---|
//! | [`spec`] | the `[explore]` table |
//! | [`plan`] | one thing to try |
//! | [`guest`] | the booted guest, the reference run, a trial |
//! | [`campaign`] | all plans, spread over cores and shards; results as lines that a killed run resumes from |
//! | [`shrink`] | the smallest plan that still fails |
//! | [`job`] | files for batch engines |
//!
//! # Failure
//! A guest that does not come to its prompt, or a reference run that fails by itself, is an [`ExploreError`]: nothing can be said about plans then. A
//! trial that takes too long fails as such.
//!
//! # Limits
//! One disk is explored; others stay as the snapshot has them. Network state is forked with the snapshot and not varied.

pub mod campaign;
pub mod guest;
pub mod job;
pub mod plan;
pub mod shrink;
pub mod spec;

pub use campaign::{Campaign, Outcome, Progress, Shard, Summary, merge};
pub use guest::{Base, ExploreError, FAULT_NAME, Guest, Reference, Trial};
pub use plan::{Lost, Plan};
pub use spec::Spec;
