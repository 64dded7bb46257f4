//! A bell: whoever waits goes on when it is rung, also when that happened just before.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Wakes one thread.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Wakes the one who waits, or whoever waits next.
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    /// Waits until it is rung, or for so long.
    pub(crate) fn wait(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, at_most);
        }
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard() {
        let bell = Bell::default();
        bell.ring();
        bell.wait(Duration::from_secs(3600));
    }

    #[test]
    fn a_ring_during_the_wait_is_heard() {
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        let ringer = std::thread::Builder::new().spawn(move || rung.ring()).unwrap();
        bell.wait(Duration::from_secs(3600));
        ringer.join().unwrap();
    }
}
