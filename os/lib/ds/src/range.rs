//! Sets of integers as disjoint, merged half-open ranges.

use alloc::collections::BTreeMap;
use core::ops::Range;

/// A set of `u64` kept as maximal disjoint ranges: free space of a metaslab, for example. All operations are logarithmic in the number of
/// ranges but for [`RangeTree::first_fit`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeTree {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
    total: u64,
}

impl RangeTree {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), total: 0 }
    }

    /// Number of integers in the set.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// True if nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, rising.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// True if all of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.start >= range.end || self.ranges.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }

    /// Where the range that `point` is in ends; `None`: it is in none.
    #[must_use]
    pub fn end_of(&self, point: u64) -> Option<u64> {
        self.ranges.range(..=point).next_back().map(|(_, end)| *end).filter(|end| *end > point)
    }

    /// True if any of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        range.start < range.end && self.ranges.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start)
    }

    /// Adds a range of which nothing is in the set yet. False (and no change) if something is.
    #[must_use]
    pub fn add(&mut self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return true;
        }
        if self.overlaps(&range) {
            return false;
        }
        self.total += range.end - range.start;
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, before_end)) = self.ranges.range(..start).next_back().map(|(a, b)| (*a, *b))
            && before_end == start
        {
            self.ranges.remove(&before);
            start = before;
        }
        if let Some(after_end) = self.ranges.remove(&end) {
            end = after_end;
        }
        self.ranges.insert(start, end);
        true
    }

    /// Removes a range that is wholly in the set. False (and no change) if it is not.
    #[must_use]
    pub fn remove(&mut self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return true;
        }
        let Some((start, end)) = self.ranges.range(..=range.start).next_back().map(|(a, b)| (*a, *b)) else { return false };
        if end < range.end {
            return false;
        }
        self.ranges.remove(&start);
        if start < range.start {
            self.ranges.insert(start, range.start);
        }
        if range.end < end {
            self.ranges.insert(range.end, end);
        }
        self.total -= range.end - range.start;
        true
    }

    /// Adds a range of which some may be in the set already.
    pub fn merge(&mut self, range: Range<u64>) {
        self.subtract(&range);
        let fits = self.add(range);
        debug_assert!(fits, "nothing of it was left");
    }

    /// Removes whatever of `range` is in the set.
    pub fn subtract(&mut self, range: &Range<u64>) {
        while let Some((start, end)) = self.ranges.range(..range.end).next_back().map(|(a, b)| (*a, *b)).filter(|(_, end)| *end > range.start && range.start < range.end) {
            let removed = self.remove(start.max(range.start)..end.min(range.end));
            debug_assert!(removed, "it was found there");
        }
    }

    /// Start of the first range at or after `from` that has room for `size`; what of a range lies before `from` does not count. Linear in the
    /// number of ranges passed over.
    #[must_use]
    pub fn first_fit(&self, size: u64, from: u64) -> Option<u64> {
        let inside = self.ranges.range(..=from).next_back().filter(|(_, end)| **end >= from.saturating_add(size)).map(|_| from);
        inside.or_else(|| self.ranges.range(from..).find(|(start, end)| *end - *start >= size).map(|(start, _)| *start))
    }
}

#[cfg(test)]
mod tests {
    use super::RangeTree;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..12), 0..60)) {
            let (mut tree, mut model) = (RangeTree::new(), BTreeSet::new());
            for (add, start, size) in steps {
                let range = start..start + size;
                if add {
                    let fits = range.clone().all(|value| !model.contains(&value));
                    prop_assert_eq!(tree.add(range.clone()), fits);
                    if fits { model.extend(range.clone()); }
                } else {
                    let fits = range.clone().all(|value| model.contains(&value));
                    prop_assert_eq!(tree.contains(&range), fits);
                    prop_assert_eq!(tree.remove(range.clone()), fits);
                    if fits { for value in range.clone() { model.remove(&value); } }
                }
                prop_assert_eq!(tree.total(), model.len() as u64);
                prop_assert_eq!(tree.overlaps(&range), range.clone().any(|value| model.contains(&value)));
                let all: BTreeSet<u64> = tree.iter().flatten().collect();
                prop_assert_eq!(&all, &model);
                // Ranges are maximal: none touches the next.
                let ends: alloc::vec::Vec<_> = tree.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].end < pair[1].start));
                let fit = (start..80).find(|at| (*at..*at + size.max(1)).all(|value| model.contains(&value)));
                prop_assert_eq!(tree.first_fit(size.max(1), start), fit);
            }
        }
    }
}
