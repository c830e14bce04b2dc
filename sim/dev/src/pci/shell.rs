//! The shell of a controller that is one PCI function: decode, messages, the pin.

use sim_bus::{Access, Cx, Fields, Node, Region, Reset, Token};

use super::{Function, Msi, MsiX};

/// A controller as its shell sees it: registers and events as a node has them, and what it has to say to the processor.
pub trait Chip: Node {
    /// The name of the node.
    const KIND: &'static str;
    /// Where doorbells begin among the registers, four bytes each.
    const DOORBELLS: Option<u64> = None;

    /// The vectors whose messages are due, a bit each; they are due no longer.
    fn take_vectors(&mut self) -> u64;
    /// The level of INTA#.
    fn pin(&self) -> bool;
    /// Software has rung a doorbell.
    fn doorbell(&mut self, _index: u64, _value: u32, _cx: &mut Cx<'_>) {}
}

/// How a function sends messages.
#[derive(Clone, Debug)]
pub enum Messages {
    /// One message.
    Msi(Msi),
    /// A message a vector, with the table in a region of its own.
    MsiX(MsiX, Region),
}

impl Messages {
    fn is_enabled(&self, function: &Function) -> bool {
        match self {
            Messages::Msi(msi) => msi.is_enabled(function),
            Messages::MsiX(msix, _) => msix.is_enabled(function),
        }
    }
}

/// The function around a chip. While messages are off, the pin follows the chip.
#[derive(Clone, Debug)]
pub struct Shell<C> {
    function: Function,
    messages: Messages,
    pub(crate) chip: C,
    pin: bool,
}

impl<C: Chip> Shell<C> {
    pub fn new(function: Function, messages: Messages, chip: C) -> Self {
        Self { function, messages, chip, pin: false }
    }

    /// The configuration space, for the board to place BARs.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    fn interrupts(&mut self, cx: &mut Cx<'_>) {
        let due = self.chip.take_vectors();
        let on = self.messages.is_enabled(&self.function);
        if on {
            match &mut self.messages {
                Messages::Msi(msi) if due != 0 => msi.raise(&self.function, cx),
                Messages::Msi(_) => {}
                Messages::MsiX(msix, _) => (0..64).filter(|vector| due >> vector & 1 != 0).for_each(|vector| msix.raise(vector, &self.function, cx)),
            }
        }
        let pin = !on && self.chip.pin();
        if pin != self.pin {
            self.pin = pin;
            self.function.interrupt(pin, cx);
        }
    }
}

impl<C: Chip> Node for Shell<C> {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        match &self.messages {
            Messages::MsiX(msix, table) if *table == region => msix.read(region, offset, size, cx),
            // Doorbells read as nothing in particular.
            _ if C::DOORBELLS.is_some_and(|first| offset >= first) => 0,
            _ => Node::read(&mut self.chip, region, offset, size, cx),
        }
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if let Messages::MsiX(msix, table) = &mut self.messages
            && *table == region
        {
            msix.write(region, offset, size, value, &self.function, cx);
            return;
        }
        match C::DOORBELLS {
            Some(first) if offset >= first => {
                if size == 4 && offset.is_multiple_of(4) {
                    self.chip.doorbell((offset - first) / 4, value as u32, cx);
                } else {
                    cx.unimplemented(Access::write(region, offset, size, value));
                }
            }
            _ => Node::write(&mut self.chip, region, offset, size, value, cx),
        }
        self.interrupts(cx);
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        if self.function.is_master() {
            Node::event(&mut self.chip, what, cx);
        } else {
            Node::event(&mut self.chip, what, &mut cx.without_dma());
        }
        self.interrupts(cx);
    }

    fn input(&mut self, _cx: &mut Cx<'_>) {}

    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        Node::reset(&mut self.chip, how, cx);
        if let Messages::MsiX(msix, _) = &mut self.messages {
            msix.reset();
        }
        self.pin = false;
        self.function.reset(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.function.state(fields);
        if let Messages::MsiX(msix, _) = &mut self.messages {
            msix.state(fields);
        }
        Node::state(&mut self.chip, fields);
        fields.flag("pin", &mut self.pin);
    }

    fn windows(&self) -> Vec<(Region, Option<u64>, u64)> {
        self.function.windows().map(|(bar, base)| (bar.region, base, bar.size)).collect()
    }

    fn config_read(&mut self, register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.function.read(register, size)
    }

    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        self.function.write(register, size, value, cx);
        if let Messages::MsiX(msix, _) = &mut self.messages {
            msix.settle(&self.function, cx);
        }
        self.interrupts(cx);
    }
}
