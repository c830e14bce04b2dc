use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use kif::Nanos;

use crate::rctl::{Rctl, TABLE};
use crate::*;

extern crate std;

fn start() {
    kif_host::start();
    init_global("host");
}

fn config(name: &str) -> Config {
    Config {
        name: name.to_string(),
        uuid: Uuid::default(),
        did: 1,
        brand: Brand::Lx,
        hostname: name.to_string(),
        root: String::from("/zones/x/root"),
        privileges: Privileges::TENANT,
        rctls: Vec::new(),
    }
}

fn running_zone(name: &str) -> Arc<Zone> {
    let zone = create(config(name)).expect("valid");
    ready(&zone).expect("initialized");
    boot(&zone).expect("ready");
    running(&zone, 77).expect("booting");
    zone
}

fn end(zone: &Arc<Zone>) {
    shutdown(zone, Nanos::from_millis(20), |_| {}).expect("empty");
    destroy(zone).expect("down");
}

#[test]
fn names_follow_zones_7() {
    for good in ["a", "web-01", "A.b_c", "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb", &"a".repeat(63)] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in ["", "-a", "_a", ".a", "a/b", "a b", "a\0", "global", "SUNWx", "ä", &"a".repeat(64)] {
        assert_eq!(check_name(bad), Err(ZoneError::BadName), "{bad}");
    }
}

#[test]
fn uuids_round_trip() {
    let text = "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb";
    assert_eq!(Uuid::parse(text).map(|uuid| uuid.to_string()).as_deref(), Some(text));
    for bad in ["", "7d3cd5a4", "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bg", "7d3cd5a443ec5-4f8e-b7ae-4ef2b7d0d4bb"] {
        assert_eq!(Uuid::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_life_goes_one_way() {
    start();
    let zone = create(config("oneway")).expect("valid");
    assert_eq!(zone.state(), State::Initialized);
    assert!(zone.charge(Limit::Processes).is_err(), "no process before booting");
    assert_eq!(boot(&zone), Err(ZoneError::WrongState(State::Initialized)));
    ready(&zone).expect("initialized");
    boot(&zone).expect("ready");
    running(&zone, 42).expect("booting");
    assert_eq!((zone.state(), zone.init_pid()), (State::Running, Some(42)));
    assert_eq!(ready(&zone), Err(ZoneError::WrongState(State::Running)));
    assert_eq!(destroy(&zone), Err(ZoneError::WrongState(State::Running)));
    end(&zone);
    assert_eq!(zone.state(), State::Dead);
    assert_eq!(boot(&zone), Err(ZoneError::WrongState(State::Dead)));
    assert_eq!(destroy(&zone), Err(ZoneError::WrongState(State::Dead)));
    assert!(lookup(zone.id()).is_none() && lookup_name("oneway").is_none());
}

#[test]
fn a_debugger_sees_the_zones_that_are_there() {
    start();
    let zone = running_zone("watched");
    assert_eq!(crate::watch::shown("watched"), Some((State::Running as u32, 77)));
    shutdown(&zone, Nanos::from_millis(20), |_| {}).expect("empty");
    assert_eq!(crate::watch::shown("watched"), Some((State::Down as u32, 77)));
    destroy(&zone).expect("down");
    assert_eq!(crate::watch::shown("watched"), None);
    assert_eq!(crate::watch::shown("global").map(|(state, _)| state), Some(State::Running as u32));
}

#[test]
fn a_booting_again_gets_a_new_id_and_an_id_waits_for_its_last_reference() {
    start();
    let first = running_zone("again");
    let id = first.id();
    end(&first);
    let second = running_zone("again");
    assert_ne!(second.id(), id);
    end(&second);
    assert!(lingering().iter().any(|(held, name, references)| *held == id && name == "again" && *references >= 1));
    drop(first);
    assert!(lingering().iter().all(|(held, ..)| *held != id));
}

#[test]
fn two_live_zones_cannot_share_a_name_and_global_is_not_a_tenant() {
    start();
    let zone = running_zone("single");
    assert_eq!(create(config("single")).map(|zone| zone.id()), Err(ZoneError::NameTaken));
    assert_eq!(create(config("global")).map(|zone| zone.id()), Err(ZoneError::BadName));
    assert_eq!(shutdown(global(), Nanos(0), |_| {}), Err(ZoneError::IsGlobal));
    end(&zone);
}

#[test]
fn limits_refuse_and_charges_come_back() {
    start();
    let zone = running_zone("limits");
    zone.set_rctl(Rctl::MaxLwps, 3).expect("in range");
    let mut charges: Vec<Charge> = (0..3).map(|_| zone.charge(Limit::Lwps).expect("below the limit")).collect();
    assert_eq!(zone.charge(Limit::Lwps).map(|_| ()), Err(LimitReached(Limit::Lwps)));
    assert_eq!(zone.stats.forkfail_cap.get(), 1);
    charges.pop();
    assert_eq!(zone.rctl_usage(Rctl::MaxLwps), Some(2));
    charges.push(zone.charge(Limit::Lwps).expect("room again"));
    // A limit below what is in use takes nothing away.
    zone.set_rctl(Rctl::MaxLwps, 1).expect("in range");
    assert_eq!(zone.rctl_usage(Rctl::MaxLwps), Some(3));
    drop(charges);
    assert_eq!(zone.rctl_usage(Rctl::MaxLwps), Some(0));
    end(&zone);
}

#[test]
fn limits_hold_under_racing_threads() {
    start();
    let zone = running_zone("race");
    zone.set_rctl(Rctl::MaxProcesses, 10).expect("in range");
    let most = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (zone, most) = (Arc::clone(&zone), Arc::clone(&most));
            scope.spawn(move || {
                for _ in 0..2000 {
                    let Ok(charge) = zone.charge(Limit::Processes) else { continue };
                    most.fetch_max(u32::try_from(zone.processes()).expect("small"), Ordering::Relaxed);
                    drop(charge);
                }
            });
        }
    });
    assert!(most.load(Ordering::Relaxed) <= 10);
    assert_eq!(zone.processes(), 0);
    end(&zone);
}

#[test]
fn values_out_of_range_are_refused() {
    start();
    let zone = running_zone("range");
    for (rctl, value) in [(Rctl::CpuShares, 65_536), (Rctl::CpuCap, 0), (Rctl::MaxLwps, 0), (Rctl::MaxPhysicalMemory, 0)] {
        let row = rctl.row();
        assert_eq!(zone.set_rctl(rctl, value), Err(ZoneError::BadValue { least: row.least, most: row.most }), "{}", row.name);
    }
    assert_eq!(zone.set_rctl(Rctl::CpuShares, 0), Ok(()));
    let mut bad = config("badvalue");
    bad.rctls.push((Rctl::CpuCap, 0));
    assert!(matches!(create(bad), Err(ZoneError::BadValue { .. })));
    assert!(lookup_name("badvalue").is_none());
    end(&zone);
}

#[test]
fn the_table_is_in_the_order_of_the_enum() {
    for (index, row) in TABLE.iter().enumerate() {
        assert_eq!(row.rctl as usize, index);
        assert_eq!(Rctl::from_name(row.name), Ok(row.rctl));
    }
    assert_eq!(Rctl::from_name("zone.nothing"), Err(ZoneError::NoSuchRctl));
}

#[test]
fn a_default_tenant_cannot_take_the_whole_machine() {
    start();
    let zone = running_zone("defaults");
    let (_, frames) = kif::frames().free_total();
    assert_eq!(zone.rctl(Rctl::MaxPhysicalMemory), frames * 4096 / 2);
    assert_eq!((zone.rctl(Rctl::MaxProcesses), zone.rctl(Rctl::MaxLwps)), (2048, 4096));
    for forbidden in [Privilege::Control, Privilege::RebootHost, Privilege::OtherZones, Privilege::MountAny, Privilege::MakeDevice, Privilege::SetTime] {
        assert!(!zone.may(forbidden) && global().may(forbidden), "{forbidden:?}");
    }
    end(&zone);
}

#[test]
fn a_halt_closes_the_door_then_kills_until_none_is_left() {
    start();
    let zone = running_zone("halt");
    let mut charges: Vec<Charge> = (0..5).map(|_| zone.charge(Limit::Processes).expect("room")).collect();
    let mut rounds = 0;
    let result = shutdown(&zone, Nanos::from_millis(20), |zone| {
        rounds += 1;
        assert!(zone.charge(Limit::Processes).is_err(), "a closing zone takes no process");
        charges.truncate(5 - 2 * rounds.min(2));
    });
    assert_eq!(result, Err(ZoneError::Busy { processes: 1 }), "one does not end");
    assert_eq!(zone.state(), State::ShuttingDown);
    // Repeating goes on from there.
    charges.clear();
    assert_eq!(shutdown(&zone, Nanos::from_millis(20), |_| {}), Ok(()));
    assert_eq!(shutdown(&zone, Nanos::from_millis(20), |_| {}), Ok(()));
    destroy(&zone).expect("down");
}

#[test]
fn hooks_run_in_order_and_a_failing_one_is_undone() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    start();
    register_hook(Hook {
        name: "first",
        created: |zone| {
            if zone.name().starts_with("hook") {
                CALLS.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        },
        shutdown: |_| {},
        destroyed: |zone| {
            if zone.name().starts_with("hook") {
                CALLS.fetch_add(100, Ordering::Relaxed);
            }
        },
    });
    register_hook(Hook {
        name: "second",
        created: |zone| if zone.name() == "hookbad" { Err(()) } else { Ok(()) },
        shutdown: |_| {},
        destroyed: |_| {},
    });
    assert_eq!(create(config("hookbad")).map(|zone| zone.id()), Err(ZoneError::HookFailed("second")));
    assert_eq!(CALLS.load(Ordering::Relaxed), 101);
    assert!(lookup_name("hookbad").is_none());
    let zone = running_zone("hookgood");
    end(&zone);
    assert_eq!(CALLS.load(Ordering::Relaxed), 202);
}

#[test]
fn data_hangs_on_a_zone_until_its_end() {
    start();
    const KEY: DataKey = DataKey("test");
    let zone = running_zone("data");
    let value = Arc::new(5_u32);
    zone.set_data(KEY, Arc::clone(&value) as _);
    assert_eq!(zone.data::<u32>(KEY).as_deref(), Some(&5));
    assert_eq!(zone.data::<u64>(KEY), None);
    assert_eq!(zone.data::<u32>(DataKey("other")), None);
    end(&zone);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn kstats_are_seen_by_their_zone_and_the_global_one_and_go_with_it() {
    start();
    let zone = running_zone("seen");
    let neighbour = running_zone("neighbour");
    let names = |viewer| {
        let found = probe::snapshot(viewer, |module, _, _, _| module == "zones");
        found.into_iter().map(|kstat| kstat.name).collect::<Vec<_>>()
    };
    assert_eq!(names(zone.id()), ["seen"]);
    assert!(names(kif::ZoneId::GLOBAL).contains(&"seen".to_string()) && names(kif::ZoneId::GLOBAL).contains(&"neighbour".to_string()));
    end(&zone);
    assert!(!names(kif::ZoneId::GLOBAL).contains(&"seen".to_string()));
    end(&neighbour);
}

#[test]
fn a_hundred_lives_leave_nothing() {
    start();
    let before = kif_host_counts();
    for _ in 0..100 {
        let zone = running_zone("hundred");
        let charge = zone.charge(Limit::Processes).expect("room");
        drop(charge);
        end(&zone);
    }
    assert_eq!(kif_host_counts(), before);
}

/// Live kstats of the zone the test above makes, and zones of that name that linger.
fn kif_host_counts() -> (usize, usize) {
    let kstats = probe::snapshot(kif::ZoneId::GLOBAL, |_, _, name, _| name == "hundred").len();
    (kstats, lingering().iter().filter(|(_, name, _)| name == "hundred").count())
}

#[test]
fn a_zone_cannot_flood_the_log() {
    start();
    let zone = running_zone("noisy");
    for round in 0..1000 {
        zone.report(format_args!("crash {round}"));
    }
    // A new span may have begun in between.
    assert!(zone.left_out() >= 1000 - 2 * 256, "{}", zone.left_out());
    end(&zone);
}
