//! Values of resource controls as people write and read them: `65.5K`, `1.5g`, `16.0EB`, `max`.

/// What a value counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Powers of 1024 with a B: bytes.
    Bytes,
    /// Powers of 1000: everything else.
    Count,
}

const LETTERS: &str = "KMGTPE";

/// Parses a value: digits, an optional fraction, an optional suffix (`k m g t p e`, either case, with or without `B`);
/// `max` is the largest number.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, scale: Scale) -> Result<u64, String> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    let bad = || format!("'{text}' is not a number such as 300, 1.5G or max");
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let suffix = suffix.to_ascii_uppercase();
    let letter = if scale == Scale::Bytes { suffix.strip_suffix('B').unwrap_or(&suffix) } else { &suffix };
    let exponent = match letter {
        "" => 0,
        _ if letter.len() == 1 => LETTERS.find(letter).ok_or_else(bad)? + 1,
        _ => return Err(bad()),
    };
    let base: u128 = if scale == Scale::Bytes { 1024 } else { 1000 };
    let unit = base.pow(u32::try_from(exponent).map_err(|_| bad())?);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && (fraction.is_empty() || exponent == 0)) || fraction.len() > 9 {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let mut value = whole.checked_mul(unit).ok_or_else(bad)?;
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().map_err(|_| bad())?;
        value += digits * unit / 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    }
    u64::try_from(value).map_err(|_| format!("'{text}' is too large"))
}

/// Formats a value with three significant digits where it needs a suffix.
#[must_use]
pub fn format(value: u64, scale: Scale) -> String {
    let (base, end): (f64, &str) = if scale == Scale::Bytes { (1024.0, "B") } else { (1000.0, "") };
    let mut number = value as f64;
    if number < base {
        return format!("{value}{end}");
    }
    let mut letter = ' ';
    for next in LETTERS.chars() {
        if number < base {
            break;
        }
        number /= base;
        letter = next;
    }
    // Three significant digits; what rounds up to the base stays (1000K rather than 1.00M).
    let digits = if number >= 100.0 { 0 } else if number >= 10.0 { 1 } else { 2 };
    format!("{number:.digits$}{letter}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_prctl_prints_them() {
        assert_eq!(format(300, Scale::Count), "300");
        assert_eq!(format(65_535, Scale::Count), "65.5K");
        assert_eq!(format(2_147_483_647, Scale::Count), "2.15G");
        assert_eq!(format(4_294_967_295, Scale::Count), "4.29G");
        assert_eq!(format(u64::MAX, Scale::Bytes), "16.0EB");
        assert_eq!(format(512 << 20, Scale::Bytes), "512MB");
        assert_eq!(format(1, Scale::Bytes), "1B");
    }

    #[test]
    fn values_parse_with_suffixes_and_fractions() {
        assert_eq!(parse("300", Scale::Count), Ok(300));
        assert_eq!(parse("1.5g", Scale::Bytes), Ok(3 << 29));
        assert_eq!(parse("512MB", Scale::Bytes), Ok(512 << 20));
        assert_eq!(parse("65.5K", Scale::Count), Ok(65_500));
        assert_eq!(parse("max", Scale::Count), Ok(u64::MAX));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "x", "-1", "1.5", "1..5k", "k", "1kk", "1.k", "99999999999999999999", "17EB", "1kB "] {
            assert!(parse(text, Scale::Bytes).is_err(), "{text}");
        }
        assert!(parse("1KB", Scale::Count).is_err());
    }
}
