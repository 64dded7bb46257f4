//! What this node is busy with, as it tells the others: measured over the time between two looks, which is a second or more.

use cube_storage::clock::Clock;
use parking_lot::Mutex;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::gossip::Load;

/// Over less time the figures would say little.
const SPAN_MIN_MS: u64 = 1_000;

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    at_ms: u64,
    requests: u64,
    cpu_ms: u64,
}

/// Measures the load.
#[derive(Default)]
pub(super) struct LoadMeter(Mutex<(Sums, Load)>);

impl LoadMeter {
    /// The load now; `requests` were begun since the process began.
    pub(super) fn look(&self, clock: &dyn Clock, requests: u64, in_flight: usize) -> Load {
        let mut measured = self.0.lock();
        let (before, load) = &*measured;
        let mut load = Load { in_flight: in_flight as u64, ..*load };
        let at_ms = clock.monotonic_ms();
        if at_ms.saturating_sub(before.at_ms) >= SPAN_MIN_MS {
            let now = Sums { at_ms, requests, cpu_ms: cpu_ms().unwrap_or_default() };
            load = now.since(*before, load);
            *measured = (now, load);
        }
        load
    }
}

impl Sums {
    fn since(self, before: Self, load: Load) -> Load {
        let span_ms = self.at_ms.saturating_sub(before.at_ms).max(1);
        let cpu_percent = self.cpu_ms.saturating_sub(before.cpu_ms).saturating_mul(100) / span_ms;
        Load {
            requests_per_s: self.requests.saturating_sub(before.requests).saturating_mul(1_000) / span_ms,
            cpu_percent: u32::try_from(cpu_percent).unwrap_or(u32::MAX),
            ..load
        }
    }
}

/// Processor time that the process has used; nothing where the system does not tell.
fn cpu_ms() -> Option<u64> {
    let me = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    let kind = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, kind);
    system.process(me).map(sysinfo::Process::accumulated_cpu_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_happened_between_two_looks() {
        let before = Sums { at_ms: 10_000, requests: 500, cpu_ms: 4_000 };
        let now = Sums { at_ms: 12_000, requests: 1_500, cpu_ms: 7_000 };
        let load = now.since(before, Load { in_flight: 3, ..Load::default() });
        assert_eq!(load, Load { requests_per_s: 500, in_flight: 3, cpu_percent: 150 });
        assert_eq!(now.since(now, load).requests_per_s, 0);
    }

    #[test]
    fn the_system_tells_the_time_of_this_process() {
        assert!(cpu_ms().is_some());
    }
}
