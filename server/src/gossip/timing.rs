//! The clockwork of gossip: every interval, threshold and bound, with its reason, and how liveness follows from them.
//!
//! Phi of a peer is the time since its heartbeat last grew, over the mean interval between such growths; past the
//! threshold it is DOWN. The mean is taken over a window of only [`Timing::window`] intervals together with a prior of
//! weight 5 that never fades, so the silence that is allowed is
//!
//! ```text
//! threshold * (5 * prior + sum of the window) / (5 + window)   =   3 s + 3 * (mean interval), by default
//! ```
//!
//! at least 3 s however fast heartbeats come (which depends on the size of the cluster), longer where they really
//! come slowly, and the same seconds after a start as after a year. A long window would do neither: with many fast
//! samples the allowed silence falls to a second, and with few samples the crate's own prior allows 40.

use std::time::Duration;

use chitchat::FailureDetectorConfig;

/// The settings of gossip that are not about who and where.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Between two rounds; each talks to three live peers, sometimes also to a dead one.
    pub interval_ms: u64,
    /// Phi above which a peer is DOWN.
    pub phi_threshold: f64,
    /// Intervals that are remembered of a peer. A window that a pause has polluted is clean after as many heartbeats.
    pub window: usize,
    /// The prior: what an interval is believed to be before any was seen, and with weight 5 ever after.
    pub prior_interval_ms: u64,
    /// A longer interval is not a sample: the peer was away. Well above what an overloaded machine does to rounds.
    pub interval_max_ms: u64,
    /// How often this node's own report is published.
    pub publish_interval_ms: u64,
    /// How often seeds and lost peers are asked again.
    pub seed_interval_ms: u64,
    /// For how long after the start a node that was never heard is presumed alive: as long as a live one may need to
    /// be found dead. A cluster that is restarted as a whole then answers its first requests instead of refusing them.
    pub presume_ms: u64,
    /// For how long a node that others have just told of is presumed alive before it was heard: it has most likely just
    /// joined, replicas are placed on it at once, and its first heartbeats are a few rounds away.
    pub hear_ms: u64,
    /// When this node itself did nothing for so long, silence of others is its own fault.
    pub pause_ms: u64,
    /// How long after such a pause nobody is declared dead: some rounds, in which every live peer is heard again.
    pub hold_ms: u64,
    /// Two instances of one node id that live side by side for so long are two processes, not a restart.
    pub conflict_ms: u64,
    /// A dead instance is forgotten by the protocol. Every restart leaves one in all digests, so a node that crashes
    /// every 10 s must not fill a datagram.
    pub dead_instance_ms: u64,
    /// A dead node is no longer listed and its last address no longer asked.
    pub forget_ms: u64,
    /// How long a leaving node waits for its peers to be told.
    pub farewell_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval_ms: 250,
            phi_threshold: 8.0,
            window: 3,
            prior_interval_ms: 600,
            interval_max_ms: 2_000,
            publish_interval_ms: 1_000,
            seed_interval_ms: 1_000,
            presume_ms: 5_000,
            hear_ms: 2_000,
            pause_ms: 1_000,
            hold_ms: 2_000,
            conflict_ms: 10_000,
            dead_instance_ms: 600_000,
            forget_ms: 86_400_000,
            farewell_ms: 1_000,
        }
    }
}

impl Timing {
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.max(1))
    }

    pub(super) fn detector(&self) -> FailureDetectorConfig {
        FailureDetectorConfig::new(
            self.phi_threshold,
            self.window.max(1),
            Duration::from_millis(self.interval_max_ms),
            Duration::from_millis(self.prior_interval_ms),
            Duration::from_millis(self.dead_instance_ms),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest silence allowed, by the formula above.
    fn allowed_ms(timing: &Timing, samples: usize, mean_ms: f64) -> f64 {
        let sum_ms = mean_ms * samples as f64 + 5.0 * timing.prior_interval_ms as f64;
        timing.phi_threshold * sum_ms / (samples as f64 + 5.0)
    }

    #[test]
    fn by_default_the_silence_allowed_is_three_to_four_and_a_half_seconds_from_the_first_sample_on() {
        let timing = Timing::default();
        for samples in 1..=timing.window {
            for mean_ms in [0.0, 40.0, 125.0, 250.0] {
                let allowed_ms = allowed_ms(&timing, samples, mean_ms);
                let noticed_ms = allowed_ms + 2.0 * timing.interval_ms as f64;
                assert!(allowed_ms >= 3_000.0, "{samples} samples of {mean_ms} ms: {allowed_ms}");
                assert!(noticed_ms <= 5_000.0, "{samples} samples of {mean_ms} ms: {noticed_ms}");
            }
        }
    }
}
