//! Points in time as files: saved snapshots, recordings, capsules; what differs between two of them, and where two runs part.
//!
//! # Theory
//! A run is a function of board, image and inputs. Three things follow. A *recording* is the inputs alone, with their points in time: small whatever the
//! machine did. A *capsule* is a recording with everything else the run needs, so it repeats the run anywhere, bit for bit, and says so by its receipt. A *saved
//! snapshot* is the state itself, for when the run is too long to be repeated.
//!
//! *Where runs part.* Two runs that should be the same and are not are run side by side, checkpoint by checkpoint, until their CPUs and memory differ; the
//! interval is then halved from the snapshots before it down to one instruction ([`bisect`]).
//!
//! # Structures
//! | module | holds |
//! |---|---|
//! | [`file`] | the container all three share: magic, version, commit, sections each with its checksum |
//! | [`saved`] | snapshots in it |
//! | [`recording`] | inputs in bytes |
//! | [`capsule`] | capsules in it |
//! | [`diff`] | what differs between two snapshots, by name |
//! | [`bisect`] | the first instruction at which two runs part |
//!
//! # Failure
//! Files come from outside: every byte is checked before it is believed. [`file::FileError`] names the section that is damaged, where the file ends too early, or
//! the commit that wrote a version this program does not read. A test flips bits and cuts files at random.
//!
//! # Limits
//! The event log and what was printed are not saved: a loaded snapshot starts with an empty log. Disks are saved as contents; their journals start anew.
//! Sections are at most [`file::SECTION_MAX`] bytes.
//!
//! # Reading order
//! `file.rs`, `saved.rs`, `capsule.rs`, `bisect.rs`. The formats are in `docs/formats/snapshot.md`.

pub mod bisect;
pub mod capsule;
pub mod diff;
pub mod file;
pub mod recording;
pub mod saved;

pub use bisect::{Divergence, first_divergence};
pub use capsule::{Capsule, Failure, Replayed};
pub use file::{FileError, FileKind};
