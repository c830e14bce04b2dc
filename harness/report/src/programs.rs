//! Which program an address space runs: the path it was executed by, from its own stack.
//!
//! Any kernel with the System V ABI leaves a program's auxiliary vector near the top of its first stack, and in it, under `AT_EXECFN`, where the path lies that was given to `execve`. So
//! programs have names whatever kernel runs them, and nothing in the kernel has to be known.

use std::collections::HashMap;
use std::sync::Arc;

use sim_board::Machine;

const AT_EXECFN: u64 = 31;
const PAGE: u64 = 4096;
/// The lower half of canonical addresses.
const USER_END: u64 = 1 << 47;
/// Pages from the stack pointer to the top of the stack at most.
const CLIMB_MAX: u64 = 64;
/// Bytes below the top in which the vector is looked for: arguments and environment lie above it.
const SEARCHED_MAX: u64 = 32 * 1024;
const NAME_MAX: usize = 128;
/// Spaces without a name are looked at again so many times.
const TRIES_MAX: u32 = 16;

#[derive(Debug, Default)]
struct Known {
    /// Where the path lies.
    at: u64,
    name: Option<Arc<str>>,
    tries: u32,
}

/// Names by address space.
#[derive(Debug, Default)]
pub struct Programs(HashMap<u64, Known>);

impl Programs {
    /// The program of the space that a vCPU in user mode is in.
    pub fn of_user(&mut self, machine: &mut Machine, vcpu: usize, space: u64, stack: u64) -> Option<Arc<str>> {
        let known = self.0.entry(space).or_default();
        if let Some(name) = &known.name {
            // Another program may have been executed in it, or the page table be another process's by now.
            if text(machine, vcpu, known.at).as_deref() == Some(name) {
                return known.name.clone();
            }
            *known = Known::default();
        }
        if known.tries < TRIES_MAX {
            known.tries += 1;
            if let Some((at, name)) = find(machine, vcpu, stack) {
                *known = Known { at, name: Some(name.into()), tries: 0 };
            }
        }
        known.name.clone()
    }

    /// The program last seen in a space.
    pub fn of_space(&self, space: u64) -> Option<Arc<str>> {
        self.0.get(&space)?.name.clone()
    }
}

/// A path at an address: printable, and ended by a zero.
fn text(machine: &mut Machine, vcpu: usize, at: u64) -> Option<String> {
    let mut bytes = [0; NAME_MAX];
    let count = machine.read_linear(vcpu, at, &mut bytes);
    let end = bytes[..count].iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&bytes[..end]).ok()?;
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_graphic())).then(|| name.to_owned())
}

fn find(machine: &mut Machine, vcpu: usize, stack: u64) -> Option<(u64, String)> {
    let bottom = stack & !(PAGE - 1);
    let unmapped = |machine: &mut Machine, at: u64| at >= USER_END || machine.translate(vcpu, at).is_none();
    let pages = (0..CLIMB_MAX).find(|page| unmapped(machine, bottom.saturating_add(page * PAGE)))?;
    let top = bottom + pages * PAGE;
    let start = bottom.max(top.saturating_sub(SEARCHED_MAX));
    let mut bytes = vec![0; (top - start) as usize];
    if machine.read_linear(vcpu, start, &mut bytes) != bytes.len() {
        return None;
    }
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let places = words.windows(2).enumerate().rev().filter(|(_, pair)| pair[0] == AT_EXECFN);
    places.filter(|(index, pair)| (start + 8 * *index as u64..top).contains(&pair[1])).find_map(|(_, pair)| Some((pair[1], text(machine, vcpu, pair[1])?)))
}
