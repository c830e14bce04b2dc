use pool_fire::rig; use pool_fire::work::Work; use std::time::Instant;
#[test] fn t() {
    let (disks, mut store) = rig::create(&rig::SHAPES[0], 3).unwrap();
    let mut w = Work::new(5);
    for _ in 0..60 { w.step(&mut store).unwrap(); }
    let s = Instant::now(); store.commit(1).unwrap(); eprintln!("commit {:?}", s.elapsed());
    for _ in 0..20 { w.step(&mut store).unwrap(); }
    let s = Instant::now(); store.commit(1).unwrap(); eprintln!("commit {:?}", s.elapsed());
    for _ in 0..20 { w.step(&mut store).unwrap(); }
    drop(store);
    let s = Instant::now(); let pool = pool_spa::Pool::import(rig::devices(&disks), None).unwrap(); eprintln!("import {:?}", s.elapsed());
    let s = Instant::now(); let mut store = pool_dmu::Store::open(pool, rig::random(1)).unwrap(); eprintln!("open {:?}", s.elapsed());
    let s = Instant::now(); eprintln!("{} records", pool_zpl::replay_logs(&mut store, rig::NOW).unwrap()); eprintln!("replay {:?}", s.elapsed());
    let s = Instant::now(); pool_dmu::check(store.pool(), true).unwrap(); eprintln!("check {:?}", s.elapsed());
    let s = Instant::now(); rig::read_all(store.pool(), "tank").unwrap(); eprintln!("read {:?}", s.elapsed());
}
