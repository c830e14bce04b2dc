//! Send streams: a snapshot, or what changed between two, as a sequence of bytes, in OpenZFS's format.
//!
//! # Theory
//! A stream is a list of records ([`record`]): BEGIN, then for every object that may have changed its dnode (OBJECT), its blocks (WRITE), its holes (FREE) and
//! its spill block (SPILL), with FREEOBJECTS between, then END. Object numbers are kept, so that a receiver needs no map. What changed is found by birth
//! times alone: a subtree born before the base is never read, whatever the size of the file system. Holes that do not say how old they are (pools without
//! `hole_birth`, objects made anew) are sent each time, as OpenZFS does.
//!
//! A package (`-R`, `-I`, `-p`) is a head with a list of datasets and snapshots, and one stream after another ([`package`]).
//!
//! # Structures
//! [`Sender`] is pulled: [`Sender::next`] appends about a mebibyte of stream; between calls it holds no more than its place. [`Receiver`] is pushed: it
//! takes bytes in pieces of any size. [`Package`] and [`Unpacker`] do the same for packages and for lone streams. [`Token`] is a place in a stream, as
//! `receive_resume_token` shows it. [`listing`] describes the records of a stream.
//!
//! # States
//! A receiver waits for BEGIN; has a target (an inconsistent data set); has seen END (the snapshot is taken). A full stream makes the data set, an incremental one
//! a hidden clone `%recv` that takes the head's place at the end. An error or an end too early removes what was made, or keeps it with its place in the stream
//! if the caller wants to resume.
//!
//! # Locking
//! None: the caller owns the store. A sender reads a snapshot, which must stay (a hold).
//!
//! # Failure
//! Streams are outside input: every checksum is verified before the record it covers is applied, every size and number is checked against bounds, and a
//! refusal says the byte offset and the number of the record ([`StreamError`]). Blocks that cannot be read end a send with the object and block.
//!
//! # Limits
//! Not raw, redacted, deduplicated or big-endian streams, no objects with dnodes of several slots or blocks past 128 KiB, whatever features the pool has: refused by
//! name. A package carries no holds and no properties of snapshots, and `-F` does not destroy what it does not mention. A receiver holds one record (at most 16 MiB; the list of a package 64 MiB) and 16 MiB of changes, which it commits.
//!
//! # Reading order
//! [`record`], [`send`](Sender), [`receive`](Receiver), [`package`], [`token`](Token), [`listing`].
#![no_std]
extern crate alloc;

pub mod listing;
pub mod package;
mod parse;
mod receive;
pub mod record;
mod send;
mod token;

pub use package::{Naming, Package, PackageOptions, Unpacker, base};
pub use parse::{Parsed, Parser};
pub use receive::{ReceiveOptions, Received, Receiver, abort, resume_token};
pub use send::{Base, SendOptions, Sender};
pub use token::Token;

use alloc::string::String;
use core::fmt;

use pool_dmu::edit::EditError;
use pool_spa::ReadError;

/// A feature of streams, by its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature(pub u64);

impl Feature {
    pub const DEDUP: Self = Self(1);
    pub const SA_SPILL: Self = Self(1 << 2);
    pub const EMBED_DATA: Self = Self(1 << 16);
    pub const LZ4: Self = Self(1 << 17);
    pub const LARGE_BLOCKS: Self = Self(1 << 19);
    pub const RESUMING: Self = Self(1 << 20);
    pub const REDACTED: Self = Self(1 << 21);
    pub const COMPRESSED: Self = Self(1 << 22);
    pub const LARGE_DNODE: Self = Self(1 << 23);
    pub const RAW: Self = Self(1 << 24);
    pub const ZSTD: Self = Self(1 << 25);
    pub const HOLDS: Self = Self(1 << 26);
    /// Bits and names of all that have one.
    pub const NAMES: [(u64, &'static str); 17] = [
        (1, "dedup"),
        (1 << 1, "dedup properties"),
        (1 << 2, "SA spill"),
        (1 << 16, "embedded data"),
        (1 << 17, "lz4"),
        (1 << 18, "(18)"),
        (1 << 19, "large blocks"),
        (1 << 20, "resuming"),
        (1 << 21, "redacted"),
        (1 << 22, "compressed"),
        (1 << 23, "large dnodes"),
        (1 << 24, "raw (encrypted)"),
        (1 << 25, "zstd"),
        (1 << 26, "holds"),
        (1 << 27, "switch to large blocks"),
        (1 << 28, "long names"),
        (1 << 29, "large micro-ZAPs"),
    ];
    /// Those a receiver here can do without further ado.
    const KNOWN: u64 = Self::SA_SPILL.0 | Self::EMBED_DATA.0 | Self::LZ4.0 | Self::LARGE_BLOCKS.0 | Self::RESUMING.0 | Self::COMPRESSED.0 | Self::LARGE_DNODE.0 | Self::HOLDS.0;
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::NAMES.iter().find(|(bit, _)| *bit == self.0);
        match known {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// What is wrong with a stream, or with its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It ends within a record, or before END.
    Truncated,
    /// It goes on behind its END.
    Trailing,
    /// It does not start with the magic number.
    Magic,
    BigEndian,
    /// A record's checksum does not match what came before it.
    Checksum,
    /// A feature that we do not have, or the pool has not.
    Feature(Feature),
    /// A record of an unknown type.
    Type(u32),
    /// A number that no stream has: which, and its value.
    Field(&'static str, u64),
    /// A record where none of its kind may be.
    Order(&'static str),
    /// It does not fit what is there: what, and the name it is about.
    Target(&'static str, String),
    /// A block of the snapshot cannot be read; `None`: the spill block.
    Unreadable { object: u64, block: Option<u64>, error: ReadError },
    /// The pool.
    Store(EditError),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the stream ends too early"),
            Self::Trailing => write!(f, "the stream goes on behind its end"),
            Self::Magic => write!(f, "not a send stream: the magic number is missing"),
            Self::BigEndian => write!(f, "written by a big-endian machine, which is not supported"),
            Self::Checksum => write!(f, "the checksum does not match: the stream is damaged"),
            Self::Feature(feature) => write!(f, "the stream uses the feature '{feature}', which is not supported here"),
            Self::Type(number) => write!(f, "unknown record type {number}"),
            Self::Field(what, value) => write!(f, "impossible {what} ({value:#x})"),
            Self::Order(what) => write!(f, "{what}"),
            Self::Target(what, name) => write!(f, "{name}: {what}"),
            Self::Unreadable { object, block: Some(block), error } => write!(f, "object {object}, block {block}: {error}"),
            Self::Unreadable { object, block: None, error } => write!(f, "object {object}, spill block: {error}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

/// Why a stream was not sent or received, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// Bytes before the record.
    pub offset: u64,
    /// Number of the record, from 0.
    pub record: u64,
    pub why: Why,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} at byte {}: {}", self.record, self.offset, self.why)
    }
}

impl core::error::Error for StreamError {}

impl<E: Into<EditError>> From<E> for Why {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}
