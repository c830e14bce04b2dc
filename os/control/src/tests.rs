use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use control_abi::{Code, Operation, TABLE};
use kif::{Nanos, ZoneId};
use nv::NvList;
use sync::{Class, Mutex};
use vfs::{Cred, Cx, Filesystem, Follow, Place, lookup, mount, ops, tmpfs};
use zone::{Charge, Limit, Zone};

use crate::{CpuInfo, StartError, System, call, halt};

extern crate std;

/// A kernel without processes: what was started is remembered and killed on demand.
struct Fake {
    root: Place,
    /// Processes of all zones.
    processes: Mutex<Vec<Charge>>,
    failed: AtomicU64,
}

impl System for Fake {
    fn global_root(&self) -> Place {
        self.root.clone()
    }
    fn zone_mounts(&self, _zone: &Arc<Zone>) -> Vec<(&'static str, Arc<dyn Filesystem>)> {
        [("/tmp", tmpfs::new(&tmpfs::Options::default()) as Arc<dyn Filesystem>)].into()
    }
    fn start_init(&self, zone: &Arc<Zone>, _root: &Place, path: &str, _args: &[String]) -> Result<u32, StartError> {
        if path == "/missing" {
            return Err(StartError::Program("no such file".to_string()));
        }
        let charge = zone.charge(Limit::Processes).map_err(|_| StartError::Limit)?;
        self.processes.lock().push(charge);
        Ok(100)
    }
    fn enter_zone(&self, zone: &Arc<Zone>, _root: &Place) -> Result<(), StartError> {
        let charge = zone.charge(Limit::Processes).map_err(|_| StartError::Limit)?;
        self.processes.lock().push(charge);
        Ok(())
    }
    fn kill_all(&self, zone: &Arc<Zone>) {
        if zone.name() == "stuck" && self.failed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut processes = core::mem::take(&mut *self.processes.lock());
        processes.retain(|charge| charge.zone().id() != zone.id());
        *self.processes.lock() = processes;
    }
    fn cpus(&self) -> Vec<CpuInfo> {
        [CpuInfo { id: 0, brand: "host".to_string(), mhz: 1000, since: Nanos(0) }].into()
    }
    fn fail_nth(&self, n: u64) {
        self.failed.store(n, Ordering::Relaxed);
    }
    fn caller_is_root(&self) -> bool {
        true
    }
}

fn start() -> &'static Fake {
    static FAKE: std::sync::OnceLock<Fake> = std::sync::OnceLock::new();
    FAKE.get_or_init(|| {
        kif_host::start();
        zone::init_global("host");
        let root = mount::mount_root(tmpfs::new(&tmpfs::Options::default()), "root");
        let cred = Cred::root(ZoneId::GLOBAL);
        let cx = Cx { cred: &cred, root: &root, cwd: &root };
        for path in ["/zones", "/zones/z", "/lib", "/zones/linked"] {
            ops::mkdir(&cx, None, path.as_bytes(), 0o755).expect("new");
        }
        ops::symlink(&cx, b"/etc", None, b"/zones/linked/tmp").expect("new");
        Fake { root, processes: Mutex::new(Class::Process, Vec::new()), failed: AtomicU64::new(0) }
    });
    let fake = FAKE.get().expect("just made");
    static INSTALL: std::sync::Once = std::sync::Once::new();
    INSTALL.call_once(|| crate::install(fake));
    fake
}

fn ask(operation: Operation, request: &NvList) -> Result<NvList, (Code, String)> {
    ask_as(ZoneId::GLOBAL, operation, request)
}

fn ask_as(viewer: ZoneId, operation: Operation, request: &NvList) -> Result<NvList, (Code, String)> {
    let reply = NvList::decode(&call(operation, &request.encode(), viewer)).expect("replies are lists");
    match reply.opt_string("error").expect("a word") {
        None => Ok(reply),
        Some(word) => {
            let message = reply.string("message").expect("errors have messages").to_string();
            Err((Code::from_word(word).expect("known"), message))
        }
    }
}

/// A directory of its own for a zone.
fn tree(name: &str) -> String {
    let fake = start();
    let cred = Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: &fake.root, cwd: &fake.root };
    let path = alloc::format!("/zones/{name}");
    if lookup(&cx, None, path.as_bytes(), Follow::Yes).is_err() {
        ops::mkdir(&cx, None, path.as_bytes(), 0o755).expect("new");
    }
    path
}

fn create(name: &str) -> NvList {
    NvList::new().with("name", name).with("root", tree(name))
}

fn named(name: &str) -> NvList {
    NvList::new().with("zone", name)
}

#[test]
fn a_zone_boots_is_listed_and_halts_again_and_again() {
    start();
    let mut last = 0;
    for _ in 0..100 {
        let id = ask(Operation::ZoneCreate, &create("cycle")).and_then(|reply| reply.number("id").map_err(|_| unreachable!())).expect("valid");
        assert_ne!(id, last, "a new id each time");
        last = id;
        assert_eq!(ask(Operation::ZoneGet, &named("cycle")).expect("there").string("administrative"), Ok("ready"));
        let pid = ask(Operation::ZoneBoot, &named("cycle").with("init", "/sbin/init")).expect("ready");
        assert_eq!(pid.number("pid"), Ok(100));
        let info = ask(Operation::ZoneGet, &NvList::new().with("zone", id)).expect("there");
        assert_eq!((info.string("name"), info.string("administrative"), info.number("processes")), (Ok("cycle"), Ok("running"), Ok(1)));
        ask(Operation::ZoneEnter, &named("cycle")).expect("running");
        ask(Operation::ZoneHalt, &named("cycle")).expect("ends");
        assert_eq!(ask(Operation::ZoneGet, &named("cycle")).map_err(|(code, _)| code), Err(Code::NotFound));
    }
    let fake = start();
    let held = mount::list(&fake.root).into_iter().filter(|line| line.path.starts_with(b"/zones/cycle")).count();
    assert_eq!(held, 0, "no mount is left");
    let lingering = ask(Operation::ZoneList, &NvList::new()).expect("always");
    let ours = lingering.lists("lingering").expect("there").iter().filter(|zone| zone.string("name") == Ok("cycle")).count();
    assert_eq!(ours, 0, "no zone is held");
}

#[test]
fn a_boot_that_fails_leaves_nothing() {
    start();
    ask(Operation::ZoneCreate, &create("noinit")).expect("valid");
    let refused = ask(Operation::ZoneBoot, &named("noinit").with("init", "/missing"));
    assert_eq!(refused, Err((Code::Exec, "/missing: no such file".to_string())));
    assert!(zone::lookup_name("noinit").is_none());
    // A root that is not there.
    let request = NvList::new().with("name", "noroot").with("root", "/zones/nowhere");
    assert_eq!(ask(Operation::ZoneCreate, &request).map_err(|(code, _)| code), Err(Code::NotFound));
    assert!(zone::lookup_name("noroot").is_none());
    // A link where a mount should go: refused, not followed.
    let request = NvList::new().with("name", "linked").with("root", "/zones/linked");
    assert!(ask(Operation::ZoneCreate, &request).is_err());
    assert!(zone::lookup_name("linked").is_none());
}

#[test]
fn a_halt_that_hangs_says_so_and_can_be_repeated() {
    let fake = start();
    ask(Operation::ZoneCreate, &create("stuck")).expect("valid");
    ask(Operation::ZoneBoot, &named("stuck").with("init", "/sbin/init")).expect("ready");
    assert_eq!(ask(Operation::ZoneHalt, &named("stuck")), Err((Code::Busy, "1 processes are still there".to_string())));
    assert_eq!(ask(Operation::ZoneGet, &named("stuck")).expect("there").string("administrative"), Ok("shutting_down"));
    assert_eq!(ask(Operation::ZoneEnter, &named("stuck")).map_err(|(code, _)| code), Err(Code::State));
    fake.failed.store(1, Ordering::Relaxed);
    let zone = zone::lookup_name("stuck").expect("there");
    halt(&zone).expect("ends now");
    fake.failed.store(0, Ordering::Relaxed);
    assert_eq!(halt(&zone).map_err(|refusal| refusal.code), Err(Code::NotFound));
}

#[test]
fn controls_are_read_and_set() {
    start();
    let rctls = alloc::vec![NvList::new().with("name", "zone.cpu-shares").with("value", 300_u64)];
    ask(Operation::ZoneCreate, &create("rctl").with("rctls", rctls)).expect("valid");
    let shares = named("rctl").with("name", "zone.cpu-shares");
    assert_eq!(ask(Operation::RctlGet, &shares).expect("there").number("value"), Ok(300));
    assert_eq!(ask(Operation::RctlSet, &shares.clone().with("value", 5_u64)).expect("in range").number("old"), Ok(300));
    assert_eq!(ask(Operation::RctlGet, &shares).expect("there").number("value"), Ok(5));
    let refused = ask(Operation::RctlSet, &shares.with("value", 70_000_u64));
    assert_eq!(refused, Err((Code::Invalid, "value must be between 0 and 65535".to_string())));
    let refused = ask(Operation::RctlGet, &named("rctl").with("name", "zone.colour"));
    assert_eq!(refused.map_err(|(code, _)| code), Err(Code::NotFound));
    assert_eq!(ask(Operation::RctlList, &named("rctl")).expect("there").lists("rctls").map(<[NvList]>::len), Ok(zone::rctl::TABLE.len()));
    ask(Operation::ZoneHalt, &named("rctl")).expect("ends");
}

#[test]
fn a_tenant_sees_itself_only() {
    start();
    for name in ["viewer", "hidden"] {
        ask(Operation::ZoneCreate, &create(name)).expect("valid");
    }
    let viewer = zone::lookup_name("viewer").expect("there").id();
    let list = ask_as(viewer, Operation::ZoneList, &NvList::new()).expect("always");
    let names: Vec<_> = list.lists("zones").expect("there").iter().map(|zone| zone.string("name").expect("there").to_string()).collect();
    assert_eq!(names, ["viewer"]);
    assert!(list.get("lingering").is_none());
    assert_eq!(ask_as(viewer, Operation::ZoneGet, &NvList::new()).expect("own").string("name"), Ok("viewer"));
    for other in ["hidden", "global", "nothing"] {
        let refused = ask_as(viewer, Operation::ZoneGet, &named(other));
        assert_eq!(refused.map_err(|(code, _)| code), Err(Code::NotFound), "{other}");
        assert_eq!(ask_as(viewer, Operation::RctlList, &named(other)).map_err(|(code, _)| code), Err(Code::NotFound));
    }
    let kstats = ask_as(viewer, Operation::KstatRead, &NvList::new().with("module", "zones")).expect("always");
    let names: Vec<_> = kstats.lists("kstats").expect("there").iter().map(|kstat| kstat.string("name").expect("there").to_string()).collect();
    assert_eq!(names, ["viewer"]);
    for name in ["viewer", "hidden"] {
        ask(Operation::ZoneHalt, &named(name)).expect("ends");
    }
}

#[test]
fn bad_requests_are_refused_by_field() {
    start();
    for (operation, request, message) in [
        (Operation::ZoneCreate, NvList::new(), "field 'name' is missing"),
        (Operation::ZoneCreate, NvList::new().with("name", 5_u64), "field 'name' must be a string, not a number"),
        (Operation::ZoneCreate, NvList::new().with("name", "a").with("root", "relative"), "root 'relative' must be an absolute path other than '/'"),
        (Operation::ZoneCreate, NvList::new().with("name", "a").with("root", "/"), "root '/' must be an absolute path other than '/'"),
        (Operation::ZoneCreate, create("a").with("uuid", alloc::vec![1_u8]), "a uuid has 16 bytes, not 1"),
        (Operation::ZoneCreate, create("a").with("brand", "kvm"), "no brand 'kvm' for a zone"),
        (Operation::ZoneCreate, create("a").with("hostname", "a b"), "a host name has 1 to 64 printable characters without spaces"),
        (Operation::ZoneHalt, NvList::new(), "field 'zone' is missing"),
        (Operation::ZoneHalt, NvList::new().with("zone", true), "field 'zone' must be a string or a number, not a bool"),
        (Operation::ZoneHalt, NvList::new().with("zone", u64::MAX), "no such zone in the kernel"),
        (Operation::ZoneHalt, named("global"), "not possible for the global zone"),
        (Operation::ZoneEnter, named("global"), "not possible for the global zone"),
        (Operation::HeapFailNth, NvList::new(), "field 'n' is missing"),
    ] {
        assert_eq!(ask(operation, &request).map_err(|(_, message)| message), Err(message.to_string()), "{operation:?}");
    }
    let reply = NvList::decode(&call(Operation::ZoneList, b"NV\x01garbage", ZoneId::GLOBAL)).expect("a list");
    assert_eq!(reply.string("error"), Ok("invalid"));
}

/// Requests made of right names with wrong things in them: every operation answers, and the zone table is as before.
#[test]
fn random_requests_change_nothing_and_break_nothing() {
    start();
    let mut seed = 7_u64;
    let mut random = move |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits") % bound
    };
    let names = ["zone", "name", "root", "value", "uuid", "did", "rctls", "lofs", "hostname", "init", "args", "n", "module", "instance", "brand"];
    for _ in 0..5000 {
        let row = &TABLE[random(TABLE.len())];
        let mut request = NvList::new();
        for _ in 0..random(6) {
            let name = names[random(names.len())];
            match random(8) {
                0 => request.set(name, u64::MAX),
                1 => request.set(name, "../../x\u{0}"),
                2 => request.set(name, "zone.cpu-shares"),
                3 => request.set(name, alloc::vec![NvList::new().with("name", "zone.cpu-cap").with("value", 0_u64)]),
                4 => request.set(name, alloc::vec![0_u8; 16]),
                5 => request.set(name, alloc::vec!["x".to_string(); 3]),
                6 => request.set(name, NvList::new()),
                _ => request.set(name, true),
            }
        }
        let mut bytes = request.encode();
        if random(3) == 0 {
            let at = random(bytes.len());
            bytes[at] ^= 1 << random(8);
        }
        let reply = call(row.operation, &bytes, ZoneId(u32::try_from(random(3)).expect("small")));
        assert!(NvList::decode(&reply).is_ok(), "{}", row.name);
    }
}
