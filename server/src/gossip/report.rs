//! What a node tells all others about itself, and the keys it stands under in gossip.
//!
//! Invariant: whatever a report holds, its keys and values are under [`STATE_BYTES_MAX`]: texts are cut, and of the
//! hints per target those of the fullest targets are kept and the others counted. A key that is missing, unknown or
//! unreadable (of another version of this program) leaves a field at its default and nothing else.

use std::collections::BTreeMap;
use std::fmt::Display;

use cube_storage::model::NodeId;

use crate::clock_watch::Verdict;

/// Everything a node publishes, keys and values.
pub const STATE_BYTES_MAX: usize = 8 * 1024;

/// The longest text in a report: a host name with its port.
const TEXT_BYTES_MAX: usize = 264;

/// Room for hints per target: some hundred targets.
const TARGETS_BYTES_MAX: usize = 4 * 1024;

/// Set, to anything, by a node that is going.
pub(super) const LEFT: &str = "x";

/// What a node tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnReport {
    /// Where it listens.
    pub addresses: Addresses,
    /// Its member state, for instance `READY`.
    pub state: String,
    /// What it is busy with.
    pub load: Load,
    /// The hints it holds for others.
    pub hints: Hints,
    /// The index of the last entry of the cluster's hard state that it applied.
    pub applied_index: u64,
    /// What it thinks of its own clock.
    pub clock: Verdict,
    /// Space left for its data.
    pub disk_free_bytes: u64,
    /// The oldest time as of which it is in sync, over its partitions (wall clock, milliseconds).
    pub oldest_sync_ms: Option<u64>,
    /// The version of the program.
    pub version: String,
    /// When the process started (wall clock, milliseconds).
    pub started_at_ms: Option<u64>,
    /// Dirty marks that it keeps for others.
    pub marks: u64,
    /// Partitions whose reads count it, and of which it has lost something: it has not been made whole yet.
    pub unsynced: u64,
    /// Whether an operator drained it: `DRAINING` or `DRAINED`.
    pub drain: String,
}

/// Where a node listens, as others reach it: `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Node to node.
    pub peer: String,
    /// Clients over gRPC.
    pub grpc: String,
    /// REST.
    pub http: String,
    /// Gossip. Filled in by gossip itself.
    pub gossip: String,
}

/// What a node is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Client requests in the last second.
    pub requests_per_s: u64,
    /// Client requests not yet answered.
    pub in_flight: u64,
    /// Share of one processor that the process uses.
    pub cpu_percent: u32,
}

/// The hints a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// All of them.
    pub total: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The age of the oldest.
    pub oldest_age_ms: Option<u64>,
    /// How many for whom.
    pub per_target: BTreeMap<NodeId, u64>,
    /// Targets that did not fit into the report.
    pub targets_left_out: u64,
}

impl OwnReport {
    /// The keys and values of a report.
    pub(super) fn encode(&self, name: &str) -> Vec<(&'static str, String)> {
        let (targets, left_out) = targets(&self.hints);
        let Load { requests_per_s, in_flight, cpu_percent } = self.load;
        vec![
            ("n", cut(name)),
            ("ap", cut(&self.addresses.peer)),
            ("ag", cut(&self.addresses.grpc)),
            ("ah", cut(&self.addresses.http)),
            ("s", cut(&self.state)),
            ("l", format!("{requests_per_s} {in_flight} {cpu_percent}")),
            ("ht", self.hints.total.to_string()),
            ("hb", self.hints.bytes.to_string()),
            ("ho", text_or_none(self.hints.oldest_age_ms)),
            ("hn", targets),
            ("hx", left_out.to_string()),
            ("i", self.applied_index.to_string()),
            ("c", clock_text(self.clock)),
            ("d", self.disk_free_bytes.to_string()),
            ("y", text_or_none(self.oldest_sync_ms)),
            ("v", cut(&self.version)),
            ("t", text_or_none(self.started_at_ms)),
            ("m", self.marks.to_string()),
            ("u", self.unsynced.to_string()),
            ("dr", cut(&self.drain)),
        ]
    }

    /// The name and report that the values under the keys say.
    pub(super) fn decode<'a>(gossip: String, value: impl Fn(&str) -> Option<&'a str>) -> (String, Self) {
        let text = |key| value(key).unwrap_or_default().to_owned();
        let number = |key| value(key).and_then(|text| text.parse().ok());
        let mut load = value("l").unwrap_or_default().split(' ');
        let mut next = || load.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let report = Self {
            addresses: Addresses { peer: text("ap"), grpc: text("ag"), http: text("ah"), gossip },
            state: text("s"),
            load: Load {
                requests_per_s: next(),
                in_flight: next(),
                cpu_percent: u32::try_from(next()).unwrap_or(u32::MAX),
            },
            hints: Hints {
                total: number("ht").unwrap_or_default(),
                bytes: number("hb").unwrap_or_default(),
                oldest_age_ms: number("ho"),
                per_target: value("hn").unwrap_or_default().split(' ').filter_map(target).collect(),
                targets_left_out: number("hx").unwrap_or_default(),
            },
            applied_index: number("i").unwrap_or_default(),
            clock: value("c").and_then(clock).unwrap_or_default(),
            disk_free_bytes: number("d").unwrap_or_default(),
            oldest_sync_ms: number("y"),
            version: text("v"),
            started_at_ms: number("t"),
            marks: number("m").unwrap_or_default(),
            unsynced: number("u").unwrap_or_default(),
            drain: text("dr"),
        };
        (text("n"), report)
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned()
}

fn text_or_none(number: Option<impl Display>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// `3=45 7=2`, the fullest targets as far as there is room, and how many there was no room for.
fn targets(hints: &Hints) -> (String, u64) {
    let mut fullest: Vec<(NodeId, u64)> = hints.per_target.iter().map(|(node, count)| (*node, *count)).collect();
    fullest.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut told = String::new();
    let mut left_out = hints.targets_left_out;
    for (node, count) in fullest {
        let item = format!("{}{}={count}", if told.is_empty() { "" } else { " " }, node.0);
        if told.len() + item.len() <= TARGETS_BYTES_MAX {
            told.push_str(&item);
        } else {
            left_out = left_out.saturating_add(1);
        }
    }
    (told, left_out)
}

fn target(item: &str) -> Option<(NodeId, u64)> {
    let (node, count) = item.split_once('=')?;
    Some((NodeId(node.parse().ok()?), count.parse().ok()?))
}

fn clock_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Fine => String::new(),
        Verdict::OutOfBound { own_offset_ms, against, of } => format!("{own_offset_ms} {against} {of}"),
    }
}

fn clock(text: &str) -> Option<Verdict> {
    let mut parts = text.split(' ');
    let own_offset_ms = parts.next()?.parse().ok()?;
    Some(Verdict::OutOfBound { own_offset_ms, against: parts.next()?.parse().ok()?, of: parts.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn through_gossip(name: &str, report: &OwnReport) -> (String, OwnReport) {
        let told: HashMap<&str, String> = report.encode(name).into_iter().collect();
        OwnReport::decode(report.addresses.gossip.clone(), |key| told.get(key).map(String::as_str))
    }

    fn any_report() -> impl Strategy<Value = OwnReport> {
        let texts = prop::array::uniform7("\\PC{0,60}");
        let hints = (
            any::<[u64; 3]>(),
            any::<Option<u64>>(),
            prop::collection::btree_map(any::<u16>().prop_map(NodeId), any::<u64>(), 0..130),
        );
        let clock = prop_oneof![
            Just(Verdict::Fine),
            any::<(i64, u8, u8)>().prop_map(|(own_offset_ms, against, of)| Verdict::OutOfBound {
                own_offset_ms,
                against: against.into(),
                of: of.into()
            })
        ];
        (texts, hints, clock, any::<[u64; 6]>(), any::<(u32, [Option<u64>; 2])>()).prop_map(
            |(texts, (counts, oldest_age_ms, per_target), clock, numbers, (cpu_percent, times))| {
                let [oldest_sync_ms, started_at_ms] = times;
                let [peer, grpc, http, gossip, state, version, drain] = texts;
                OwnReport {
                    addresses: Addresses { peer, grpc, http, gossip },
                    state,
                    load: Load { requests_per_s: numbers[0], in_flight: numbers[1], cpu_percent },
                    hints: Hints {
                        total: counts[0],
                        bytes: counts[1],
                        oldest_age_ms,
                        per_target,
                        targets_left_out: counts[2],
                    },
                    applied_index: numbers[2],
                    clock,
                    disk_free_bytes: numbers[3],
                    oldest_sync_ms,
                    version,
                    started_at_ms,
                    marks: numbers[4],
                    unsynced: numbers[5],
                    drain,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_report_arrives_as_it_was_sent(report in any_report(), name in "\\PC{0,60}") {
            prop_assert_eq!(through_gossip(&name, &report), (name, report));
        }

        #[test]
        fn a_report_of_another_program_is_read_as_far_as_it_can_be(
            values in prop::collection::hash_map("[a-z]{1,2}", "\\PC{0,20}", 0..40),
        ) {
            let (name, report) = OwnReport::decode(String::new(), |key| values.get(key).map(String::as_str));
            prop_assert_eq!(&name, values.get("n").map_or("", String::as_str));
            prop_assert_eq!(&report.state, values.get("s").map_or("", String::as_str));
        }
    }

    #[test]
    fn the_greatest_report_is_under_eight_kibibytes_and_says_how_many_targets_it_left_out() {
        let long = "ü".repeat(5_000);
        let per_target = (0..=u16::MAX).map(|node| (NodeId(node), u64::MAX - u64::from(node))).collect();
        let report = OwnReport {
            addresses: Addresses { peer: long.clone(), grpc: long.clone(), http: long.clone(), gossip: String::new() },
            state: long.clone(),
            load: Load { requests_per_s: u64::MAX, in_flight: u64::MAX, cpu_percent: u32::MAX },
            hints: Hints {
                total: u64::MAX,
                bytes: u64::MAX,
                oldest_age_ms: Some(u64::MAX),
                per_target,
                targets_left_out: 0,
            },
            applied_index: u64::MAX,
            clock: Verdict::OutOfBound { own_offset_ms: i64::MIN, against: usize::MAX, of: usize::MAX },
            disk_free_bytes: u64::MAX,
            oldest_sync_ms: Some(u64::MAX),
            version: long.clone(),
            started_at_ms: Some(u64::MAX),
            marks: u64::MAX,
            unsynced: u64::MAX,
            drain: long.clone(),
        };
        let bytes: usize = report.encode(&long).iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes <= STATE_BYTES_MAX, "{bytes}");
        let (_, told) = through_gossip(&long, &report);
        assert!(told.hints.per_target.len() > 100);
        assert_eq!(told.hints.per_target.len() as u64 + told.hints.targets_left_out, 65_536);
        assert!(told.hints.per_target.contains_key(&NodeId(0)), "the fullest target comes first");
        assert!(long.starts_with(&told.state) && told.state.len() > 200);
    }
}
