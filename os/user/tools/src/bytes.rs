//! Sizes as pools show them: three significant digits and a letter, or exact with `-p`.

/// `1.50G`, `96.0M`, `512B`; exact digits if `exact`.
pub fn size(bytes: u64, exact: bool) -> String {
    if exact {
        return bytes.to_string();
    }
    let mut shift = 0;
    while shift < 60 && bytes >> shift >= 1024 {
        shift += 10;
    }
    if shift == 0 {
        return format!("{bytes}B");
    }
    let value = bytes as f64 / (1_u64 << shift) as f64;
    let unit = b"BKMGTPE"[shift / 10] as char;
    let digits = if value < 10.0 { 2 } else if value < 100.0 { 1 } else { 0 };
    format!("{value:.digits$}{unit}")
}

/// A number as pools show it: three significant digits and a letter, no unit.
pub fn number(value: u64, exact: bool) -> String {
    let text = size(value, exact);
    text.strip_suffix('B').map_or(text.clone(), str::to_owned)
}

/// `2026-01-01.12:34:56`, UTC, from seconds since 1970.
pub fn date(seconds: u64) -> String {
    let ds::Civil { year, month, day, hour, minute, second, .. } = ds::Civil::from_seconds(seconds);
    format!("{year:04}-{month:02}-{day:02}.{hour:02}:{minute:02}:{second:02}")
}

/// Rows under a heading, as wide as they need to be: the first column to the left, the others to the right. With `script`, tabs and no heading.
pub fn table(heading: &[&str], rows: &[Vec<String>], script: bool) -> String {
    let mut out = String::new();
    if script {
        for row in rows {
            out.push_str(&row.join("\t"));
            out.push('\n');
        }
        return out;
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).chain([heading[column].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let wide = widths[column];
            if column == 0 { line.push_str(&format!("{cell:<wide$}")) } else { line.push_str(&format!("  {cell:>wide$}")) }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, 98_304, 104_857_600, u64::MAX].map(|bytes| size(bytes, false)).to_vec();
        assert_eq!(shown, ["0B", "1023B", "1.00K", "1.50K", "96.0K", "100M", "16.0E"]);
        assert_eq!(size(98_304, true), "98304");
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01.00:00:00");
        assert_eq!(date(951_827_696), "2000-02-29.12:34:56");
        assert_eq!(date(1_767_225_599), "2025-12-31.23:59:59");
    }

    #[test]
    fn tables() {
        let rows = [vec!["tank".to_owned(), "96M".to_owned()], vec!["a".to_owned(), "1.50G".to_owned()]];
        assert_eq!(table(&["NAME", "SIZE"], &rows, false), "NAME   SIZE\ntank    96M\na     1.50G\n");
        assert_eq!(table(&["NAME", "SIZE"], &rows, true), "tank\t96M\na\t1.50G\n");
    }
}
