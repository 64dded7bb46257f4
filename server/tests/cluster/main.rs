//! Tests of real clusters: real processes, real disks, real sockets, and what an operator and a client would notice when
//! some of it breaks.
//!
//! `harness/` starts nodes, kills them, cuts their links and their unsynced files; `load/` writes and reads meanwhile,
//! records what each operation was told, and checks that no acknowledged write is missed. Each other file is one kind of
//! trouble. Nodes of a test have addresses and folders of their own, and none outlives the test process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod anti_entropy;
mod anti_entropy_purge;
mod chaos;
mod clocks;
mod common;
mod connections;
mod cuts;
mod data_centers;
mod dev;
mod forming;
mod growing;
mod harness;
mod health;
mod hints;
mod hints_catching_up;
mod hints_damage;
mod hints_limits;
mod hints_missed;
mod kill_all;
mod kill_one;
mod leaving;
mod load;
mod majority;
mod metrics;
mod openapi;
mod overload;
mod pauses;
mod python;
mod reads;
mod reads_scans;
mod refusals;
mod repair;
mod restarts;
mod schema;
mod slow_disk;
mod stopping;
mod traces;
