//! How a node takes part in changes of who holds what: adopting a newer map, and copying what it is to hold.
//!
//! The order that keeps quorums safe: a node adopts a map (`adopt.rs`: marks, clears, fences, all durable) before it
//! takes a single write that is counted by it; a new replica copies (`backfill.rs`) only after a quorum of the old ones
//! has fenced the step before; and it is counted in reads only when it is marked in sync.

mod adopt;
mod backfill;
mod follow;
mod leave;
mod leftovers;

pub use crate::topology::{MoveDone, MoveReport};
pub use adopt::{Adopted, adopt};
pub use backfill::{Backfill, BackfillParts, CopyCounts, GivenUp, OnBackfilled, TRIES_MAX};
pub use follow::{COPIES_AT_ONCE, CopyProgress, FOLLOWER, FollowParts, Follower, FollowerProgress, Newest};
pub use leave::{Leave, not_whole};
