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

#[cfg(test)]
mod tests {
    use super::*;
    use sim_board::{Board, Boot};

    /// A kernel of one instruction, never run: its memory is all that counts.
    fn machine() -> Machine {
        let mut image = vec![0u8; 0x1000];
        image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        image[16..20].copy_from_slice(&[2, 0, 62, 0]);
        image[32..40].copy_from_slice(&64u64.to_le_bytes());
        image[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
        for (index, kind, offset, address, size) in [(0, 1u32, 0x1000u64, 0x10_0000u64, 1u64), (1, 4, 0x200, 0, 20)] {
            let at = 64 + 56 * index;
            image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in [offset, address, address, size, size, 16].into_iter().enumerate() {
                image[at + 8 + 8 * field..at + 16 + 8 * field].copy_from_slice(&value.to_le_bytes());
            }
        }
        image[0x200..0x214].copy_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0]);
        image.push(0xf4);
        Machine::new(&Board::default(), &Boot::new(&image, None, "")).expect("loads")
    }

    #[test]
    fn zones_are_listed_and_damage_is_named() {
        let mut machine = machine();
        let symbols = Symbols::of_object(TABLE, 0x20_0000);
        assert!(list(&mut machine, &Symbols::default()).contains("no symbols"));
        assert!(list(&mut machine, &Symbols::of_object("other", 1)).contains("a kernel without"));
        assert!(list(&mut machine, &symbols).contains("no zones yet"));
        let mut table = MAGIC.to_vec();
        for word in [3u32, 96, 2, 0] {
            table.extend(word.to_le_bytes());
        }
        for (id, state, init, name) in [(8u32, 5u32, 0u32, "web\n"), (0, 0, 0, "gone"), (1, 4, 1, "global")] {
            let mut row = vec![0; 96];
            for (at, word) in [(0, id), (4, state), (8, init)] {
                row[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            row[16..16 + name.len()].copy_from_slice(name.as_bytes());
            table.extend(row);
        }
        machine.write_linear(0, 0x20_0000, &table);
        let said = list(&mut machine, &symbols);
        let rows: Vec<&str> = said.lines().collect();
        assert_eq!(rows[1].split_whitespace().collect::<Vec<_>>(), ["0", "running", "1", "global"]);
        assert_eq!(rows[2].split_whitespace().collect::<Vec<_>>(), ["7", "shutting", "down", "-", "web\\n"]);
        assert_eq!(rows[3], "2 times there was no row for a zone");
        machine.write_linear(0, 0x20_0000 + 12, &8u32.to_le_bytes());
        assert!(list(&mut machine, &symbols).contains("damaged: 3 rows of 8 bytes"));
    }
}
