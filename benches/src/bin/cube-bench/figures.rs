//! The figures of a run.

use std::collections::BTreeMap;

use cube_benches::measure::wall_ns;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::options::Shape;
use super::process::{machine_used_ns, resident_bytes, used_ns};

/// What one process spent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spent {
    pub(crate) name: String,
    pub(crate) processor_ms: f64,
    pub(crate) resident_mib: f64,
}

/// What all processes spent while it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Expense {
    seconds: f64,
    processes: Vec<Spent>,
    others_cores: f64,
}

impl Expense {
    /// Of all processes together.
    pub(crate) fn processor_ms(&self) -> f64 {
        self.processes.iter().map(|process| process.processor_ms).sum()
    }

    /// Of each process.
    pub(crate) fn processes(&self) -> &[Spent] {
        &self.processes
    }

    /// How long it was counted.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Processors that others kept busy meanwhile.
    pub(crate) fn others_cores(&self) -> f64 {
        self.others_cores
    }
}

/// Counts what processes spend from one moment to another.
pub(crate) struct Meter {
    started_ns: u64,
    machine_ns: Option<u64>,
    processes: Vec<(String, u32, Option<u64>)>,
}

impl Meter {
    /// Those, and this process itself.
    pub(crate) fn start(pids: &[(String, u32)]) -> Self {
        let me = ("cube-bench".to_owned(), std::process::id());
        let of = |(name, pid): &(String, u32)| (name.clone(), *pid, used_ns(*pid));
        Self {
            started_ns: wall_ns(),
            machine_ns: machine_used_ns(),
            processes: pids.iter().chain([&me]).map(of).collect(),
        }
    }

    pub(crate) fn stop(self) -> Expense {
        let seconds = (wall_ns() - self.started_ns) as f64 / 1e9;
        let spent = |(name, pid, before): &(String, u32, Option<u64>)| Spent {
            name: name.clone(),
            processor_ms: used_ns(*pid).zip(*before).map_or(f64::NAN, |(now, before)| (now - before) as f64 / 1e6),
            resident_mib: resident_bytes(*pid).unwrap_or_default() as f64 / 1_048_576.0,
        };
        let processes: Vec<Spent> = self.processes.iter().map(spent).collect();
        let ours_ms: f64 = processes.iter().map(|process| process.processor_ms).sum();
        let machine_ns = machine_used_ns().zip(self.machine_ns).map_or(0, |(now, before)| now - before);
        let others_cores = ((machine_ns as f64 / 1e6 - ours_ms) / (seconds * 1e3)).max(0.0);
        Expense { seconds, processes, others_cores }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) name: String,
    pub(crate) in_flight: usize,
    pub(crate) rate_wanted: Option<f64>,
    pub(crate) rows_in_set: u64,
    pub(crate) value_bytes: usize,
    pub(crate) values: String,
    pub(crate) distribution: String,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    /// Answered well, in a second.
    pub(crate) requests_per_second: f64,
    pub(crate) rows_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p99_9_us: u64,
    pub(crate) max_us: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Microseconds of processor time of all processes together for one request that was answered well, and for a row.
    pub(crate) processor_us_per_request: f64,
    pub(crate) processor_us_per_row: f64,
    pub(crate) processes: Vec<Spent>,
    /// Processors that others kept busy meanwhile.
    pub(crate) others_cores: f64,
}

impl Figures {
    pub(crate) fn of(
        name: &str,
        shape: &Shape,
        latency_us: &Histogram<u64>,
        rows: u64,
        errors: BTreeMap<String, u64>,
        expense: Expense,
    ) -> Self {
        let requests = latency_us.len();
        let processor_us = 1e3 * expense.processor_ms();
        let per = |count: u64| if count == 0 { f64::NAN } else { processor_us / count as f64 };
        Self {
            name: name.to_owned(),
            in_flight: shape.in_flight,
            rate_wanted: shape.rate,
            rows_in_set: shape.rows,
            value_bytes: shape.value_bytes,
            values: format!("{:?}", shape.values).to_lowercase(),
            distribution: format!("{:?}", shape.distribution).to_lowercase(),
            seconds: expense.seconds,
            requests,
            requests_per_second: requests as f64 / expense.seconds,
            rows_per_second: rows as f64 / expense.seconds,
            p50_us: latency_us.value_at_quantile(0.5),
            p99_us: latency_us.value_at_quantile(0.99),
            p99_9_us: latency_us.value_at_quantile(0.999),
            max_us: latency_us.max(),
            errors,
            processor_us_per_request: per(requests),
            processor_us_per_row: per(rows),
            processes: expense.processes,
            others_cores: expense.others_cores,
        }
    }
}
