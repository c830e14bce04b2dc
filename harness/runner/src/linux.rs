//! An initrd of Debian programs for a Linux kernel of Debian's.
//!
//! # Structures
//! ```text
//! /init -> bin/busybox, /etc/inittab   busybox's init: /etc/rc once, then a shell on ttyS0 and the agent on ttyS1
//! /etc/rc                              mounts proc, sys, dev, tmp; loads the modules, in the order they need each other
//! /lib/modules/load/NN-NAME.ko         the modules
//! /bin/busybox and its applet links    Debian's busybox-static, unmodified
//! /usr/lib/orrery/...                  the agent and our other guest programs
//! everything else                      what the scenario's packages hold, with the libraries they need
//! ```
//!
//! Which driver a disk or a NIC needs is a row of [`DRIVERS`].
//!
//! # Failure
//! A module or a library that does not exist is an error before the machine starts. A module that does not load says so on the console, and the
//! scenario's steps show what is missing.

use crate::archive::{Node, Tree};
use crate::debian::{DebianError, Libraries, Package, Store};
use crate::live::{self, Programs};
use goblin::elf::Elf;
use scenario::{Flavour, Userland};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a device model of the board needs in the guest, by the model's name in board tables.
const DRIVERS: &[(&str, &[&str])] = &[
    ("virtio-blk", &["virtio_pci", "virtio_blk"]),
    ("nvme", &["nvme"]),
    ("ahci", &["ahci", "sd_mod"]),
    ("virtio-net", &["virtio_pci", "virtio_net"]),
    ("e1000e", &["e1000e"]),
    ("virtio-console", &["virtio_pci", "virtio_console"]),
    ("virtio-rng", &["virtio_pci", "virtio_rng"]),
];
/// File systems of formats a disk may have.
const FILE_SYSTEMS: &[&str] = &["ext4"];
/// Modules that others ask the kernel for by a name that is not the module's own.
const PROVIDERS: &[(&str, &str)] = &[("crc32c", "crc32c_generic"), ("crct10dif", "crct10dif_common"), ("crc64_rocksoft", "crc64_rocksoft_generic")];

/// Parts of packages that no program needs to run.
const LEFT_OUT: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion", "lib/systemd", "usr/lib/systemd", "lib/udev", "usr/lib/udev"];

/// A kernel of Debian's with its modules.
#[derive(Clone, Debug)]
pub struct LinuxKernel {
    pub package: Package,
    pub image: PathBuf,
    modules: Vec<(String, PathBuf)>,
}

/// Fetches a kernel.
pub fn kernel(store: &Store, flavour: Flavour) -> Result<LinuxKernel, DebianError> {
    let meta = store.package(match flavour {
        Flavour::Cloud => "linux-image-cloud-amd64",
        Flavour::Full => "linux-image-amd64",
    })?;
    let real = meta.depends.iter().find(|name| name.starts_with("linux-image-"));
    let real = real.ok_or_else(|| DebianError::NoFile { package: meta.name.clone(), path: "(a dependency on a kernel)".to_owned() })?;
    let package = store.package(real)?;
    let release = real.trim_start_matches("linux-image-");
    let image = unpacked(&package.file(&format!("boot/vmlinuz-{release}"))?, &package.root.with_file_name(format!("vmlinux-{release}")))?;
    let mut modules = Vec::new();
    for folder in ["lib/modules", "usr/lib/modules"] {
        collect(&package.root.join(folder), &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((stem, _)) = name.split_once(".ko") {
                modules.push((stem.replace('-', "_"), path.to_owned()));
            }
        });
    }
    modules.sort();
    Ok(LinuxKernel { package, image, modules })
}

/// The kernel inside a bzImage that xz packed, written to `to`; other images as they are.
///
/// Debian packs its full kernel so. The kernel would unpack itself in 4.6 billion instructions, three quarters of a small scenario; the host's xz takes a
/// second, once, and the kernel that comes out is the same, entered by PVH. (The cloud kernel unpacks itself in no time, and does.)
pub fn unpacked(image: &Path, to: &Path) -> Result<PathBuf, DebianError> {
    let broken = |why: String| DebianError::Broken { path: image.to_owned(), why };
    if to.exists() {
        return Ok(to.to_owned());
    }
    let bytes = std::fs::read(image).map_err(|error| broken(error.to_string()))?;
    let Some(packed) = payload(&bytes).filter(|packed| packed.starts_with(b"\xfd7zXZ\0")) else { return Ok(image.to_owned()) };
    let aside = to.with_extension(format!("{}.xz", std::process::id()));
    let plain = aside.with_extension("");
    std::fs::write(&aside, packed).map_err(|error| broken(error.to_string()))?;
    let done = Command::new("xz").args(["-df"]).arg(&aside).output().map_err(|error| broken(format!("xz: {error}")))?;
    if !done.status.success() {
        return Err(broken(format!("xz: {}", String::from_utf8_lossy(&done.stderr).trim())));
    }
    // Others may have been at it, too: they made the same.
    std::fs::rename(&plain, to).map_err(|error| broken(error.to_string()))?;
    Ok(to.to_owned())
}

/// What a bzImage unpacks (`Documentation/arch/x86/boot.rst`, `payload_offset`), without the four bytes of its size at the end.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let field = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        &sectors => usize::from(sectors),
    };
    let start = ((sectors + 1) * 512).checked_add(field(0x248)?)?;
    image.get(start..start.checked_add(field(0x24c)?.checked_sub(4)?)?)
}

/// Calls `each` for every file and link below a folder, in path order. A folder that cannot be read is empty.
fn collect(folder: &Path, each: &mut dyn FnMut(&Path)) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() { collect(&path, each) } else { each(&path) }
    }
}

/// A module ready to be loaded.
struct Module {
    name: String,
    bytes: Vec<u8>,
}

impl LinuxKernel {
    fn is_builtin(&self, name: &str) -> bool {
        let release = self.package.name.trim_start_matches("linux-image-");
        let list = self.package.file(&format!("lib/modules/{release}/modules.builtin")).ok().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        list.lines().filter_map(|line| line.rsplit('/').next()?.split(".ko").next()).any(|known| known.replace('-', "_") == name)
    }

    /// Puts a module and everything it needs into `into`, in load order. An optional one that does not exist is left out.
    fn load(&self, name: &str, optional: bool, into: &mut Vec<Module>) -> Result<(), DebianError> {
        let name = name.replace('-', "_");
        if into.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some((_, path)) = self.modules.iter().find(|(known, _)| *known == name) else {
            if let Some((_, provider)) = PROVIDERS.iter().find(|(asked, _)| *asked == name.trim_start_matches("crypto_")) {
                return self.load(provider, optional, into);
            }
            return if optional || self.is_builtin(&name) { Ok(()) } else { Err(DebianError::NoModule { module: name, kernel: self.package.name.clone() }) };
        };
        let broken = |why: String| DebianError::Broken { path: path.clone(), why };
        let bytes = if path.extension().is_some_and(|e| e == "xz") {
            let output = Command::new("xz").arg("-dc").arg(path).output().map_err(|error| broken(format!("xz: {error}")))?;
            output.stdout
        } else {
            std::fs::read(path).map_err(|error| broken(error.to_string()))?
        };
        let info = module_info(&bytes).map_err(broken)?;
        for (key, value) in &info {
            match key.as_str() {
                "depends" => value.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.load(word, false, into))?,
                "softdep" => {
                    let before = value.strip_prefix("pre:").unwrap_or_default();
                    before.split_whitespace().take_while(|word| *word != "post:").try_for_each(|word| self.load(word, true, into))?;
                }
                _ => {}
            }
        }
        into.push(Module { name, bytes });
        Ok(())
    }
}

/// The `key=value` strings of a module (`Documentation/kbuild/modules.rst`).
fn module_info(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let elf = Elf::parse(bytes).map_err(|error| format!("not a kernel module: {error}"))?;
    let section = elf.section_headers.iter().find(|section| elf.shdr_strtab.get_at(section.sh_name) == Some(".modinfo")).ok_or("a module without .modinfo")?;
    let text = section.file_range().and_then(|range| bytes.get(range)).ok_or("section .modinfo is not in the file")?;
    let strings = text.split(|byte| *byte == 0).filter_map(|string| std::str::from_utf8(string).ok()?.split_once('='));
    Ok(strings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// What the machine has, as the initrd sees it.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    /// Model names of its disks and NICs.
    pub models: Vec<String>,
    /// Some disk has a file system.
    pub file_systems: bool,
}

/// Makes the tree, and names the packages it was made from.
pub fn root(store: &Store, kernel: &LinuxKernel, userland: &Userland, hardware: &Hardware, programs: &Programs) -> Result<(Tree, Vec<String>), live::LiveError> {
    let busybox = store.package("busybox-static")?;
    let mut tree = live::base(&busybox.file("bin/busybox")?)?;
    tree.link("init", "/bin/busybox");
    for program in programs.guests() {
        tree.file(&format!("usr/lib/orrery/{}", live::file_name(program)), 0o755, live::read(program)?);
    }
    let mut used = vec![kernel.package.label(), busybox.label()];
    let mut libraries = Libraries::new(store);
    for name in &userland.packages {
        let package = store.package(name)?;
        used.push(package.label());
        install(&package, &mut tree, &mut libraries)?;
    }
    for (soname, path) in &libraries.found {
        let folder = if soname.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        tree.file(&format!("{folder}/{soname}"), 0o755, live::read(path)?);
    }
    used.extend(libraries.packages.values().filter(|package| !userland.packages.contains(&package.name)).map(Package::label));

    let mut modules = Vec::new();
    let drivers = hardware.models.iter().filter_map(|model| DRIVERS.iter().find(|(name, _)| name == model)).flat_map(|(_, modules)| modules.iter().copied());
    let systems = FILE_SYSTEMS.iter().copied().filter(|_| hardware.file_systems);
    for name in drivers.chain(systems).chain(userland.modules.iter().map(String::as_str)) {
        kernel.load(name, false, &mut modules)?;
    }
    let mut script = String::from(RC);
    for (index, module) in modules.into_iter().enumerate() {
        let path = format!("lib/modules/load/{index:02}-{}.ko", module.name);
        script.push_str(&format!("insmod /{path}\n"));
        tree.file(&path, 0o644, module.bytes);
    }
    tree.file("etc/rc", 0o755, script);
    tree.file("etc/inittab", 0o644, INITTAB);
    tree.file("etc/hostname", 0o644, "guest\n");
    tree.file("etc/hosts", 0o644, "127.0.0.1 localhost guest\n");
    Ok((tree, used))
}

const INITTAB: &str = "::sysinit:/etc/rc\nttyS0::respawn:-/bin/sh\nttyS1::respawn:/usr/lib/orrery/agent /dev/ttyS1\n";
const RC: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
hostname -F /etc/hostname
ifconfig lo 127.0.0.1 up
";

/// Puts a package's files into the tree.
fn install(package: &Package, tree: &mut Tree, libraries: &mut Libraries<'_>) -> Result<(), live::LiveError> {
    let mut files = Vec::new();
    collect(&package.root, &mut |path| files.push(path.to_owned()));
    for path in files {
        let Ok(inside) = path.strip_prefix(&package.root) else { continue };
        let inside_text = inside.to_string_lossy().into_owned();
        if LEFT_OUT.iter().any(|left| inside.starts_with(left)) {
            continue;
        }
        if path.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|error| live::LiveError(format!("{}: {error}", path.display())))?;
            tree.put(&inside_text, Node::Link { target: target.to_string_lossy().into_owned() });
            continue;
        }
        use std::os::unix::fs::PermissionsExt as _;
        let mode = path.metadata().map_or(0o644, |data| data.permissions().mode() & 0o7777);
        tree.file(&inside_text, mode, live::read(&path)?);
        libraries.add(package, &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_info_refuses_what_is_no_module() {
        assert!(module_info(b"#!/bin/sh").is_err());
        let own = std::fs::read("/proc/self/exe").expect("this test is a program");
        assert!(module_info(&own).unwrap_err().contains("modinfo"));
    }
}
