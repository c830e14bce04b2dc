//! `hunt FROM COUNT`: compares programs by seed and tells of the first few that differ.

fn main() {
    let number = |index: usize, otherwise: u64| std::env::args().nth(index).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let (from, count) = (number(1, 0), number(2, 10_000));
    let mut found = 0;
    for seed in from..from + count {
        match cpu_check::compare(seed) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                println!("{difference}{}", cpu_check::narrow(&difference));
                found += 1;
                if found == 3 {
                    break;
                }
            }
            Err(why) => {
                println!("{why}");
                return;
            }
        }
    }
    println!("{found} of {count} from {from}");
}
