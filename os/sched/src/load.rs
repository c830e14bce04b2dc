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
    /// Whole seconds accounted for.
    seconds: u64,
}

/// When the second that `now` is in ends: until then a change of a number of threads needs no sample.
pub const fn next_sample(now: Nanos) -> Nanos {
    Nanos((now.0 / SECOND + 1).saturating_mul(SECOND))
}

impl Load {
    /// Averages of something new, whose first sample is due at `at`.
    pub fn starting(at: Nanos) -> Self {
        Self { seconds: (at.0 / SECOND).saturating_sub(1), ..Self::default() }
    }

    /// Takes the samples that fell due since the last call, in which `runnable` threads wanted CPU all the time.
    pub fn sample(&mut self, now: Nanos, runnable: u32) {
        let seconds = now.0 / SECOND;
        let due = seconds.saturating_sub(self.seconds);
        self.seconds = self.seconds.max(seconds);
        let target = u64::from(runnable) << 16;
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
    pub fn averages(&self, now: Nanos, runnable: u32) -> [u32; 3] {
        let mut copy = *self;
        copy.sample(now, runnable);
        copy.averages.map(|average| u32::try_from(average >> 8).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_threads_for_a_minute_show_as_63_percent_of_four() {
        let [one, five, fifteen] = Load::default().averages(Nanos::from_secs(60), 4);
        assert!((640..=655).contains(&one), "{one}");
        assert!((180..=190).contains(&five), "{five}");
        assert!((60..=68).contains(&fifteen), "{fifteen}");
    }

    #[test]
    fn looking_often_changes_nothing() {
        let (mut often, once) = (Load::default(), Load::default());
        for ms in 0..100_000 {
            often.sample(Nanos::from_millis(ms), 3);
        }
        assert_eq!(often.averages(Nanos::from_secs(100), 3), once.averages(Nanos::from_secs(100), 3));
    }

    #[test]
    fn a_year_of_idleness_is_cheap_and_zero() {
        let mut load = Load::default();
        load.sample(Nanos::from_secs(1000), 100);
        assert_eq!(load.averages(Nanos::from_secs(31_000_000), 0), [0; 3]);
    }

    #[test]
    fn the_next_sample_is_at_the_end_of_the_second() {
        assert_eq!(next_sample(Nanos(0)), Nanos::from_secs(1));
        assert_eq!(next_sample(Nanos::from_secs(1)), Nanos::from_secs(2));
    }
}
