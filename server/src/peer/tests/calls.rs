//! Single questions: answered, refused, late, and to nodes that are not there.

use tokio::sync::Notify;

use super::*;

const ECHO: u32 = 1;
const WHO: u32 = 2;
const WAIT: u32 = 3;

/// Repeats what it is told, tells who asks, or waits until it is let go.
#[derive(Default)]
struct Desk {
    waiting: AtomicU64,
    go_on: Notify,
}

#[async_trait::async_trait]
impl Calls for Desk {
    async fn call(&self, from: Option<PeerIdentity>, kind: u32, payload: Bytes) -> Result<Bytes, CallRefused> {
        match kind {
            ECHO => Ok(payload),
            WHO => Ok(from.map(|identity| identity.name).unwrap_or_default().into()),
            WAIT => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.go_on.notified().await;
                Ok(payload)
            }
            kind => Err(CallRefused::UnknownKind(kind.to_string())),
        }
    }
}

struct Bench {
    runtime: Runtime,
    caller: Arc<PeerCaller>,
}

fn bench(caller: Option<PeerIdentity>) -> Bench {
    let caller = PeerCaller::new(Arc::new(move || caller.clone()), settings());
    Bench { runtime: runtime(1), caller: Arc::new(caller) }
}

impl Bench {
    fn call(&self, address: &str, kind: u32, payload: &'static str, within_ms: u64) -> Result<Bytes, CallError> {
        let within = Duration::from_millis(within_ms);
        self.runtime.block_on(self.caller.call(address, kind, payload.into(), within))
    }
}

fn process(settings: PeerSettings) -> (Process, Arc<Desk>) {
    let desk = Arc::new(Desk::default());
    (Process::listening(settings, Arc::new(SystemClock::new(0)), desk.clone()), desk)
}

#[test]
fn nodes_that_are_no_members_yet_call_each_other() {
    let (process, _) = process(settings());
    let bench = bench(None);
    assert_eq!(bench.call(&process.address, ECHO, "hello", PATIENCE_MS), Ok("hello".into()));
    assert_eq!(bench.call(&process.address, WHO, "", PATIENCE_MS), Ok(Bytes::new()));
}

#[test]
fn a_call_tells_who_calls_and_another_cluster_is_refused() {
    let (process, _) = process(settings());
    let (serve, check) = (Arc::new(Echo::default()), anybody());
    process.server.open(Membership { identity: identity(TWO), check, serve, met: nobody() }).unwrap();
    assert_eq!(bench(Some(identity(ONE))).call(&process.address, WHO, "", PATIENCE_MS), Ok("node-1".into()));
    let stranger = PeerIdentity { cluster: ClusterId(8), ..identity(ONE) };
    let refused = bench(Some(stranger)).call(&process.address, WHO, "", PATIENCE_MS);
    let Err(CallError::Refused { refused: CallRefused::AnotherCluster(detail), .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(detail.contains("node-1 belongs to cluster"), "{detail}");
}

#[test]
fn a_refusal_arrives_with_its_reason() {
    let (process, _) = process(settings());
    let refused = bench(None).call(&process.address, 77, "", PATIENCE_MS);
    let expected =
        CallError::Refused { address: process.address.clone(), refused: CallRefused::UnknownKind("77".into()) };
    assert_eq!(refused, Err(expected));
}

#[test]
fn a_node_that_is_not_there_is_unreachable_and_found_when_it_is() {
    let (gone, _) = process(settings());
    let address = gone.address.clone();
    gone.kill();
    let bench = bench(None);
    eventually("its port is closed", || {
        matches!(bench.call(&address, ECHO, "", PATIENCE_MS), Err(CallError::Unreachable { .. }))
    });
    let (again, _) = process(settings());
    assert_eq!(bench.call(&again.address, ECHO, "back", PATIENCE_MS), Ok("back".into()));
    assert!(matches!(bench.call("no address", ECHO, "", PATIENCE_MS), Err(CallError::BadAddress { .. })));
}

#[test]
fn a_call_that_is_not_answered_ends_in_time() {
    let (process, _) = process(settings());
    let timed_out = bench(None).call(&process.address, WAIT, "", 100);
    // The one whose time ends first tells the other.
    assert!(
        matches!(
            timed_out,
            Err(CallError::TimedOut { .. } | CallError::Refused { refused: CallRefused::NotNow(_), .. })
        ),
        "{timed_out:?}"
    );
}

#[test]
fn a_call_that_may_have_been_carried_out_is_broken_when_its_node_dies() {
    let (process, desk) = process(settings());
    let bench = bench(None);
    let (caller, address) = (Arc::clone(&bench.caller), process.address.clone());
    let under_way = bench
        .runtime
        .spawn(async move { caller.call(&address, WAIT, Bytes::new(), Duration::from_millis(PATIENCE_MS)).await });
    eventually("it is under way", || desk.waiting.load(Ordering::SeqCst) == 1);
    process.kill();
    let outcome = bench.runtime.block_on(under_way).unwrap();
    assert!(matches!(outcome, Err(CallError::Broken { .. })), "{outcome:?}");
}

#[test]
fn calls_past_their_bound_are_refused_at_once() {
    let (process, desk) = process(PeerSettings { calls_at_once: 1, ..settings() });
    let bench = bench(None);
    let (caller, address) = (Arc::clone(&bench.caller), process.address.clone());
    let under_way = bench
        .runtime
        .spawn(async move { caller.call(&address, WAIT, "first".into(), Duration::from_millis(PATIENCE_MS)).await });
    eventually("it is under way", || desk.waiting.load(Ordering::SeqCst) == 1);
    let second = bench.call(&process.address, ECHO, "", PATIENCE_MS);
    assert!(matches!(second, Err(CallError::Refused { refused: CallRefused::Overloaded(_), .. })), "{second:?}");
    desk.go_on.notify_one();
    assert_eq!(bench.runtime.block_on(under_way).unwrap(), Ok("first".into()));
}
