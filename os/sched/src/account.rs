//! Accounts: who CPU time is charged to, and by which weight.

use kif::Nanos;

use crate::LAG_MAX;
use crate::load::Load;

/// Weights are kept as 2^32 / shares: shares up to 65,535 divide it with an error below 2^-16.
const WEIGHT_BITS: u32 = 32;
/// A span times a weight is cut to this unit: virtual time of one nanosecond at one share is 2^16, which 64 bits hold for hours (see
/// `Dispatcher::shift` on what happens then).
const UNIT_BITS: u32 = 16;
/// The longest span that is charged whole. Nobody waited for a CPU that made no decision for four hours, so the debt does not matter.
pub const SPAN_MAX: u64 = 1 << 44;
/// Least and most CPU time a capped zone may have saved up.
const BUCKET_LEAST: i128 = 2_000_000;
/// Span whose worth of tokens a bucket holds: how long a burst above the cap lasts.
const BUCKET_SPAN: Nanos = Nanos(20_000_000);
/// A capped zone that ran dry waits until it can run this long.
const QUANTUM: i128 = 1_000_000;

/// Levels of the fair queues.
pub const SHARES: usize = 0;
/// The level of zones without shares.
pub const IDLE: usize = 1;

/// A zone, or all time-sharing threads together.
#[derive(Debug)]
pub struct Account {
    shares: u32,
    /// Virtual time per nanosecond: 2^32 / shares.
    inverse: u64,
    /// CPU time used over shares.
    pub vtime: u64,
    /// Virtual time of the thread of this account picked last.
    pub threads_vtime: u64,
    /// What a shift of all virtual times takes off this account's threads; meaningless otherwise.
    pub threads_shift: u64,
    /// Fair threads charged here that run or want to.
    pub active: u32,
    /// The zone was removed; the account goes with its last thread.
    pub detached: bool,
    /// Not in the queues: waits for tokens.
    pub throttled: bool,
    cap: Option<Bucket>,
    // Use by threads of the zone, whatever their class.
    pub user: Nanos,
    pub system: Nanos,
    pub wait: Nanos,
    pub threads: u32,
    pub runnable: u32,
    pub load: Load,
}

/// Tokens of a capped zone: nanoseconds of CPU time, scaled by 100 so that percents add exactly.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    percent: u32,
    tokens: i128,
    filled_at: Nanos,
}

impl Account {
    pub fn new(shares: u32, now_vtime: u64) -> Self {
        let mut account = Self {
            shares: 0,
            inverse: 0,
            vtime: now_vtime,
            threads_vtime: 0,
            threads_shift: 0,
            active: 0,
            detached: false,
            throttled: false,
            cap: None,
            user: Nanos(0),
            system: Nanos(0),
            wait: Nanos(0),
            threads: 0,
            runnable: 0,
            load: Load::default(),
        };
        account.set_shares(shares);
        account
    }

    pub const fn set_shares(&mut self, shares: u32) {
        self.shares = shares;
        self.inverse = (1 << WEIGHT_BITS) / if shares == 0 { 1 } else { shares as u64 };
    }

    pub const fn level(&self) -> usize {
        if self.shares == 0 { IDLE } else { SHARES }
    }

    /// Whether its CPU time is limited by tokens.
    pub const fn is_capped(&self) -> bool {
        self.cap.is_some()
    }

    /// Virtual time of a span of this account's CPU time.
    #[inline]
    pub fn virtual_of(&self, span: Nanos) -> u64 {
        weigh(span, self.inverse, UNIT_BITS)
    }

    /// Advances virtual time by a span on a CPU. `system` is the system's virtual time: an account that could use only part
    /// of the machine (fewer threads than CPUs) does not fall behind it by more than [`LAG_MAX`].
    #[inline]
    pub fn charge(&mut self, span: Nanos, now: Nanos, system: u64) {
        self.vtime += self.virtual_of(span);
        self.vtime = self.vtime.max(system.saturating_sub(self.virtual_of(LAG_MAX)));
        if let Some(cap) = &mut self.cap {
            cap.fill(now);
            cap.tokens -= i128::from(span.0) * 100;
        }
    }

    pub fn set_cap(&mut self, percent: Option<u32>, now: Nanos) {
        self.cap = percent.map(|percent| Bucket { percent: percent.max(1), tokens: 0, filled_at: now });
    }

    /// CPU time left before the cap is reached; `None` without a cap.
    pub fn tokens(&mut self, now: Nanos) -> Option<Nanos> {
        let cap = self.cap.as_mut()?;
        cap.fill(now);
        Some(Nanos(u64::try_from(cap.tokens.max(0) / 100).unwrap_or(u64::MAX)))
    }

    /// When a zone that ran dry may run again.
    pub fn tokens_at(&mut self, now: Nanos) -> Nanos {
        let Some(cap) = &mut self.cap else { return now };
        cap.fill(now);
        let missing = (QUANTUM * 100 - cap.tokens).max(0);
        let wait = missing.div_euclid(i128::from(cap.percent)) + i128::from(missing.rem_euclid(i128::from(cap.percent)) != 0);
        now.plus(Nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

/// A span times a weight, cut to a unit of `2^bits`. Below 2^60 for every weight in use.
#[inline]
pub fn weigh(span: Nanos, weight: u64, bits: u32) -> u64 {
    let product = u128::from(span.0.min(SPAN_MAX)) * u128::from(weight);
    (product >> bits) as u64
}

impl Bucket {
    fn fill(&mut self, now: Nanos) {
        let most = (i128::from(BUCKET_SPAN.0) * i128::from(self.percent)).max(BUCKET_LEAST * 100);
        let come = i128::from(now.since(self.filled_at).0) * i128::from(self.percent);
        self.tokens = (self.tokens + come).min(most);
        self.filled_at = self.filled_at.max(now);
    }
}
