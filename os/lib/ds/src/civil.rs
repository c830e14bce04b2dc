//! Days and hours of the civil calendar, UTC.

/// A point in time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    pub day: u64,
    /// 0: Sunday.
    pub weekday: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Civil {
    /// Of seconds since 1970 (days to a date as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March).
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = (from_march + 2) % 12 + 1;
        let year = year_of_era + era * 400 + if from_march >= 10 { 1 } else { 0 };
        // 1970 began on a Thursday.
        let weekday = (days + 4) % 7;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        Self { year, month, day, weekday, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 }
    }

    /// `Sun`.
    #[must_use]
    pub const fn weekday_name(&self) -> &'static str {
        ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][(self.weekday % 7) as usize]
    }

    /// `Jan`.
    #[must_use]
    pub const fn month_name(&self) -> &'static str {
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][((self.month + 11) % 12) as usize]
    }
}

impl core::fmt::Display for Civil {
    /// As `ctime` writes it: `Tue Feb 29 12:34:56 2000`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (weekday, month) = (self.weekday_name(), self.month_name());
        write!(f, "{weekday} {month} {:>2} {:02}:{:02}:{:02} {}", self.day, self.hour, self.minute, self.second, self.year)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn days_that_calendars_get_wrong() {
        let shown = [0, 951_827_696, 1_767_225_599, 4_107_542_400].map(|seconds| Civil::from_seconds(seconds).to_string());
        assert_eq!(shown, ["Thu Jan  1 00:00:00 1970", "Tue Feb 29 12:34:56 2000", "Wed Dec 31 23:59:59 2025", "Mon Mar  1 00:00:00 2100"]);
    }
}
