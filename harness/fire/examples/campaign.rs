//! One batch of a campaign of this crate, timed: `cargo run --release -p pool-fire --example campaign -- liar|labels|parsers|streams|atlas|ztest|storm|twice SEED CASES`.

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
        Some("storm") => pool_fire::storm::run(pool_fire::shape_of(seed), seed, cases, 100).map(|lives| lives.to_string()),
        Some("twice") => pool_fire::storm::replayed(pool_fire::shape_of(seed), seed, cases, 100).map(|lives| lives.to_string()),
        Some("ztest") => pool_fire::ztest_batch(seed, cases),
        _ => Err(String::from("liar, labels, parsers, streams, atlas, ztest, storm or twice")),
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
