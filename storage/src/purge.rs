//! Up to where the dead may be purged: the purge rule as a function.
//!
//! Invariant: nobody can bring back what is purged. Below the floor no hint and no write is under way anywhere, all
//! replicas were proven equal, and the grace of the table is over. What one of them has not answered is no proof.

use crate::model::Hlc;

/// The floor of a table's partition, from the watermarks of all members of the cluster ("I hold and will create no hint
/// or write in flight older than this") and from what each current and pending replica is proven in sync through.
/// Nothing without members or replicas, while one of them has never answered, or within `grace_ms` of the beginning.
pub fn purge_floor(
    watermarks: impl IntoIterator<Item = Option<Hlc>>,
    synced_through: impl IntoIterator<Item = Option<Hlc>>,
    now: Hlc,
    grace_ms: u64,
) -> Option<Hlc> {
    let past_grace = Hlc::new(now.millis().checked_sub(grace_ms)?, 0);
    let floor = least(watermarks)?.min(least(synced_through)?).min(past_grace);
    (floor > Hlc(0)).then_some(floor)
}

/// The least of all answers; nothing when one is missing, or all are.
fn least(answers: impl IntoIterator<Item = Option<Hlc>>) -> Option<Hlc> {
    let mut least = None;
    for answer in answers {
        let answer = answer?;
        least = Some(least.map_or(answer, |least: Hlc| least.min(answer)));
    }
    least
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn hlc() -> impl Strategy<Value = Hlc> {
        (0u64..50, 0u16..3).prop_map(|(millis, counter)| Hlc::new(millis, counter))
    }

    fn answers() -> impl Strategy<Value = Vec<Option<Hlc>>> {
        prop::collection::vec(prop_oneof![15 => hlc().prop_map(Some), 1 => Just(None)], 0..6)
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn the_floor_is_the_highest_that_nobody_objects_to(
            watermarks in answers(), synced in answers(), now in hlc(), grace_ms in 0u64..60,
        ) {
            let answered = |answers: &[Option<Hlc>]| !answers.is_empty() && !answers.contains(&None);
            let past_grace = |floor: Hlc| floor <= Hlc::new(now.millis().saturating_sub(grace_ms), 0);
            let allowed = |floor| watermarks.iter().chain(&synced).flatten().all(|&a| floor <= a) && past_grace(floor);
            match purge_floor(watermarks.clone(), synced.clone(), now, grace_ms) {
                Some(floor) => {
                    prop_assert!(answered(&watermarks) && answered(&synced), "someone has not answered");
                    prop_assert!(floor > Hlc(0) && allowed(floor));
                    prop_assert!(!allowed(floor.next()), "{floor} could be higher");
                }
                None => prop_assert!(!(answered(&watermarks) && answered(&synced) && allowed(Hlc(1)))),
            }
        }

        #[test]
        fn one_more_member_or_replica_or_a_longer_grace_never_raises_the_floor(
            watermarks in answers(), synced in answers(), now in hlc(), grace_ms in 0u64..60, more in hlc(),
        ) {
            let Some(floor) = purge_floor(watermarks.clone(), synced.clone(), now, grace_ms) else { return Ok(()) };
            let with = |answers: &[Option<Hlc>], more| answers.iter().copied().chain([more]).collect::<Vec<_>>();
            let lower = [
                purge_floor(with(&watermarks, Some(more)), synced.clone(), now, grace_ms),
                purge_floor(watermarks.clone(), with(&synced, Some(more)), now, grace_ms),
                purge_floor(watermarks.clone(), synced.clone(), now, grace_ms + 1),
            ];
            prop_assert!(lower.into_iter().flatten().all(|lower| lower <= floor));
            prop_assert_eq!(purge_floor(with(&watermarks, None), synced.clone(), now, grace_ms), None);
            prop_assert_eq!(purge_floor(watermarks, with(&synced, None), now, grace_ms), None);
        }
    }

    #[test]
    fn without_members_or_replicas_nothing_is_proven() {
        let (some, now) = ([Some(Hlc::new(5, 0))], Hlc::new(9, 0));
        assert_eq!(purge_floor(some, some, now, 0), Some(Hlc::new(5, 0)));
        assert_eq!(purge_floor([], some, now, 0), None);
        assert_eq!(purge_floor(some, [], now, 0), None);
        assert_eq!(purge_floor(some, some, now, 10), None, "all is within the grace");
    }
}
