//! The one place where a peer's request becomes storage work.
//!
//! What it owes: it moves past the sender's clock; it refuses what is too late, too far ahead or not understood; it
//! answers reads only from what counts (`replica/read.rs`). It takes no write that is counted by a map it has not adopted: it might be about to clear what an earlier time left behind. Older maps are
//! fenced by `storage/apply` itself, in the same step that makes a write durable.

mod read;

use std::sync::Arc;

use cube_storage::clock::ClockError;
use cube_storage::model::{Batch, NodeId, Origin, PartitionId, Token};
use cube_storage::{Store, StoreError};

use crate::clock::NodeClock;
use crate::messages::{Fence, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody, Stamp, WriteRows};

/// Told once what a replica answers.
pub type OnAnswer = Box<dyn FnOnce(Reply) + Send>;

/// This node as a replica.
pub struct Replica {
    me: NodeId,
    store: Arc<Store>,
    clock: Arc<NodeClock>,
}

impl Replica {
    /// The replica that `store` is.
    pub fn new(me: NodeId, store: Arc<Store>, clock: Arc<NodeClock>) -> Self {
        Self { me, store, clock }
    }

    /// The store under it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Carries a request out and tells the answer. Reads are answered before this returns, writes when they are durable.
    pub fn handle(&self, request: Request, answer: OnAnswer) {
        if let Err(refusal) = self.admit(&request) {
            return answer(self.reply(Err(refusal)));
        }
        match request.body {
            RequestBody::Write(write) => self.write(write, answer),
            RequestBody::Read(read) => answer(self.reply(Ok(ReplyBody::Rows(self.read(&read))))),
            RequestBody::Scan(scan) => answer(self.reply(self.scan(&scan))),
            RequestBody::Fence(fence) => answer(self.reply(self.fence(&fence))),
        }
    }

    fn reply(&self, body: Result<ReplyBody, Refusal>) -> Reply {
        Reply { from: self.me, clock: self.clock.peek(), body }
    }

    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        if request.protocol > PROTOCOL {
            return Err(Refusal::Unsupported(format!("protocol {}, only up to {PROTOCOL}", request.protocol)));
        }
        if request.time_left_ms == 0 {
            return Err(Refusal::DeadlinePassed);
        }
        // A clock out of bound is not absorbed. What it stamped is judged by the stamp; reads do no harm.
        if let Err(ClockError::Bound(error)) = self.clock.observe(request.clock) {
            return Err(error.into());
        }
        Ok(())
    }

    fn write(&self, write: WriteRows, answer: OnAnswer) {
        if let Err(refusal) = self.check_write(&write) {
            return answer(self.reply(Err(refusal)));
        }
        let (me, clock) = (self.me, Arc::clone(&self.clock));
        let batch = Batch { origin: write.origin, mutations: write.mutations };
        self.store.submit(
            batch,
            Box::new(move |result| {
                let body = result.map(ReplyBody::Wrote).map_err(Refusal::from);
                answer(Reply { from: me, clock: clock.peek(), body });
            }),
        );
    }

    fn check_write(&self, write: &WriteRows) -> Result<(), Refusal> {
        if write.condition.is_some() {
            return Err(Refusal::Unsupported("conditional writes".into()));
        }
        for mutation in &write.mutations {
            let Some(claim) = mutation.claim else { continue };
            let placement = self.store.table(mutation.table)?.placement;
            let adopted = self.store.partition(placement, self.partition_of(mutation.key.token())).epoch;
            if claim > adopted {
                return Err(Refusal::MapBehind(adopted));
            }
        }
        if write.stamp == Stamp::New && write.origin == Origin::Client {
            for mutation in &write.mutations {
                self.clock.check(mutation.record.version.hlc).map_err(refuse_drift)?;
            }
        }
        Ok(())
    }

    fn fence(&self, fence: &Fence) -> Result<ReplyBody, Refusal> {
        for &(partition, epoch) in &fence.partitions {
            match self.store.fence(fence.placement, partition, epoch) {
                // A newer map is fenced already, which refuses all that was asked for.
                Ok(()) | Err(StoreError::EpochBehind { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ReplyBody::Fenced)
    }

    fn partition_of(&self, token: Token) -> PartitionId {
        self.store.bits().partition_of(token)
    }
}

fn refuse_drift(error: ClockError) -> Refusal {
    match error {
        ClockError::Drift { ahead_ms, max_drift_ms } => Refusal::Drift { ahead_ms, max_drift_ms },
        ClockError::Bound(error) => error.into(),
    }
}
