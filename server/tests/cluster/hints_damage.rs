//! Hint files that were damaged while their node was dead: the rest is delivered, and what is lost is marked.

use std::fs;
use std::path::PathBuf;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{held_by_the_third, is_marked, keys, marks_of, put, wait_delivered, without_the_third};

const KEYS: usize = 200;

#[test]
fn of_a_segment_with_flipped_bytes_the_rest_is_delivered_and_the_lost_ones_are_marked() {
    after_damage(|segment| {
        let mut bytes = fs::read(&segment).unwrap();
        // In the values of some hints: each costs that hint alone.
        for place in [3, 5, 7] {
            let at = bytes.len() * place / 10;
            let value = bytes[at..].windows(8).position(|window| window == b"yyyyyyyy").unwrap() + at;
            bytes[value] = b'n';
        }
        fs::write(segment, bytes).unwrap();
        3..=3
    });
}

#[test]
fn of_a_truncated_segment_the_rest_is_delivered_and_the_lost_ones_are_marked() {
    after_damage(|segment| {
        let len = fs::metadata(&segment).unwrap().len();
        fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(len / 2).unwrap();
        80..=120
    });
}

/// Damages the hints of node 1, which says how many of them are lost.
fn after_damage(damage: impl FnOnce(PathBuf) -> std::ops::RangeInclusive<usize>) {
    let mut cluster = without_the_third(Cluster::of(3));
    let (missed, value) = (keys("missed", KEYS), "y".repeat(400));
    for key in &missed {
        put(&cluster, 1, key, &value, "QUORUM");
    }
    cluster.kill(&[1]);
    let segment = cluster.node(1).data().join("hints").join("node-3").join("00000001.hints");
    let lost = damage(segment);
    cluster.restart(&[1]);
    cluster.wait_seen(1, &[2], "ALIVE");
    eventually("QUORUM writes go on", PATIENCE, || {
        let answer = cluster.api(1).put("afterwards", "value", "QUORUM").map_err(|failure| failure.to_string())?;
        if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
    });
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    let hints = cluster.api(1).hints().unwrap();
    let counted = usize::try_from(hints["counts"]["damaged"].as_u64().unwrap()).unwrap();
    assert!(lost.contains(&counted), "{hints}");
    cluster.kill(&[1, 2]);
    let marks = marks_of(&mut cluster, 1);
    let held = held_by_the_third(&mut cluster, &missed);
    let missing: Vec<&String> =
        held.iter().filter(|(_, held)| held.as_deref() != Some(value.as_str())).map(|(key, _)| key).collect();
    assert_eq!(missing.len(), counted, "what is not lost is delivered");
    assert!(missing.iter().all(|key| is_marked(&marks, key)), "{missing:?}");
}
