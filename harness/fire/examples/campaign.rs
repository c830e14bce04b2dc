//! One batch of a campaign of this crate, timed: `cargo run --release -p pool-fire --example campaign -- liar|labels|parsers|streams|atlas|ztest|family SEED CASES`.

use std::time::Instant;

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| words.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, cases) = (number(1, 1), number(2, 100));
    let started = Instant::now();
    let found = match words.first().map(String::as_str) {
        Some("liar") => pool_fire::liar_batch(seed, cases),
        Some("labels") => pool_fire::labels_batch(seed, cases),
        Some("parsers") => pool_fire::parsers_batch(seed, cases),
        Some("streams") => pool_fire::streams_batch(seed, cases),
        Some("atlas") => pool_fire::atlas_batch(seed, cases),
        Some("ztest") => pool_fire::ztest_batch(seed, cases),
        _ => Err(String::from("liar, labels, parsers, streams, atlas or ztest")),
    };
    match found {
        Ok(told) => println!("{told}, {:.1} s", started.elapsed().as_secs_f64()),
        Err(finding) => {
            println!("FINDING: {finding}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}
