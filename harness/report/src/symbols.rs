//! Names for addresses of a kernel: from its ELF file, or from a `System.map`.

/// Functions in order of address.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    functions: Vec<(u64, String)>,
    /// Where the entry of SYSCALL is in the file, to recognise a kernel that moved itself.
    entry: Option<u64>,
    end: u64,
}

impl Symbols {
    /// No names.
    pub fn none() -> Self {
        Self::default()
    }

    /// Of an ELF file; none if it is no ELF file or has none.
    pub fn of_elf(image: &[u8]) -> Self {
        let Ok(elf) = goblin::elf::Elf::parse(image) else { return Self::default() };
        let functions = elf.syms.iter().filter(|symbol| symbol.is_function() && symbol.st_value != 0).filter_map(|symbol| {
            let name = elf.strtab.get_at(symbol.st_name)?;
            Some((symbol.st_value, format!("{:#}", rustc_demangle::demangle(name))))
        });
        Self::of(functions.collect())
    }

    /// Of a Linux `System.map`.
    pub fn of_map(text: &str) -> Self {
        let functions = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
            matches!(kind, "t" | "T" | "w" | "W").then_some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
        });
        // Below are per-CPU offsets.
        Self::of(functions.filter(|(address, _)| *address >= 1 << 63).collect())
    }

    fn of(mut functions: Vec<(u64, String)>) -> Self {
        functions.sort();
        functions.dedup_by_key(|(address, _)| *address);
        let entry = functions.iter().find(|(_, name)| name == "entry_SYSCALL_64").map(|(address, _)| *address);
        // The last function's length is not known: a page at most.
        let end = functions.last().map_or(0, |(address, _)| address.saturating_add(4096));
        Self { functions, entry, end }
    }

    /// How far the kernel was moved from where it was linked.
    pub fn moved(&self, lstar: u64) -> u64 {
        self.entry.filter(|_| lstar >= 1 << 63).map_or(0, |entry| lstar.wrapping_sub(entry))
    }

    /// The function at an address.
    pub fn name(&self, address: u64) -> Option<&str> {
        if address >= self.end {
            return None;
        }
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        self.functions.get(after.checked_sub(1)?).map(|(_, name)| name.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}
