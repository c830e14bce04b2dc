//! Send streams out of a pool and into one, piece by piece: who asks is a program, and takes its time between two pieces.
//!
//! A snapshot that is destroyed while it is sent ends the send with an error. A receive whose program goes away is undone when its descriptor is closed.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pool_dmu::Datasets;
use pool_stream::{Naming, Package, PackageOptions, ReceiveOptions, StreamError, Unpacker};
use vfs::Cx;

use crate::Storage;
use crate::manage::{self, Refused};
use crate::storage::now;

type Result<R> = core::result::Result<R, Refused>;

fn broken(what: &str, error: &StreamError) -> Refused {
    Refused::Failed(format!("{what}: {error}"))
}

/// A stream on its way out.
#[allow(missing_debug_implementations, reason = "holds a pool")]
pub struct Sending {
    pool: Arc<Storage>,
    name: String,
    package: Package,
}

impl Sending {
    /// A stream of snapshot `to`, or of what changed since snapshot `from` of the same file system.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn start(to: &str, from: Option<&str>, options: PackageOptions) -> Result<Self> {
        let pool = manage::pool_of(to)?;
        manage::settle(&pool)?;
        let package = manage::edit(&pool, to, |store| Ok(Package::new(&Datasets::open(store.pool())?, to, from, options)))?;
        Ok(Self { package: package.map_err(|error| broken(to, &error))?, name: to.to_string(), pool })
    }

    /// The next piece, about a mebibyte; empty: that was all.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn piece(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let package = &mut self.package;
        loop {
            let more = manage::edit(&self.pool, &self.name, |store| Ok(package.next(store.pool(), &mut out)))?;
            // A step that only opens the next snapshot writes nothing yet.
            if !more.map_err(|error| broken(&self.name, &error))? || !out.is_empty() {
                return Ok(out);
            }
        }
    }
}

/// A stream on its way in.
#[allow(missing_debug_implementations, reason = "holds a pool")]
pub struct Receiving {
    pool: Arc<Storage>,
    target: String,
    /// `None`: it came to an end, good or bad.
    unpacker: Option<Unpacker>,
    mounted: Vec<String>,
}

impl Receiving {
    /// Will receive into `target`, which is not mounted until the end. `force`: it is rolled back to the base of the stream first.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn start(cx: &Cx<'_>, target: &str, naming: Naming, force: bool) -> Result<Self> {
        manage::check_name(target)?;
        let pool = manage::pool_of(target)?;
        manage::settle(&pool)?;
        let head = target.split('@').next().unwrap_or(target);
        let inside = if naming == Naming::Exact { manage::at_and_below(&pool, head)? } else { Vec::new() };
        let mounted = manage::unmount_list(cx, &pool, &inside)?;
        let options = ReceiveOptions { force, resumable: false, owners: Some(pool_zpl::owners) };
        Ok(Self { unpacker: Some(Unpacker::new(target, naming, options)), target: target.to_string(), pool, mounted })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// What is wrong with the stream, and where. What was made of it is removed.
    pub fn feed(&mut self, cx: &Cx<'_>, bytes: &[u8]) -> Result<()> {
        let unpacker = self.unpacker.as_mut().ok_or_else(|| Refused::Invalid(format!("{}: the stream has ended", self.target)))?;
        let fed = manage::edit(&self.pool, &self.target, |store| Ok(unpacker.feed(store, bytes, now().0)))?;
        fed.map_err(|error| {
            self.unpacker = None;
            match self.mount(cx) {
                Ok(()) => broken(&self.target, &error),
                Err(second) => Refused::Failed(format!("{}: {error}; then {second}", self.target)),
            }
        })
    }

    /// The stream ends here. Mounts what was received, and returns the names of the snapshots.
    ///
    /// # Errors
    /// It ended too early.
    pub fn finish(&mut self, cx: &Cx<'_>) -> Result<Vec<String>> {
        let unpacker = self.unpacker.take().ok_or_else(|| Refused::Invalid(format!("{}: the stream has ended", self.target)))?;
        let done = manage::edit(&self.pool, &self.target, |store| Ok(unpacker.finish(store, now().0)))?;
        self.mount(cx)?;
        let (received, notes) = done.map_err(|error| broken(&self.target, &error))?;
        for note in notes {
            kif::log().line(format_args!("{}: {note}", self.target));
        }
        for one in &received {
            let head = one.snapshot.split('@').next().unwrap_or(&one.snapshot);
            if !self.mounted.iter().any(|name| name == head) {
                manage::mount_new(cx, &self.pool, head)?;
            }
        }
        Ok(received.into_iter().map(|one| one.snapshot).collect())
    }

    /// Mounts again what was mounted before.
    fn mount(&self, cx: &Cx<'_>) -> Result<()> {
        self.mounted.iter().try_for_each(|name| manage::mount(cx, &self.pool, name))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let Some(unpacker) = self.unpacker.take() else { return };
        // Not asked for to the end: its error says only that it ended too early.
        if manage::edit(&self.pool, &self.target, |store| Ok(unpacker.finish(store, now().0).is_ok())).is_err() {
            kif::log().line(format_args!("{}: a receive that was broken off could not be undone", self.target));
        }
    }
}
