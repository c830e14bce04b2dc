//! The real-time clock (MC146818A data sheet; PC: index at port 0x70, data at 0x71).

/// Access to the clock's registers.
pub trait Cmos {
    fn read(&self, register: u8) -> u8;
}

/// Seconds since 1970 as the clock shows it (taken as UTC), `century` being the register the FADT names (0: none). `None` if what it
/// shows is no date.
pub fn seconds(cmos: &dyn Cmos, century: u8) -> Option<u64> {
    // Read twice without an update in between (register A bit 7); a clock that never settles is given up.
    let mut before = None;
    for _ in 0..1000 {
        if cmos.read(0x0a) & 0x80 != 0 {
            continue;
        }
        let now = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09].map(|register| cmos.read(register));
        let now = (now, if century == 0 { 0 } else { cmos.read(century) });
        if before == Some(now) {
            return convert(now.0, now.1, cmos.read(0x0b));
        }
        before = Some(now);
    }
    None
}

fn convert(fields: [u8; 6], century: u8, mode: u8) -> Option<u64> {
    let number = |value: u8| {
        if mode & 4 != 0 {
            Some(u64::from(value))
        } else {
            (value & 0x0f <= 9 && value >> 4 <= 9).then(|| u64::from(value >> 4) * 10 + u64::from(value & 0x0f))
        }
    };
    let [second, minute, hour, day, month, year] = fields;
    let (second, minute) = (number(second)?, number(minute)?);
    let mut hours = number(hour & 0x7f)?;
    if mode & 2 == 0 {
        // 12-hour mode: bit 7 says afternoon.
        hours = hours % 12 + if hour & 0x80 != 0 { 12 } else { 0 };
    }
    let (day, month, year) = (number(day)?, number(month)?, number(year)?);
    let century = number(century).filter(|century| (19..=29).contains(century)).unwrap_or(20);
    let year = century * 100 + year;
    if second > 60 || minute > 59 || hours > 23 || !(1..=31).contains(&day) || !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    // Days of the proleptic Gregorian calendar, years starting in March (Hinnant, "chrono-compatible low-level date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed([u8; 128]);
    impl Cmos for Fixed {
        fn read(&self, register: u8) -> u8 {
            self.0[usize::from(register)]
        }
    }

    fn clock(fields: [u8; 6], mode: u8) -> Fixed {
        let mut registers = [0; 128];
        for (register, value) in [0, 2, 4, 7, 8, 9].into_iter().zip(fields) {
            registers[register] = value;
        }
        registers[0x0b] = mode;
        registers[0x32] = 0x20;
        Fixed(registers)
    }

    #[test]
    fn known_dates() {
        assert_eq!(seconds(&clock([0, 0, 0, 1, 1, 0x70], 2), 0), Some(3_155_760_000));
        assert_eq!(seconds(&clock([0x56, 0x34, 0x12, 0x29, 0x02, 0x24], 2), 0x32), Some(1_709_210_096));
        // The same in binary and in 12-hour mode (afternoon).
        assert_eq!(seconds(&clock([56, 34, 12, 29, 2, 24], 6), 0), Some(1_709_210_096));
        assert_eq!(seconds(&clock([0x56, 0x34, 0x92, 0x29, 0x02, 0x24], 0), 0x32), Some(1_709_210_096));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(seconds(&clock([0xff; 6], 0xff), 0x32), None);
        assert_eq!(seconds(&clock([0x99, 0, 0, 1, 1, 0x24], 2), 0), None);
        let mut updating = clock([0; 6], 2);
        updating.0[0x0a] = 0x80;
        assert_eq!(seconds(&updating, 0), None);
    }
}
