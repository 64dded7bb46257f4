//! How families of metrics are written: a name, what it says, a unit, and a sample for each set of labels.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

pub(super) type Written = Result<(), fmt::Error>;

/// Labels of a sample: names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One label.
pub(super) fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

/// A page as it is written.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

/// What a family is: its name without the suffix of its kind, and what it says.
#[derive(Clone, Copy)]
pub(super) struct Family<'a> {
    name: &'a str,
    help: &'a str,
    unit: Option<&'a Unit>,
}

/// A family without a unit.
pub(super) const fn family<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, help, unit: None }
}

/// A family of seconds; the name gets its `_seconds`.
pub(super) const fn seconds<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, help, unit: Some(&Unit::Seconds) }
}

/// A family of bytes; the name gets its `_bytes`.
pub(super) const fn bytes<'a>(name: &'a str, help: &'a str) -> Family<'a> {
    Family { name, help, unit: Some(&Unit::Bytes) }
}

/// A histogram's samples.
pub(super) struct Distribution {
    pub(super) labels: Labels,
    pub(super) sum: f64,
    /// Upper bounds, and how many are within each and in none below it.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// What only grows.
    pub(super) fn counter(&mut self, family: Family<'_>, samples: impl IntoIterator<Item = (Labels, u64)>) -> Written {
        let mut metric = self.begin(family, MetricType::Counter)?;
        each(&mut metric, samples, |metric, value| metric.encode_counter::<NoLabelSet, u64, u64>(&value, None))
    }

    /// What only grows, in parts of a whole.
    pub(super) fn counter_of_parts(
        &mut self,
        family: Family<'_>,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Written {
        let mut metric = self.begin(family, MetricType::Counter)?;
        each(&mut metric, samples, |metric, value| metric.encode_counter::<NoLabelSet, f64, f64>(&value, None))
    }

    /// What goes up and down.
    pub(super) fn gauge(&mut self, family: Family<'_>, samples: impl IntoIterator<Item = (Labels, f64)>) -> Written {
        let mut metric = self.begin(family, MetricType::Gauge)?;
        each(&mut metric, samples, |metric, value| metric.encode_gauge(&value))
    }

    /// One value that goes up and down.
    pub(super) fn value(&mut self, family: Family<'_>, value: f64) -> Written {
        self.gauge(family, [(Labels::new(), value)])
    }

    /// One value that only grows.
    pub(super) fn count(&mut self, family: Family<'_>, value: u64) -> Written {
        self.counter(family, [(Labels::new(), value)])
    }

    /// What something is: labels, and nothing to count.
    pub(super) fn info(&mut self, family: Family<'_>, labels: &Labels) -> Written {
        self.begin(family, MetricType::Info)?.encode_info(labels)
    }

    /// How values are spread.
    pub(super) fn histogram(&mut self, family: Family<'_>, samples: impl IntoIterator<Item = Distribution>) -> Written {
        let mut metric = self.begin(family, MetricType::Histogram)?;
        let samples = samples.into_iter().map(|Distribution { labels, sum, buckets }| (labels, (sum, buckets)));
        each(&mut metric, samples, |metric, (sum, buckets)| {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    fn begin<'s>(&'s mut self, family: Family<'s>, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(family.name, family.help, family.unit, kind)
    }
}

fn each<T>(
    metric: &mut MetricEncoder<'_>,
    samples: impl IntoIterator<Item = (Labels, T)>,
    write: impl Fn(&mut MetricEncoder<'_>, T) -> Written,
) -> Written {
    for (labels, value) in samples {
        // The encoder writes braces around labels, also around none.
        if labels.is_empty() {
            write(metric, value)?;
        } else {
            write(&mut metric.encode_family(&labels)?, value)?;
        }
    }
    Ok(())
}

/// Milliseconds as seconds.
pub(super) fn from_ms(ms: u64) -> f64 {
    whole(ms) / 1_000.0
}

/// A whole number as metrics have it: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "every value of a metric is a double")]
pub(super) fn whole(value: u64) -> f64 {
    value as f64
}

/// A number of things.
pub(super) fn number(value: usize) -> f64 {
    whole(u64::try_from(value).unwrap_or(u64::MAX))
}

/// Yes or no.
pub(super) fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}
