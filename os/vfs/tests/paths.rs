//! Path walk and the path operations: every refusal that `path_resolution(7)` and the calls' pages list.

mod support;

use support::{MAKE, READ, World};
use vfs::{Follow, OpenFlags, RenameFlags, VfsError, ops};

fn tree() -> World {
    let world = World::new();
    for dir in ["/a", "/a/b", "/a/b/c", "/other", "/empty"] {
        world.mkdir(dir).expect(dir);
    }
    world.write("/a/file", b"file").expect("file");
    world.write("/a/b/c/deep", b"deep").expect("deep");
    for (target, link) in [
        ("b/c", "/a/rel"),
        ("/a/b", "/abs"),
        ("/abs/c/deep", "/chain"),
        ("missing", "/dangling"),
        ("loop2", "/loop1"),
        ("loop1", "/loop2"),
        ("../../../../a", "/a/b/up"),
        ("/a/b/", "/slashed"),
        ("a/file", "/tofile"),
    ] {
        world.symlink(target, link).expect(link);
    }
    world
}

#[test]
fn walk_finds_what_the_path_says() {
    let world = tree();
    let deep = world.find("/a/b/c/deep").expect("deep");
    for path in [
        "/a/b/c/deep",
        "//a///b/./c//deep",
        "/a/../a/b/c/deep",
        "/../../a/b/c/deep",
        "/a/rel/deep",
        "/abs/c/deep",
        "/chain",
        "/a/b/up/b/c/deep",
        "/slashed/c/deep",
        "a/b/c/deep",
        "./a/b/c/deep",
        "/a/rel/../c/deep",
    ] {
        let found = world.find(path).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert!(found.is(&deep), "{path} leads elsewhere");
    }
}

#[test]
fn walk_refuses_with_the_right_error() {
    let world = tree();
    let long = "x".repeat(256);
    let too_long = "/a".repeat(2100);
    for (path, error) in [
        ("", VfsError::NotFound),
        ("/missing", VfsError::NotFound),
        ("/missing/x", VfsError::NotFound),
        ("/a/file/x", VfsError::NotDirectory),
        ("/a/file/", VfsError::NotDirectory),
        ("/a/file/.", VfsError::NotDirectory),
        ("/a/file/..", VfsError::NotDirectory),
        ("/tofile/", VfsError::NotDirectory),
        ("/dangling", VfsError::NotFound),
        ("/dangling/x", VfsError::NotFound),
        ("/loop1", VfsError::TooManySymlinks),
        ("/loop1/x", VfsError::TooManySymlinks),
        (long.as_str(), VfsError::NameTooLong),
        (too_long.as_str(), VfsError::NameTooLong),
    ] {
        assert_eq!(world.find(path).err(), Some(error), "{path}");
    }
}

#[test]
fn forty_links_are_followed_and_forty_one_are_not() {
    let world = World::new();
    world.write("/l0", b"end").expect("end");
    for index in 1..=41 {
        world.symlink(&format!("/l{}", index - 1), &format!("/l{index}")).expect("link");
    }
    assert!(world.find("/l40").is_ok());
    assert_eq!(world.find("/l41").err(), Some(VfsError::TooManySymlinks));
}

#[test]
fn last_link_is_followed_only_if_asked() {
    let world = tree();
    let link = vfs::lookup(&world.cx(), None, b"/tofile", Follow::No).expect("the link itself");
    assert_eq!(link.vnode.kind(), vfs::Kind::Symlink);
    assert_eq!(ops::readlink(&world.cx(), None, b"/tofile").expect("text"), b"a/file");
    // A slash at the end follows, whatever was asked.
    let dir = vfs::lookup(&world.cx(), None, b"/abs/", Follow::No).expect("through the link");
    assert_eq!(dir.vnode.kind(), vfs::Kind::Directory);
    assert_eq!(world.open("/tofile", READ | OpenFlags::NOFOLLOW).err(), Some(VfsError::TooManySymlinks));
}

#[test]
fn dotdot_stops_at_the_callers_root() {
    let mut world = tree();
    world.root = world.find("/a").expect("a");
    world.cwd = world.find("/b").expect("b inside the new root");
    assert!(world.find("../../../..").expect("up").is(&world.root));
    assert!(world.find("/../../b/c").is_ok());
    // An absolute link starts at the caller's root, not at the machine's.
    assert_eq!(world.find("/rel/../../../../abs").err(), Some(VfsError::NotFound));
    assert_eq!(world.path(&world.cwd).as_deref(), Some("/b"));
    assert_eq!(world.path(&world.root).as_deref(), Some("/"));
}

#[test]
fn path_is_told_also_after_a_rename() {
    let world = tree();
    let c = world.find("/a/b/c").expect("c");
    let file = world.open("/a/b/c/deep", READ).expect("deep");
    assert_eq!(world.path(&c).as_deref(), Some("/a/b/c"));
    world.rename("/a/b", "/other/moved").expect("rename");
    assert_eq!(world.path(&c).as_deref(), Some("/other/moved/c"));
    assert_eq!(file.path(&world.root).expect("path"), b"/other/moved/c/deep");
    world.unlink("/other/moved/c/deep").expect("unlink");
    assert_eq!(file.describe(&world.root), b"/other/moved/c/deep (deleted)");
    world.rmdir("/other/moved/c").expect("rmdir");
    assert_eq!(world.path(&c), None);
}

#[test]
fn operations_refuse_dots_slashes_and_roots() {
    let world = tree();
    assert_eq!(world.mkdir("/a"), Err(VfsError::Exists));
    assert_eq!(world.mkdir("/"), Err(VfsError::Exists));
    assert_eq!(world.mkdir("/a/.."), Err(VfsError::Exists));
    assert_eq!(world.mkdir("/new/"), Ok(()));
    assert_eq!(world.rmdir("/a/."), Err(VfsError::Invalid));
    assert_eq!(world.rmdir("/a/b/.."), Err(VfsError::NotEmpty));
    assert_eq!(world.rmdir("/"), Err(VfsError::Busy));
    assert_eq!(world.rmdir("/a/file"), Err(VfsError::NotDirectory));
    assert_eq!(world.rmdir("/a"), Err(VfsError::NotEmpty));
    assert_eq!(world.rmdir("/empty/"), Ok(()));
    assert_eq!(world.unlink("/a"), Err(VfsError::IsDirectory));
    assert_eq!(world.unlink("/a/file/"), Err(VfsError::NotDirectory));
    assert_eq!(world.unlink("/a/.."), Err(VfsError::IsDirectory));
    assert_eq!(world.rename("/a/.", "/x"), Err(VfsError::Busy));
    assert_eq!(world.rename("/a", "/a/b/inside"), Err(VfsError::Invalid));
    assert_eq!(world.rename("/a/file", "/x/"), Err(VfsError::NotDirectory));
    assert_eq!(world.link("/a", "/hard"), Err(VfsError::NotPermitted));
    assert_eq!(world.symlink("", "/nothing"), Err(VfsError::NotFound));
    assert_eq!(world.symlink("x", "/abs"), Err(VfsError::Exists));
}

#[test]
fn open_creates_truncates_and_refuses() {
    let world = tree();
    assert_eq!(world.open("/a", MAKE).err(), Some(VfsError::IsDirectory));
    assert_eq!(world.open("/a", READ | OpenFlags::WRITE).err(), Some(VfsError::IsDirectory));
    assert!(world.open("/a", READ).is_ok());
    assert_eq!(world.open("/new/", MAKE).err(), Some(VfsError::IsDirectory));
    assert_eq!(world.open("/a/file", MAKE | OpenFlags::EXCL).err(), Some(VfsError::Exists));
    assert_eq!(world.open("/tofile", MAKE | OpenFlags::EXCL).err(), Some(VfsError::Exists));
    assert_eq!(world.open("/a/file", READ | OpenFlags::DIRECTORY).err(), Some(VfsError::NotDirectory));
    // Creation goes through a dangling link.
    world.write("/dangling", b"made").expect("through the link");
    assert_eq!(world.read("/missing").expect("made"), b"made");
    assert_eq!(world.open("/loop1", MAKE).err(), Some(VfsError::TooManySymlinks));
    world.write("/a/file", b"x").expect("truncating write");
    assert_eq!(world.read("/tofile").expect("file"), b"x");
    let path_only = world.open("/a/file", OpenFlags::PATH).expect("path only");
    assert_eq!(path_only.read(&mut [0], world.cred.zone), Err(VfsError::BadAccessMode));
    let reader = world.open("/a/file", READ).expect("reader");
    assert_eq!(reader.write(b"y", world.cred.zone), Err(VfsError::BadAccessMode));
}

#[test]
fn modes_bind_users_but_not_root() {
    let world = World::new();
    world.mkdir("/shut").expect("shut");
    world.write("/shut/f", b"secret").expect("f");
    world.mkdir("/tmp").expect("tmp");
    let set = |path: &str, mode| ops::chmod(&world.cx(), &world.find(path).expect(path), mode).expect(path);
    set("/shut", 0o700);
    set("/tmp", 0o1777);
    let (ann, bob) = (world.as_user(10, 10), world.as_user(20, 20));
    assert_eq!(ann.read("/shut/f").err(), Some(VfsError::AccessDenied));
    assert_eq!(world.read("/shut/f").expect("root reads"), b"secret");
    ann.write("/tmp/mine", b"ann").expect("anybody may write there");
    assert_eq!(bob.unlink("/tmp/mine"), Err(VfsError::NotPermitted), "sticky");
    assert_eq!(bob.rename("/tmp/mine", "/tmp/his"), Err(VfsError::NotPermitted));
    assert_eq!(bob.write("/tmp/mine", b"bob").err(), Some(VfsError::AccessDenied));
    assert_eq!(ops::chmod(&bob.cx(), &bob.find("/tmp/mine").expect("seen"), 0o777), Err(VfsError::NotPermitted));
    assert_eq!(ops::chown(&ann.cx(), &ann.find("/tmp/mine").expect("seen"), Some(20), None), Err(VfsError::NotPermitted));
    ann.unlink("/tmp/mine").expect("the owner may");
    assert_eq!(ann.mkdir("/in-root"), Err(VfsError::AccessDenied));
    // Existing names are reported as such even where nothing could be made.
    assert_eq!(ann.mkdir("/tmp"), Err(VfsError::Exists));
    // A mode without any x bit binds root too.
    world.write("/plain", b"#!").expect("plain");
    let plain = world.find("/plain").expect("plain");
    assert_eq!(ops::check(&world.cx(), &plain, vfs::Want::EXEC), Err(VfsError::AccessDenied));
    set("/plain", 0o001);
    assert_eq!(ops::check(&world.cx(), &plain, vfs::Want::EXEC), Ok(()));
}

#[test]
fn set_group_id_of_a_directory_is_inherited() {
    let world = World::new();
    world.mkdir("/team").expect("team");
    let team = world.find("/team").expect("team");
    ops::chown(&world.cx(), &team, None, Some(77)).expect("chown");
    ops::chmod(&world.cx(), &team, 0o2777).expect("chmod");
    let ann = world.as_user(10, 10);
    ann.write("/team/f", b"").expect("f");
    ann.mkdir("/team/d").expect("d");
    assert_eq!(world.stat("/team/f").expect("f").gid, 77);
    let d = world.stat("/team/d").expect("d");
    assert_eq!((d.gid, d.mode & 0o2000), (77, 0o2000));
}

#[test]
fn rename_exchanges_and_keeps_what_it_must_not_replace() {
    let world = tree();
    let rename = |from: &str, to: &str, flags| ops::rename(&world.cx(), None, from.as_bytes(), None, to.as_bytes(), flags);
    assert_eq!(rename("/a/file", "/tofile", RenameFlags::NOREPLACE), Err(VfsError::Exists));
    rename("/a/file", "/other", RenameFlags::EXCHANGE).expect("a file for a directory");
    assert_eq!(world.read("/other").expect("file now"), b"file");
    assert_eq!(world.list("/a/file").expect("directory now"), [".", ".."]);
    let moved = world.find("/a/file").expect("moved");
    assert_eq!(world.path(&moved).as_deref(), Some("/a/file"));
    assert_eq!(rename("/a", "/a/b", RenameFlags::EXCHANGE), Err(VfsError::Invalid));
    assert_eq!(rename("/a/b", "/a", RenameFlags::EXCHANGE), Err(VfsError::Invalid));
    assert_eq!(rename("/a/b", "/gone", RenameFlags::EXCHANGE), Err(VfsError::NotFound));
    assert_eq!(rename("/a/b/c", "/a", RenameFlags::empty()), Err(VfsError::NotEmpty));
    assert_eq!(rename("/a/b/c/deep", "/a/b", RenameFlags::empty()), Err(VfsError::IsDirectory));
    assert_eq!(rename("/a/b", "/a/b/c/deep", RenameFlags::empty()), Err(VfsError::Invalid));
    assert_eq!(rename("/a/b", "/other", RenameFlags::empty()), Err(VfsError::NotDirectory));
    rename("/a/b/c", "/empty", RenameFlags::empty()).expect("over an empty directory");
    assert_eq!(world.read("/empty/deep").expect("came along"), b"deep");
}
