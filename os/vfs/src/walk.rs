//! Path walk: from a string of bytes to a place.
//!
//! # Theory
//! A walk goes component by component. The path is read in place; only a symbolic link makes a buffer of its own (its text
//! and what was left of the path). `..` stops at the caller's root and at the last mount of the caller's zone; see
//! [`crate::mount`]. Search permission is asked of each directory gone through.
//!
//! # Limits
//! [`SYMLINK_LIMIT`] links in one walk, [`NAME_MAX`] bytes in a component, [`PATH_MAX`] in a path, also after a link's text
//! was put in front.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use kif::ZoneId;

use crate::cred::{self, Cred, Want};
use crate::vnode::{Kind, NAME_MAX, PATH_MAX, VnodeRef};
use crate::{Place, Result, VfsError};

/// Symbolic links followed in one walk (`path_resolution(7)`).
pub const SYMLINK_LIMIT: u32 = 40;

/// Who walks, and from where.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "places do not print")]
pub struct Cx<'a> {
    pub cred: &'a Cred,
    /// Where `/` leads and `..` stops.
    pub root: &'a Place,
    /// Where relative paths start.
    pub cwd: &'a Place,
}

/// Whether a symbolic link as the last component is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    Yes,
    No,
}

/// Name of an object in its directory, kept so that its path can be told later.
pub(crate) type Link = (Place, Box<[u8]>);

/// The last component of a path whose directory was found.
pub(crate) struct Last {
    pub dir: Place,
    pub name: Box<[u8]>,
    /// The path ended in a slash: only a directory may answer to it.
    pub slash: bool,
}

/// Where a walk to the directory of the last component ended.
pub(crate) enum Parent {
    Name(Last),
    /// The path ends in `.`, or is only slashes.
    Dot(Place),
    /// The path ends in `..`.
    DotDot(Place),
}

/// Finds the object at `path`, from `at` (default: the working directory) if it is relative.
///
/// # Errors
/// What `path_resolution(7)` lists.
pub fn lookup(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], follow: Follow) -> Result<Place> {
    let mut walk = Walk::new(cx, at, path)?;
    walk.run(path, Stop::AtObject(follow), false).map(|end| end.place)
}

pub(crate) fn lookup_parent(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<Parent> {
    let mut walk = Walk::new(cx, at, path)?;
    let end = walk.run(path, Stop::AtParent, false)?;
    Ok(match end.last {
        LastKind::Name(name, slash) => Parent::Name(Last { dir: end.place, name, slash }),
        LastKind::Dot => Parent::Dot(end.place),
        LastKind::DotDot => Parent::DotDot(end.place),
    })
}

/// As [`lookup`], also returning the directory and name it was found under, unless it is a directory itself.
pub(crate) fn lookup_link(
    cx: &Cx<'_>,
    at: Option<&Place>,
    path: &[u8],
    follow: Follow,
) -> Result<(Place, Option<Link>)> {
    let mut walk = Walk::new(cx, at, path)?;
    walk.run(path, Stop::AtObject(follow), true).map(|end| (end.place, end.link))
}

/// Path of `place` as seen from `root`; `None` if it does not lie below `root` or has been removed.
#[must_use]
pub fn path_of(place: &Place, root: &Place) -> Option<Vec<u8>> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut at = place.clone();
    let mut bytes = 0;
    while !at.is(root) {
        if at.is_mount_root() {
            at = at.mount.covered()?;
            continue;
        }
        let (parent, name) = at.vnode.parent().ok()?;
        if name.is_empty() {
            return None;
        }
        bytes += name.len() + 1;
        if bytes > PATH_MAX * 16 {
            return None;
        }
        names.push(name);
        at = Place { mount: at.mount, vnode: parent };
    }
    let mut path = Vec::with_capacity(bytes.max(1));
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Some(path)
}

enum Stop {
    AtObject(Follow),
    AtParent,
}

enum LastKind {
    Name(Box<[u8]>, bool),
    Dot,
    DotDot,
}

struct End {
    place: Place,
    last: LastKind,
    link: Option<Link>,
}

struct Walk<'a> {
    cx: &'a Cx<'a>,
    place: Place,
    links: u32,
    /// Mount, and number of directory moves, for which the place was found below the mount's root. Steps within the mount keep that true.
    connected: Option<(u64, u64)>,
}

impl<'a> Walk<'a> {
    fn new(cx: &'a Cx<'a>, at: Option<&Place>, path: &[u8]) -> Result<Self> {
        if path.is_empty() {
            return Err(VfsError::NotFound);
        }
        if path.len() >= PATH_MAX {
            return Err(VfsError::NameTooLong);
        }
        let start = if path[0] == b'/' { cx.root } else { at.unwrap_or(cx.cwd) };
        check_zone(cx, start)?;
        Ok(Self { cx, place: start.clone(), links: 0, connected: None })
    }

    fn run(&mut self, path: &[u8], stop: Stop, want_link: bool) -> Result<End> {
        let mut text: Cow<'_, [u8]> = Cow::Borrowed(path);
        let mut at = 0;
        let mut last = LastKind::Dot;
        let mut link = None;
        loop {
            while text.get(at) == Some(&b'/') {
                at += 1;
            }
            if at == text.len() {
                break;
            }
            let start = at;
            while at < text.len() && text[at] != b'/' {
                at += 1;
            }
            let name = &text[start..at];
            let has_slash = at < text.len();
            let is_last = text[at..].iter().all(|byte| *byte == b'/');
            if self.place.vnode.kind() != Kind::Directory {
                return Err(VfsError::NotDirectory);
            }
            search(self.cx.cred, &self.place)?;
            link = None;
            match name {
                b"." => {
                    last = LastKind::Dot;
                    continue;
                }
                b".." => {
                    if is_last && matches!(stop, Stop::AtParent) {
                        let place = self.place.clone();
                        return Ok(End { place, last: LastKind::DotDot, link: None });
                    }
                    self.up()?;
                    last = LastKind::DotDot;
                    continue;
                }
                _ => {}
            }
            if name.len() > NAME_MAX {
                return Err(VfsError::NameTooLong);
            }
            if name.contains(&0) {
                return Err(VfsError::Invalid);
            }
            if is_last && matches!(stop, Stop::AtParent) {
                let place = self.place.clone();
                return Ok(End { place, last: LastKind::Name(name.into(), has_slash), link: None });
            }
            let vnode = self.place.vnode.lookup(name)?;
            let follows = !is_last || has_slash || matches!(stop, Stop::AtObject(Follow::Yes));
            if vnode.kind() == Kind::Symlink && follows {
                self.links += 1;
                if self.links > SYMLINK_LIMIT {
                    return Err(VfsError::TooManySymlinks);
                }
                if let Some(jump) = vnode.jump()? {
                    check_zone(self.cx, &jump.place)?;
                    self.place = jump.place;
                    self.connected = None;
                    link = jump.link;
                    continue;
                }
                let mut rest = vnode.readlink()?;
                if rest.is_empty() {
                    return Err(VfsError::NotFound);
                }
                rest.extend_from_slice(&text[at..]);
                if rest.len() >= PATH_MAX {
                    return Err(VfsError::NameTooLong);
                }
                if rest[0] == b'/' {
                    check_zone(self.cx, self.cx.root)?;
                    self.place = self.cx.root.clone();
                    self.connected = None;
                }
                text = Cow::Owned(rest);
                at = 0;
                continue;
            }
            if want_link && is_last && vnode.kind() != Kind::Directory {
                link = Some((self.place.clone(), name.into()));
            }
            self.step(vnode);
        }
        // The text (of the path or of the last link) ended in a slash: only a directory will do.
        if text.last() == Some(&b'/') && self.place.vnode.kind() != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        Ok(End { place: self.place.clone(), last, link })
    }

    /// Makes sure that the place is below the root of its mount: all the way up, but only once for a walk that goes on up, as long as no
    /// directory moves.
    fn check_connected(&mut self) -> Result<()> {
        let moves = settled_moves();
        let known = moves.map(|moves| (self.place.mount.id(), moves));
        if known.is_some() && self.connected == known {
            return Ok(());
        }
        is_connected(&self.place)?;
        self.connected = known.filter(|_| settled_moves() == moves);
        Ok(())
    }

    /// One step up.
    fn up(&mut self) -> Result<()> {
        let cx = self.cx;
        loop {
            if self.place.is(cx.root) {
                return Ok(());
            }
            if !self.place.is_mount_root() {
                break;
            }
            let Some(below) = self.place.mount.covered() else { return Ok(()) };
            if cx.cred.zone != ZoneId::GLOBAL && below.mount.zone() != cx.cred.zone {
                return Ok(());
            }
            self.place = below;
            self.connected = None;
        }
        if self.place.mount.is_partial() {
            self.check_connected()?;
        }
        let (vnode, _) = self.place.vnode.parent()?;
        self.step(vnode);
        Ok(())
    }

    /// To a neighbour in the same mount, and onto what is mounted there.
    fn step(&mut self, vnode: VnodeRef) {
        let mount = self.place.mount.id();
        self.place = Place { mount: Arc::clone(&self.place.mount), vnode }.cross();
        if self.place.mount.id() != mount {
            self.connected = None;
        }
    }
}

/// Directory moves begun and finished, in all file systems. While both are the same number, and still the one they were when a directory was
/// found below the root of its mount, it is there still, and so are its parents up to that root.
static MOVES_BEGUN: AtomicU64 = AtomicU64::new(0);
static MOVES_FINISHED: AtomicU64 = AtomicU64::new(0);

/// Runs a rename that gives a directory another parent.
pub(crate) fn moving_directory<R>(rename: impl FnOnce() -> R) -> R {
    MOVES_BEGUN.fetch_add(1, Ordering::SeqCst);
    let done = rename();
    MOVES_FINISHED.fetch_add(1, Ordering::SeqCst);
    done
}

/// The number of moves, if none is under way.
fn settled_moves() -> Option<u64> {
    let finished = MOVES_FINISHED.load(Ordering::SeqCst);
    (MOVES_BEGUN.load(Ordering::SeqCst) == finished).then_some(finished)
}

/// Refuses a caller of a zone that would stand outside its zone.
fn check_zone(cx: &Cx<'_>, place: &Place) -> Result<()> {
    let zone = cx.cred.zone;
    if zone == ZoneId::GLOBAL || place.mount.zone() == zone || place.is_anonymous() {
        Ok(())
    } else {
        Err(VfsError::AccessDenied)
    }
}

/// A directory seen through a loopback mount may have been renamed out of the mounted subtree; then `..` must not go on
/// climbing through what the mount never showed.
fn is_connected(place: &Place) -> Result<()> {
    let root = place.mount.root().id();
    let mut at = Arc::clone(&place.vnode);
    loop {
        if at.id() == root {
            return Ok(());
        }
        let (parent, name) = at.parent()?;
        if name.is_empty() {
            return Err(VfsError::NotFound);
        }
        at = parent;
    }
}

fn search(cred: &Cred, place: &Place) -> Result<()> {
    // Root may search every directory: spare it the attributes.
    if cred.is_privileged() {
        return Ok(());
    }
    cred::permit(&place.vnode.attr()?, cred, Want::EXEC)
}
