//! The verb `image`: an ISO for BIOS and UEFI machines.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use runner::qemu::{Media, Qemu, QemuConfig};
use runner::{Line, Target as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct ImageArgs {
    /// Where to write it. Default: out/orrery.iso.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Boots it in QEMU with SeaBIOS and with OVMF, up to the shell's prompt on the serial line.
    #[arg(long)]
    test: bool,
}

/// Firmware files by Debian's ovmf package, in the order tried.
const FIRMWARE: &[&str] = &["/usr/share/ovmf/OVMF.fd", "/usr/share/qemu/OVMF.fd"];
/// How long a boot under TCG may take; OVMF alone takes a while.
const PATIENCE: Duration = Duration::from_secs(180);

const GRUB: &str = "\
set timeout=0
insmod serial
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
menuentry orrery {
    multiboot2 /boot/orrery console=ttyS0
    module2 /boot/initrd.cpio
    boot
}
";

/// Makes the image.
pub fn image(args: &ImageArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let kernel = context.kernel(Profile::Ship)?;
    let stage = context.root.join("target/iso");
    let boot = stage.join("boot/grub");
    std::fs::create_dir_all(&boot).map_err(Failure::file(&boot))?;
    let put = |path: PathBuf, bytes: &[u8]| std::fs::write(&path, bytes).map_err(Failure::file(path.clone()));
    put(stage.join("boot/orrery"), &std::fs::read(&kernel).map_err(Failure::file(&kernel))?)?;
    put(stage.join("boot/initrd.cpio"), &context.live(&context.programs()?)?.to_cpio())?;
    put(boot.join("grub.cfg"), GRUB.as_bytes())?;
    let output = args.output.clone().unwrap_or_else(|| context.root.join("out/orrery.iso"));
    if let Some(folder) = output.parent() {
        std::fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    }
    let made = Command::new("grub-mkrescue").arg("-o").arg(&output).arg(&stage).output();
    let made = made.map_err(|error| Failure::Host(format!("cannot run grub-mkrescue: {error}\n   = hint: apt-get install grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools")))?;
    if !made.status.success() {
        return Err(Failure::Host(format!("grub-mkrescue failed:\n{}\n   = hint: apt-get install grub-pc-bin grub-efi-amd64-bin xorriso mtools", String::from_utf8_lossy(&made.stderr).trim_end())));
    }
    println!("{} ({:.1} MB)", output.display(), std::fs::metadata(&output).map_or(0.0, |data| data.len() as f64 / 1e6));
    if !args.test {
        return Ok(());
    }
    let firmware = FIRMWARE.iter().map(PathBuf::from).find(|path| path.is_file());
    let Some(firmware) = firmware else {
        return Err(Failure::Host("no UEFI firmware for QEMU\n   = hint: apt-get install ovmf".to_owned()));
    };
    let mut all = true;
    for (name, firmware) in [("SeaBIOS", None), ("OVMF", Some(firmware))] {
        match reaches_shell(&context, &output, firmware) {
            Ok(time) => println!("ok    {name}: the shell answers after {:.1} s", time.as_secs_f64()),
            Err(why) => {
                all = false;
                println!("FAIL  {name}: {why}");
            }
        }
    }
    if all { Ok(()) } else { Err(Failure::DoesNotHold) }
}

/// Boots the image and asks the shell a question that only a working shell answers.
fn reaches_shell(context: &Context, iso: &Path, firmware: Option<PathBuf>) -> Result<Duration, String> {
    let folder = context.root.join("out/image").join(if firmware.is_some() { "ovmf" } else { "seabios" });
    let config = QemuConfig { media: Media::Cdrom { iso: iso.to_owned(), firmware }, vcpus: 1, memory_bytes: 1 << 30, disks: Vec::new(), folder: folder.clone(), icount: false, faults: Vec::new() };
    let mut machine = Qemu::start(&config).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let mut console = Vec::new();
    let mut asked = Instant::now();
    let why = loop {
        match machine.advance() {
            Ok(None) => {}
            Ok(Some(end)) => break format!("the machine ended: {end}"),
            Err(error) => break error.to_string(),
        }
        console.extend(machine.take(Line::Console));
        // Asked anew now and then: a key pressed before the shell is up is lost. The answer is not in the question, so its echo does not count.
        if asked.elapsed() > Duration::from_secs(5) {
            asked = Instant::now();
            if let Err(error) = machine.put(Line::Console, b"echo answer-$((6*7))\r") {
                break error.to_string();
            }
        }
        if String::from_utf8_lossy(&console).contains("answer-42") {
            drop(std::fs::write(folder.join("console.txt"), &console));
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            break format!("no answer from a shell in {} s", PATIENCE.as_secs());
        }
    };
    let path = folder.join("console.txt");
    drop(std::fs::write(&path, &console));
    Err(format!("{why}; its console is in {}", path.strip_prefix(&context.root).unwrap_or(&path).display()))
}
