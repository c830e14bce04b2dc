//! The tests inside `src/block.rs`, which is compiled here by itself: for their sake cargo would compile the whole crate a second time.

/// Of what the cache holds, all it looks at.
mod op {
    #[derive(Clone)]
    pub struct Op {
        pub idx: u8,
        pub off: u8,
    }
}

#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../src/block.rs"]
mod block;
