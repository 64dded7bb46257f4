//! Settings that change while the node runs: SIGHUP has the sources read again, and what works by a copy of a setting is
//! told of a new one.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::member::Member;
use crate::config::{Change, Config, Live};
use crate::telemetry;

/// Reads the sources again whenever SIGHUP comes, and sets the level of the log when that changes.
pub(super) fn follow(settings: &Arc<Live>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let told = Arc::clone(settings);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let settings = Arc::clone(&told);
            match tokio::task::spawn_blocking(move || settings.reload()).await {
                Ok(Ok(change)) => tell(&change),
                Ok(Err(error)) => tracing::error!("SIGHUP: the settings stay as they are: {error}"),
                Err(error) => tracing::error!(%error, "SIGHUP: the settings were not read"),
            }
        }
    });
    let mut watched = settings.watch();
    let mut level = watched.borrow_and_update().log.level.clone();
    tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let next = watched.borrow_and_update().log.level.clone();
            if next != level {
                if let Err(error) = telemetry::set_level(&next) {
                    tracing::error!(%error, "the level of the log stays as it is");
                }
                level = next;
            }
        }
    });
    Ok(())
}

fn tell(Change { changed, needs_restart }: &Change) {
    let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
    tracing::info!(changed, "SIGHUP: the settings were read again");
    if !needs_restart.is_empty() {
        tracing::warn!(settings = needs_restart.join(", "), "these have another value now that needs a restart");
    }
}

/// Has a member work by the settings of now.
pub(super) fn apply(member: &Arc<Member>, settings: &Arc<Live>) {
    let (member, mut watched) = (Arc::downgrade(member), settings.watch());
    tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let config: Arc<Config> = Arc::clone(&watched.borrow_and_update());
            let Some(member) = member.upgrade() else { return };
            member.handoff.set_settings(config.hints.handoff());
            member.set_anti_entropy(&config);
            member.coordinator.record_slow(config.slow_ms());
            if let Some(traces) = &member.traces {
                traces.sample(config.telemetry.traces.sample);
            }
        }
    });
}
