//! One request from its first attempt to its end: pick a node, ask, and on failure do what `retry` says, within the
//! deadline.
//!
//! Invariant: when the deadline is over the caller is told what is known by then, never later. The node is given a little
//! less time than the caller has, so that its own account of what it could not do arrives before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::client::Inner;
use crate::error::Error;
use crate::failure;
use crate::node::Node;
use crate::operation::{Operation, millis};
use crate::retry::{self, Failure, Kind, Next, Words};
use crate::session::Lane;

/// What a node's answer needs to travel, taken off the time it is given ...
const ANSWER_MARGIN: Duration = Duration::from_millis(50);
/// ... but never more than this part of the time.
const ANSWER_MARGIN_PART: u32 = 10;

/// How a request is sent.
#[derive(Clone, Debug)]
pub(crate) enum Via {
    /// Each as a call of its own.
    Calls,
    /// Over a stream that many share.
    Session(Arc<crate::session::Lanes>),
}

struct Attempts<'a, O: Operation> {
    inner: &'a Inner,
    op: O,
    kind: Kind,
    tried: Vec<Arc<Node>>,
    /// The last attempt that may have taken effect, if one may have: where, and what was said.
    maybe_done: Option<(Arc<Node>, Failure)>,
    words: Words,
}

impl Inner {
    /// Does a request. `timeout` is for all of it.
    pub(crate) async fn run<O: Operation>(
        &self,
        via: &Via,
        op: O,
        timeout: Option<Duration>,
    ) -> Result<O::Reply, Error> {
        let deadline = Instant::now() + timeout.unwrap_or(self.options.timeout);
        let kind = op.kind();
        let attempts = Attempts { inner: self, op, kind, tried: Vec::new(), maybe_done: None, words: Words::default() };
        attempts.run(via, deadline).await
    }
}

impl<O: Operation> Attempts<'_, O> {
    async fn run(mut self, via: &Via, deadline: Instant) -> Result<O::Reply, Error> {
        for attempt in 1.. {
            let node = self.node()?;
            let failure = match self.attempt(via, &node, deadline).await {
                Ok(reply) => {
                    node.answered();
                    self.inner.clock.observe(O::shown_ms(&reply));
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            self.take_note(&node, &failure);
            let wait = match retry::next(self.kind, attempt, self.inner.options.attempts_max, &failure) {
                Next::GiveUp => return Err(self.error(&node, attempt, failure)),
                Next::Elsewhere(wait) => self.inner.clock.jittered(wait),
            };
            self.tried.push(Arc::clone(&node));
            let resume = Instant::now() + wait;
            if resume >= deadline {
                return Err(self.error(&node, attempt, failure));
            }
            if !wait.is_zero() {
                tokio::time::sleep_until(resume).await;
            }
        }
        // The loop only ends by a return: attempts are bounded by `retry`.
        Err(Error::Invalid("more attempts than can be counted".to_owned()))
    }

    fn node(&self) -> Result<Arc<Node>, Error> {
        let ring = self.inner.ring.load();
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        let partition = self.op.partition().map(|key| key.as_ref());
        let local_dc = self.inner.options.local_dc.as_deref();
        ring.pick(self.op.keyspace(), partition, local_dc, &self.tried, turn)
            .map(Arc::clone)
            .ok_or_else(|| Error::Invalid("the client knows no node".to_owned()))
    }

    async fn attempt(&self, via: &Via, node: &Arc<Node>, deadline: Instant) -> Result<O::Reply, Failure> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        // Another node can be asked while a read waits for this one, and nothing is lost; a write waits to the end.
        let time = if self.kind == Kind::Read { left.min(self.inner.options.read_attempt) } else { left };
        let mut op = self.op.clone();
        op.set_timeout_ms(millis(time - ANSWER_MARGIN.min(time / ANSWER_MARGIN_PART)));
        let _counted = node.enter();
        let answer = async {
            match via {
                Via::Calls => match op.send(node.kv()).await {
                    Ok(response) => Ok(response.into_inner()),
                    Err(status) => Err(failure::of_status(&status)),
                },
                Via::Session(lanes) => Lane::of(lanes, node, self.inner).ask(op).await,
            }
        };
        timeout_at(now + time, answer).await.unwrap_or(Err(Failure::Slow))
    }

    fn take_note(&mut self, node: &Arc<Node>, failure: &Failure) {
        if failure.is_loss_of_node() {
            node.avoid();
        }
        self.words.note(node, failure);
        if failure.tells_of_change() {
            self.inner.stale.notify_one();
        }
        if self.kind != Kind::Read && failure.may_take_effect() {
            self.maybe_done = Some((Arc::clone(node), failure.clone()));
        }
    }

    /// What the caller is told. A write that any attempt may have done is unknown, whatever came after.
    fn error(self, node: &Arc<Node>, attempts: u32, last: Failure) -> Error {
        let asked = self.op.asked();
        if let Some((node, by)) = self.maybe_done {
            let refusal = if let Failure::Refused(refusal) = &by { Some(refusal.clone()) } else { None };
            return Error::Unknown { asked, node: node.address.clone(), reason: by.reason(), refusal };
        }
        let (node, last) = self.words.or(self.kind, node, last);
        let address = node.address.clone();
        match last {
            Failure::Refused(refusal) => Error::Refused { asked, node: address, refusal },
            Failure::Unsent(reason) => Error::Unreachable { asked, node: address, attempts, reason },
            Failure::Misunderstood(reason) => Error::Misunderstood { asked, node: address, reason },
            Failure::Lost(_) | Failure::Slow => {
                Error::NotAnswered { asked, node: address, attempts, reason: last.reason() }
            }
        }
    }
}
