//! Heat maps: how many values fall into each stretch of time and each band.

use std::fmt::Write as _;

/// Columns and rows.
const COLUMNS: usize = 120;
const ROWS: usize = 20;
const CELL: usize = 8;

/// A map.
#[derive(Clone, Debug)]
pub struct Heat {
    cells: Vec<u64>,
    /// What the bands are called, lowest first.
    bands: Vec<String>,
}

impl Heat {
    /// Latencies in powers of two from a microsecond.
    pub fn of_latencies(points: &[(u64, u64)], end_ns: u64) -> Self {
        let band = |ns: u64| (ns / 1_000).max(1).ilog2() as usize;
        let name = |band: usize| match 1u64 << band {
            us if us < 1_000 => format!("{us} us"),
            us if us < 1_000_000 => format!("{} ms", us / 1_000),
            us => format!("{} s", us / 1_000_000),
        };
        Self::of(points.iter().map(|&(at, ns)| (at, band(ns).min(ROWS - 1))), end_ns, (0..ROWS).map(name).collect())
    }

    /// Places on a disk in equal parts.
    pub fn of_places(points: &[(u64, u64)], end_ns: u64) -> Self {
        let most = points.iter().map(|(_, place)| *place).max().unwrap_or(0) + 1;
        let band = |place: u64| (u128::from(place) * ROWS as u128 / u128::from(most)) as usize;
        let name = |band: usize| format!("{} MiB", most * band as u64 / ROWS as u64 / 2048);
        Self::of(points.iter().map(|&(at, place)| (at, band(place).min(ROWS - 1))), end_ns, (0..ROWS).map(name).collect())
    }

    fn of(points: impl Iterator<Item = (u64, usize)>, end_ns: u64, bands: Vec<String>) -> Self {
        let mut cells = vec![0; COLUMNS * ROWS];
        for (at, band) in points {
            let column = (u128::from(at) * COLUMNS as u128 / u128::from(end_ns.max(1))) as usize;
            cells[band * COLUMNS + column.min(COLUMNS - 1)] += 1;
        }
        Self { cells, bands }
    }

    /// The picture: the darker, the more (by the logarithm).
    pub fn svg(&self) -> String {
        let (left, width, height) = (64, COLUMNS * CELL, ROWS * CELL);
        let most = self.cells.iter().copied().max().unwrap_or(0).max(1);
        let mut svg = format!("<svg viewBox=\"0 0 {} {}\" width=\"100%\" font-family=\"monospace\" font-size=\"8\">", left + width, height + 4);
        for band in 0..ROWS {
            let y = height - (band + 1) * CELL;
            if band % 2 == 0 {
                // Writing to a string cannot fail.
                let _infallible = write!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", left - 4, y + CELL - 1, self.bands[band]);
            }
            for column in 0..COLUMNS {
                let count = self.cells[band * COLUMNS + column];
                if count > 0 {
                    let shade = 15 + 85 * u64::from((count + 1).ilog2()) / u64::from((most + 1).ilog2().max(1));
                    let _infallible = write!(
                        svg,
                        "<rect x=\"{}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"#b5179e\" fill-opacity=\"{:.2}\"><title>{count} from {}</title></rect>",
                        left + column * CELL,
                        shade.min(100) as f64 / 100.0,
                        self.bands[band]
                    );
                }
            }
        }
        let _infallible = write!(svg, "<rect x=\"{left}\" y=\"0\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#ccc\"/></svg>");
        svg
    }
}
