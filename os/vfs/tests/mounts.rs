//! Mounts, loopback mounts and the boundary of a zone.

mod support;

use support::{MAKE, World};
use vfs::{Cred, MountFlags, VfsError, mount, ops, tmpfs};

fn add(world: &World, path: &str) {
    let at = world.find(path).expect(path);
    mount::mount(&at, tmpfs::new(&tmpfs::Options::default()), "tmp", MountFlags::empty()).expect("mount");
}

#[test]
fn mount_hides_and_unmount_shows_again() {
    let world = World::new();
    world.mkdir("/mnt").expect("mnt");
    world.write("/mnt/below", b"1").expect("below");
    add(&world, "/mnt");
    assert_eq!(world.read("/mnt/below").err(), Some(VfsError::NotFound));
    world.mkdir("/mnt/sub").expect("sub");
    add(&world, "/mnt/sub");
    world.write("/mnt/sub/x", b"2").expect("x");
    let place = world.find("/mnt/sub").expect("sub");
    assert_eq!(world.path(&place).as_deref(), Some("/mnt/sub"));
    assert_eq!(world.path(&world.find("/mnt/sub/../..").expect("up")).as_deref(), Some("/"));
    drop(place);
    let names: Vec<_> = mount::list(&world.root).into_iter().map(|line| String::from_utf8(line.path).expect("text")).collect();
    assert_eq!(names, ["/", "/mnt", "/mnt/sub"]);
    assert_eq!(mount::unmount(&world.cx(), b"/mnt", false), Err(VfsError::Busy), "a mount inside");
    let open = world.open("/mnt/sub/x", support::READ).expect("x");
    assert_eq!(mount::unmount(&world.cx(), b"/mnt/sub", false), Err(VfsError::Busy), "an open file");
    drop(open);
    mount::unmount(&world.cx(), b"/mnt/sub", false).expect("free now");
    mount::unmount(&world.cx(), b"/mnt", false).expect("free now");
    assert_eq!(world.read("/mnt/below").expect("seen again"), b"1");
    assert_eq!(mount::unmount(&world.cx(), b"/mnt", false), Err(VfsError::Invalid));
}

#[test]
fn mount_points_cannot_be_removed_or_crossed_by_links() {
    let world = World::new();
    world.mkdir("/d").expect("d");
    world.mkdir("/e").expect("e");
    add(&world, "/d");
    world.write("/d/f", b"").expect("f");
    world.write("/g", b"").expect("g");
    assert_eq!(world.rmdir("/d"), Err(VfsError::Busy));
    assert_eq!(world.rename("/d", "/x"), Err(VfsError::Busy));
    assert_eq!(world.rename("/e", "/d"), Err(VfsError::Busy));
    assert_eq!(world.rename("/g", "/d/g"), Err(VfsError::CrossDevice));
    assert_eq!(world.link("/g", "/d/g"), Err(VfsError::CrossDevice));
}

#[test]
fn read_only_loopback_shares_contents_and_refuses_changes() {
    let world = World::new();
    world.mkdir("/usr").expect("usr");
    world.mkdir("/zone").expect("zone");
    world.write("/usr/tool", b"v1").expect("tool");
    mount::bind(&world.find("/zone").expect("zone"), &world.find("/usr").expect("usr"), "/usr", MountFlags::READ_ONLY).expect("bind");
    assert_eq!(world.read("/zone/tool").expect("same file"), b"v1");
    world.write("/usr/tool", b"v2").expect("from outside");
    assert_eq!(world.read("/zone/tool").expect("same file"), b"v2");
    assert_eq!(world.write("/zone/tool", b"v3").err(), Some(VfsError::ReadOnly));
    assert_eq!(world.open("/zone/new", MAKE).err(), Some(VfsError::ReadOnly));
    assert_eq!(world.mkdir("/zone/tool"), Err(VfsError::Exists));
    assert_eq!(world.unlink("/zone/tool"), Err(VfsError::ReadOnly));
    assert_eq!(ops::chmod(&world.cx(), &world.find("/zone/tool").expect("tool"), 0), Err(VfsError::ReadOnly));
    assert_eq!(world.stat("/zone/tool").expect("a").id, world.stat("/usr/tool").expect("b").id);
}

/// A zone whose root is `/zones/z/root`, with a secret outside.
fn zone() -> (World, World) {
    let global = World::new();
    let zone = kif_host::fresh_zone();
    for dir in ["/zones", "/zones/z", "/zones/z/root", "/zones/z/root/tmp", "/zones/z/root/usr", "/usr"] {
        global.mkdir(dir).expect(dir);
    }
    global.write("/secret", b"secret").expect("secret");
    global.write("/zones/z/root/hello", b"hello").expect("hello");
    let root = mount::make_zone_root(&global.find("/zones/z/root").expect("root"), zone, "z").expect("zone root");
    let inside = World { cwd: root.clone(), root, cred: Cred::root(zone) };
    (global, inside)
}

#[test]
fn zone_root_is_a_hard_boundary() {
    let (global, mut inside) = zone();
    assert_eq!(inside.read("/hello").expect("own file"), b"hello");
    assert_eq!(global.read("/zones/z/root/hello").expect("seen from outside"), b"hello");
    assert!(inside.find("/../../..").expect("up").is(&inside.root));
    inside.symlink("/../../../secret", "/out").expect("link");
    assert_eq!(inside.read("/out").err(), Some(VfsError::NotFound));
    // A working directory outside (an inherited descriptor) opens nothing.
    inside.cwd = global.find("/zones").expect("zones");
    assert_eq!(inside.read("../secret").err(), Some(VfsError::AccessDenied));
    // Nor does a root changed to a directory from which the old root is not below.
    inside.cwd = inside.root.clone();
    let old_root = inside.root.clone();
    inside.root = inside.find("/tmp").expect("tmp");
    inside.cwd = old_root.clone();
    assert!(inside.find("../../../..").expect("up").is(&old_root), "escaping chroot ends at the zone's root");
    inside.root = global.root.clone();
    assert_eq!(inside.read("/secret").err(), Some(VfsError::AccessDenied));
}

#[test]
fn zone_sees_and_ends_with_its_own_mounts() {
    let (global, inside) = zone();
    let usr = inside.find("/usr").expect("usr");
    mount::bind(&usr, &global.find("/usr").expect("usr"), "/usr", MountFlags::READ_ONLY).expect("bind");
    drop(usr);
    add(&inside, "/tmp");
    inside.write("/tmp/x", b"x").expect("x");
    let lines = mount::list(&inside.root);
    let names: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.path).into_owned()).collect();
    assert_eq!(names, ["/", "/tmp", "/usr"]);
    assert!(lines.iter().all(|line| line.mount.zone() == inside.cred.zone));
    assert_eq!(mount::unmount(&inside.cx(), b"/", true), Err(VfsError::Invalid));
    let zone = inside.cred.zone;
    drop((lines, inside));
    assert_eq!(mount::unmount_zone(&global.root, zone), (3, 0));
    assert_eq!(global.read("/zones/z/root/hello").expect("the files stay"), b"hello");
    assert_eq!(mount::list(&global.root).len(), 1);
}

#[test]
fn zone_cannot_make_devices() {
    let (_, inside) = zone();
    let made = ops::mknod(&inside.cx(), None, b"/mem", vfs::Kind::CharDevice, 0o666, vfs::DevNo::new(1, 1));
    assert_eq!(made.err(), Some(VfsError::NotPermitted));
    assert!(ops::mknod(&inside.cx(), None, b"/fifo", vfs::Kind::Fifo, 0o666, vfs::DevNo::default()).is_ok());
}

#[test]
fn directory_moved_out_of_a_loopback_does_not_lead_up() {
    let world = World::new();
    for dir in ["/tree", "/tree/in", "/tree/in/d", "/seen", "/elsewhere"] {
        world.mkdir(dir).expect(dir);
    }
    mount::bind(&world.find("/seen").expect("seen"), &world.find("/tree/in").expect("in"), "", MountFlags::empty()).expect("bind");
    let mut walker = world.as_user(0, 0);
    walker.enter("/seen/d");
    world.rename("/tree/in/d", "/elsewhere/d").expect("moved by another");
    assert_eq!(walker.find("..").err(), Some(VfsError::NotFound));
}

#[test]
fn a_zone_keeps_what_the_operator_mounted_for_it() {
    let (global, inside) = zone();
    let bound = mount::bind(&inside.find("/usr").expect("usr"), &global.find("/usr").expect("usr"), "/usr", MountFlags::READ_ONLY).expect("bind");
    bound.mount.fix();
    drop(bound);
    add(&inside, "/tmp");
    assert_eq!(mount::unmount(&inside.cx(), b"/usr", true), Err(VfsError::NotPermitted));
    mount::unmount(&inside.cx(), b"/tmp", false).expect("its own");
    mount::unmount(&global.cx(), b"/zones/z/root/usr", false).expect("the operator may");
}

#[test]
fn a_long_way_up_asks_once_and_a_move_is_still_seen() {
    let world = World::new();
    for dir in ["/tree", "/tree/in", "/tree/in/a", "/tree/in/a/b", "/tree/in/a/b/c", "/seen", "/elsewhere"] {
        world.mkdir(dir).expect(dir);
    }
    mount::bind(&world.find("/seen").expect("seen"), &world.find("/tree/in").expect("in"), "", MountFlags::empty()).expect("bind");
    let mut walker = world.as_user(0, 0);
    walker.enter("/seen/a/b/c");
    assert!(walker.find("../../..").is_ok(), "up to the mount's root");
    assert!(walker.find("../../../a/../a/b/../..").is_ok());
    // A link leads to a place of the same mount that is not below its root any more: what was found out before does not count for it.
    world.rename("/tree/in/a/b", "/elsewhere/b").expect("moved by another");
    assert_eq!(walker.find("..").map(|_| ()), Err(VfsError::NotFound));
    assert_eq!(walker.find("../..").err(), Some(VfsError::NotFound));
}
