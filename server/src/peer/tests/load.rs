//! Much at once: everything is told once, and every bound refuses early.

use std::sync::Barrier;
use std::sync::mpsc;

use cube_proto::peer::v1 as wire;
use cube_proto::peer::v1::peer_client::PeerClient;
use cube_replication::codec;
use cube_replication::messages::{ReadRows, Refusal, ScanRows, Want};
use cube_storage::model::{Limits, Token};
use cube_storage::scan::{ScanRequest, Scope};

use super::*;

/// Keeps whoever serves until it is let go.
struct Gate {
    entered: mpsc::SyncSender<()>,
    barrier: Arc<Barrier>,
    is_open: std::sync::atomic::AtomicBool,
    echo: Echo,
}

impl Gate {
    fn new() -> (Arc<Self>, mpsc::Receiver<()>) {
        let (entered, first) = mpsc::sync_channel(1);
        let (barrier, is_open) = (Arc::new(Barrier::new(2)), std::sync::atomic::AtomicBool::new(false));
        (Arc::new(Self { entered, barrier, is_open, echo: Echo::default() }), first)
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.barrier.wait();
    }
}

impl Serve for Gate {
    fn serve(&self, request: Request, answer: OnAnswer) {
        let is_held = matches!(request.body, RequestBody::Write(_)) && !self.is_open.load(Ordering::SeqCst);
        if is_held && self.entered.try_send(()).is_ok() {
            self.barrier.wait();
        }
        self.echo.serve(request, answer);
    }
}

fn serving(settings: PeerSettings, clock: Arc<dyn Clock>, serve: Arc<dyn Serve>) -> Process {
    let process = Process::listening(settings, clock, Arc::new(NoCalls));
    process.server.open(Membership { identity: identity(TWO), check: anybody(), serve, met: nobody() }).unwrap();
    process
}

#[test]
fn a_thousand_requests_in_flight_are_each_told_their_own_reply_once() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(identity(TWO), hoard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    let told: Vec<Told> =
        (0..1_000).map(|number| asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS))).collect();
    eventually("all are under way", || hoard.len() == 1_000);
    assert_eq!(asker.lane(TWO, Lane::Foreground).unwrap().in_flight, 1_000);
    hoard.answer_all();
    for (number, told) in told.iter().enumerate() {
        assert_eq!(told.wait().unwrap().clock, Hlc(number as u64));
    }
    // What is answered after these comes after anything that would have been told twice.
    let last = asker.send(TWO, Lane::Foreground, request(1_000, AMPLE_MS));
    eventually("the last is under way", || hoard.len() == 1);
    hoard.answer_all();
    assert!(last.wait().is_ok());
    assert!(told.iter().all(|told| told.now().is_ok()));
    assert_eq!(asker.lane(TWO, Lane::Foreground).unwrap().in_flight, 0);
}

#[test]
fn threads_that_know_nothing_of_tokio_may_send() {
    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let asker = &asker;
            scope.spawn(move || {
                let told: Vec<_> = (0..200)
                    .map(|place| thread * 1_000 + place)
                    .map(|number| (number, asker.send(TWO, Lane::Background, request(number, AMPLE_MS))))
                    .collect();
                for (number, told) in told {
                    assert_eq!(told.wait().unwrap().clock, Hlc(number));
                }
            });
        }
    });
}

#[test]
fn a_late_reply_is_dropped() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(identity(TWO), hoard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    // Until one reaches the peer before its time is over.
    let mut late = Told::default();
    eventually("a request is under way when its time ends", || {
        late = asker.send(TWO, Lane::Foreground, request(1, 100));
        late.wait() == Err(PeerError::TimedOut { peer: TWO }) && hoard.len() > 0
    });
    hoard.answer_all();
    let next = asker.send(TWO, Lane::Foreground, request(2, AMPLE_MS));
    eventually("the next is answered", || {
        hoard.answer_all();
        next.is_told()
    });
    assert_eq!(next.now().unwrap().clock, Hlc(2));
    assert_eq!(late.now(), Err(PeerError::TimedOut { peer: TWO }));
}

#[test]
fn a_background_that_is_stuck_with_long_messages_delays_no_client() {
    let (gate, entered) = Gate::new();
    let process = Process::member(identity(TWO), gate.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    // More than the connection's window, behind one that is being served.
    let long: Vec<Told> = (0..4).map(|_| asker.send(TWO, Lane::Background, write_of(10 << 20, AMPLE_MS))).collect();
    entered.recv().unwrap();
    for number in 0..100 {
        assert!(asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS)).wait().is_ok());
    }
    assert!(long.iter().all(|told| !told.is_told()));
    gate.open();
    for told in long {
        assert!(told.wait().is_ok());
    }
}

#[test]
fn work_whose_time_ended_in_the_peers_queue_is_not_done() {
    let (gate, entered) = Gate::new();
    let clock = Arc::new(ManualClock::default());
    let process = serving(settings(), clock.clone(), gate.clone());
    let hello = wire::Hello {
        identity: Some((&identity(ONE)).into()),
        expected_node: TWO.0.into(),
        lane: wire::Lane::Background.into(),
    };
    let message = |id, time_left_ms| {
        let body = codec::encode(&write_of(1, time_left_ms)).unwrap().into();
        wire::Message { id, body, time_left_ms }
    };
    // All in one frame, so the others wait behind the first.
    let messages = vec![message(1, 50_000), message(2, 40_000), message(3, 50_000)];
    let frames = [
        wire::Frame { hello: Some(hello), ..wire::Frame::default() },
        wire::Frame { messages, ..wire::Frame::default() },
    ];
    let runtime = runtime(1);
    let mut inbound = runtime.block_on(async {
        let mut client = PeerClient::connect(format!("http://{}", process.address)).await.unwrap();
        client.exchange(tokio_stream::iter(frames)).await.unwrap().into_inner()
    });
    entered.recv().unwrap();
    clock.advance(40_000);
    gate.open();
    let answered = runtime.block_on(async {
        let mut answered = Vec::new();
        while let Some(frame) = inbound.message().await.unwrap() {
            answered.extend(frame.messages.into_iter().map(|message| message.id));
        }
        answered
    });
    assert_eq!(answered, [1, 3]);
    assert_eq!(gate.echo.heard.load(Ordering::Relaxed), 2);
}

#[test]
fn a_peer_with_too_much_under_way_refuses_at_once_and_takes_requests_again_when_there_is_room() {
    let hoard = Arc::new(Hoard::default());
    let bounds = PeerSettings { serving_max: 3, ..settings() };
    let process = serving(bounds, Arc::new(SystemClock::new(0)), hoard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    let told: Vec<Told> = (0..3).map(|number| asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS))).collect();
    eventually("they are under way", || hoard.len() == 3);
    for number in 3..20 {
        let refused = asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS)).wait().unwrap();
        assert!(matches!(refused.body, Err(Refusal::Overloaded { .. })), "{refused:?}");
    }
    hoard.answer_all();
    assert!(told.iter().all(|told| told.wait().is_ok()));
    let next = asker.send(TWO, Lane::Foreground, request(20, AMPLE_MS));
    eventually("it is let in", || hoard.len() == 1);
    hoard.answer_all();
    assert!(next.wait().is_ok());
}

/// Reads as if from a disk that stands still, until it is let go.
struct SlowDisk {
    entered: mpsc::SyncSender<()>,
    barrier: Arc<Barrier>,
    echo: Echo,
}

impl Serve for SlowDisk {
    fn serve(&self, request: Request, answer: OnAnswer) {
        if matches!(request.body, RequestBody::Scan(_)) {
            self.entered.send(()).unwrap();
            self.barrier.wait();
        }
        self.echo.serve(request, answer);
    }
}

fn page(time_left_ms: u32) -> Request {
    let limits = Limits::default();
    let page = ScanRequest::all(TableId(1), Scope::Tokens(Token(0), Token(u64::MAX)), &limits);
    request_of(RequestBody::Scan(ScanRows { page, claim: None }), 1, time_left_ms)
}

fn read_of_a_row(time_left_ms: u32) -> Request {
    let rows = vec![(RowKey::of("row"), Epoch(1))];
    request_of(RequestBody::Read(ReadRows { table: TableId(1), rows, want: Want::Record }), 1, time_left_ms)
}

#[test]
fn a_read_that_waits_for_the_disk_holds_up_neither_the_other_requests_of_its_connection_nor_its_pings() {
    let (entered, reading) = mpsc::sync_channel(0);
    let barrier = Arc::new(Barrier::new(2));
    let slow = SlowDisk { entered, barrier: Arc::clone(&barrier), echo: Echo::default() };
    let process = Process::member(identity(TWO), Arc::new(slow));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let stuck = asker.send(TWO, Lane::Foreground, page(AMPLE_MS));
    reading.recv().unwrap();
    for number in 0..100 {
        assert!(asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS)).wait().is_ok());
        assert!(asker.send(TWO, Lane::Foreground, write_of(100, AMPLE_MS)).wait().is_ok());
        assert!(asker.send(TWO, Lane::Foreground, read_of_a_row(AMPLE_MS)).wait().is_ok());
    }
    let heard = asker.pings.lock().len();
    eventually("pings are answered meanwhile", || asker.pings.lock().len() >= heard + 3);
    assert!(!stuck.is_told());
    barrier.wait();
    assert!(stuck.wait().is_ok());
}

/// Has all rows in memory, and pages on a disk that stands still.
struct Warm(SlowDisk);

impl Serve for Warm {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.0.serve(request, answer);
    }

    fn serve_at_once(&self, request: Request, answer: OnAnswer) -> Option<(Request, OnAnswer)> {
        if matches!(request.body, RequestBody::Scan(_)) {
            return Some((request, answer));
        }
        self.0.serve(request, answer);
        None
    }
}

#[test]
fn rows_in_memory_are_read_also_while_every_reading_thread_waits_for_the_disk() {
    let (entered, reading) = mpsc::sync_channel(0);
    let barrier = Arc::new(Barrier::new(2));
    let slow = SlowDisk { entered, barrier: Arc::clone(&barrier), echo: Echo::default() };
    let bounds = PeerSettings { reads_at_once: 1, ..settings() };
    let process = serving(bounds, Arc::new(SystemClock::new(0)), Arc::new(Warm(slow)));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    let stuck = asker.send(TWO, Lane::Foreground, page(AMPLE_MS));
    reading.recv().unwrap();
    for _ in 0..100 {
        assert!(asker.send(TWO, Lane::Foreground, read_of_a_row(AMPLE_MS)).wait().is_ok());
    }
    assert!(!stuck.is_told());
    barrier.wait();
    assert!(stuck.wait().is_ok());
}

/// Answers with a long text.
struct Verbose;

impl Serve for Verbose {
    fn serve(&self, request: Request, answer: OnAnswer) {
        let body = Err(Refusal::Invalid("x".repeat(1 << 20)));
        answer(Reply { body, ..reply_to(&request) });
    }
}

#[test]
fn replies_past_their_bound_hold_up_further_requests_and_lose_none() {
    let bounds = PeerSettings { reply_bytes_max: 2 << 20, ..settings() };
    let process = serving(bounds, Arc::new(SystemClock::new(0)), Arc::new(Verbose));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    for lane in [Lane::Foreground, Lane::Background] {
        let told: Vec<Told> = (0..100).map(|number| asker.send(TWO, lane, request(number, AMPLE_MS))).collect();
        for (number, told) in told.iter().enumerate() {
            assert_eq!(told.wait().unwrap().clock, Hlc(number as u64));
        }
        let told: Vec<Told> = (0..100).map(|_| asker.send(TWO, lane, read_of_a_row(AMPLE_MS))).collect();
        told.iter().for_each(|told| drop(told.wait().unwrap()));
    }
}

/// Forgets what it is asked.
struct Forgetful;

impl Serve for Forgetful {
    fn serve(&self, _: Request, answer: OnAnswer) {
        drop(answer);
    }
}

#[test]
fn requests_that_nobody_will_answer_take_no_room() {
    let bounds = PeerSettings { serving_max: 1, ..settings() };
    let process = serving(bounds, Arc::new(SystemClock::new(0)), Arc::new(Forgetful));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    for number in 0..5 {
        let told = asker.send(TWO, Lane::Foreground, request(number, 20)).wait();
        assert_eq!(told, Err(PeerError::TimedOut { peer: TWO }));
        // The asker's clock may be the first to say that the time is over.
        eventually("nothing is under way", || process.server.status().iter().all(|lane| lane.in_flight == 0));
    }
}

/// Processor time of this process so far, in microseconds.
fn processor_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A tick is a hundredth of a second on Linux.
    ticks * 10_000
}

/// Asks again whenever it is answered, until there were enough.
fn keep_asking(transport: &Arc<GrpcTransport>, asked: &Request, left: &Arc<AtomicU64>, done: &Arc<AtomicU64>) {
    if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
        return;
    }
    let (again, next) = (Arc::clone(transport), asked.clone());
    let (left, done) = (Arc::clone(left), Arc::clone(done));
    let reply = Box::new(move |result: Result<Reply, PeerError>| {
        result.unwrap();
        done.fetch_add(1, Ordering::Relaxed);
        keep_asking(&again, &next, &left, &done);
    });
    transport.send(TWO, Lane::Foreground, asked.clone(), reply);
}

#[test]
#[ignore = "long: measures what a round trip costs, and needs the machine for itself"]
fn what_a_round_trip_costs() {
    const ROUNDS: u64 = 400_000;
    let (short, long, read) = (write_of(100, AMPLE_MS), write_of(1_024, AMPLE_MS), read_of_a_row(AMPLE_MS));
    let (short, long, read) = (("write", short), ("long write", long), ("read", read));
    let writes = [(256, &short), (256, &long), (32, &short), (1, &short)];
    for (pipelining, (kind, asked)) in writes.into_iter().chain([256, 32, 1].map(|at_once| (at_once, &read))) {
        let process = Process::member(identity(TWO), Arc::new(Echo::default()));
        let asker = Asker::new(settings());
        asker.book.put(TWO, &process.address);
        asker.connect(TWO);
        let rounds = if pipelining == 1 { ROUNDS / 10 } else { ROUNDS };
        let (left, done) = (Arc::new(AtomicU64::new(rounds)), Arc::new(AtomicU64::new(0)));
        let (clock, before_us) = (SystemClock::new(0), processor_us());
        for _ in 0..pipelining {
            keep_asking(&asker.transport, asked, &left, &done);
        }
        eventually("all are done", || done.load(Ordering::Relaxed) == rounds);
        let (took_ms, used_us) = (clock.monotonic_ms().max(1), processor_us() - before_us);
        let frames = asker.lane(TWO, Lane::Foreground).unwrap().frames;
        println!(
            "{pipelining} at once, {kind}: {:.2} us of processor and {:.1} us of time each, {:.1} in a frame",
            used_us as f64 / rounds as f64,
            took_ms as f64 * 1_000.0 / rounds as f64,
            rounds as f64 / frames as f64,
        );
    }
}
