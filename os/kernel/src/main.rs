//! The kernel image.
#![no_std]
#![no_main]

use core::fmt::Write;

boot::entry!(main);

static HEAP: heap::Heap = heap::Heap::new();
#[global_allocator]
static GLOBAL: heap::KernelHeap = heap::KernelHeap(&HEAP);

struct Com1(hal::port::Ports);
impl Write for Com1 {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            while self.0.read8(5) & 0x20 == 0 {}
            self.0.write8(0, b);
        }
        Ok(())
    }
}
fn main(boot: Result<boot::BootInfo, boot::BootError>) -> ! {
    let mut c = Com1(hal::port::Ports::claim(0x3f8, 8));
    let _ = writeln!(c, "orrery {boot:#x?}");
    if let Ok(b) = &boot { b.usable(|r| { let _ = writeln!(c, "usable {r:x?}"); }); }
    hal::port::Ports::claim(0xf4, 4).write32(0, 0x10);
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut c = Com1(hal::port::Ports::claim(0x3f8, 8));
    let _ = writeln!(c, "{info}");
    loop {}
}
