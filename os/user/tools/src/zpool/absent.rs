//! Options of OpenZFS that are none here: each is refused by name, with what to do instead.

use crate::usage::{self, Failure, Step};

/// Subcommand, letter, whether it takes a value, and why it is none.
const TABLE: [(&str, char, bool, &str); 23] = [
    ("status", 'i', false, "nothing is kept of what was initialized: zpool initialize says when it is done"),
    ("status", 's', false, "slow operations are not counted by device: ziostat shows how long they take"),
    ("status", 't', false, "nothing is kept of what was trimmed: zpool trim says when it is done"),
    ("offline", 't', false, "a device stays offline until 'zpool online': do that when the machine is up again"),
    ("offline", 'f', false, "a device becomes faulted by its errors only: take it offline, or replace it"),
    ("iostat", 'l', false, "times are not kept by device: ziostat shows them by zone, a D script each operation's"),
    ("iostat", 'q', false, "operations wait in front of the pool, by zone: ziostat shows them"),
    ("iostat", 'r', false, "sizes of operations are not kept: a D script aggregates them"),
    ("iostat", 'w', false, "times are not kept by device: a D script aggregates them"),
    ("iostat", 'c', true, "no scripts are run beside it"),
    ("create", 'B', false, "this system starts from its image, not from a partition of the pool"),
    ("create", 'd', false, "every pool has the features that this system writes"),
    ("create", 't', true, "create it under its own name, export it, and import it with -t"),
    ("clear", 'n', false, "a pool is taken into use again as of its last commit; zpool import -F -n says what going back would lose"),
    ("clear", 'F', false, "a pool is taken into use again as of its last commit; to go further back export it and use zpool import -F"),
    ("remove", 'n', false, "only spares, cache and empty devices are removed: nothing is copied"),
    ("remove", 'p', false, "only spares, cache and empty devices are removed: nothing is copied"),
    ("remove", 's', false, "a removal is done when the command ends: there is none to stop"),
    ("add", 'o', true, "new devices have the pool's allocation unit: zpool set ashift=12 POOL first"),
    ("attach", 'o', true, "a new device has the allocation unit of the vdev that it joins"),
    ("replace", 'o', true, "a new device has the allocation unit of the vdev that it joins"),
    ("scrub", 'e', false, "no list of damaged blocks is kept: scrub the pool"),
    ("export", 'F', false, "a pool that is suspended is taken into use again first: zpool clear"),
];

/// Options of a subcommand: those of `spec`, and those that are none here.
pub(crate) fn options(verb: &str, arguments: &[String], spec: &str) -> Result<(Vec<Step>, Vec<String>), Failure> {
    let absent = || TABLE.iter().filter(|(of, ..)| *of == verb);
    let all: String = absent().fold(spec.to_owned(), |all, (_, letter, takes_value, _)| format!("{all}{letter}{}", if *takes_value { ":" } else { "" }));
    let (steps, operands) = usage::options(arguments, &all)?;
    for step in &steps {
        let (Step::Flag(letter) | Step::Value(letter, _)) = step;
        if let Some((.., why)) = absent().find(|(_, known, ..)| known == letter) {
            return Err(Failure::new(format!("zpool {verb} -{letter}: {why}")));
        }
    }
    Ok((steps, operands))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_is_refused_by_name() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (verb, letter, takes_value, why) in TABLE {
            let line = if takes_value { format!("-{letter} value tank") } else { format!("-{letter} tank") };
            assert_eq!(options(verb, &words(&line), "z").map_err(|failure| failure.message), Err(format!("zpool {verb} -{letter}: {why}")));
        }
        assert_eq!(options("status", &words("-z tank"), "z"), Ok((vec![Step::Flag('z')], words("tank"))));
        assert_eq!(options("status", &words("-Q"), "z").map_err(|failure| failure.status), Err(2));
    }
}
