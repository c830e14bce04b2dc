//! QEMU as a target: the same kernel, initrd and command line under TCG, serial lines on sockets.
//!
//! # Theory
//! The runner listens on two sockets and QEMU connects to them, so that no byte of the guest is lost. A thread per socket moves bytes into a
//! channel; the guest's time is the wall clock. What a scenario wants to happen to disks, and can happen here, [`Mishaps`] does.
//!
//! # Failure
//! What QEMU says on its standard error is kept and shown if it ends before the guest does. The process is killed when the target is dropped.

use crate::mishap::Mishaps;
use crate::target::{End, Line, Target, TargetError};
use scenario::DiskModel;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long QEMU may take to start and connect.
const START: Duration = Duration::from_secs(20);
/// How long one `advance` waits for output.
const PIECE: Duration = Duration::from_millis(20);

/// How the guest gets into the machine.
#[derive(Clone, Debug)]
pub enum Media {
    /// `-kernel`, `-initrd`, `-append`.
    Kernel { kernel: PathBuf, initrd: Option<PathBuf>, append: String },
    /// A CD-ROM, started by SeaBIOS, or by the UEFI firmware image given.
    Cdrom { iso: PathBuf, firmware: Option<PathBuf> },
}

/// A disk of QEMU's.
#[derive(Clone, Debug)]
pub struct QemuDisk {
    pub model: DiskModel,
    /// A raw image that QEMU may write to.
    pub path: PathBuf,
    pub read_only: bool,
}

/// What QEMU is to be.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    pub media: Media,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disks: Vec<QemuDisk>,
    /// Folder for the sockets; made if it is not there.
    pub folder: PathBuf,
    /// Counts instructions, as far as QEMU does (`-icount`).
    pub icount: bool,
    /// What is to happen to the disks.
    pub faults: Vec<sim_fault::Fault>,
}

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    console: UnixStream,
    agent: UnixStream,
    monitor: UnixStream,
    mishaps: Mishaps,
    input: Receiver<(bool, Vec<u8>)>,
    console_bytes: Vec<u8>,
    agent_bytes: Vec<u8>,
    errors: PathBuf,
    disks: Vec<PathBuf>,
    started: Instant,
}

/// The arguments that do not depend on the run; also what a person may type to look at the machine alone.
#[must_use]
pub fn arguments(config: &QemuConfig) -> Vec<String> {
    let mut words: Vec<String> = ["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"].map(str::to_owned).into();
    words.extend(["-smp".into(), config.vcpus.to_string(), "-m".into(), format!("{}M", config.memory_bytes >> 20)]);
    words.extend(["-device".into(), "isa-debug-exit,iobase=0xf4,iosize=0x04".into()]);
    if config.icount {
        words.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
    }
    match &config.media {
        Media::Kernel { kernel, initrd, append } => {
            words.extend(["-kernel".into(), kernel.display().to_string(), "-append".into(), append.clone()]);
            if let Some(initrd) = initrd {
                words.extend(["-initrd".into(), initrd.display().to_string()]);
            }
        }
        Media::Cdrom { iso, firmware } => {
            words.extend(["-cdrom".into(), iso.display().to_string(), "-vga".into(), "std".into()]);
            if let Some(firmware) = firmware {
                words.extend(["-bios".into(), firmware.display().to_string()]);
            }
        }
    }
    for (index, disk) in config.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        words.extend(["-drive".into(), format!("if=none,id=disk{index},format=raw,read-only={read_only},file={}", disk.path.display())]);
        words.extend(["-device".into(), match disk.model {
            DiskModel::VirtioBlk => format!("virtio-blk-pci,drive=disk{index}"),
            DiskModel::Nvme => format!("nvme,drive=disk{index},serial=orrery{index}"),
            DiskModel::Ahci if disk.read_only => format!("ide-cd,drive=disk{index},bus=ide.{index}"),
            DiskModel::Ahci => format!("ide-hd,drive=disk{index},bus=ide.{index}"),
        }]);
    }
    words
}

impl Qemu {
    /// Starts QEMU and waits until both lines are connected.
    pub fn start(config: &QemuConfig) -> Result<Self, TargetError> {
        let fail = |what: &str, error: std::io::Error| TargetError(format!("{what}: {error}"));
        std::fs::create_dir_all(&config.folder).map_err(|error| fail("cannot make the folder for QEMU's sockets", error))?;
        // A socket's path is at most 107 bytes; the folder may be deep, so they live under the system's temporary folder.
        let sockets = std::env::temp_dir().join(format!("orrery-qemu-{}-{:x}", std::process::id(), fingerprint(&config.folder)));
        std::fs::create_dir_all(&sockets).map_err(|error| fail("cannot make the folder for QEMU's sockets", error))?;
        let listen = |name: &str| -> Result<(PathBuf, UnixListener), TargetError> {
            let path = sockets.join(name);
            drop(std::fs::remove_file(&path));
            let listener = UnixListener::bind(&path).map_err(|error| fail("cannot make a socket for QEMU", error))?;
            listener.set_nonblocking(true).map_err(|error| fail("cannot make a socket for QEMU", error))?;
            Ok((path, listener))
        };
        let (console_path, console_listener) = listen("console")?;
        let (agent_path, agent_listener) = listen("agent")?;
        let (monitor_path, monitor_listener) = listen("monitor")?;
        let errors = config.folder.join("qemu.stderr");
        let error_file = std::fs::File::create(&errors).map_err(|error| fail("cannot keep QEMU's messages", error))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(config));
        command.arg("-chardev").arg(format!("socket,id=con,path={}", console_path.display())).arg("-serial").arg("chardev:con");
        command.arg("-chardev").arg(format!("socket,id=agt,path={}", agent_path.display())).arg("-serial").arg("chardev:agt");
        command.arg("-chardev").arg(format!("socket,id=mon,path={}", monitor_path.display())).arg("-mon").arg("chardev=mon,mode=readline");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(error_file);
        let mut child = command.spawn().map_err(|error| fail("cannot start qemu-system-x86_64 (Debian: apt-get install qemu-system-x86)", error))?;
        let mut accept = |listener: &UnixListener| accept(&mut child, listener, &errors);
        let connected = accept(&console_listener).and_then(|console| Ok((console, accept(&agent_listener)?, accept(&monitor_listener)?)));
        drop(std::fs::remove_dir_all(&sockets));
        let (console, agent, monitor) = match connected {
            Ok(lines) => lines,
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                return Err(error);
            }
        };
        let (sender, input) = channel();
        listen_on(&console, true, sender.clone()).map_err(|error| fail("QEMU's console", error))?;
        listen_on(&agent, false, sender).map_err(|error| fail("QEMU's agent line", error))?;
        drain(&monitor).map_err(|error| fail("QEMU's monitor", error))?;
        let disks: Vec<PathBuf> = config.disks.iter().map(|disk| disk.path.clone()).collect();
        let mishaps = Mishaps::new(&config.faults, &disks);
        Ok(Self { child, console, agent, monitor, mishaps, input, console_bytes: Vec::new(), agent_bytes: Vec::new(), errors, disks, started: Instant::now() })
    }

    fn keep(&mut self, (console, bytes): (bool, Vec<u8>)) {
        if console {
            self.mishaps.hear(&bytes, &mut self.monitor);
            self.console_bytes.extend(bytes);
        } else {
            self.agent_bytes.extend(bytes);
        }
    }
}

/// A short number for a path, so that two runs at once do not share sockets.
fn fingerprint(path: &Path) -> u64 {
    path.to_string_lossy().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn accept(child: &mut Child, listener: &UnixListener, errors: &Path) -> Result<UnixStream, TargetError> {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(|error| TargetError(format!("QEMU's socket: {error}")))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(TargetError(format!("QEMU's socket: {error}"))),
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || begun.elapsed() > START {
            let said = std::fs::read_to_string(errors).unwrap_or_default();
            let what = if ended.is_some() { "QEMU ended before the guest began" } else { "QEMU did not start in time" };
            return Err(TargetError(format!("{what}: {}", said.trim())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listen_on(stream: &UnixStream, console: bool, sender: Sender<(bool, Vec<u8>)>) -> std::io::Result<()> {
    let mut stream = stream.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // Ends with the socket, or with the target.
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || sender.send((console, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// Reads what the monitor says, so that it can go on saying it.
fn drain(monitor: &UnixStream) -> std::io::Result<()> {
    let mut stream = monitor.try_clone()?;
    std::thread::spawn(move || drop(std::io::copy(&mut stream, &mut std::io::sink())));
    Ok(())
}

impl Target for Qemu {
    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn advance(&mut self) -> Result<Option<End>, TargetError> {
        let ended = self.child.try_wait().map_err(|error| TargetError(format!("QEMU: {error}")))?;
        match self.input.recv_timeout(PIECE) {
            Ok(piece) => self.keep(piece),
            Err(RecvTimeoutError::Timeout) => {}
            // Both lines are closed: only its exit is missing.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(PIECE),
        }
        while let Ok(piece) = self.input.try_recv() {
            self.keep(piece);
        }
        self.mishaps.go_on();
        let Some(status) = ended else { return Ok(None) };
        match status.code() {
            Some(0) => Ok(Some(End::PowerOff)),
            Some(code) if code & 1 == 1 && code > 1 => Ok(Some(End::DebugExit(code.unsigned_abs()))),
            _ => {
                let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
                Err(TargetError(format!("QEMU ended with {status}: {}", said.trim())))
            }
        }
    }

    fn take(&mut self, line: Line) -> Vec<u8> {
        match line {
            Line::Console => std::mem::take(&mut self.console_bytes),
            Line::Agent => std::mem::take(&mut self.agent_bytes),
        }
    }

    fn put(&mut self, line: Line, bytes: &[u8]) -> Result<(), TargetError> {
        let stream = match line {
            Line::Console => &mut self.console,
            Line::Agent => &mut self.agent,
        };
        match stream.write_all(bytes) {
            // It is ending: `advance` will say how.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset) => Ok(()),
            result => result.map_err(|error| TargetError(format!("QEMU's socket: {error}"))),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn ticks(&self) -> Option<u64> {
        None
    }

    fn receipt(&mut self) -> Option<String> {
        None
    }

    fn disks(&mut self) -> Vec<Vec<u8>> {
        // QEMU writes its caches out when it ends; a disk that cannot be read is an empty one, and what is asked of it fails.
        drop(self.child.kill());
        drop(self.child.wait());
        self.disks.iter().map(|path| std::fs::read(path).unwrap_or_default()).collect()
    }

    fn events(&mut self) -> Vec<String> {
        self.mishaps.take_events()
    }

    fn unimplemented(&mut self) -> Vec<String> {
        Vec::new()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
