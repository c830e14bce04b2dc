//! How CPUs, devices and backends meet: the CPU's port to the board, the `Device` trait, decode, pins, DMA, backends.

mod cpu;

pub use cpu::{At, Attention, CpuBus, DebugStop, Stop};
