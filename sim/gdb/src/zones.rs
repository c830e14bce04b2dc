//! The zones of the kernel that runs in the machine, read out of its memory.
//!
//! Our kernel keeps a table of fixed layout for debuggers (`docs/formats/zone-table.md`); where it lies the symbols say. Any other kernel has no zones.

use sim_board::Machine;

use crate::symbols::Symbols;

const TABLE: &str = "zone::watch::TABLE";
const MAGIC: &[u8; 8] = b"ORZONES1";
const HEAD: usize = 24;
const NAME_AT: usize = 16;
const ROW_MIN: u32 = 80;
/// What a table may claim at most.
const ROWS_MAX: u32 = 8192;
const ROW_MAX: u32 = 4096;
const STATES: [&str; 9] = ["initialized", "ready", "booting", "running", "shutting down", "empty", "down", "dying", "dead"];

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// A line for each zone; or why there are none.
pub(crate) fn list(machine: &mut Machine, symbols: &Symbols) -> String {
    let Some(at) = symbols.object(TABLE) else {
        return if symbols.is_empty() {
            "no zones: the kernel has no symbols; only our own has zones\n".to_owned()
        } else {
            "no zones: this is a kernel without `zone::watch::TABLE`\n".to_owned()
        };
    };
    // The kernel is mapped at any vCPU that has come to run it.
    let found = (0..machine.vcpus()).find(|vcpu| {
        let mut magic = [0; 8];
        machine.read_linear(*vcpu, at, &mut magic) == magic.len() && magic == *MAGIC
    });
    let Some(vcpu) = found else { return "no zones yet: the kernel has not mapped its memory\n".to_owned() };
    let mut head = [0; HEAD];
    machine.read_linear(vcpu, at, &mut head);
    let (rows, size, missed) = (word(&head, 8), word(&head, 12), word(&head, 16));
    if rows > ROWS_MAX || !(ROW_MIN..=ROW_MAX).contains(&size) {
        return format!("the zone table is damaged: {rows} rows of {size} bytes\n");
    }
    let mut text = format!("{:<6} {:<15} {:>8}  {}\n", "ID", "STATE", "INIT", "NAME");
    let mut row = vec![0; size as usize];
    let mut zones = Vec::new();
    for index in 0..u64::from(rows) {
        if machine.read_linear(vcpu, at + HEAD as u64 + index * u64::from(size), &mut row) != row.len() {
            break;
        }
        if word(&row, 0) != 0 {
            let name = &row[NAME_AT..NAME_AT + 64];
            let name = String::from_utf8_lossy(&name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())]).into_owned();
            zones.push((word(&row, 0) - 1, word(&row, 4), word(&row, 8), name));
        }
    }
    zones.sort();
    for (id, state, init, name) in zones {
        let state = (state as usize).checked_sub(1).and_then(|index| STATES.get(index)).copied().unwrap_or("?");
        let init = if init == 0 { "-".to_owned() } else { init.to_string() };
        text.push_str(&format!("{id:<6} {state:<15} {init:>8}  {}\n", name.escape_debug()));
    }
    if missed > 0 {
        text.push_str(&format!("{missed} times there was no row for a zone\n"));
    }
    text
}
