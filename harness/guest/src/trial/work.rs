//! Programs that only compute.

use std::time::{Duration, Instant};

/// Some thousands of instructions without a system call.
fn round(seed: u64) -> u64 {
    let mut value = seed | 1;
    for _ in 0..2000 {
        value = value.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) ^ 0x5bd1_e995;
    }
    value
}

fn seconds(arguments: &[String]) -> Option<Duration> {
    arguments.first().and_then(|text| text.parse().ok()).map(Duration::from_secs_f64)
}

/// Computes for ever, or for so many seconds.
pub fn spin(arguments: &[String]) -> u8 {
    let limit = seconds(arguments);
    let begun = Instant::now();
    let mut value = 1;
    loop {
        value = std::hint::black_box(round(value));
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            return 0;
        }
    }
}

/// Prints how many rounds it computed in so many seconds.
pub fn count(arguments: &[String]) -> u8 {
    let limit = seconds(arguments).unwrap_or(Duration::from_secs(1));
    let begun = Instant::now();
    let mut rounds = 0u64;
    let mut value = 1;
    while begun.elapsed() < limit {
        value = std::hint::black_box(round(value));
        rounds += 1;
    }
    println!("{rounds}");
    0
}
