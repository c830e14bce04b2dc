//! procfs without processes: the tree of system files, and what each zone sees of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use kif::ZoneId;
use vfs::{Cred, Cx, File, Kind, MountFlags, OpenFlags, Place, VfsError, mount, ops, tmpfs};
use zone::{Brand, Config, Privileges, Uuid, Zone};

struct World {
    root: Place,
    cred: Cred,
}

impl World {
    fn cx(&self) -> Cx<'_> {
        Cx { cred: &self.cred, root: &self.root, cwd: &self.root }
    }
    fn open(&self, path: &str, flags: OpenFlags) -> vfs::Result<Arc<File>> {
        ops::open(&self.cx(), None, path.as_bytes(), flags, 0)
    }
    fn read(&self, path: &str) -> String {
        let file = self.open(path, OpenFlags::READ).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let mut text = Vec::new();
        let mut part = [0; 7];
        loop {
            let count = file.read(&mut part, self.cred.zone).expect(path);
            if count == 0 {
                return String::from_utf8(text).expect(path);
            }
            text.extend_from_slice(&part[..count]);
        }
    }
    fn write(&self, path: &str, text: &str) -> vfs::Result<usize> {
        self.open(path, OpenFlags::WRITE | OpenFlags::TRUNC)?.write(text.as_bytes(), self.cred.zone)
    }
}

fn global() -> World {
    kif_host::start();
    zone::init_global("host");
    let root = mount::mount_root(tmpfs::new(&tmpfs::Options::default()), "rootfs");
    let world = World { root, cred: Cred::root(ZoneId::GLOBAL) };
    proc_at(&world, ZoneId::GLOBAL);
    world
}

fn proc_at(world: &World, zone: ZoneId) {
    ops::mkdir(&world.cx(), None, b"/proc", 0o555).expect("mkdir");
    let at = vfs::lookup(&world.cx(), None, b"/proc", vfs::Follow::Yes).expect("proc");
    mount::mount(&at, linux::procfs::new(zone), "proc", MountFlags::empty()).expect("mount");
}

fn tenant(name: &str) -> (World, Arc<Zone>) {
    let outside = global();
    let config = Config {
        name: name.into(),
        uuid: Uuid::default(),
        did: 1,
        brand: Brand::Lx,
        hostname: name.into(),
        root: "/z".into(),
        privileges: Privileges::TENANT,
        rctls: Vec::new(),
    };
    let zone = zone::create(config).expect("zone");
    ops::mkdir(&outside.cx(), None, b"/z", 0o755).expect("mkdir");
    let at = vfs::lookup(&outside.cx(), None, b"/z", vfs::Follow::Yes).expect("z");
    let root = mount::make_zone_root(&at, zone.id(), name).expect("root");
    let world = World { root, cred: Cred::root(zone.id()) };
    proc_at(&world, zone.id());
    (world, zone)
}

/// Every name below `path`, with its inode number; reads every file on the way.
fn walk(world: &World, path: &str, seen: &mut BTreeMap<u64, String>) {
    let directory = world.open(path, OpenFlags::READ | OpenFlags::DIRECTORY).expect(path);
    let mut entries = Vec::new();
    directory
        .readdir(&mut |entry| {
            entries.push((String::from_utf8(entry.name.to_vec()).expect("text"), entry.ino, entry.kind));
            true
        })
        .expect(path);
    for (name, ino, kind) in entries.into_iter().filter(|(name, ..)| name != "." && name != "..") {
        let child = format!("{path}/{name}");
        let attr = ops::stat(&world.cx(), None, child.as_bytes(), vfs::Follow::No).expect(&child);
        assert_eq!((attr.id.ino, attr.kind), (ino, kind), "{child}");
        if let Some(other) = seen.insert(ino, child.clone()) {
            panic!("{child} and {other} have the same number");
        }
        match kind {
            Kind::File => drop(world.read(&child)),
            Kind::Directory => {
                let place = vfs::lookup(&world.cx(), None, child.as_bytes(), vfs::Follow::Yes).expect(&child);
                assert_eq!(vfs::path_of(&place, &world.root).as_deref(), Some(child.as_bytes()));
                walk(world, &child, seen);
            }
            _ => {}
        }
    }
}

#[test]
fn every_file_opens_and_every_number_is_unique() {
    let world = global();
    let mut seen = BTreeMap::new();
    walk(&world, "/proc", &mut seen);
    assert!(seen.len() > 55, "{} entries", seen.len());
    for name in ["/proc/meminfo", "/proc/sys/kernel/hostname", "/proc/net/tcp", "/proc/sys/kernel/random/uuid", "/proc/mounts"] {
        assert!(seen.values().any(|path| path == name), "{name} is missing");
    }
}

#[test]
fn a_zone_sees_its_own_name_memory_and_age() {
    let (inside, zone) = tenant("proc-zone");
    let outside = global();
    assert_eq!(inside.read("/proc/sys/kernel/hostname"), "proc-zone\n");
    assert_eq!(inside.write("/proc/sys/kernel/hostname", "renamed\n"), Ok(8));
    assert_eq!(zone.hostname(), "renamed");
    assert_eq!(outside.read("/proc/sys/kernel/hostname"), "host\n");
    assert_ne!(inside.read("/proc/sys/kernel/random/boot_id"), outside.read("/proc/sys/kernel/random/boot_id"));
    zone.set_rctl(zone::rctl::Rctl::MaxPhysicalMemory, 8 << 20).expect("cap");
    assert!(inside.read("/proc/meminfo").starts_with("MemTotal:           8192 kB\n"), "{}", inside.read("/proc/meminfo"));
    let seconds: f64 = inside.read("/proc/uptime").split(' ').next().expect("first").parse().expect("number");
    assert!(seconds < 60.0);
}

#[test]
fn what_is_not_there_or_not_allowed_is_refused() {
    let world = global();
    for path in ["/proc/1", "/proc/01", "/proc/+1", "/proc/99999999999", "/proc/nothing", "/proc/sys/kernel/nothing", "/proc/self/stat"] {
        assert_eq!(world.open(path, OpenFlags::READ).err(), Some(VfsError::NotFound), "{path}");
    }
    assert_eq!(world.write("/proc/meminfo", "x").err(), Some(VfsError::AccessDenied));
    assert_eq!(world.write("/proc/sys/kernel/hostname", &"x".repeat(65)).err(), Some(VfsError::Invalid));
    assert_eq!(ops::mkdir(&world.cx(), None, b"/proc/new", 0o755), Err(VfsError::NotPermitted));
    assert_eq!(ops::unlink(&world.cx(), None, b"/proc/version"), Err(VfsError::NotPermitted));
    assert_eq!(world.open("/proc/version/x", OpenFlags::READ).err(), Some(VfsError::NotDirectory));
}
