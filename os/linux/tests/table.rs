//! The table: complete, in order, and truthful about what is there.

use linux::table::{ROWS, Status, row};

#[test]
fn every_number_of_linux_has_one_row_in_order() {
    let numbers: Vec<u64> = ROWS.iter().map(|row| row.number.into()).collect();
    let expected: Vec<u64> = (0..=334).chain(424..=462).collect();
    assert_eq!(numbers, expected);
    for number in 0..600 {
        let found = row(number).map(|row| u64::from(row.number));
        assert_eq!(found, expected.contains(&number).then_some(number));
    }
    assert!(row(u64::MAX).is_none());
}

#[test]
fn status_and_handler_agree_and_names_are_unique() {
    for row in ROWS {
        assert_eq!(row.handler.is_none(), row.status == Status::Absent, "{}", row.name);
        assert!(row.arguments.len() <= 6, "{}", row.name);
        assert_eq!(ROWS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
    }
    for (number, name) in [(0, "read"), (56, "clone"), (59, "execve"), (202, "futex"), (257, "openat"), (318, "getrandom"), (435, "clone3")] {
        assert_eq!(row(number).map(|row| row.name), Some(name));
    }
}
