//! A small power-cut atlas of every layout: the whole one is a campaign.

use pool_fire::atlas::{Scale, draw};
use pool_fire::rig::SHAPES;

#[test]
fn no_cut_loses_tears_or_refuses_anything() {
    let scale = Scale { writes: 600, every: 13 };
    for shape in &SHAPES {
        let atlas = draw(shape, 11, scale, &mut |_, _| {}).expect("the workload runs on good disks");
        eprintln!("{}: {atlas}", shape.name);
        assert!(atlas.cuts > 20, "{}: {atlas}", shape.name);
        assert!(atlas.is_clean(), "{}: {atlas}\n{}", shape.name, atlas.findings.join("\n"));
    }
}
