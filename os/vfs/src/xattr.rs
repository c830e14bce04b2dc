//! Extended attributes: names with values beside an object's contents (`xattr(7)`).
//!
//! # Theory
//! The namespace, the part of a name before its first dot, decides who may do what:
//!
//! | namespace | of | read | change |
//! |---|---|---|---|
//! | `user` | files and directories | who may read the object | who may write it; in a sticky directory its owner |
//! | `trusted` | anything | root of the zone | root of the zone |
//! | `security` | anything | anybody | root of the zone, but not `security.capability` |
//!
//! A capability that a program does not get when it is executed is worse than none: who sets it must hear that he cannot, and take set-user-ID instead. Access-control lists
//! (`system`) are for the same reason not taken.
//!
//! # Limits
//! [`NAME_LIMIT`] and [`VALUE_LIMIT`] are Linux's. Names of one object are listed up to [`VALUE_LIMIT`] bytes; beyond, they are there but cannot be listed.

use alloc::vec::Vec;

use crate::cred::{self, Want};
use crate::ops::writable_mount;
use crate::{Attr, Cx, Kind, Place, Result, VfsError};

/// Longest name, with its namespace.
pub const NAME_LIMIT: usize = 255;
/// Longest value, and longest list of names.
pub const VALUE_LIMIT: usize = 64 << 10;

/// What must be true of an attribute that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It may be there or not.
    Any,
    /// It must not be there (`XATTR_CREATE`).
    New,
    /// It must be there (`XATTR_REPLACE`, and removal).
    Old,
}

impl Existence {
    /// Compares with what is there.
    ///
    /// # Errors
    /// [`VfsError::Exists`], [`VfsError::NoAttribute`].
    pub const fn check(self, is_there: bool) -> Result<()> {
        match (self, is_there) {
            (Self::New, true) => Err(VfsError::Exists),
            (Self::Old, false) => Err(VfsError::NoAttribute),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
}

fn space(name: &[u8]) -> Option<Space> {
    let dot = name.iter().position(|byte| *byte == b'.').filter(|dot| dot + 1 < name.len())?;
    match &name[..dot] {
        b"user" => Some(Space::User),
        b"trusted" => Some(Space::Trusted),
        b"security" => Some(Space::Security),
        _ => None,
    }
}

/// The name's namespace, if the caller may do `want` to attributes of it.
fn permit(cx: &Cx<'_>, attr: &Attr, name: &[u8], want: Want) -> Result<()> {
    if name.contains(&0) || name.is_empty() || name.len() > NAME_LIMIT {
        return Err(VfsError::Invalid);
    }
    let changes = want.contains(Want::WRITE);
    match space(name).ok_or(VfsError::NotSupported)? {
        // Of anything else the mode bits say who may use it, not who may store on it.
        Space::User if !matches!(attr.kind, Kind::File | Kind::Directory) => Err(if changes { VfsError::NotPermitted } else { VfsError::NoAttribute }),
        Space::User if changes && attr.kind == Kind::Directory && attr.mode & 0o1000 != 0 && !cred::owns(attr, cx.cred) => Err(VfsError::NotPermitted),
        Space::User => cred::permit(attr, cx.cred, want),
        Space::Trusted if !cx.cred.is_privileged() => Err(if changes { VfsError::NotPermitted } else { VfsError::NoAttribute }),
        Space::Security if changes && name == b"security.capability" => Err(VfsError::NotSupported),
        Space::Security if changes && !cx.cred.is_privileged() => Err(VfsError::NotPermitted),
        Space::Trusted | Space::Security => Ok(()),
    }
}

/// The value of an attribute (`getxattr(2)`).
///
/// # Errors
/// Not there ([`VfsError::NoAttribute`]), not permitted, a namespace or file system without attributes ([`VfsError::NotSupported`]).
pub fn get(cx: &Cx<'_>, place: &Place, name: &[u8]) -> Result<Vec<u8>> {
    permit(cx, &place.vnode.attr()?, name, Want::READ)?;
    place.vnode.xattr(name)?.ok_or(VfsError::NoAttribute)
}

/// Names of attributes, each with a NUL behind it (`listxattr(2)`).
///
/// # Errors
/// [`VfsError::TooLong`] beyond [`VALUE_LIMIT`]; a file system without attributes.
pub fn list(cx: &Cx<'_>, place: &Place) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for name in place.vnode.xattr_names()? {
        let is_shown = match space(&name) {
            Some(Space::Trusted) => cx.cred.is_privileged(),
            Some(_) => true,
            None => false,
        };
        if !is_shown {
            continue;
        }
        if out.len() + name.len() >= VALUE_LIMIT {
            return Err(VfsError::TooLong);
        }
        out.extend_from_slice(&name);
        out.push(0);
    }
    Ok(out)
}

/// Sets an attribute, or with `None` removes it (`setxattr(2)`, `removexattr(2)`).
///
/// # Errors
/// Not permitted; as `existence` says; no space, quota; [`VfsError::TooLong`]; a namespace or file system without attributes.
pub fn set(cx: &Cx<'_>, place: &Place, name: &[u8], value: Option<&[u8]>, existence: Existence) -> Result<()> {
    if value.is_some_and(|value| value.len() > VALUE_LIMIT) {
        return Err(VfsError::TooLong);
    }
    writable_mount(place)?;
    permit(cx, &place.vnode.attr()?, name, Want::WRITE)?;
    place.vnode.set_xattr(name, value, existence)
}
