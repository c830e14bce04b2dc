//! A list that only grows, with cheap copies: forks share what was written before.

use std::sync::Arc;

const CHUNK: usize = 256;

/// The list.
#[derive(Clone, Debug)]
pub struct Tape<T> {
    full: Vec<Arc<Vec<T>>>,
    tail: Arc<Vec<T>>,
}

impl<T> Default for Tape<T> {
    fn default() -> Self {
        Self { full: Vec::new(), tail: Arc::new(Vec::new()) }
    }
}

impl<T: Clone> Tape<T> {
    pub fn push(&mut self, item: T) {
        let tail = Arc::make_mut(&mut self.tail);
        tail.push(item);
        if tail.len() == CHUNK {
            self.full.push(std::mem::take(&mut self.tail));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(self.tail.iter())
    }

    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.tail.len()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
