//! The queue of a lane by itself: what shares a frame, what is refused, what is not sent.

use std::task::{Context, Poll, Waker};

use cube_proto::peer::v1 as wire;

use super::super::lane::{Access, Lane as Queue};
use super::*;

struct Bench {
    clock: Arc<ManualClock>,
    lane: Queue,
    connection: u64,
}

/// A lane with a connection that waits for frames.
fn bench(settings: PeerSettings) -> Bench {
    let clock = Arc::new(ManualClock::default());
    let lane = Queue::new(TWO, clock.clone(), &settings);
    let connection = lane.begin(wire::Hello::default());
    let bench = Bench { clock, lane, connection };
    assert!(bench.frame().unwrap().hello.is_some());
    bench.lane.open(identity(TWO).least()).tell();
    bench
}

impl Bench {
    fn push(&self, bytes: usize, time_left_ms: u32) -> Told {
        let told = Told::default();
        let pushed = self.lane.push(Bytes::from(vec![0; bytes]), Features::default(), time_left_ms, told.note());
        if let Err((instead, reply)) = pushed {
            reply(instead);
        }
        told
    }

    fn frame(&self) -> Option<wire::Frame> {
        match self.lane.poll_frame(self.connection, &Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame,
            Poll::Pending => None,
        }
    }

    /// How many messages each frame has until nothing waits.
    fn frames(&self) -> Vec<usize> {
        std::iter::from_fn(|| self.frame()).map(|frame| frame.messages.len()).collect()
    }
}

#[test]
fn what_waits_shares_frames_up_to_their_bounds() {
    let bench = bench(settings());
    for _ in 0..600 {
        bench.push(10, 1_000);
    }
    assert_eq!(bench.frames(), [256, 256, 88]);
    for _ in 0..5 {
        bench.push(100 << 10, 1_000);
    }
    assert_eq!(bench.frames(), [2, 2, 1]);
}

#[test]
fn a_long_message_travels_alone() {
    let bench = bench(settings());
    for bytes in [10, 10 << 20, 10, 10] {
        bench.push(bytes, 1_000);
    }
    assert_eq!(bench.frames(), [1, 1, 2]);
}

#[test]
fn bytes_that_wait_are_bounded_but_one_request_is_always_taken() {
    let bench = bench(PeerSettings { waiting_bytes_max: 1_000, ..settings() });
    let large = bench.push(5_000, 1_000);
    let full = PeerError::QueueFull { peer: TWO, waiting: 1, limit: settings().waiting_max };
    assert_eq!(bench.push(1, 1_000).now(), Err(full));
    assert_eq!(bench.frames(), [1]);
    assert!(!large.is_told());
    assert!(!bench.push(600, 1_000).is_told());
    assert!(bench.push(600, 1_000).is_told());
}

#[test]
fn time_spent_in_the_queue_is_taken_off_and_without_time_nothing_is_sent() {
    let bench = bench(settings());
    let (short, long) = (bench.push(1, 30), bench.push(1, 100));
    bench.clock.advance(30);
    let frame = bench.frame().unwrap();
    assert_eq!(frame.messages.iter().map(|message| message.time_left_ms).collect::<Vec<_>>(), [70]);
    bench.lane.expired().tell();
    assert_eq!(short.now(), Err(PeerError::TimedOut { peer: TWO }));
    assert!(!long.is_told());
}

#[test]
fn requests_whose_time_is_over_make_room_in_a_queue_that_does_not_move() {
    let bench = bench(PeerSettings { waiting_bytes_max: 1_000, ..settings() });
    let told: Vec<Told> = (0..10).map(|_| bench.push(100, 50)).collect();
    assert!(bench.push(100, 50).is_told());
    bench.clock.advance(49);
    bench.lane.expired().tell();
    assert!(told.iter().all(|one| !one.is_told()));
    bench.clock.advance(1);
    bench.lane.expired().tell();
    assert!(told.iter().all(|one| one.now() == Err(PeerError::TimedOut { peer: TWO })));
    let load = bench.lane.load();
    assert_eq!((load.queued, load.queued_bytes, load.in_flight), (0, 0, 0));
    assert!(!bench.push(100, 50).is_told());
    assert_eq!(bench.frames(), [1]);
}

#[test]
fn when_a_connection_ends_only_what_was_sent_is_broken() {
    let bench = bench(settings());
    let sent = bench.push(1, 1_000);
    assert_eq!(bench.frames(), [1]);
    let waiting = bench.push(1, 1_000);
    bench.lane.lost(Access::Opening).tell();
    assert_eq!(sent.now(), Err(PeerError::Broken { peer: TWO }));
    assert!(!waiting.is_told(), "the next connection is at hand");
    assert!(bench.frame().is_none(), "the old connection ends");
    bench.lane.lost(Access::Closed).tell();
    assert_eq!(waiting.now(), Err(PeerError::Unreachable { peer: TWO }));
    assert_eq!(bench.push(1, 1_000).now(), Err(PeerError::Unreachable { peer: TWO }));
    bench.lane.expect();
    assert!(!bench.push(1, 1_000).is_told());
}

#[test]
fn a_lane_that_is_gone_does_not_come_back() {
    let bench = bench(settings());
    bench.lane.lost(Access::Gone).tell();
    bench.lane.expect();
    assert_eq!(bench.push(1, 1_000).now(), Err(PeerError::Unreachable { peer: TWO }));
}
