//! Hosts that are no x86-64 Linux: there is no translator.

use crate::{Counts, Exit, Guest, Unavailable, UnitId};

/// Cannot be made here.
#[derive(Debug)]
pub struct Translator {
    never: std::convert::Infallible,
}

impl Translator {
    /// # Errors
    /// Always.
    pub fn new() -> Result<Translator, Unavailable> {
        Err(Unavailable::Processor)
    }
    pub fn spoil(&mut self) {
        match self.never {}
    }
    pub fn clear(&mut self) {
        match self.never {}
    }
    pub fn translate(&mut self, _rip: u64, _page: u32, _bytes: &[u8], _count: usize, _sse: bool, _counts: Counts) -> Option<(UnitId, usize)> {
        match self.never {}
    }
    pub fn refused(&mut self, _rip: u64, _bytes: &[u8], _count: usize, _sse: bool, _counts: Counts) -> usize {
        match self.never {}
    }
    pub fn is_full(&self) -> bool {
        match self.never {}
    }
    pub fn kill(&mut self, _unit: UnitId) {
        match self.never {}
    }
    pub fn forward(&mut self, _dead: UnitId, _unit: UnitId) {
        match self.never {}
    }
    pub fn link(&mut self, _from: UnitId, _way: usize, _to: UnitId) {
        match self.never {}
    }
    pub fn set_context(&mut self, _context: [u64; 3]) {
        match self.never {}
    }
    pub fn remember(&mut self, _unit: UnitId) {
        match self.never {}
    }
    pub fn run(&mut self, _guest: &mut Guest<'_>, _unit: UnitId) -> Option<Exit> {
        match self.never {}
    }
    pub fn listing(&self, _unit: UnitId) -> Option<String> {
        match self.never {}
    }
}
