//! The watermarks that members told in earlier rounds of purging. Plain code.
//!
//! The last answer of a member that cannot be reached stands, because it spoke of the future: what the member itself
//! makes later is newer. What another member hands to it when that leaves may be older, and is held down by the watermark
//! of whoever handed it over. So when a member has left, no earlier answer stands any more: all are asked anew.

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::model::{Hlc, NodeId};

/// What members told last.
#[derive(Debug, Default)]
pub(super) struct LastAnswers {
    watermarks: BTreeMap<NodeId, Hlc>,
    /// The members of the last round.
    members: BTreeSet<NodeId>,
}

impl LastAnswers {
    /// Those that stand in a round among these members.
    pub(super) fn among(&mut self, members: &[NodeId]) -> BTreeMap<NodeId, Hlc> {
        let before = std::mem::replace(&mut self.members, members.iter().copied().collect());
        if !before.is_subset(&self.members) {
            self.watermarks.clear();
        }
        self.watermarks.clone()
    }

    /// What is known at the end of that round.
    pub(super) fn keep(&mut self, watermarks: &BTreeMap<NodeId, Hlc>) {
        self.watermarks.clone_from(watermarks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[test]
    fn an_answer_stands_while_members_come_and_until_one_has_left() {
        let mut last = LastAnswers::default();
        let told = BTreeMap::from([(A, Hlc(5)), (B, Hlc(7))]);
        assert_eq!(last.among(&[A, B]), BTreeMap::new());
        last.keep(&told);
        assert_eq!(last.among(&[A, B]), told);
        assert_eq!(last.among(&[A, B, C]), told);
        assert_eq!(last.among(&[A, B]), BTreeMap::new(), "C may have handed something older to A or B");
    }

    #[test]
    fn one_that_never_answered_and_has_left_counts_too() {
        let mut last = LastAnswers::default();
        last.among(&[A, B]);
        last.keep(&BTreeMap::from([(A, Hlc(5))]));
        assert_eq!(last.among(&[A]), BTreeMap::new());
    }
}
