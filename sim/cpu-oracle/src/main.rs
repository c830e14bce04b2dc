//! The oracle by hand: `cargo run --release -p sim-cpu-oracle -- [--judge host|vex|unicorn] [--seed N] [--count N] [--only TEXT] [--reports N]
//! [--slice TICKS] [--without N] [--bytes HEX]`; `--without` compares also where entry N of `uni::KNOWN` would not.

use sim_cpu_oracle::batch::{Judge, Plan, Verdict, run_bytes, run_isolated};
use sim_cpu_oracle::generate::{CODES, HOST_CODES};

fn main() -> std::process::ExitCode {
    match work() {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cpu-oracle: {error}");
            std::process::ExitCode::from(2)
        }
    }
}

fn work() -> Result<bool, String> {
    let mut plan =
        Plan { judge: Judge::Host, first_seed: 1, count: 100_000, codes: HOST_CODES.clone(), reports_max: 10, slice: u64::MAX, without: None, planted: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value} is no number"));
        match name.as_str() {
            "--judge" => {
                plan.judge = match value.as_str() {
                    "host" => Judge::Host,
                    "vex" => {
                        plan.codes = sim_cpu_oracle::vex::codes();
                        Judge::Host
                    }
                    "unicorn" => {
                        plan.codes = CODES.clone();
                        Judge::Unicorn
                    }
                    _ => return Err(format!("{value} is no judge: host, vex or unicorn")),
                }
            }
            "--seed" => plan.first_seed = number()?,
            "--count" => plan.count = number()?,
            "--reports" => plan.reports_max = number()? as usize,
            "--without" => {
                let index = number()? as usize;
                let known = sim_cpu_oracle::uni::KNOWN.get(index).ok_or_else(|| format!("--without: there is no entry {index}"))?;
                println!("not believed: {}", known.reason);
                plan.without = Some(index);
            }
            "--slice" => plan.slice = number()?.max(1),
            "--only" => plan.codes.retain(|code| format!("{code:?}").starts_with(&value)),
            "--bytes" => {
                let bytes = hex(&value).ok_or_else(|| format!("{value} is no hex string"))?;
                print!("{}", run_bytes(plan.judge, plan.first_seed, &bytes)?);
                return Ok(true);
            }
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    if plan.codes.is_empty() {
        return Err("no opcode matches --only".to_string());
    }
    let started = std::time::Instant::now();
    let verdict = run_isolated(&plan)?;
    print(&verdict);
    println!(
        "{} cases compared ({} in ring 3, {} to a fault), {} skipped, {} opcodes, {:.1} s",
        verdict.compared,
        verdict.users,
        verdict.faults,
        verdict.skipped,
        plan.codes.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(verdict.reports.is_empty())
}

fn print(verdict: &Verdict) {
    for report in &verdict.reports {
        println!("{report}");
    }
    for (name, count) in &verdict.by_mnemonic {
        println!("{count:6} {name}");
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |acc, digit| acc << 4 | digit)).collect())
}
