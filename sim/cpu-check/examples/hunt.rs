//! `hunt FIRST COUNT`: compares programs, as the campaign does, and says how many a second.

use std::time::Instant;

fn main() -> Result<(), String> {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<u64>().map_err(|error| error.to_string()));
    let first = words.next().unwrap_or(Ok(0))?;
    let count = words.next().unwrap_or(Ok(10_000))?;
    let began = Instant::now();
    println!("{}", cpu_check::campaign(first, count)?);
    println!("{:.0} programs a second", count as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
