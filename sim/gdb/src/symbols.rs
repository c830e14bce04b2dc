//! Names and addresses, from the symbol table of the kernel's ELF file, and stacks walked by frame pointers.

use goblin::elf::Elf;
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::sym::{STT_FUNC, STT_OBJECT};
use sim_board::Machine;
use sim_cpu::{RBP, RSP};

/// Frames of a backtrace at most.
const FRAMES_MAX: usize = 32;

/// Functions by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    /// Address, size, name; in order of addresses.
    functions: Vec<(u64, u64, String)>,
    /// Name and address of what is data.
    objects: Vec<(String, u64)>,
}

impl Symbols {
    /// Reads a symbol table; an image that has none gives no names.
    pub fn read(image: &[u8]) -> Self {
        let Ok(elf) = Elf::parse(image) else { return Self::default() };
        let of = |kind: u8| {
            elf.syms.iter().filter(move |symbol| symbol.st_type() == kind && symbol.st_value != 0).filter_map(|symbol| {
                let name = elf.strtab.get_at(symbol.st_name)?;
                Some((symbol.st_value, symbol.st_size, format!("{:#}", rustc_demangle::demangle(name))))
            })
        };
        let mut functions: Vec<(u64, u64, String)> = of(STT_FUNC).collect();
        let objects = of(STT_OBJECT).map(|(address, _, name)| (name, address)).collect();
        functions.sort();
        functions.dedup_by_key(|function| function.0);
        Self { functions, objects }
    }

    /// One static and nothing else.
    #[cfg(test)]
    pub fn of_object(name: &str, address: u64) -> Self {
        Self { functions: Vec::new(), objects: vec![(name.to_owned(), address)] }
    }

    /// Whether there are any names at all.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.objects.is_empty()
    }

    /// Where the function begins that an address is in.
    fn start_of(&self, address: u64) -> Option<u64> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, size, _) = &self.functions[after.checked_sub(1)?];
        (address - start < (*size).max(1)).then_some(*start)
    }

    /// Where a static lies.
    pub fn object(&self, name: &str) -> Option<u64> {
        self.objects.iter().find(|(known, _)| known == name).map(|(_, address)| *address)
    }

    /// `name+0x12`, or the address alone.
    pub fn name(&self, address: u64) -> String {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        match after.checked_sub(1).map(|index| &self.functions[index]) {
            Some((start, size, name)) if address - start < (*size).max(1) => format!("{address:#x} {name}+{:#x}", address - start),
            Some(_) | None => format!("{address:#x}"),
        }
    }
}

/// Whether the functions of an ELF file are in memory at their addresses: most of a sample, for a kernel may change some of its own code.
pub(crate) fn is_loaded(machine: &mut Machine, vcpu: usize, image: &[u8]) -> bool {
    const SAMPLES: usize = 64;
    let Ok(elf) = Elf::parse(image) else { return false };
    let functions: Vec<_> = elf.syms.iter().filter(|symbol| symbol.st_type() == STT_FUNC && symbol.st_size >= 16).collect();
    let mut same = 0;
    let sample = functions.iter().step_by((functions.len() / SAMPLES).max(1)).take(SAMPLES);
    let tried = sample.clone().count();
    for symbol in sample {
        let load = elf.program_headers.iter().find(|load| load.p_type == PT_LOAD && load.vm_range().contains(&(symbol.st_value as usize)));
        let Some(load) = load else { continue };
        let at = (symbol.st_value - load.p_vaddr).saturating_add(load.p_offset) as usize;
        let mut bytes = [0; 16];
        let read = machine.read_linear(vcpu, symbol.st_value, &mut bytes);
        same += usize::from(read == bytes.len() && image.get(at..at + bytes.len()) == Some(&bytes[..]));
    }
    tried > 0 && 2 * same > tried
}

/// The return addresses of a vCPU's stack, innermost first, by frame pointers: complete where code keeps them, as our kernel does. A function that has not made
/// its frame yet is known by its symbol.
pub(crate) fn backtrace(machine: &mut Machine, vcpu: usize, symbols: &Symbols) -> Vec<u64> {
    const PUSH_RBP: u8 = 0x55;
    let Some(state) = machine.cpu_state(vcpu) else { return Vec::new() };
    let mut addresses = vec![state.rip];
    let mut frame = state.gpr[RBP];
    // Where the return address lies: on top before `push rbp`, below the saved RBP after it.
    let unmade = match symbols.start_of(state.rip).map(|start| state.rip - start) {
        Some(0) => Some(state.gpr[RSP]),
        Some(1) => {
            let mut first = [0];
            (machine.read_linear(vcpu, state.rip - 1, &mut first) == 1 && first[0] == PUSH_RBP).then(|| state.gpr[RSP].wrapping_add(8))
        }
        Some(_) | None => None,
    };
    let mut word = [0; 8];
    if let Some(at) = unmade
        && machine.read_linear(vcpu, at, &mut word) == word.len()
    {
        addresses.push(u64::from_le_bytes(word));
    }
    while addresses.len() < FRAMES_MAX {
        let mut words = [0; 16];
        if frame & 7 != 0 || machine.read_linear(vcpu, frame, &mut words) != words.len() {
            break;
        }
        let word = |at: usize| words[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let (outer, address) = (word(0), word(8));
        if address == 0 {
            break;
        }
        addresses.push(address);
        // Stacks grow down: a caller's frame is above.
        if outer <= frame {
            break;
        }
        frame = outer;
    }
    addresses
}
