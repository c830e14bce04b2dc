//! `engines KERNEL [INITRD [APPEND [TICKS]]]`: runs a kernel with both engines and compares receipts. `engines guests`: all bench guests.

use sim_board::{Board, Boot, Machine, Until};
use sim_cpu::{Engine, choose_engine};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "guests") {
        let mut equal = true;
        for guest in bench::guests::GUESTS {
            equal &= compare(guest.name, &guest.image()?, None, "", 20_000_000)?;
        }
        return if equal { Ok(()) } else { Err("receipts differ".into()) };
    }
    let kernel = std::fs::read(words.first().ok_or("which kernel?")?)?;
    let initrd = words.get(1).filter(|name| !name.is_empty()).map(std::fs::read).transpose()?;
    let append = words.get(2).map_or("", String::as_str);
    let ticks = words.get(3).map_or(Ok(200_000_000), |word| word.parse())?;
    if compare("kernel", &kernel, initrd.as_deref(), append, ticks)? { Ok(()) } else { Err("receipts differ".into()) }
}

fn compare(name: &str, kernel: &[u8], initrd: Option<&[u8]>, append: &str, ticks: u64) -> Result<bool, Box<dyn std::error::Error>> {
    let mut receipts = Vec::new();
    for engine in [Engine::Interpret, Engine::Translate] {
        choose_engine(engine)?;
        let mut machine = Machine::new(&Board::default(), &Boot::new(kernel, initrd, append)).map_err(|error| error.to_string())?;
        let began = Instant::now();
        let outcome = machine.run(&Until::ticks(ticks));
        println!("{name}: {engine:?}: {:.2} s, {} ticks, {outcome:?}, receipt {}", began.elapsed().as_secs_f64(), machine.ticks(), machine.receipt());
        receipts.push((machine.receipt(), machine.ticks()));
    }
    Ok(receipts[0] == receipts[1])
}
