//! Load averages: runnable and running threads, sampled once a second with exponential decay, exact however seldom
//! somebody looks.

use kif::Nanos;

/// 8192 × (1 − e^(−1/60)), (1 − e^(−1/300)), (1 − e^(−1/900)).
const FACTORS: [u64; 3] = [135, 27, 9];
const SECOND: u64 = 1_000_000_000;
/// After this many seconds without change even the 15-minute average has arrived (e^-18).
const SETTLED_SECONDS: u64 = 16_384;

/// One set of averages, in 1/65536.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    averages: [u64; 3],
    /// Whole seconds accounted for, and when the next one is over (ns).
    seconds: u64,
    next: u64,
    runnable: u32,
}

impl Load {
    /// Takes the samples that fell due since the last call (the number of threads did not change meanwhile), then changes the
    /// number.
    pub fn change(&mut self, now: Nanos, runnable: u32) {
        self.sample(now);
        self.runnable = runnable;
    }

    fn sample(&mut self, now: Nanos) {
        // The usual case on the way of every switch: no second has ended.
        if now.0 < self.next {
            return;
        }
        let seconds = now.0 / SECOND;
        let due = seconds.saturating_sub(self.seconds);
        self.seconds = self.seconds.max(seconds);
        self.next = (seconds + 1).saturating_mul(SECOND);
        let target = u64::from(self.runnable) << 16;
        if due > SETTLED_SECONDS {
            self.averages = [target; 3];
            return;
        }
        for _ in 0..due {
            for (average, factor) in self.averages.iter_mut().zip(FACTORS) {
                *average = (*average * (8192 - factor) + target * factor) / 8192;
            }
        }
    }

    /// The averages at `now`, scaled by 256.
    pub fn averages(&self, now: Nanos) -> [u32; 3] {
        let mut copy = *self;
        copy.sample(now);
        copy.averages.map(|average| u32::try_from(average >> 8).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_threads_for_a_minute_show_as_63_percent_of_four() {
        let mut load = Load::default();
        load.change(Nanos(0), 4);
        let [one, five, fifteen] = load.averages(Nanos::from_secs(60));
        assert!((640..=655).contains(&one), "{one}");
        assert!((180..=190).contains(&five), "{five}");
        assert!((60..=68).contains(&fifteen), "{fifteen}");
    }

    #[test]
    fn looking_often_changes_nothing() {
        let (mut often, mut once) = (Load::default(), Load::default());
        often.change(Nanos(0), 3);
        once.change(Nanos(0), 3);
        for ms in 0..100_000 {
            often.change(Nanos::from_millis(ms), 3);
        }
        assert_eq!(often.averages(Nanos::from_secs(100)), once.averages(Nanos::from_secs(100)));
    }

    #[test]
    fn a_year_of_idleness_is_cheap_and_zero() {
        let mut load = Load::default();
        load.change(Nanos(0), 100);
        load.change(Nanos::from_secs(1000), 0);
        assert_eq!(load.averages(Nanos::from_secs(31_000_000)), [0; 3]);
    }
}
