//! The file layer: vnodes, path walk, mounts, open files, and the file systems that need no disk.
//!
//! # Theory
//! A file system is a tree of [`Vnode`]s. Everything a descriptor can refer to is a vnode: files, directories, devices,
//! terminals, pipe ends, sockets, epoll objects. What a process names by a path goes through [`walk`] (bounds of root and
//! zone), then [`ops`] (permissions, mounts), then the vnode (what it does). There is no name cache: `tmpfs` directories
//! are themselves ordered maps in memory, and a second map in front of them would only cost; a disk file system will bring its
//! own. Contents of files are lists of [`kif::Frame`]s, charged to the zone that wrote them, and a shared mapping
//! borrows the very frames that `read` and `write` use.
//!
//! # Structures
//! ```text
//! fd -> File { offset, flags } -> Place { Mount, vnode }     what it is, where it is
//!                              -> object (if not the vnode)  what transfers go to: terminal, pipe end, snapshot
//! Mount -> Filesystem, root vnode;  child mounts by vnode id;  what it covers (weak)
//! ```
//!
//! # Locking
//! Classes, outermost first: `Rename` (one file system's tree shape), `Directory` (parent before child), `File` (offset), `Vnode`
//! (small tables), `Epoll`, `Tty`, `Pages` (contents and attributes of one tmpfs node); spin: `Pipe`, `MountTree`,
//! `TtyInput`. Nothing calls out to the process layer, copies to user memory or blocks under a terminal or vnode lock.
//!
//! # Failure
//! [`VfsError`] is closed and says what was wrong with the request. Pages, pipe buffers and everything else that can grow
//! without bound comes from `Frame::allocate` and fails with `NoSpace` or `NoMemory`; small objects behind a call are covered by the
//! call's reservation (design D9).
//!
//! # Limits
//! [`NAME_MAX`], [`PATH_MAX`], [`SYMLINK_LIMIT`]; the others stand in the modules.
//!
//! # Reading order
//! `vnode`, `mount`, `walk`, `ops`, `file`; then `tmpfs`, `pipe`, `device` and `devfs`, `tty`, `epoll`, `cpio`.
#![no_std]
extern crate alloc;

pub mod block;
pub mod cpio;
pub mod counter;
mod cred;
pub mod devfs;
pub mod device;
pub mod epoll;
mod error;
mod file;
mod locks;
pub mod mount;
pub mod ops;
pub mod pipe;
mod poll;
pub mod text;
pub mod tmpfs;
pub mod tty;
mod user;
mod vnode;
pub mod walk;
pub mod xattr;
pub mod zoneio;

pub use cred::{Cred, Want, permit};
pub use error::{Result, VfsError};
pub use file::{File, OpenFlags, Whence};
pub use locks::{LockKind, Record, clear_record, set_record, test_record};
pub use mount::{Filesystem, Mount, MountFlags, Place};
pub use poll::{Pollee, Ready, wait_any};
pub use vnode::{
    Attr, DevNo, DirEntry, Io, Jump, Kind, Lent, NAME_MAX, NodeId, Owner, PATH_MAX, RenameFlags, SetAttr, StatFs, Vnode, VnodeRef, same,
};
pub use walk::{Cx, Follow, SYMLINK_LIMIT, lookup, path_of};
