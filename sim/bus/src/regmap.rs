//! Register tables: which register answers at which offset of a window.

/// One register of a window.
#[derive(Clone, Copy, Debug)]
pub struct Row<R> {
    pub offset: u32,
    /// In bytes: 1, 2, 4 or 8.
    pub size: u8,
    pub reg: R,
}

/// The table of a window, rows in rising order of offset without overlap.
#[derive(Clone, Copy, Debug)]
pub struct RegMap<R: 'static> {
    rows: &'static [Row<R>],
}

impl<R: Copy> RegMap<R> {
    /// Checks the table at compile time when used in a `static`.
    pub const fn new(rows: &'static [Row<R>]) -> Self {
        let mut index = 0;
        while index < rows.len() {
            assert!(rows[index].size > 0 && rows[index].size <= 8);
            if index > 0 {
                assert!(rows[index - 1].offset + rows[index - 1].size as u32 <= rows[index].offset);
            }
            index += 1;
        }
        Self { rows }
    }

    /// The register that covers `offset`.
    pub fn find(&self, offset: u64) -> Option<Row<R>> {
        // Tables have a dozen rows: a scan beats a search.
        self.rows
            .iter()
            .find(|row| {
                let first = u64::from(row.offset);
                first <= offset && offset < first + u64::from(row.size)
            })
            .copied()
    }
}
