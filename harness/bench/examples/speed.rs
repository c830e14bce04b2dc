//! `speed [--interpret] [--qemu] NAME...`: bench guests once, on one engine. `speed [...] linux|parallel KERNEL INITRD`: Linux's rows, with an initial RAM disk that
//! `cargo orrery bench` has left in `out/bench`.

use bench::{guests::GUESTS, linux, speed};
use sim_cpu::{Engine, choose_engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let before = words.len();
        words.retain(|word| word != name);
        words.len() != before
    };
    let (interpret, qemu) = (flag("--interpret"), flag("--qemu"));
    choose_engine(if interpret { Engine::Interpret } else { Engine::Translate })?;
    let scratch = std::env::temp_dir().join("orrery-speed");
    let rows = if let [load @ ("linux" | "parallel"), kernel, initrd] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let guest = linux::LinuxGuest { kernel: std::fs::read(kernel)?, kernel_path: kernel.into(), initrd: std::fs::read(initrd)?, initrd_path: initrd.into() };
        if load == "parallel" { linux::quanta(&guest, 1, qemu, |_| {})? } else { linux::run(&linux::SYSTEM, &guest, 1, qemu, |_| {})? }
    } else {
        if words.is_empty() {
            words = GUESTS.iter().map(|guest| guest.name.to_owned()).collect();
        }
        speed::run(&speed::Options { only: words, rounds: 1, qemu, scratch }, |_| {})?
    };
    print!("{}", bench::report::speed(&rows, &bench::baseline::Sim::default()));
    Ok(())
}
