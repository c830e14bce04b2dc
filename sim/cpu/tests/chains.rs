//! The tests inside `src/block.rs`, which is compiled here by itself: for their sake cargo would compile the whole crate a second time.

/// What the cache holds and never looks into.
mod op {
    #[derive(Clone)]
    pub struct Op;
}

#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../src/block.rs"]
mod block;
