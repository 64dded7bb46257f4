//! The figures of one node: of its metrics, in the text that Prometheus reads, what the screen shows.
//!
//! A node that does not answer has no figures: the screen shows what is known without them.

use std::collections::BTreeMap;

use cube_client::admin::Admin;
use tokio::time::Instant;

/// Requests by how long they took.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Histogram {
    /// How many took no longer than so many microseconds; `u64::MAX` counts all.
    up_to_us: BTreeMap<u64, u64>,
}

impl Histogram {
    fn add(&mut self, bound_us: u64, count: u64) {
        let counted = self.up_to_us.entry(bound_us).or_default();
        *counted = counted.saturating_add(count);
    }

    /// Those since then. A node that started anew counts from zero.
    pub(super) fn since(&self, before: &Self) -> Self {
        let total = |of: &Self| of.count();
        if total(self) < total(before) {
            return self.clone();
        }
        let left = |(bound, count): (&u64, &u64)| {
            (*bound, count.saturating_sub(before.up_to_us.get(bound).copied().unwrap_or_default()))
        };
        Self { up_to_us: self.up_to_us.iter().map(left).collect() }
    }

    /// Both together.
    pub(super) fn and(mut self, other: &Self) -> Self {
        other.up_to_us.iter().for_each(|(bound, count)| self.add(*bound, *count));
        self
    }

    pub(super) fn count(&self) -> u64 {
        self.up_to_us.values().max().copied().unwrap_or_default()
    }

    /// The time that so many of a hundred took at the most, in milliseconds, evenly spread within a bucket.
    pub(super) fn percentile_ms(&self, percent: u64) -> Option<f64> {
        let wanted = self.count().saturating_mul(percent).div_ceil(100).max(1);
        let (mut below_us, mut below) = (0, 0);
        for (bound_us, count) in &self.up_to_us {
            if *count >= wanted {
                if *bound_us == u64::MAX {
                    return Some(ms(below_us));
                }
                let share = ms(wanted - below) / ms(count - below).max(f64::MIN_POSITIVE);
                return Some(ms(below_us) + share * ms(bound_us - below_us));
            }
            (below_us, below) = (*bound_us, *count);
        }
        None
    }
}

/// Thousandths. The counts of a node are far from what this cannot tell exactly.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// What a node counted since it started.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Figures {
    pub(super) reads: Histogram,
    pub(super) writes: Histogram,
    /// Pages of ranges and scans.
    pub(super) pages: Histogram,
    pub(super) errors: u64,
    /// Rows that reads and comparisons brought up to date.
    pub(super) repairs: u64,
    pub(super) replayed: u64,
    /// Up to when the replicas of all tables are proven equal.
    pub(super) in_sync: InSync,
}

/// Up to when replicas are proven equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum InSync {
    /// There is nothing to be compared, or nobody tells.
    #[default]
    Untold,
    /// The table that is furthest behind was proven equal so many seconds ago.
    Seconds(u64),
    /// Something was never compared since the cluster, or what it holds, is new.
    NotYet,
}

/// The figures of the node that is asked.
pub(super) async fn figures(admin: &Admin) -> Option<(Instant, Figures)> {
    let told = admin.metrics().await.ok()?;
    Some((Instant::now(), read(&told.answer)))
}

fn read(text: &str) -> Figures {
    let mut figures = Figures::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        let label = |name: &str| labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        let count = whole(value);
        match name {
            "cube_request_duration_seconds_bucket" => {
                let histogram = match label("operation") {
                    Some("read") => &mut figures.reads,
                    Some("write") => &mut figures.writes,
                    _ => &mut figures.pages,
                };
                let bound = label("le").and_then(|bound| bound.parse::<f64>().ok()).unwrap_or(f64::INFINITY);
                histogram.add(if bound.is_finite() { whole(bound * 1e6) } else { u64::MAX }, count);
            }
            "cube_request_errors_total" => figures.errors += count,
            "cube_read_repairs_total" if label("outcome") == Some("repaired") => figures.repairs += count,
            "cube_sync_rows_total" => figures.repairs += count,
            "cube_hints_replayed_total" => figures.replayed += count,
            "cube_sync_age_seconds" => figures.in_sync = figures.in_sync.max(InSync::Seconds(count)),
            "cube_sync_uncompared_partitions" if count > 0 => figures.in_sync = InSync::NotYet,
            _ => {}
        }
    }
    figures
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and fit, and what does not is cut"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

type Labels<'a> = Vec<(&'a str, String)>;

/// `name{label="value"} 1.5` in its parts.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name, Vec::new(), value.split(' ').next()?.parse().ok()?));
    };
    let (mut labels, mut rest) = (Vec::new(), rest);
    while !rest.starts_with('}') {
        let (label, behind) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = behind.char_indices();
        let end = loop {
            match letters.next()? {
                (end, '"') => break end,
                (_, '\\') => value.push(letters.next()?.1),
                (_, letter) => value.push(letter),
            }
        };
        labels.push((label, value));
        rest = behind.get(end + 1..)?;
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    let value = rest.strip_prefix('}')?.trim().split(' ').next()?.parse().ok()?;
    Some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE cube_request_duration_seconds histogram\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"QUORUM\",le=\"0.001\"} 80\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"QUORUM\",le=\"0.01\"} 99\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"QUORUM\",le=\"+Inf\"} 100\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"ONE\",le=\"0.001\"} 20\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"ONE\",le=\"0.01\"} 20\n\
        cube_request_duration_seconds_bucket{operation=\"read\",level=\"ONE\",le=\"+Inf\"} 20\n\
        cube_request_errors_total{operation=\"read\",code=\"unavailable\"} 3\n\
        cube_read_repairs_total{table=\"a \\\"b\\\\\",outcome=\"repaired\"} 4\n\
        cube_read_repairs_total{table=\"kv\",outcome=\"failed\"} 9\n\
        cube_sync_age_seconds{keyspace=\"default\",table=\"kv\"} 12.4\n\
        cube_hints_replayed_total 7\n\
        something else\n";

    #[test]
    fn what_the_screen_shows_is_read_of_a_page() {
        let figures = read(PAGE);
        assert_eq!((figures.reads.count(), figures.writes.count(), figures.errors), (120, 0, 3));
        assert_eq!((figures.repairs, figures.replayed, figures.in_sync), (4, 7, InSync::Seconds(12)));
    }

    #[test]
    fn what_was_never_compared_has_no_age() {
        let of = |new: u8| read(&format!("{PAGE}cube_sync_uncompared_partitions{{table=\"kv\"}} {new}\n")).in_sync;
        assert_eq!((of(0), of(7)), (InSync::Seconds(12), InSync::NotYet));
        assert_eq!(read("").in_sync, InSync::Untold);
    }

    #[test]
    fn percentiles_are_those_of_what_came_since() {
        let now = read(PAGE).reads;
        assert_eq!(now.percentile_ms(50), Some(0.6));
        assert!(now.percentile_ms(99).is_some_and(|ms| ms > 1.0 && ms <= 10.0));
        assert_eq!(now.since(&now).percentile_ms(50), None);
        assert_eq!(now.since(&now).count(), 0);
        // It started anew, and has counted less than before.
        let mut less = Histogram::default();
        less.add(u64::MAX, 5);
        assert_eq!(less.since(&now).count(), 5);
    }

    #[test]
    fn what_is_no_page_of_a_node_has_no_figures_and_does_no_harm() {
        for text in ["", "{", "a{b=\"", "a{b=\"c\"} x", "a{b=\"c\\", "}\n{}= 1"] {
            assert_eq!(read(text), Figures::default(), "{text}");
        }
    }
}
