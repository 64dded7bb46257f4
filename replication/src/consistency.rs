//! The consistency levels: how many replicas each needs, of which data centers, and the refusal when too few are alive.
//!
//! A level is a short list of [`Term`]s, "so many of these replicas", all of which must hold. Everything that counts
//! (the check before a write, the [`crate::quorum::Tracker`], the choice of whom to read) goes through that list, so a
//! level means one thing. Levels count the replicas that are assigned, not the factor that was asked for: on a single
//! node, QUORUM is 1.

use std::fmt;
use std::str::FromStr;

use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};
use strsim::osa_distance;

use crate::topology::{DataCenter, DataCenterReplicas, ReplicaSet, ReplicaSets, Slots};

/// How many replicas must have answered before a request is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// One replica, or a durable hint for one. For writes alone.
    Any,
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// A majority of the replicas of all data centers together.
    Quorum,
    /// Every replica.
    All,
    /// One replica of the coordinator's data center.
    LocalOne,
    /// A majority of the replicas of the coordinator's data center.
    LocalQuorum,
    /// A majority of the replicas of every data center.
    EachQuorum,
}

impl Level {
    /// Every level, weakest first within its kind.
    pub const EVERY: [Self; 9] = [
        Self::Any,
        Self::One,
        Self::Two,
        Self::Three,
        Self::Quorum,
        Self::All,
        Self::LocalOne,
        Self::LocalQuorum,
        Self::EachQuorum,
    ];

    /// The name in requests, settings and the shell.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "ANY",
            Self::One => "ONE",
            Self::Two => "TWO",
            Self::Three => "THREE",
            Self::Quorum => "QUORUM",
            Self::All => "ALL",
            Self::LocalOne => "LOCAL_ONE",
            Self::LocalQuorum => "LOCAL_QUORUM",
            Self::EachQuorum => "EACH_QUORUM",
        }
    }

    /// Whether only the coordinator's data center counts: then repair and hedging stay inside it too.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::LocalOne | Self::LocalQuorum)
    }

    /// The level itself, unless it is one that cannot be read at.
    pub const fn for_reading(self) -> Result<Self, ReadAtAny> {
        match self {
            Self::Any => Err(ReadAtAny),
            level => Ok(level),
        }
    }

    /// What the level asks of one replica set, coordinated from data center `local`.
    pub fn requirement<'a>(self, set: &'a ReplicaSet, local: &'a DataCenter) -> Requirement<'a> {
        let overall = |needed| Requirement::single(Term { needed, data_center: None, slots: set.all() });
        let here = |needed: fn(usize) -> usize| {
            let slots = set.in_data_center(local);
            Requirement::single(Term { needed: needed(slots.count()), data_center: Some(local), slots })
        };
        match self {
            Self::Any | Self::One => overall(1),
            Self::Two => overall(2),
            Self::Three => overall(3),
            Self::Quorum => overall(majority(set.len())),
            Self::All => overall(set.len().max(1)),
            Self::LocalOne => here(|_| 1),
            Self::LocalQuorum => here(majority),
            Self::EachQuorum => Requirement::each_quorum(set),
        }
    }

    /// Refuses a write that the live replicas cannot bring to this level: called before anything is written. The level
    /// must be within reach in every set. ANY is never refused, because a durable hint will do.
    pub fn check_alive(
        self,
        sets: &ReplicaSets,
        local: &DataCenter,
        mut alive: impl FnMut(NodeId) -> bool,
    ) -> Result<(), Unavailable> {
        if self == Self::Any {
            return Ok(());
        }
        for set in sets.iter() {
            let live = set.matching(&mut alive);
            if let Some(short) = self.requirement(set, local).terms().find(|term| !term.holds(live)) {
                return Err(short.unavailable(self, live));
            }
        }
        Ok(())
    }
}

/// The smallest number of `replicas` of which any two choices share one. Of none at all it is 1, which nobody can meet.
pub const fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// What a level asks of one replica set: every one of its terms.
#[derive(Clone, Copy, Debug)]
pub struct Requirement<'a> {
    single: Option<Term<'a>>,
    majorities: &'a [DataCenterReplicas],
}

impl<'a> Requirement<'a> {
    /// A majority in every data center that has replicas.
    pub fn each_quorum(set: &'a ReplicaSet) -> Self {
        // Without a data center there would be no term, and nothing would be enough.
        let nobody = Term { needed: 1, data_center: None, slots: Slots::NONE };
        Self { single: set.is_empty().then_some(nobody), majorities: set.data_centers() }
    }

    fn single(term: Term<'a>) -> Self {
        Self { single: Some(term), majorities: &[] }
    }

    /// At least one.
    pub fn terms(&self) -> impl Iterator<Item = Term<'a>> + use<'a> {
        let majority_of = |group: &'a DataCenterReplicas| Term {
            needed: majority(group.slots.count()),
            data_center: Some(&group.name),
            slots: group.slots,
        };
        self.single.into_iter().chain(self.majorities.iter().map(majority_of))
    }

    /// How many replicas it takes.
    pub fn replicas(&self) -> usize {
        self.terms().map(|term| term.needed).sum()
    }

    /// Whether these replicas are enough.
    pub fn holds(&self, slots: Slots) -> bool {
        self.terms().all(|term| term.holds(slots))
    }
}

/// At least `needed` of the replicas in `slots`.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// How many.
    pub needed: usize,
    /// Where, if only one data center counts.
    pub data_center: Option<&'a DataCenter>,
    /// Which replicas count.
    pub slots: Slots,
}

impl Term<'_> {
    /// How many of these replicas count.
    pub fn counted(&self, slots: Slots) -> usize {
        self.slots.and(slots).count()
    }

    /// Whether these replicas are enough.
    pub fn holds(&self, slots: Slots) -> bool {
        self.counted(slots) >= self.needed
    }

    pub(crate) fn unavailable(&self, level: Level, live: Slots) -> Unavailable {
        let data_center = self.data_center.cloned();
        Unavailable { level, required: self.needed, alive: self.counted(live), data_center }
    }
}

/// Too few replicas are alive for the level. Nothing was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable {
    /// The level that was asked for.
    pub level: Level,
    /// How many replicas it needs.
    pub required: usize,
    /// How many of those that count are alive.
    pub alive: usize,
    /// The data center that is short, if the level counts by data center.
    pub data_center: Option<DataCenter>,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = if self.required == 1 { "replica" } else { "replicas" };
        write!(f, "{} needs {} live {replicas}", self.level, self.required)?;
        if let Some(data_center) = &self.data_center {
            write!(f, " in {data_center}")?;
        }
        write!(f, ", and {} {} alive", self.alive, if self.alive == 1 { "is" } else { "are" })
    }
}

impl std::error::Error for Unavailable {}

/// ANY is content with a hint, and a hint cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ANY is a level for writes: a read needs at least ONE")]
pub struct ReadAtAny;

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        Self::EVERY
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(word))
            .ok_or_else(|| UnknownLevel { given: word.chars().take(UnknownLevel::GIVEN_CHARS_MAX).collect() })
    }
}

/// A word that names no level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownLevel {
    /// The word, cut to [`UnknownLevel::GIVEN_CHARS_MAX`].
    pub given: String,
}

impl UnknownLevel {
    /// As much of the word is repeated in the error, whatever was sent.
    pub const GIVEN_CHARS_MAX: usize = 64;
    /// A word with more mistakes than this is no slip of the keyboard, nor is one of which most is wrong.
    const SLIPS_MAX: usize = 3;

    /// The level that was probably meant.
    pub fn nearest(&self) -> Option<Level> {
        let given = self.given.to_ascii_uppercase();
        let slips = |level: &Level| osa_distance(&given, level.name());
        let nearest = Level::EVERY.into_iter().min_by_key(slips)?;
        (slips(&nearest) <= Self::SLIPS_MAX.min(nearest.name().len() / 2)).then_some(nearest)
    }
}

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown consistency level {:?}", self.given)?;
        if let Some(nearest) = self.nearest() {
            write!(f, ": did you mean {nearest}?")?;
        }
        let names: Vec<_> = Level::EVERY.iter().map(|level| level.name()).collect();
        write!(f, " (the levels are {})", names.join(", "))
    }
}

impl std::error::Error for UnknownLevel {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_read_back_from_its_name_in_any_case() {
        for level in Level::EVERY {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.to_string().to_ascii_lowercase().parse(), Ok(level));
        }
        assert_eq!("Local_Quorum".parse(), Ok(Level::LocalQuorum));
    }

    #[test]
    fn an_unknown_level_is_named_with_the_valid_ones_and_the_nearest() {
        let error = "QUORAM".parse::<Level>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown consistency level \"QUORAM\": did you mean QUORUM? (the levels are ANY, ONE, TWO, THREE, QUORUM, \
             ALL, LOCAL_ONE, LOCAL_QUORUM, EACH_QUORUM)"
        );
        for (given, nearest) in [
            ("localquorum", Some(Level::LocalQuorum)),
            ("EACH-QUORUM", Some(Level::EachQuorum)),
            ("tow", Some(Level::Two)),
            ("oen", Some(Level::One)),
            ("al", Some(Level::All)),
            ("thre", Some(Level::Three)),
            ("foo", None),
            ("SERIAL", None),
            ("", None),
            ("💥", None),
        ] {
            let error = given.parse::<Level>().unwrap_err();
            assert_eq!(error.nearest(), nearest, "{given:?}");
            assert_eq!(error.given, given);
        }
    }

    #[test]
    fn an_endless_unknown_level_is_cut_in_the_error() {
        let error = "Q".repeat(1 << 20).parse::<Level>().unwrap_err();
        assert_eq!(error.given.len(), UnknownLevel::GIVEN_CHARS_MAX);
    }

    #[test]
    fn any_cannot_be_read_at() {
        assert_eq!(Level::Any.for_reading(), Err(ReadAtAny));
        assert_eq!(Level::EVERY.into_iter().filter(|level| level.for_reading().is_ok()).count(), 8);
    }

    #[test]
    fn a_slip_is_a_letter_more_or_less_another_one_or_two_that_are_swapped() {
        for (from, to, distance) in
            [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("ab", "ba", 1), ("tow", "two", 1)]
        {
            assert_eq!(osa_distance(from, to), distance, "{from} -> {to}");
        }
    }
}
