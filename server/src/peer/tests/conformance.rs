//! The common laws of a transport, over real sockets. The clock is moved by hand, and whatever it lets happen has
//! happened before the law looks: a machine that is busy makes this slow and not wrong.

use cube_replication::transport::conformance::{self, Harness};

use super::*;

const WAITING_MAX: usize = 40;

/// What became of the requests of a law, by their numbers.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<u64, Entry>>);

struct Entry {
    deadline_ms: u64,
    is_heard: bool,
    is_answered: bool,
    is_told: bool,
}

impl Ledger {
    fn note(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.0.lock().get_mut(&number) {
            change(entry);
        }
    }

    /// Nothing more happens before the clock moves on or somebody answers.
    fn is_settled(&self, now_ms: u64) -> bool {
        let waits = |one: &Entry| one.is_heard && !one.is_answered && one.deadline_ms > now_ms;
        self.0.lock().values().all(|one| one.is_told || waits(one))
    }
}

/// Notes what is heard and answered.
struct Watched {
    ledger: Arc<Ledger>,
    service: Arc<dyn Serve>,
}

impl Serve for Watched {
    fn serve(&self, request: Request, answer: OnAnswer) {
        let (ledger, number) = (Arc::clone(&self.ledger), request.clock.0);
        let answered = Box::new(move |reply| {
            // First, so that nobody takes it for one that waits while its reply is under way.
            ledger.note(number, |entry| entry.is_answered = true);
            answer(reply);
        });
        self.service.serve(request, answered);
        self.ledger.note(number, |entry| entry.is_heard = true);
    }
}

/// Notes what is sent and told.
struct Noting {
    ledger: Arc<Ledger>,
    clock: Arc<ManualClock>,
    transport: Arc<GrpcTransport>,
}

impl PeerTransport for Noting {
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply) {
        let number = request.clock.0;
        let deadline_ms = self.clock.monotonic_ms() + u64::from(request.time_left_ms);
        let entry = Entry { deadline_ms, is_heard: false, is_answered: false, is_told: false };
        self.ledger.0.lock().insert(number, entry);
        let ledger = Arc::clone(&self.ledger);
        let told = Box::new(move |result| {
            reply(result);
            ledger.note(number, |entry| entry.is_told = true);
        });
        self.transport.send(to, lane, request, told);
    }
}

#[derive(Default)]
struct Loopback {
    clock: Arc<ManualClock>,
    ledger: Arc<Ledger>,
    processes: BTreeMap<NodeId, Process>,
    asker: Option<Asker>,
}

fn bounds() -> PeerSettings {
    PeerSettings { waiting_max: WAITING_MAX, ..settings() }
}

impl Harness for Loopback {
    fn connect(&mut self, node: NodeId, service: Arc<dyn Serve>) {
        let process = Process::listening(bounds(), self.clock.clone(), Arc::new(NoCalls));
        let serve = Arc::new(Watched { ledger: self.ledger.clone(), service });
        process.server.open(Membership { identity: identity(node), check: anybody(), serve, met: nobody() }).unwrap();
        if let Some(asker) = &self.asker {
            asker.book.put(node, &process.address);
            // Without being woken.
            eventually("the node is reached again", || asker.is_connected(node));
        }
        self.processes.insert(node, process);
    }

    fn transport(&mut self, node: NodeId) -> Arc<dyn PeerTransport> {
        let asker = Asker::of(identity(node), anybody(), bounds(), self.clock.clone());
        for (node, process) in &self.processes {
            asker.book.put(*node, &process.address);
            asker.connect(*node);
        }
        let transport = Arc::clone(&asker.transport);
        self.asker = Some(asker);
        Arc::new(Noting { ledger: self.ledger.clone(), clock: self.clock.clone(), transport })
    }

    fn disconnect(&mut self, node: NodeId) {
        self.processes.remove(&node).unwrap().kill();
        let asker = self.asker.as_ref().unwrap();
        let is_up = |lane| asker.lane(node, lane).is_some_and(|status| status.connection.is_some());
        eventually("the end is noticed", || !is_up(Lane::Foreground) && !is_up(Lane::Background));
    }

    fn pass_ms(&mut self, ms: u64) {
        let (clock, ledger) = (&self.clock, &self.ledger);
        eventually("all is quiet", || ledger.is_settled(clock.monotonic_ms()));
        clock.advance(ms);
        eventually("all is quiet again", || ledger.is_settled(clock.monotonic_ms()));
    }

    fn waiting_max(&self) -> usize {
        WAITING_MAX
    }
}

#[test]
fn it_keeps_the_promises_of_a_transport() {
    assert_eq!(conformance::check(Loopback::default), Ok(()));
}
