//! Virtual time from ticks.

/// Bits after the point in the clock's fixed-point nanoseconds.
pub const FRACTION_BITS: u32 = 32;

/// The machine's one monotonic clock.
///
/// Each tick of a running vCPU advances it by `ns_per_tick / running`, in fixed point rounded down per tick: linear, so that no
/// cut can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds, [`FRACTION_BITS`] fixed point.
    now: u128,
    /// Nanoseconds per tick with one vCPU running, fixed point.
    per_tick: u128,
}

impl Clock {
    /// Makes a clock at zero. `ns_per_tick` is fixed point with [`FRACTION_BITS`] bits after the point and not zero.
    pub fn new(ns_per_tick_fixed: u64) -> Clock {
        assert!(ns_per_tick_fixed != 0, "a tick must take time");
        Clock { now: 0, per_tick: u128::from(ns_per_tick_fixed) }
    }

    /// A clock at one nanosecond per tick times `ns`.
    pub fn with_ns_per_tick(ns: u32) -> Clock {
        Clock::new(u64::from(ns) << FRACTION_BITS)
    }

    /// Whole nanoseconds since power-on.
    pub fn ns(&self) -> u64 {
        (self.now >> FRACTION_BITS) as u64
    }

    /// The exact fixed-point value, for saving.
    pub fn raw(&self) -> u128 {
        self.now
    }

    /// Sets the exact value, from a saved one.
    pub fn set_raw(&mut self, raw: u128) {
        self.now = raw;
    }

    fn step(&self, running: u32) -> u128 {
        (self.per_tick / u128::from(running.max(1))).max(1)
    }

    /// Advances by `ticks` of one vCPU while `running` vCPUs are not halted.
    pub fn advance(&mut self, ticks: u64, running: u32) {
        self.now += self.step(running) * u128::from(ticks);
    }

    /// What [`Clock::ns`] will say `ticks` from now.
    pub fn ns_after(&self, ticks: u64, running: u32) -> u64 {
        ((self.now + self.step(running) * u128::from(ticks)) >> FRACTION_BITS) as u64
    }

    /// Jumps to `ns` when every vCPU is halted. Never goes back.
    pub fn jump_to(&mut self, ns: u64) {
        self.now = self.now.max(u128::from(ns) << FRACTION_BITS);
    }

    /// The least number of ticks after which [`Clock::ns`] is at least `ns`.
    pub fn ticks_until(&self, ns: u64, running: u32) -> u64 {
        let target = u128::from(ns) << FRACTION_BITS;
        let left = target.saturating_sub(self.now);
        u64::try_from(left.div_ceil(self.step(running))).unwrap_or(u64::MAX)
    }
}
