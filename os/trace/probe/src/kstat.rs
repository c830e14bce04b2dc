//! The kstat registry.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kif::{Nanos, ZoneId};
use sync::{Class, SpinLock};

/// Longest part of a kstat's name (illumos `KSTAT_STRLEN` less its terminator).
pub const NAME_BYTES_MAX: usize = 30;

/// One typed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    U64(u64),
    I64(i64),
    String(String),
}

/// Takes the values of one kstat.
pub trait Sink {
    /// Adds a field. Names are unique within a kstat.
    fn value(&mut self, name: &str, value: Value);
}

/// What can be read: a set of counters, or something computed on demand.
pub trait Source: Send + Sync {
    /// Lists the fields. Called in thread context with no lock of this crate held; may take the publisher's own locks.
    /// Must still answer (with what is left, even nothing) when the subject is gone.
    fn read(&self, sink: &mut dyn Sink);
}

/// Who may see a kstat, besides the global zone, which sees all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Only the global zone.
    Global,
    /// The zone it is about.
    Zone(ZoneId),
    /// Everybody (CPU counts and the like).
    All,
}

/// A registered kstat.
#[allow(missing_debug_implementations, reason = "holds a trait object")]
pub struct Entry {
    pub module: String,
    pub instance: u32,
    pub name: String,
    pub class: String,
    pub audience: Audience,
    /// When it was registered.
    pub created: Nanos,
    id: u64,
    source: Arc<dyn Source>,
}

/// The values of one kstat at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub module: String,
    pub instance: u32,
    pub name: String,
    pub class: String,
    pub created: Nanos,
    pub taken: Nanos,
    /// In the order of the source.
    pub fields: Vec<(String, Value)>,
}

static REGISTRY: SpinLock<Vec<Arc<Entry>>> = SpinLock::new(Class::Kstat, Vec::new());
static CHAIN: AtomicU64 = AtomicU64::new(1);

/// Takes the kstat out of the registry when dropped.
#[derive(Debug)]
#[must_use = "dropping it unregisters the kstat; keep it, or call `forever`"]
pub struct Registration(u64);

impl Registration {
    /// Leaves the kstat registered for the life of the kernel.
    pub fn forever(self) {
        core::mem::forget(self);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let removed = {
            let mut registry = REGISTRY.lock();
            let at = registry.iter().position(|entry| entry.id == self.0);
            at.map(|at| registry.remove(at))
        };
        assert!(removed.is_some(), "kstat {} was registered once and is unregistered once", self.0);
        CHAIN.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes a kstat. Long names are cut. Several kstats may carry the same name if their audiences differ.
pub fn register(module: &str, instance: u32, name: &str, class: &str, audience: Audience, source: Arc<dyn Source>) -> Registration {
    let id = CHAIN.fetch_add(1, Ordering::Relaxed);
    let entry = Arc::new(Entry {
        module: cut(module),
        instance,
        name: cut(name),
        class: cut(class),
        audience,
        created: kif::clock().monotonic(),
        id,
        source,
    });
    REGISTRY.lock().push(entry);
    Registration(id)
}

/// Changes whenever a kstat comes or goes.
#[must_use]
pub fn chain_id() -> u64 {
    CHAIN.load(Ordering::Relaxed)
}

/// Reads every kstat that `viewer` may see and `wanted` accepts (called with module, instance, name, class), sorted by module,
/// instance, name.
pub fn snapshot(viewer: ZoneId, mut wanted: impl FnMut(&str, u32, &str, &str) -> bool) -> Vec<Snapshot> {
    let mut entries: Vec<Arc<Entry>> = REGISTRY.lock().clone();
    entries.retain(|entry| {
        let visible = match entry.audience {
            _ if viewer == ZoneId::GLOBAL => true,
            Audience::All => true,
            Audience::Zone(zone) => zone == viewer,
            Audience::Global => false,
        };
        visible && wanted(&entry.module, entry.instance, &entry.name, &entry.class)
    });
    entries.sort_by(|a, b| (&a.module, a.instance, &a.name, a.id).cmp(&(&b.module, b.instance, &b.name, b.id)));
    entries
        .iter()
        .map(|entry| {
            let mut fields = Fields(Vec::new());
            entry.source.read(&mut fields);
            Snapshot {
                module: entry.module.clone(),
                instance: entry.instance,
                name: entry.name.clone(),
                class: entry.class.clone(),
                created: entry.created,
                taken: kif::clock().monotonic(),
                fields: fields.0,
            }
        })
        .collect()
}

struct Fields(Vec<(String, Value)>);

impl Sink for Fields {
    fn value(&mut self, name: &str, value: Value) {
        self.0.push((cut(name), value));
    }
}

/// Cuts at [`NAME_BYTES_MAX`] bytes, on a character boundary.
fn cut(name: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}
