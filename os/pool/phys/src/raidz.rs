//! RAID-Z: where the columns of a block lie, and parity over GF(2^8).

use alloc::vec;
use alloc::vec::Vec;

/// One column of a block on one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub child: usize,
    /// Byte offset in the child's allocatable space.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Shape of a raidz vdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub children: usize,
    /// 1, 2 or 3; less than `children`.
    pub parity: usize,
    /// log2 of the allocation unit.
    pub ashift: u32,
}

impl Shape {
    /// Columns of a block of `psize` bytes at byte `offset`: parity first, then data in order.
    #[must_use]
    pub fn columns(&self, offset: u64, psize: u64) -> Vec<Column> {
        let (d, p) = (self.children as u64, self.parity as u64);
        let (unit, sectors) = (1_u64 << self.ashift, psize.div_ceil(1 << self.ashift));
        let row = offset >> self.ashift;
        let (first, base) = (row % d, (row / d) << self.ashift);
        let (q, r) = (sectors / (d - p), sectors % (d - p));
        let big = if r == 0 { 0 } else { r + p };
        let count = if q == 0 { big } else { d };
        let mut columns: Vec<Column> = (0..count)
            .map(|c| {
                let (child, wrapped) = ((first + c) % d, first + c >= d);
                Column {
                    child: usize::try_from(child).unwrap_or(usize::MAX),
                    offset: base + if wrapped { unit } else { 0 },
                    size: (if c < big { q + 1 } else { q }) << self.ashift,
                }
            })
            .collect();
        // Single parity alternates between the first two columns every MiB.
        if self.parity == 1 && offset & (1 << 20) != 0 && columns.len() > 1 {
            let (a, b) = (columns[0], columns[1]);
            columns[0] = Column { size: a.size, ..b };
            columns[1] = Column { size: b.size, ..a };
        }
        columns
    }

    /// Allocated bytes of a block of `psize` bytes.
    #[must_use]
    pub const fn asize(&self, psize: u64) -> u64 {
        let (d, p) = (self.children as u64, self.parity as u64);
        let sectors = psize.div_ceil(1 << self.ashift);
        (sectors + p * sectors.div_ceil(d - p)).next_multiple_of(p + 1) << self.ashift
    }
}

const POLYNOMIAL: u16 = 0x11D;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let (mut exp, mut log) = ([0; 512], [0; 256]);
    let (mut value, mut power) = (1_u16, 0);
    while power < 255 {
        exp[power] = value as u8;
        exp[power + 255] = value as u8;
        log[value as usize] = power as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        power += 1;
    }
    (exp, log)
}

static EXP: [u8; 512] = tables().0;
static LOG: [u8; 256] = tables().1;

fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 { 0 } else { EXP[usize::from(LOG[usize::from(a)]) + usize::from(LOG[usize::from(b)])] }
}

fn inverse(a: u8) -> u8 {
    EXP[255 - usize::from(LOG[usize::from(a)])]
}

/// Coefficient of data column `column` of `count` in parity row `row`: powers of 1, 2 and 4.
fn coefficient(row: usize, column: usize, count: usize) -> u8 {
    EXP[row * (count - 1 - column) % 255]
}

/// Adds `bytes` times `factor` to `sum`, as far as both go.
fn add_scaled(sum: &mut [u8], bytes: &[u8], factor: u8) {
    if factor == 1 {
        sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
        return;
    }
    let mut products = [0; 256];
    for (byte, product) in (0..=255).zip(&mut products) {
        *product = multiply(byte, factor);
    }
    sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= products[usize::from(*byte)]);
}

/// Computes `parity` parity columns, each as long as the longest data column (columns are zero-extended).
#[must_use]
pub fn generate(data: &[&[u8]], parity: usize) -> Vec<Vec<u8>> {
    /// Twice `byte`, in a form that vectors have.
    fn twice(byte: u8) -> u8 {
        byte << 1 ^ if byte >= 0x80 { POLYNOMIAL.to_le_bytes()[0] } else { 0 }
    }
    let size = data.iter().map(|column| column.len()).max().unwrap_or(0);
    (0..parity)
        .map(|row| {
            // The last column has factor 1, each one before it twice (in the third row four times) as much as the next: Horner's rule.
            let mut out = vec![0; size];
            for column in data {
                for _ in 0..row {
                    out.iter_mut().for_each(|byte| *byte = twice(*byte));
                }
                add_scaled(&mut out, column, 1);
            }
            out
        })
        .collect()
}

/// Rebuilds the data columns listed in `missing` from the others and from parity columns `(row, bytes)`, by Gaussian elimination
/// over GF(2^8). `data[missing]` are overwritten in full; their length says how much is wanted.
///
/// Returns false (and leaves `data` unspecified for the missing columns) if there are fewer parity columns than missing ones.
#[must_use]
pub fn rebuild(data: &mut [Vec<u8>], missing: &[usize], parity: &[(usize, &[u8])]) -> bool {
    let n = missing.len();
    let Some(parity) = parity.get(..n) else { return false };
    let size = parity.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0);
    let count = data.len();
    // Right-hand sides: parity minus what the columns we have contribute.
    let mut rhs: Vec<Vec<u8>> = Vec::new();
    let mut matrix: Vec<Vec<u8>> = Vec::new();
    for (row, bytes) in parity {
        let mut side = bytes.to_vec();
        side.resize(size, 0);
        for (index, column) in data.iter().enumerate().filter(|(index, _)| !missing.contains(index)) {
            add_scaled(&mut side, column, coefficient(*row, index, count));
        }
        rhs.push(side);
        matrix.push(missing.iter().map(|index| coefficient(*row, *index, count)).collect());
    }
    for pivot in 0..n {
        let Some(swap) = (pivot..n).find(|row| matrix[*row][pivot] != 0) else { return false };
        matrix.swap(pivot, swap);
        rhs.swap(pivot, swap);
        let scale = inverse(matrix[pivot][pivot]);
        for value in &mut matrix[pivot] {
            *value = multiply(*value, scale);
        }
        let unscaled = core::mem::replace(&mut rhs[pivot], vec![0; size]);
        add_scaled(&mut rhs[pivot], &unscaled, scale);
        let (pivot_row, pivot_side) = (matrix[pivot].clone(), rhs[pivot].clone());
        for row in (0..n).filter(|row| *row != pivot) {
            let factor = matrix[row][pivot];
            for (value, other) in matrix[row].iter_mut().zip(&pivot_row) {
                *value ^= multiply(*other, factor);
            }
            add_scaled(&mut rhs[row], &pivot_side, factor);
        }
    }
    for (index, side) in missing.iter().zip(rhs) {
        let wanted = data[*index].len();
        data[*index].copy_from_slice(&side[..wanted]);
    }
    true
}
