//! SSE, MMX and x87 arithmetic as pure functions, bit-exact with hardware.
//!
//! # Theory
//! Operands, control and status come in as values and results go out; nothing here knows of a CPU, of memory or of time. On x86-64 hosts
//! the SSE float instructions run on the host itself ([`host`], the only unsafe code: one `asm!` block per instruction) while all
//! exceptions are masked; everything else, and every other host, takes the soft path ([`soft`], [`float`]), which is complete by itself. The tests
//! compare the two over special and random values, and the unmasked cases with the host's own faults.
//!
//! Hardware is no reference where vendors differ: RCPxx and RSQRTxx round to 12 bits, the x87 transcendentals use our own fixed
//! algorithms ([`x87`]), the same on every host.
//!
//! # Structures
//! [`sse::Op`] names an instruction; [`sse::Row`] says how wide its memory operand is and holds the function; [`vex::Op`] and [`vex::Row`] are the same for
//! the VEX-encoded ones. [`x87::X87`] is the state
//! of the stack, [`x87::exec`] one instruction on it.
//!
//! # Failure
//! An unmasked SIMD exception is [`SimdFault`], with MXCSR updated and no result; an unmasked x87 exception is pending in the status word
//! as on hardware.
//!
//! # Limits
//! SSE to SSE4.2, AES, PCLMULQDQ, AVX, AVX2, FMA, F16C; no AVX-512, no 3DNow!, no SSE4a.
//!
//! # Reading order
//! `sse`, `soft`, `float`, `host`, `int`, `string`, `crypto`, `vex`, `avx`, `x87`.

pub mod avx;
pub mod crypto;
pub mod float;
#[cfg(target_arch = "x86_64")]
mod host;
pub mod int;
pub mod soft;
pub mod sse;
pub mod string;
pub mod vex;
pub mod x87;

pub use crypto::crc32c;
pub use float::{MXCSR_MASK, MXCSR_RESET, SimdFault};
