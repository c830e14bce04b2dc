//! tmpfs against a model: random operations, each compared; now and then an allocation fails.

mod support;

use std::collections::BTreeMap;

use kif::ZoneId;
use support::{READ, WRITE, World};
use vfs::{OpenFlags, Owner, VfsError};

type Result<T> = std::result::Result<T, VfsError>;

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn path(&mut self) -> String {
        (0..1 + self.below(4)).map(|_| ["/a", "/b", "/c"][self.below(3) as usize]).collect()
    }
}

enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<String, usize>),
}

/// What a tmpfs should be. Nodes are never reused, so an index is an identity.
struct Model {
    nodes: Vec<Body>,
}

impl Model {
    fn new() -> Self {
        Self { nodes: vec![Body::Directory(BTreeMap::new())] }
    }
    fn directory(&mut self, index: usize) -> Result<&mut BTreeMap<String, usize>> {
        match &mut self.nodes[index] {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) => Err(VfsError::NotDirectory),
        }
    }
    fn is_directory(&self, index: usize) -> bool {
        matches!(self.nodes[index], Body::Directory(_))
    }
    fn parent(&mut self, path: &str) -> Result<(usize, String)> {
        let parts: Vec<&str> = path[1..].split('/').collect();
        let (name, above) = parts.split_last().expect("a path has a name");
        let mut at = 0;
        for part in above {
            at = *self.directory(at)?.get(*part).ok_or(VfsError::NotFound)?;
        }
        self.directory(at)?;
        Ok((at, (*name).into()))
    }
    fn find(&mut self, path: &str) -> Result<usize> {
        let (dir, name) = self.parent(path)?;
        self.directory(dir)?.get(&name).copied().ok_or(VfsError::NotFound)
    }
    fn add(&mut self, path: &str, body: Body) -> Result<usize> {
        let (dir, name) = self.parent(path)?;
        let next = self.nodes.len();
        let entries = self.directory(dir)?;
        if entries.contains_key(&name) {
            return Err(VfsError::Exists);
        }
        entries.insert(name, next);
        self.nodes.push(body);
        Ok(next)
    }
    /// The file at `path`, made if missing.
    fn open(&mut self, path: &str) -> Result<usize> {
        let index = match self.add(path, Body::File(Vec::new())) {
            Err(VfsError::Exists) => self.find(path)?,
            done => done?,
        };
        if self.is_directory(index) { Err(VfsError::IsDirectory) } else { Ok(index) }
    }
    fn bytes(&mut self, index: usize) -> &mut Vec<u8> {
        match &mut self.nodes[index] {
            Body::File(bytes) => bytes,
            Body::Directory(_) => panic!("not a file"),
        }
    }
    fn remove(&mut self, path: &str, directory: bool) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        let index = self.find(path)?;
        match (&self.nodes[index], directory) {
            (Body::Directory(_), false) => return Err(VfsError::IsDirectory),
            (Body::File(_), true) => return Err(VfsError::NotDirectory),
            (Body::Directory(entries), true) if !entries.is_empty() => return Err(VfsError::NotEmpty),
            _ => {}
        }
        self.directory(dir)?.remove(&name);
        Ok(())
    }
    fn link(&mut self, from: &str, to: &str) -> Result<()> {
        let index = self.find(from)?;
        let (dir, name) = self.parent(to)?;
        if self.is_directory(index) {
            return Err(VfsError::NotPermitted);
        }
        let entries = self.directory(dir)?;
        if entries.contains_key(&name) {
            return Err(VfsError::Exists);
        }
        entries.insert(name, index);
        Ok(())
    }
    fn is_inside(&self, inner: usize, outer: usize) -> bool {
        inner == outer
            || match &self.nodes[outer] {
                Body::Directory(entries) => entries.values().any(|child| self.is_inside(inner, *child)),
                Body::File(_) => false,
            }
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let moved = self.find(from)?;
        let replaced = self.directory(to_dir)?.get(&to_name).copied();
        if replaced == Some(moved) {
            return Ok(());
        }
        if self.is_directory(moved) && self.is_inside(to_dir, moved) {
            return Err(VfsError::Invalid);
        }
        if let Some(victim) = replaced {
            match (self.is_directory(moved), self.is_directory(victim)) {
                (true, false) => return Err(VfsError::NotDirectory),
                (false, true) => return Err(VfsError::IsDirectory),
                (true, true) if !self.directory(victim)?.is_empty() => return Err(VfsError::NotEmpty),
                _ => {}
            }
        }
        self.directory(from_dir)?.remove(&from_name);
        self.directory(to_dir)?.insert(to_name, moved);
        Ok(())
    }
    /// How many names lead to each node.
    fn names(&self) -> BTreeMap<usize, u32> {
        let mut names = BTreeMap::new();
        let mut list = vec![0];
        while let Some(at) = list.pop() {
            if let Body::Directory(entries) = &self.nodes[at] {
                for child in entries.values() {
                    *names.entry(*child).or_insert(0) += 1;
                    list.push(*child);
                }
            }
        }
        names
    }
}

/// Compares everything below `path`.
fn compare(world: &World, model: &Model, path: &str, at: usize, names: &BTreeMap<usize, u32>, seed: u64) {
    let attr = world.stat(if path.is_empty() { "/" } else { path }).expect("it is there");
    match &model.nodes[at] {
        Body::File(bytes) => {
            assert_eq!(attr.nlink, names[&at], "seed {seed}: links of {path}");
            assert_eq!(attr.size, bytes.len() as u64, "seed {seed}: size of {path}");
            assert!(world.read(path).expect("readable") == *bytes, "seed {seed}: contents of {path}");
        }
        Body::Directory(entries) => {
            let directories = entries.values().filter(|child| model.is_directory(**child)).count();
            assert_eq!(attr.nlink as usize, 2 + directories, "seed {seed}: links of {path}/");
            let mut listed = world.list(if path.is_empty() { "/" } else { path }).expect("listable");
            listed.sort();
            let mut expected: Vec<String> = entries.keys().cloned().chain([".".into(), "..".into()]).collect();
            expected.sort();
            assert_eq!(listed, expected, "seed {seed}: entries of {path}/");
            for (name, child) in entries {
                compare(world, model, &format!("{path}/{name}"), *child, names, seed);
            }
        }
    }
}

fn run(seed: u64, steps: usize) {
    let world = World::new();
    let zone = kif_host::fresh_zone();
    let mut model = Model::new();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut log = Vec::new();
    for step in 0..steps {
        let (path, other) = (random.path(), random.path());
        let what = random.below(12);
        log.push(format!("{step}: {what} {path} {other}"));
        let (got, want): (Result<Vec<u8>>, Result<Vec<u8>>) = match what {
            0..=3 => write(&world, &mut model, &mut random, &path, zone),
            4 => {
                let size = random.below(400_000);
                let real = world.open(&path, WRITE).and_then(|file| file.truncate(size));
                let wanted = match model.find(&path) {
                    Ok(index) if model.is_directory(index) => Err(VfsError::IsDirectory),
                    Ok(index) => {
                        model.bytes(index).resize(size as usize, 0);
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                (real.map(|()| Vec::new()), wanted.map(|()| Vec::new()))
            }
            5 => (world.mkdir(&path).map(|()| Vec::new()), model.add(&path, Body::Directory(BTreeMap::new())).map(|_| Vec::new())),
            6 => (world.rmdir(&path).map(|()| Vec::new()), model.remove(&path, true).map(|()| Vec::new())),
            7 => (world.unlink(&path).map(|()| Vec::new()), model.remove(&path, false).map(|()| Vec::new())),
            8 => (world.link(&path, &other).map(|()| Vec::new()), model.link(&path, &other).map(|()| Vec::new())),
            9 | 10 => (world.rename(&path, &other).map(|()| Vec::new()), model.rename(&path, &other).map(|()| Vec::new())),
            _ => read(&world, &mut model, &mut random, &path),
        };
        assert!(got == want, "seed {seed}: {:?} but {:?} expected after\n{}", got.as_ref().err(), want.as_ref().err(), log.join("\n"));
    }
    kif_host::fail_nth(0);
    compare(&world, &model, "", 0, &model.names(), seed);
    drop(world);
    assert_eq!(kif::frames().charged_bytes(zone), 0, "seed {seed}: frames left");
}

fn write(world: &World, model: &mut Model, random: &mut Random, path: &str, zone: ZoneId) -> (Result<Vec<u8>>, Result<Vec<u8>>) {
    let append = random.below(4) == 0;
    let offset = random.below(300_000) as usize;
    let data: Vec<u8> = (0..random.below(20_000)).map(|_| random.next() as u8).collect();
    let flags = WRITE | OpenFlags::CREATE | if append { OpenFlags::APPEND } else { OpenFlags::empty() };
    let file = match (world.open(path, flags), model.open(path)) {
        (Ok(file), Ok(_)) => file,
        (real, wanted) => return (real.map(|_| Vec::new()), wanted.map(|_| Vec::new())),
    };
    let index = model.open(path).expect("just opened");
    let armed = random.below(5) == 0;
    if armed {
        kif_host::fail_nth(1 + random.below(4));
    }
    let wrote = if append { file.write(&data, zone) } else { file.write_at(offset as u64, &data, zone) };
    let failed = armed && !kif_host::failure_pending();
    kif_host::fail_nth(0);
    match wrote {
        Ok(count) => {
            assert!(count == data.len() || failed, "a short write without a reason");
            let bytes = model.bytes(index);
            let start = if append { bytes.len() } else { offset };
            if count != 0 {
                bytes.resize(bytes.len().max(start + count), 0);
                bytes[start..start + count].copy_from_slice(&data[..count]);
            }
        }
        Err(error) => assert!(failed && error == VfsError::NoSpace, "{error:?} without a reason"),
    }
    (Ok(Vec::new()), Ok(Vec::new()))
}

fn read(world: &World, model: &mut Model, random: &mut Random, path: &str) -> (Result<Vec<u8>>, Result<Vec<u8>>) {
    let offset = random.below(400_000) as usize;
    let mut out = vec![0xee; random.below(200_000) as usize];
    let real = world.open(path, READ).and_then(|file| {
        let count = file.read_at(offset as u64, &mut out, ZoneId::GLOBAL)?;
        out.truncate(count);
        Ok(out)
    });
    let wanted = model.find(path).and_then(|index| {
        if model.is_directory(index) {
            return Err(VfsError::IsDirectory);
        }
        Ok(index)
    });
    let length = match &real {
        Ok(bytes) => bytes.len(),
        Err(_) => 0,
    };
    let wanted = wanted.map(|index| {
        let bytes = model.bytes(index);
        let start = offset.min(bytes.len());
        // The reader asked for at least what it got; anything short must be the end of the file.
        let end = (start + length).min(bytes.len());
        bytes[start..end].to_vec()
    });
    (real, wanted)
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in 1..=60 {
        run(seed, 400);
    }
}

#[test]
fn threads_renaming_and_removing_do_not_deadlock_or_lose_nodes() {
    let world = std::sync::Arc::new(World::new());
    for dir in ["/a", "/b", "/a/b", "/b/a", "/c"] {
        world.mkdir(dir).expect(dir);
    }
    let threads: Vec<_> = (0..4_u64)
        .map(|number| {
            let world = std::sync::Arc::clone(&world);
            std::thread::spawn(move || {
                let mut random = Random(number * 77 + 5);
                for _ in 0..4000 {
                    let (path, other) = (random.path(), random.path());
                    // Every outcome is fine; what counts is that the tree stays a tree.
                    let outcome = match random.below(6) {
                        0 => world.mkdir(&path),
                        1 => world.rmdir(&path),
                        2 => world.unlink(&path),
                        3 => world.write(&path, b"x"),
                        _ => world.rename(&path, &other),
                    };
                    if outcome.is_err() {}
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    // Every directory still reaches the root, and counts its subdirectories.
    fn walk(world: &World, path: &str) -> usize {
        let mut count = 1;
        let mut directories = 0;
        for name in world.list(if path.is_empty() { "/" } else { path }).expect("list") {
            if name == "." || name == ".." {
                continue;
            }
            let child = format!("{path}/{name}");
            let attr = world.stat(&child).expect("stat");
            if attr.kind == vfs::Kind::Directory {
                directories += 1;
                let place = world.find(&child).expect("find");
                assert_eq!(world.path(&place).as_deref(), Some(child.as_str()));
                count += walk(world, &child);
            } else {
                count += 1;
            }
        }
        let attr = world.stat(if path.is_empty() { "/" } else { path }).expect("stat");
        assert_eq!(attr.nlink, 2 + directories, "{path}");
        count
    }
    let nodes = walk(&world, "");
    let space = world.root.statfs().expect("statfs");
    assert_eq!(space.files - space.files_free, nodes as u64, "no node is lost");
}

#[test]
fn a_tree_deeper_than_any_stack_is_dropped() {
    let mut world = World::new();
    for _ in 0..20_000 {
        world.mkdir("d").expect("mkdir");
        world.enter("d");
    }
    drop(world);
}

#[test]
fn listing_survives_changes_under_it() {
    let world = World::new();
    for index in 0..100 {
        world.write(&format!("/f{index:03}"), b"").expect("file");
    }
    let file = world.open("/", READ).expect("root");
    let mut seen = Vec::new();
    let mut round = 0;
    loop {
        let before = seen.len();
        file.readdir(&mut |entry| {
            seen.push(String::from_utf8_lossy(entry.name).into_owned());
            seen.len() < before + 7
        })
        .expect("list");
        // The entry refused by the last call comes again.
        if seen.len() == before + 7 {
            seen.pop();
        } else {
            break;
        }
        // Remove one that was seen and one that was not; add another.
        world.unlink(&format!("/f{round:03}")).expect("seen");
        world.unlink(&format!("/f{:03}", 99 - round)).expect("not seen");
        world.write(&format!("/new{round}"), b"").expect("new");
        round += 1;
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), seen.len(), "nothing twice");
    for index in round..100 - round {
        assert!(seen.contains(&format!("f{index:03}")), "f{index:03} was there throughout");
    }
}

#[test]
fn limits_of_a_tmpfs_are_kept_and_given_back() {
    let world = World::with(&vfs::tmpfs::Options { max_pages: 10, max_nodes: 5, ..World::options() });
    assert_eq!(world.write("/big", &[1; 4096 * 11]), Err(VfsError::NoSpace));
    assert_eq!(world.stat("/big").expect("big").size, 4096 * 10);
    world.unlink("/big").expect("unlink");
    world.write("/big", &[1; 4096 * 10]).expect("room again");
    for index in 0..3 {
        world.write(&format!("/{index}"), b"").expect("file");
    }
    assert_eq!(world.mkdir("/more"), Err(VfsError::NoSpace));
    world.unlink("/0").expect("unlink");
    world.mkdir("/more").expect("room again");
}

#[test]
fn a_zone_cannot_use_up_the_nodes_of_a_shared_tmpfs() {
    let world = World::with(&vfs::tmpfs::Options { max_nodes: 101, ..World::options() });
    let make = |world: &World, zone: u32, index: usize| {
        let owner = Owner { uid: 0, gid: 0, zone: ZoneId(zone) };
        world.root.vnode.mkdir(format!("{zone}-{index}").as_bytes(), 0o755, owner).is_ok()
    };
    let made_by = |zone: u32, from: usize| (from..).take_while(|index| make(&world, zone, *index)).count();
    world.mkdir("/0-0").expect("the global zone's");
    assert_eq!(made_by(1, 0), 33, "a third: the global zone's, its own, and what stays free");
    assert_eq!(made_by(2, 0), 25, "whoever comes later still gets an equal part");
    assert_eq!(made_by(1, 33), 0);
    assert_eq!(made_by(0, 1), 101 - 2 - 33 - 25, "the operator may have what is left");
    assert_eq!(made_by(3, 0), 0);
    for index in 0..33 {
        world.rmdir(&format!("/1-{index}")).expect("empty");
    }
    assert_eq!(made_by(1, 0), 25, "what is removed counts no more");
    let alone = World::with(&vfs::tmpfs::Options { max_nodes: 11, ..World::options() });
    assert_eq!((0..).take_while(|index| make(&alone, 7, *index)).count(), 10, "a zone's own file system is all its own");
}

#[test]
fn mapped_pages_are_the_files_own() {
    let world = World::new();
    world.write("/f", &[7; 5000]).expect("file");
    let file = world.open("/f", READ | WRITE).expect("open");
    let backing = file.backing().expect("files can be mapped");
    let zone = ZoneId::GLOBAL;
    let page = backing.page(1, zone, true).expect("second page");
    let mut byte = [0];
    page.read(903, &mut byte);
    assert_eq!(byte, [7]);
    page.read(904, &mut byte);
    assert_eq!(byte, [0], "past the end reads zero");
    page.write(10, b"mapped");
    let mut out = [0; 6];
    file.read_at(4096 + 10, &mut out, zone).expect("read");
    assert_eq!(&out, b"mapped");
    assert_eq!(backing.page(2, zone, false).err(), Some(vm::BackingError::PastEnd));
    file.truncate(4096).expect("cut");
    assert_eq!(backing.page(1, zone, false).err(), Some(vm::BackingError::PastEnd));
    page.write(10, b"orphan");
    file.truncate(8192).expect("grow");
    file.read_at(4096 + 10, &mut out, zone).expect("read");
    assert_eq!(out, [0; 6], "what was cut off does not come back");
}
