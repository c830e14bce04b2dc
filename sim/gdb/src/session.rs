//! The target: what gdb's requests do to the machine.

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::{DisconnectReason, MultiThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::memory_map::{MemoryMap, MemoryMapOps};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use sim_board::{Machine, Outcome, Port, Until, Watchpoint};
use sim_bus::DebugStop;

use crate::arch::{Regs, X86_64};
use crate::history::{self, History, Why};
use crate::symbols::{self, Symbols};
use crate::{Ended, GdbError, monitor};

/// Ticks between two looks for bytes from gdb: some milliseconds.
const SLICE_TICKS: u64 = 200_000;
/// Virtual time a slice may skip while the machine idles.
const SLICE_NS: u64 = 50_000_000;

/// What gdb wants to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    Continue,
    /// One tick of a vCPU: until it has retired this many.
    Step { vcpu: usize, until: u64 },
    /// One tick of a vCPU back.
    StepBack { vcpu: usize },
    /// Back to the last stop before `present`; what lies between `limit` and it has been searched.
    ContinueBack { limit: u64, present: u64 },
}

/// A place to stand at: the first point with at least these ticks, this virtual time, and, from there on, this text on the console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub ticks: u64,
    pub ns: u64,
    pub console: Option<String>,
}

/// A point in time at which the machine stops, whichever way it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub ticks: u64,
    /// What happens there.
    pub what: String,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tick {}: {}", self.ticks, self.what)
    }
}

/// A write of a disk, by its number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskWrite {
    pub number: u64,
    /// Ticks before the instruction, or the event, that made it.
    pub ticks: u64,
    pub sector: u64,
    pub sectors: u64,
}

/// One gdb's view of the machine.
#[derive(Debug)]
pub struct Session<'a> {
    pub(crate) machine: &'a mut Machine,
    pub(crate) history: History,
    resume: Resume,
    software: Vec<u64>,
    hardware: Vec<u64>,
    watches: Vec<(Watchpoint, WatchKind)>,
    /// In order.
    marks: Vec<Mark>,
    /// The machine has ended and gdb was shown where.
    end_shown: bool,
    exited: Option<Outcome>,
    killed: bool,
    /// `monitor quit` was given.
    pub(crate) quit: bool,
    /// The vCPU gdb last stopped at.
    pub(crate) stopped_vcpu: usize,
    /// Names of the kernel's functions, if somebody gave them.
    pub(crate) symbols: Symbols,
}

fn tid(vcpu: usize) -> Tid {
    Tid::new(vcpu + 1).expect("one more than a count is not zero")
}

fn vcpu(tid: Tid) -> usize {
    tid.get() - 1
}

impl<'a> Session<'a> {
    /// A session on a machine, halted where it is.
    pub fn new(machine: &'a mut Machine) -> Self {
        let history = History::new(machine);
        Self {
            machine,
            history,
            resume: Resume::Continue,
            software: Vec::new(),
            hardware: Vec::new(),
            watches: Vec::new(),
            marks: Vec::new(),
            end_shown: false,
            exited: None,
            killed: false,
            quit: false,
            stopped_vcpu: 0,
            symbols: Symbols::default(),
        }
    }

    /// Takes function names from the kernel's ELF file, for what the monitor says. An image without any is fine.
    pub fn read_symbols(&mut self, image: &[u8]) {
        self.symbols = Symbols::read(image);
    }

    /// Whether the code of this ELF file is what the machine has in memory where the file says: for a snapshot, which does not hold its kernel's file.
    pub fn runs(&mut self, image: &[u8]) -> bool {
        (0..self.machine.vcpus()).any(|vcpu| symbols::is_loaded(self.machine, vcpu, image))
    }

    /// Where the machine stands: ticks and virtual time.
    pub fn position(&self) -> (u64, u64) {
        (self.machine.ticks(), self.machine.now_ns())
    }

    /// The writes that a disk has seen by now, if it keeps a journal.
    pub(crate) fn disk_writes(&self, disk: u8) -> Vec<DiskWrite> {
        let records = self.machine.fault_disk(disk).into_iter().flat_map(|around| around.journal().records()).filter(|record| record.is_write());
        records.zip(1..).map(|(record, number)| DiskWrite { number, ticks: record.ticks, sector: record.sector, sectors: record.sectors }).collect()
    }

    /// Marks the point right before a write of a disk that has been made by now; `remark` is added to what is shown of it. `None`: there is no such write.
    pub fn mark_write(&mut self, disk: u8, number: u64, remark: &str) -> Option<Mark> {
        let write = self.disk_writes(disk).into_iter().find(|write| write.number == number)?;
        let mark = Mark { ticks: write.ticks, what: format!("write {number} of disk {disk}, sector {}+{}{remark}", write.sector, write.sectors) };
        if let Err(at) = self.marks.binary_search(&mark) {
            self.marks.insert(at, mark.clone());
        }
        Some(mark)
    }

    /// The points that are marked, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    pub(crate) fn forget_marks(&mut self) -> usize {
        std::mem::take(&mut self.marks).len()
    }

    fn marked(&self) -> Vec<u64> {
        self.marks.iter().map(|mark| mark.ticks).collect()
    }

    /// Finds the last write to a range before now and stays where it is. The answer is the tick of the write, the vCPU, and its stack.
    pub(crate) fn last_write(&mut self, address: u64, len: u64) -> Option<(u64, usize, Vec<u64>)> {
        let present = self.machine.ticks();
        let here = history::Target::present(self.machine);
        self.lift();
        let watch = watchpoint(address, len, WatchKind::Write);
        self.machine.add_watch(watch);
        let mut limit = present;
        let found = loop {
            match self.history.search(self.machine, limit, present, &[]) {
                Some(Ok(hit)) => break Some(hit),
                Some(Err(start)) => limit = start,
                None => break None,
            }
        };
        self.machine.remove_watch(watch);
        let answer = found.filter(|hit| self.history.go_to(self.machine, history::Target::tick(hit.ticks))).and_then(|hit| match hit.why {
            Why::Debugger { vcpu, .. } => Some((hit.ticks, vcpu, symbols::backtrace(self.machine, vcpu, &self.symbols))),
            Why::Mark => None,
        });
        self.history.go_to(self.machine, here);
        self.lower();
        answer
    }

    /// The vCPU that is meant; where the machine stopped last, if there is none of this number.
    fn known(&self, tid: Tid) -> usize {
        Some(vcpu(tid)).filter(|vcpu| *vcpu < self.machine.vcpus()).unwrap_or(self.stopped_vcpu)
    }

    /// Takes gdb's breakpoints and watchpoints out of the machine for a while.
    fn lift(&mut self) {
        for address in self.software.iter().chain(&self.hardware) {
            self.machine.remove_breakpoint(*address);
        }
        for (watch, _) in &self.watches {
            self.machine.remove_watch(*watch);
        }
    }

    /// Puts them back.
    fn lower(&mut self) {
        for address in self.software.iter().chain(&self.hardware) {
            self.machine.add_breakpoint(*address);
        }
        for (watch, _) in &self.watches {
            self.machine.add_watch(*watch);
        }
    }

    /// Brings the machine forward to the first point at which all of `place` holds, with snapshots on the way, so that gdb can go back from there.
    pub fn run_to(&mut self, place: &Place) -> Outcome {
        let texts: Vec<(Port, Vec<u8>)> = place.console.iter().map(|text| (Port::Com1, text.clone().into_bytes())).collect();
        let mut printed = texts.is_empty();
        loop {
            let there = self.machine.ticks() >= place.ticks && self.machine.now_ns() >= place.ns;
            if there && printed {
                return Outcome::Deadline;
            }
            let until = Until {
                checkpoint: true,
                ticks: (self.machine.ticks() < place.ticks).then_some(place.ticks),
                ns: (self.machine.ticks() >= place.ticks && self.machine.now_ns() < place.ns).then_some(place.ns),
                output: if there { texts.clone() } else { Vec::new() },
                ..Until::default()
            };
            let outcome = self.machine.run(&until);
            self.history.note(self.machine);
            printed |= matches!(outcome, Outcome::Output(_));
            if outcome.is_final() || outcome == Outcome::Stuck {
                return outcome;
            }
        }
    }

    /// Runs a slice. `Some`: the machine stopped for gdb.
    pub(crate) fn advance(&mut self) -> Option<MultiThreadStopReason<u64>> {
        match self.resume {
            Resume::StepBack { vcpu } => return Some(self.step_back(vcpu)),
            Resume::ContinueBack { limit, present } => return self.continue_back(limit, present),
            Resume::Continue | Resume::Step { .. } => {}
        }
        if let Some(outcome) = self.machine.exit() {
            return Some(self.show_end(outcome));
        }
        let now = self.machine.ticks();
        let mark = self.marks.iter().map(|mark| mark.ticks).find(|ticks| *ticks > now);
        let slice = now + SLICE_TICKS;
        let mut until = Until { checkpoint: true, ticks: Some(mark.map_or(slice, |mark| mark.min(slice))), ns: Some(self.machine.now_ns() + SLICE_NS), ..Until::default() };
        if let Resume::Step { vcpu, until: ticks } = self.resume {
            until.vcpu_ticks = Some((vcpu, ticks));
        }
        let outcome = self.machine.run(&until);
        self.history.note(self.machine);
        match outcome {
            Outcome::Debug { vcpu, stop } => Some(self.stopped(vcpu as usize, stop)),
            Outcome::DebugExit(_) | Outcome::PowerOff | Outcome::Reset | Outcome::PowerCut | Outcome::TripleFault { .. } => Some(self.show_end(outcome)),
            Outcome::Deadline | Outcome::Output(_) | Outcome::AnyOutput(_) | Outcome::Quiet | Outcome::Stuck => match self.resume {
                Resume::Step { vcpu, until } if self.machine.vcpu_ticks(vcpu) >= until => {
                    self.stopped_vcpu = vcpu;
                    Some(MultiThreadStopReason::SignalWithThread { tid: tid(vcpu), signal: Signal::SIGTRAP })
                }
                _ if mark == Some(self.machine.ticks()) => Some(self.at_mark()),
                Resume::Step { .. } | Resume::Continue | Resume::StepBack { .. } | Resume::ContinueBack { .. } => None,
            },
        }
    }

    fn step_back(&mut self, vcpu: usize) -> MultiThreadStopReason<u64> {
        self.end_shown = false;
        let present = history::Target::present(self.machine);
        if self.history.step_back(self.machine, vcpu) {
            self.stopped_vcpu = vcpu;
            return MultiThreadStopReason::SignalWithThread { tid: tid(vcpu), signal: Signal::SIGTRAP };
        }
        // Nothing before: stay.
        self.history.go_to(self.machine, present);
        MultiThreadStopReason::ReplayLog { tid: Some(tid(vcpu)), pos: ReplayLogPosition::Begin }
    }

    fn continue_back(&mut self, limit: u64, present: u64) -> Option<MultiThreadStopReason<u64>> {
        self.end_shown = false;
        match self.history.search(self.machine, limit, present, &self.marked()) {
            Some(Ok(hit)) => {
                self.history.go_to(self.machine, history::Target::tick(hit.ticks));
                Some(match hit.why {
                    Why::Debugger { vcpu, stop } => self.stopped(vcpu, stop),
                    Why::Mark => self.at_mark(),
                })
            }
            Some(Err(start)) => {
                self.resume = Resume::ContinueBack { limit: start, present };
                None
            }
            None => {
                let first = self.history.first().map_or(present, |(ticks, _)| ticks);
                self.history.go_to(self.machine, history::Target::tick(first));
                self.stopped_vcpu = self.machine.current_vcpu();
                Some(MultiThreadStopReason::ReplayLog { tid: Some(tid(self.stopped_vcpu)), pos: ReplayLogPosition::Begin })
            }
        }
    }

    fn at_mark(&mut self) -> MultiThreadStopReason<u64> {
        self.stopped_vcpu = self.machine.current_vcpu();
        MultiThreadStopReason::SignalWithThread { tid: tid(self.stopped_vcpu), signal: Signal::SIGTRAP }
    }

    fn stopped(&mut self, vcpu: usize, stop: DebugStop) -> MultiThreadStopReason<u64> {
        self.stopped_vcpu = vcpu;
        let tid = tid(vcpu);
        match stop {
            DebugStop::Breakpoint { rip } if self.hardware.contains(&rip) && !self.software.contains(&rip) => {
                MultiThreadStopReason::HwBreak(tid)
            }
            DebugStop::Breakpoint { .. } => MultiThreadStopReason::SwBreak(tid),
            DebugStop::Watch { address, write } => {
                let kind = self.watches.iter().find(|(watch, _)| watch.address == address).map_or(
                    if write { WatchKind::Write } else { WatchKind::Read },
                    |(_, kind)| *kind,
                );
                MultiThreadStopReason::Watch { tid, kind, addr: address }
            }
        }
    }

    /// The end is shown as SIGTERM first; continuing from it is the exit.
    fn show_end(&mut self, outcome: Outcome) -> MultiThreadStopReason<u64> {
        if !std::mem::replace(&mut self.end_shown, true) {
            let last = match outcome {
                Outcome::TripleFault { vcpu } => vcpu as usize,
                _ => self.machine.current_vcpu(),
            };
            self.stopped_vcpu = last;
            return MultiThreadStopReason::SignalWithThread { tid: tid(last), signal: Signal::SIGTERM };
        }
        self.exited = Some(outcome);
        match outcome {
            Outcome::DebugExit(status) => MultiThreadStopReason::Exited(status as u8),
            Outcome::TripleFault { .. } => MultiThreadStopReason::Terminated(Signal::SIGABRT),
            _ => MultiThreadStopReason::Exited(0),
        }
    }

    /// gdb's interrupt: stop where the machine is.
    pub(crate) fn interrupted(&mut self) -> MultiThreadStopReason<u64> {
        self.stopped_vcpu = self.machine.current_vcpu();
        MultiThreadStopReason::SignalWithThread { tid: tid(self.stopped_vcpu), signal: Signal::SIGINT }
    }

    /// Nothing will happen in the machine by itself.
    pub(crate) fn waits_for_gdb(&self) -> bool {
        self.machine.is_idle()
    }

    pub(crate) fn disconnected(&mut self, reason: DisconnectReason) {
        self.killed = matches!(reason, DisconnectReason::Kill);
    }

    pub(crate) fn ended(&mut self) -> Ended {
        self.release();
        match self.exited {
            Some(outcome) => Ended::Exited(outcome),
            None if self.killed || self.quit => Ended::Killed,
            None => Ended::Detached,
        }
    }

    /// gdb changed something: what was known to come does not come, and the past (of which the change is no part) is left behind.
    pub(crate) fn diverge(&mut self) {
        self.history = History::default();
    }

    /// Takes all breakpoints out of the machine.
    pub(crate) fn release(&mut self) {
        for address in self.software.drain(..).chain(self.hardware.drain(..)) {
            self.machine.remove_breakpoint(address);
        }
        for (watch, _) in self.watches.drain(..) {
            self.machine.remove_watch(watch);
        }
    }

    fn insert(&mut self, address: u64, hardware: bool) {
        let list = if hardware { &mut self.hardware } else { &mut self.software };
        if !list.contains(&address) {
            list.push(address);
        }
        self.machine.add_breakpoint(address);
    }

    fn remove(&mut self, address: u64, hardware: bool) -> bool {
        let list = if hardware { &mut self.hardware } else { &mut self.software };
        let before = list.len();
        list.retain(|other| *other != address);
        let found = list.len() != before;
        // The other kind may still want it.
        if !self.software.contains(&address) && !self.hardware.contains(&address) {
            self.machine.remove_breakpoint(address);
        }
        found
    }
}

impl Target for Session<'_> {
    type Arch = X86_64;
    type Error = GdbError;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64, GdbError> {
        BaseOps::MultiThread(self)
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
    fn support_memory_map(&mut self) -> Option<MemoryMapOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Session<'_> {
    fn read_registers(&mut self, regs: &mut Regs, tid: Tid) -> TargetResult<(), Self> {
        let vcpu = vcpu(tid);
        let state = self.machine.cpu_state(vcpu).ok_or(TargetError::NonFatal)?;
        *regs = Regs::of(&state, self.machine.cr8(vcpu));
        Ok(())
    }

    fn write_registers(&mut self, regs: &Regs, tid: Tid) -> TargetResult<(), Self> {
        let vcpu = vcpu(tid);
        let mut state = self.machine.cpu_state(vcpu).ok_or(TargetError::NonFatal)?;
        // Writing back what was read is not a change.
        if *regs != Regs::of(&state, self.machine.cr8(vcpu)) {
            regs.apply(&mut state);
            self.machine.set_cpu_state(vcpu, &state);
            self.diverge();
        }
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        match self.machine.read_linear(vcpu(tid), start, data) {
            0 if !data.is_empty() => Err(TargetError::NonFatal),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = self.machine.write_linear(vcpu(tid), start, data);
        self.diverge();
        if written == data.len() { Ok(()) } else { Err(TargetError::NonFatal) }
    }

    fn list_active_threads(&mut self, register: &mut dyn FnMut(Tid)) -> Result<(), GdbError> {
        // gdb takes the first for the current one at the start.
        (0..self.machine.vcpus()).map(tid).for_each(register);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadResume for Session<'_> {
    fn resume(&mut self) -> Result<(), GdbError> {
        Ok(())
    }
    fn clear_resume_actions(&mut self) -> Result<(), GdbError> {
        self.resume = Resume::Continue;
        Ok(())
    }
    fn set_resume_action_continue(&mut self, _tid: Tid, _signal: Option<Signal>) -> Result<(), GdbError> {
        // All vCPUs run together: the seeded turns are part of the run. Signals mean nothing to a machine.
        Ok(())
    }
    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        Some(self)
    }
    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl ReverseStep<Tid> for Session<'_> {
    fn reverse_step(&mut self, tid: Tid) -> Result<(), GdbError> {
        self.resume = Resume::StepBack { vcpu: self.known(tid) };
        Ok(())
    }
}

impl ReverseCont<Tid> for Session<'_> {
    fn reverse_cont(&mut self) -> Result<(), GdbError> {
        let present = self.machine.ticks();
        self.resume = Resume::ContinueBack { limit: present, present };
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Session<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), GdbError> {
        // Holding other vCPUs back would be another run: they go on in their turns.
        Ok(())
    }
}

impl MultiThreadSingleStep for Session<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), GdbError> {
        let vcpu = self.known(tid);
        self.resume = Resume::Step { vcpu, until: self.machine.vcpu_ticks(vcpu) + 1 };
        Ok(())
    }
}

impl Breakpoints for Session<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Session<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.insert(address, false);
        Ok(true)
    }
    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(address, false))
    }
}

impl HwBreakpoint for Session<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.insert(address, true);
        Ok(true)
    }
    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(address, true))
    }
}

fn watchpoint(address: u64, len: u64, kind: WatchKind) -> Watchpoint {
    Watchpoint {
        address,
        len,
        read: matches!(kind, WatchKind::Read | WatchKind::ReadWrite),
        write: matches!(kind, WatchKind::Write | WatchKind::ReadWrite),
    }
}

impl HwWatchpoint for Session<'_> {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        if len == 0 || address.checked_add(len).is_none() {
            return Ok(false);
        }
        let watch = watchpoint(address, len, kind);
        self.machine.add_watch(watch);
        self.watches.push((watch, kind));
        Ok(true)
    }
    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watch = watchpoint(address, len, kind);
        let found = self.watches.iter().position(|(other, other_kind)| (*other, *other_kind) == (watch, kind));
        if let Some(at) = found {
            self.watches.remove(at);
            self.machine.remove_watch(watch);
        }
        Ok(found.is_some())
    }
}

impl MemoryMap for Session<'_> {
    fn memory_map_xml(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        // gdb's addresses are linear: any of them may be mapped.
        const XML: &str = "<?xml version=\"1.0\"?><!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\" \"http://sourceware.org/gdb/gdb-memory-map.dtd\"><memory-map><memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/><memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/></memory-map>";
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(XML.len());
        let count = (XML.len() - from).min(length).min(buf.len());
        buf[..count].copy_from_slice(&XML.as_bytes()[from..from + count]);
        Ok(count)
    }
}

impl ThreadExtraInfo for Session<'_> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, GdbError> {
        let vcpu = vcpu(tid);
        let text = match self.machine.cpu_state(vcpu) {
            Some(state) => format!("vCPU {vcpu} {:?} ring {} cr3 {:#x}", state.sys.activity, state.sys.cpl, state.sys.cr3),
            None => "no such vCPU".to_owned(),
        };
        let count = text.len().min(buf.len());
        buf[..count].copy_from_slice(&text.as_bytes()[..count]);
        Ok(count)
    }
}

impl MonitorCmd for Session<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), GdbError> {
        let text = monitor::run(self, &String::from_utf8_lossy(command));
        out.write_raw(text.as_bytes());
        Ok(())
    }
}
