//! Send streams out of a pool and into one, piece by piece: who asks is a program, and takes its time between two pieces.
//!
//! The snapshot that a stream ends with is held: neither it nor its file system can be destroyed until the descriptor is closed. Others of a package are not; one
//! that is destroyed meanwhile ends the send with an error. A receive whose program goes away is undone then, or, if it was asked to be
//! resumable, kept with its place, for a stream that goes on from there (`zfs send -t`, with the token that the property `receive_resume_token` shows).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::{DatasetKind, Datasets};
use pool_stream::record::{self, Record};
use pool_stream::{Naming, Package, PackageOptions, ReceiveOptions, Sender, StreamError, Token, Unpacker, resume_token};
use kif::ZoneId;
use vfs::{Cred, Cx, Place};

use crate::{Storage, zones};
use crate::manage::{self, Refused};
use crate::storage::now;

type Result<R> = core::result::Result<R, Refused>;

fn broken(what: &str, error: &StreamError) -> Refused {
    Refused::Failed(format!("{what}: {error}"))
}

/// Whether the caller's zone administers this.
fn is_ours(name: &str) -> bool {
    zones::administers(kif::spawn().current_zone(), name)
}

/// A stream on its way out.
#[allow(missing_debug_implementations, reason = "holds a pool")]
pub struct Sending {
    pool: Arc<Storage>,
    name: String,
    source: Source,
}

enum Source {
    Package(Box<Package>),
    /// One snapshot, or the rest of one that was broken off.
    One(Box<Sender>),
}

impl Sending {
    /// A stream of snapshot `to`, or of what changed since snapshot `from` of the same file system.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn start(to: &str, from: Option<&str>, options: PackageOptions) -> Result<Self> {
        let pool = manage::pool_of(to)?;
        manage::settle(&pool)?;
        let is_package = options.replicate || options.properties || options.intermediate;
        let source = manage::edit(&pool, to, |store| {
            let tree = Datasets::open(store.pool())?;
            if is_package {
                return Ok(Package::new(&tree, to, from, options).map(|package| Source::Package(Box::new(package))));
            }
            let info = tree.find(to)?;
            let base = from.map(|from| pool_stream::base(&tree, to, from)).transpose().map_err(|why| StreamError { offset: 0, record: 0, why });
            Ok(base.and_then(|base| Sender::new(&tree, &info, base, options.send, None)).map(|sender| Source::One(Box::new(sender))))
        })?;
        let source = source.map_err(|error| broken(to, &error))?;
        pool.hold_for_send(to);
        Ok(Self { source, name: to.to_string(), pool })
    }

    /// The rest of a stream that was received in part, from the place that `token` names.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn resume(token: &str) -> Result<Self> {
        let token = Token::decode(token).ok_or_else(|| Refused::Invalid(String::from("that is no resume token: take it from 'zfs get receive_resume_token'")))?;
        let name = token.name.clone();
        let pool = manage::pool_of(&name)?;
        manage::settle(&pool)?;
        let sender = manage::edit(&pool, &name, |store| Ok(Sender::resume(&Datasets::open(store.pool())?, &token, is_ours)))?;
        let sender = Box::new(sender.map_err(|error| broken(&name, &error))?);
        // What the guid of the token says, not its name.
        let name = sender.name().to_string();
        pool.hold_for_send(&name);
        Ok(Self { source: Source::One(sender), name, pool })
    }

    /// The next piece, about a mebibyte; empty: that was all.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn piece(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let source = &mut self.source;
        loop {
            let more = manage::edit(&self.pool, &self.name, |store| {
                Ok(match source {
                    Source::Package(package) => package.next(store.pool(), &mut out),
                    Source::One(sender) => sender.next(store.pool(), &mut out),
                })
            })?;
            // A step that only opens the next snapshot writes nothing yet.
            if !more.map_err(|error| broken(&self.name, &error))? || !out.is_empty() {
                return Ok(out);
            }
        }
    }
}

impl Sending {
    /// The snapshot that is being sent; nothing between two of a package.
    #[must_use]
    pub fn current(&self) -> Option<&str> {
        match &self.source {
            Source::Package(package) => package.current(),
            Source::One(sender) => Some(sender.name()),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.pool.release_from_send(&self.name);
    }
}

/// The token from which a receive that was broken off can go on.
///
/// # Errors
/// See [`Refused`].
pub fn token_of(name: &str) -> Result<Option<String>> {
    let pool = manage::pool_of(name)?;
    let token = manage::edit(&pool, name, |store| Ok(resume_token(store, name).map(|token| token.map(|token| token.encode()))))?;
    token.map_err(|why| Refused::Failed(format!("{name}: {why}")))
}

/// Removes what was received in part (`zfs receive -A`).
///
/// # Errors
/// See [`Refused`].
pub fn abort_receive(name: &str) -> Result<()> {
    let pool = manage::pool_of(name)?;
    let aborted = manage::edit(&pool, name, |store| Ok(pool_stream::abort(store, name, now().0)))?;
    match aborted {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused::NotFound(format!("{name}: nothing was received in part"))),
        Err(why) => Err(Refused::Failed(format!("{name}: {why}"))),
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
    /// Data sets that are neither mounted nor open while it lasts.
    quiet: Vec<u64>,
    /// The beginning of a stream of which it is not known yet whether it is for the target itself; `None`: that is known.
    unread: Option<Vec<u8>>,
    /// How many streams of a package are done.
    done: usize,
    /// Root of the receiver's file systems.
    root: Place,
    zone: ZoneId,
    /// What was not mounted before stays so.
    unmounted: bool,
}

/// How a stream is received.
#[derive(Clone, Debug, Default)]
pub struct ReceiveRequest {
    /// The target is rolled back to the base of the stream first.
    pub force: bool,
    /// What came is kept if the stream breaks off.
    pub resumable: bool,
    /// Nothing new is mounted.
    pub unmounted: bool,
    /// Says what would be received, and changes nothing.
    pub dry: bool,
    /// Properties, as words, that go before those of the stream, and some that are not taken from it.
    pub properties: Vec<(String, String)>,
    pub excluded: Vec<String>,
}

impl Receiving {
    /// Will receive into `target`. What a stream may change is not mounted until the end: `target` with all below it, however the stream names what it brings.
    /// The target itself stays mounted where a name comes behind it; if only the stream says whether one does, until it says so (see [`Self::take_target`]).
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn start(cx: &Cx<'_>, target: &str, naming: Naming, request: ReceiveRequest) -> Result<Self> {
        manage::check_name(target)?;
        let mut properties = Vec::new();
        for (name, text) in &request.properties {
            let value = pool_dmu::parse_property(name, text).map_err(|error| Refused::Invalid(format!("{name}={text}: {error}: {}", pool_dmu::hint(name))))?;
            properties.push((name.clone(), value));
        }
        if let Some(name) = request.excluded.iter().find(|name| !pool_dmu::is_settable(name)) {
            return Err(Refused::Invalid(format!("-x {name}: there is no such property that can be set")));
        }
        let pool = manage::pool_of(target)?;
        manage::settle(&pool)?;
        let head = target.split('@').next().unwrap_or(target);
        let _alone = manage::alone();
        let inside = if request.dry { Vec::new() } else { manage::at_and_below(&pool, head)? };
        // Where a name comes behind the target, the target itself stays as it is. With `-d` the stream says whether one does: that waits for its beginning.
        let inside: Vec<String> = inside.into_iter().filter(|name| naming == Naming::Exact || name != head).collect();
        manage::refuse_open_below(&pool, head)?;
        let mounted = manage::unmount_list(cx, &pool, &inside)?;
        let quiet = manage::edit(&pool, head, |store| {
            let all = Datasets::open(store.pool())?;
            let all = if all.find(head).is_ok() { all.list(head)? } else { Vec::new() };
            let heads = all.iter().filter(|info| info.kind != DatasetKind::Snapshot && (naming == Naming::Exact || info.name != head));
            heads.map(|info| store.find(&info.name)).collect()
        })?;
        let ReceiveRequest { force, resumable, unmounted, dry, excluded, .. } = request;
        let options = ReceiveOptions { force, resumable, owners: Some(pool_zpl::owners), origins: Some(is_ours), dry, properties, excluded };
        let quiet = if dry { Vec::new() } else { quiet };
        let unpacker = Some(Unpacker::new(target, naming, options));
        let unread = (naming == Naming::DropPool && !dry).then(Vec::new);
        Ok(Self { unpacker, target: target.to_string(), pool, mounted, quiet, unread, done: 0, root: cx.root.clone(), zone: cx.cred.zone, unmounted: unmounted || dry })
    }

    /// Refuses to change what somebody mounted or opened meanwhile. Asked by who has the store, and is alone.
    fn check_quiet(pool: &Storage, quiet: &[u64]) -> core::result::Result<(), EditError> {
        if pool.is_any_in_use(quiet) { Err(EditError::Busy("it was mounted or opened while a stream is received into it")) } else { Ok(()) }
    }

    /// A pool's own file system, received without its pool's name, becomes the target itself: that is not mounted from here on, either.
    fn take_target(&mut self, cx: &Cx<'_>) -> Result<()> {
        let head = self.target.split('@').next().unwrap_or(&self.target).to_string();
        let found = manage::edit(&self.pool, &head, |store| Ok(store.find(&head).ok()))?;
        let Some(dataset) = found else { return Ok(()) };
        let mut mounted = manage::unmount_list(cx, &self.pool, &[head])?;
        // Outer ones first.
        mounted.append(&mut self.mounted);
        self.mounted = mounted;
        self.quiet.push(dataset);
        Ok(())
    }

    /// What the unpacker gets of a piece: nothing until the stream's first name is known, and the target is out of use if it is what that names.
    fn begin(&mut self, cx: &Cx<'_>, piece: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(mut bytes) = self.unread.take() else { return Ok(None) };
        bytes.extend_from_slice(piece);
        let Some(first) = bytes.first_chunk::<{ record::SIZE }>() else {
            self.unread = Some(bytes);
            return Ok(Some(Vec::new()));
        };
        // Whatever else is in a package is below what this one names; what is no beginning at all is the unpacker's to refuse.
        if let Ok((Record::Begin(begin), _)) = Record::parse(first)
            && !begin.name.split('@').next().is_some_and(|name| name.contains('/'))
        {
            self.take_target(cx)?;
        }
        Ok(Some(bytes))
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// What is wrong with the stream, and where. What was made of it is removed.
    pub fn feed(&mut self, cx: &Cx<'_>, bytes: &[u8]) -> Result<()> {
        let ended = |target: &str| Refused::Invalid(format!("{target}: the stream has ended"));
        if self.unpacker.is_none() {
            return Err(ended(&self.target));
        }
        let _alone = manage::alone();
        let begun = self.begin(cx, bytes).map_err(|refused| {
            // Nothing of it was taken yet.
            self.unpacker = None;
            match self.mount(cx) {
                Ok(()) => refused,
                Err(second) => Refused::Failed(format!("{refused}; then {second}")),
            }
        })?;
        let bytes = begun.as_deref().unwrap_or(bytes);
        let unpacker = self.unpacker.as_mut().ok_or_else(|| ended(&self.target))?;
        let (pool, quiet) = (&self.pool, &self.quiet);
        let fed = manage::edit(pool, &self.target, |store| Self::check_quiet(pool, quiet).map(|()| unpacker.feed(store, bytes, now().0)))?;
        let done = unpacker.received().len();
        if core::mem::replace(&mut self.done, done) != done || fed.is_err() {
            self.pool.forget_idle();
        }
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
        let _alone = manage::alone();
        let done = manage::edit(&self.pool, &self.target, |store| Ok(unpacker.finish(store, now().0)))?;
        self.pool.forget_idle();
        self.mount(cx)?;
        let (received, notes) = done.map_err(|error| broken(&self.target, &error))?;
        for note in notes {
            kif::log().line(format_args!("{}: {note}", self.target));
        }
        for one in &received {
            let head = one.snapshot.split('@').next().unwrap_or(&one.snapshot);
            self.pool.reread_volume(head);
            if !self.unmounted && !self.mounted.iter().any(|name| name == head) {
                manage::mount_new(cx, &self.pool, head)?;
            }
        }
        Ok(received.into_iter().map(|one| one.snapshot).collect())
    }

    /// Mounts again what was mounted before.
    fn mount(&self, cx: &Cx<'_>) -> Result<()> {
        self.mounted.iter().try_for_each(|name| manage::mount_one(cx, &self.pool, name))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let Some(unpacker) = self.unpacker.take() else { return };
        let _alone = manage::alone();
        // Not asked for to the end: its error says only that it ended too early.
        if manage::edit(&self.pool, &self.target, |store| Ok(unpacker.finish(store, now().0).is_ok())).is_err() {
            kif::log().line(format_args!("{}: a receive that was broken off could not be undone", self.target));
        }
        self.pool.forget_idle();
        // Its program was killed: what it found mounted is mounted again all the same.
        let cred = Cred::root(self.zone);
        let cx = Cx { cred: &cred, root: &self.root, cwd: &self.root };
        if let Err(refused) = self.mount(&cx) {
            kif::log().line(format_args!("{}: after a receive that was broken off: {refused}", self.target));
        }
    }
}
