//! What the OS costs, in guest ticks: boots the kernel, runs `bench_os` at the shell, reads its lines.

use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

use crate::BenchError;

/// Where the live root keeps the measuring program.
pub const PROGRAM: &str = "/usr/lib/orrery/bench_os";
/// The shell's prompt.
const PROMPT: &[u8] = b"# ";
const BOOT_TICKS_MAX: u64 = 2_000_000_000;
const RUN_TICKS_MAX: u64 = 20_000_000_000;

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    pub name: String,
    /// Ticks (for `memory_kib`: KiB), or why there is no figure.
    pub value: Result<u64, String>,
}

/// Targets of design section 7, in ticks but for `memory_kib`.
pub const TARGETS: &[(&str, u64)] = &[
    ("boot_to_shell", 60_000_000),
    ("null_call", 250),
    ("pipe_switch", 2_500),
    ("page_fault", 1_500),
    ("fork_exit_wait", 120_000),
    ("zone_boot", 5_000_000),
    ("memory_kib", 48 << 10),
];

/// Boots and measures.
///
/// # Errors
/// The shell's prompt or the program's end is not reached.
pub fn run(kernel: &[u8], initrd: &[u8], append: &str) -> Result<Vec<Cost>, BenchError> {
    let board = Board::default();
    let mut machine = Machine::new(&board, &Boot::new(kernel, Some(initrd), append)).map_err(|error| BenchError::Machine(error.to_string()))?;
    let mut console = Vec::new();
    let mut wait = |machine: &mut Machine, text: &[u8], limit: u64, what: &str| -> Result<String, BenchError> {
        let until = Until::ticks(machine.ticks() + limit).or_output(Port::Com1, text);
        let outcome = machine.run(&until);
        let new = machine.serial_take(Port::Com1);
        console.extend_from_slice(&new);
        match outcome {
            Outcome::Output(_) => Ok(String::from_utf8_lossy(&new).into_owned()),
            other => {
                let tail = String::from_utf8_lossy(&console[console.len().saturating_sub(2000)..]).into_owned();
                Err(BenchError::Os(format!("{what} was not reached ({other:?}); the console ends:\n{tail}")))
            }
        }
    };
    wait(&mut machine, PROMPT, BOOT_TICKS_MAX, "the shell's prompt")?;
    let mut costs = vec![Cost { name: "boot_to_shell".to_string(), value: Ok(machine.ticks()) }];
    machine.serial_put(Port::Com1, format!("{PROGRAM}\n").as_bytes());
    let text = wait(&mut machine, b"bench_os done", RUN_TICKS_MAX, "the end of bench_os")?;
    costs.extend(text.lines().filter_map(parse));
    if let Some(Cost { value: Ok(trip), .. }) = costs.iter().find(|cost| cost.name == "pipe_round_trip") {
        let value = Ok(trip / 2);
        costs.push(Cost { name: "pipe_switch".to_string(), value });
    }
    Ok(costs)
}

/// `bench_os NAME TICKS` or `bench_os NAME - WHY`; anything else is the console's own.
fn parse(line: &str) -> Option<Cost> {
    let mut words = line.trim().strip_prefix("bench_os ")?.splitn(2, ' ');
    let name = words.next()?.to_string();
    let rest = words.next()?;
    let value = match rest.strip_prefix("- ") {
        Some(why) => Err(why.to_string()),
        None => Ok(rest.trim().parse().ok()?),
    };
    Some(Cost { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_program_are_read_and_others_left() {
        assert_eq!(parse("bench_os null_call 123\r"), Some(Cost { name: "null_call".into(), value: Ok(123) }));
        assert_eq!(parse("bench_os zone_boot - no zoneadm"), Some(Cost { name: "zone_boot".into(), value: Err("no zoneadm".into()) }));
        assert_eq!(parse("bench_os done"), None);
        assert_eq!(parse("# ls"), None);
    }
}
