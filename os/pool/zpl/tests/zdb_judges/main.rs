//! Pools written here, read back here and judged by OpenZFS's own `zdb`.

mod files;
mod pools;
mod owners;
mod rig;
mod volumes;
