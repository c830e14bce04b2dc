//! `hunt FIRST COUNT`: compares programs, as the campaign does, and says how many a second. `hunt alarm COUNT`: which of the first programs notice a
//! translator that forgets a carry.

use std::time::Instant;

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(Ok(default), |word| word.parse::<u64>().map_err(|error| format!("{word}: {error}")));
    let began = Instant::now();
    if words.first().is_some_and(|word| word == "alarm") {
        let count = number(1, 1000)?;
        let found = cpu_check::Pair::alarms(count).map_err(|why| why.to_string())?;
        println!("{} of {count} notice, the first {:?}", found.len(), found.first());
    } else {
        println!("{}", cpu_check::campaign(number(0, 0)?, number(1, 10_000)?)?);
    }
    println!("{:.0} programs a second", number(1, 10_000)? as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
