//! Counters.

use core::sync::atomic::{AtomicU64, Ordering};

/// A statistic that one instruction bumps. Statistics order nothing: every access is relaxed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    /// Adds one.
    pub fn bump(&self) {
        self.add(1);
    }
    /// Adds `n`, wrapping.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Replaces the value (for gauges).
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a struct of [`Counter`]s that is also a [`Source`](crate::Source): a counter is one line.
///
/// ```text
/// probe::counters! {
///     /// What the frame allocator did.
///     pub struct FrameStats { allocated, freed }
/// }
/// static STATS: FrameStats = FrameStats::new();
/// STATS.allocated.bump();
/// ```
#[macro_export]
macro_rules! counters {
    ($(#[$doc:meta])* $vis:vis struct $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        $vis struct $name { $($(#[$field_doc])* pub $field: $crate::Counter),+ }
        impl $name {
            /// All zero.
            #[must_use]
            pub const fn new() -> Self {
                Self { $($field: $crate::Counter::new()),+ }
            }
        }
        impl $crate::Source for $name {
            fn read(&self, sink: &mut dyn $crate::Sink) {
                $(sink.value(stringify!($field), $crate::Value::U64(self.$field.get()));)+
            }
        }
        impl $crate::Source for &'static $name {
            fn read(&self, sink: &mut dyn $crate::Sink) {
                (**self).read(sink);
            }
        }
    };
}
