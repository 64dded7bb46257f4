//! Scans of whole tables while nodes die and join: every row is listed, and none twice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use cube_proto::v1;
use cube_proto::v1::kv_client::KvClient;
use tokio::runtime::Runtime;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, now, pause};

/// Rows in a batch.
const BATCH: usize = 500;
const PREFIX: &str = "row:";
/// What a node may hold in memory while all this goes on.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;
/// A page or a batch that is not there by then is not coming.
const TIMEOUT_MS: u32 = 20_000;

fn runtime() -> Runtime {
    // Connections answer the pings of their nodes while a test does something else.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn client(to: SocketAddr) -> KvClient<Channel> {
    let channel = Channel::from_shared(format!("http://{to}")).unwrap().connect().await.unwrap();
    KvClient::new(channel).max_decoding_message_size(64 << 20)
}

fn grpc(cluster: &mut Cluster, node: u8) -> SocketAddr {
    cluster.node(node).settings.addresses.grpc
}

fn key(number: usize) -> String {
    format!("{PREFIX}{number:08}")
}

/// Writes rows 0 to `count`, 100 bytes each, and some that no scan of the prefix is to list.
async fn fill(to: SocketAddr, count: usize) {
    const AT_ONCE: usize = 4;
    let kv = client(to).await;
    let batch = |keys: Vec<String>| {
        let mut kv = kv.clone();
        async move {
            let row = |key: String| v1::PutRow {
                key: Some(v1::RowKey { partition: key.into(), sort: Default::default() }),
                value: vec![b'v'; 100].into(),
                ttl_ms: None,
            };
            let rows = keys.into_iter().map(row).collect();
            let request = v1::BatchPutRequest { rows, timeout_ms: TIMEOUT_MS, ..Default::default() };
            for part in kv.batch_put(request).await.unwrap().into_inner().results {
                let written = matches!(part.outcome, Some(v1::partition_result::Outcome::Written(_)));
                assert!(written, "{:?}", part.outcome);
            }
        }
    };
    let numbers: Vec<usize> = (0..count).collect();
    let mut batches: Vec<Vec<String>> =
        numbers.chunks(BATCH).map(|part| part.iter().map(|number| key(*number)).collect()).collect();
    batches.push(["row", "row;", "rox:1", "a"].map(str::to_owned).to_vec());
    for part in batches.chunks(AT_ONCE) {
        futures::future::join_all(part.iter().cloned().map(batch)).await;
    }
}

/// A scan that goes on at other nodes when one dies, by the tokens.
struct Scan {
    nodes: Vec<SocketAddr>,
    request: v1::ScanRequest,
    open: Option<Streaming<v1::ScanPage>>,
    keys: Vec<String>,
    is_over: bool,
}

impl Scan {
    fn of(nodes: Vec<SocketAddr>, page_rows: u32) -> Self {
        let prefix = PREFIX.into();
        let request = v1::ScanRequest { prefix, page_rows, timeout_ms: TIMEOUT_MS, ..Default::default() };
        Self { nodes, request, open: None, keys: Vec::new(), is_over: false }
    }

    /// Takes pages until there are so many rows, or no more.
    async fn read_to(&mut self, count: usize) {
        let began = now();
        while self.keys.len() < count && !self.is_over {
            if let Err(why) = self.page().await {
                assert!(began.elapsed() < PATIENCE, "{why}");
                self.open = None;
                self.nodes.rotate_left(1);
                pause(Duration::from_millis(20));
            }
        }
    }

    async fn page(&mut self) -> Result<(), String> {
        if self.open.is_none() {
            let at = format!("http://{}", self.nodes[0]);
            let channel = Channel::from_shared(at).unwrap().connect().await.map_err(|error| error.to_string())?;
            let mut kv = KvClient::new(channel).max_decoding_message_size(64 << 20);
            let pages = kv.scan(self.request.clone()).await.map_err(|status| status.to_string())?;
            self.open = Some(pages.into_inner());
        }
        let page = self.open.as_mut().unwrap().message().await.map_err(|status| status.to_string())?;
        let page = page.ok_or("the stream ended early")?;
        if !page.partial.is_empty() {
            return Err(format!("partitions {:?} did not reach the level", page.partial));
        }
        let key = |row: v1::RangeRow| String::from_utf8(row.key.unwrap().partition.to_vec()).unwrap();
        self.keys.extend(page.rows.into_iter().map(key));
        self.is_over = page.next.is_empty();
        self.request.page = page.next;
        Ok(())
    }

    fn assert_whole(&self, count: usize) {
        assert_eq!(self.keys.len(), count);
        let wrong = self.keys.iter().enumerate().find(|(number, found)| **found != key(*number));
        assert_eq!(wrong, None, "every row once, in order");
    }
}

/// Scans so many rows; half way the node that streams them is killed.
fn scan_over_a_death(rows: usize) {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let nodes: Vec<SocketAddr> = [1, 2, 3].map(|node| grpc(&mut cluster, node)).to_vec();
    let runtime = runtime();
    runtime.block_on(fill(nodes[1], rows));
    cluster.all().into_iter().for_each(|node| cluster.node(node).forget_peak());
    let mut scan = Scan::of(nodes, 0);
    runtime.block_on(scan.read_to(rows / 2));
    assert!(!scan.is_over);
    assert_little_memory(&mut cluster, &[1]);
    cluster.kill(&[1]);
    runtime.block_on(scan.read_to(usize::MAX));
    scan.assert_whole(rows);
    assert_little_memory(&mut cluster, &[2, 3]);
}

/// At no time during the scan.
fn assert_little_memory(cluster: &mut Cluster, nodes: &[u8]) {
    for node in nodes {
        let bytes = cluster.node(*node).peak_bytes();
        println!("node-{node}: {} MiB at the most", bytes >> 20);
        assert!(bytes < RESIDENT_BYTES_MAX, "node-{node} held {bytes} bytes");
    }
}

#[test]
fn a_scan_goes_on_elsewhere_when_the_node_that_streams_it_dies_and_lists_every_row_once() {
    scan_over_a_death(50_000);
}

#[test]
#[ignore = "long: a million rows take minutes to write"]
fn a_scan_of_a_million_rows_outlives_a_node_within_a_quarter_of_a_gibibyte() {
    scan_over_a_death(1_000_000);
}

#[test]
fn a_scan_goes_on_over_a_change_of_the_replicas_in_its_stream_and_by_its_token() {
    const ROWS: usize = 3_000;
    let mut cluster = Cluster::growing_to(4, 3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let runtime = runtime();
    let first = grpc(&mut cluster, 1);
    runtime.block_on(fill(first, ROWS));
    let mut streamed = Scan::of(vec![first], 100);
    runtime.block_on(streamed.read_to(ROWS / 3));
    let added = cluster.add();
    cluster.node(added).start();
    let all = cluster.all();
    cluster.wait_formed(&all);
    cluster.wait_settled(&all, 3);
    let at_the_new = grpc(&mut cluster, added);
    let mut resumed = Scan { keys: streamed.keys.clone(), ..Scan::of(vec![at_the_new], 100) };
    resumed.request.page = streamed.request.page.clone();
    runtime.block_on(streamed.read_to(usize::MAX));
    streamed.assert_whole(ROWS);
    runtime.block_on(resumed.read_to(usize::MAX));
    resumed.assert_whole(ROWS);
}

/// Of every ten rows this one is deleted during the scan, and behind this one another one is written.
const DELETED: usize = 3;
const FOLLOWED: usize = 7;

/// The key of a row that is written during the scan.
fn new_key(number: usize) -> String {
    format!("{}+", key(number))
}

/// Deletes some of these rows and writes others between them.
async fn change(mut kv: KvClient<Channel>, numbers: Vec<usize>) {
    for number in numbers {
        let row = |key: String| Some(v1::RowKey { partition: key.into(), sort: Default::default() });
        if number % 10 == DELETED {
            let request = v1::DeleteRequest { key: row(key(number)), timeout_ms: TIMEOUT_MS, ..Default::default() };
            kv.delete(request).await.unwrap();
        } else {
            let value = vec![b'v'; 100].into();
            let key = row(new_key(number));
            kv.put(v1::PutRequest { key, value, timeout_ms: TIMEOUT_MS, ..Default::default() }).await.unwrap();
        }
    }
}

/// Rows that change, in no order: every page meets some that it has passed, some on it and some that are to come.
fn changing(rows: usize) -> Vec<usize> {
    let spread = (0..rows).map(|step| step * 1_009 % rows);
    spread.filter(|number| [DELETED, FOLLOWED].contains(&(number % 10))).collect()
}

#[test]
fn a_scan_during_which_rows_come_and_go_lists_what_stays_once_and_nothing_that_never_was() {
    const ROWS: usize = 4_003;
    const AT_ONCE: usize = 10;
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let nodes: Vec<SocketAddr> = [1, 2, 3].map(|node| grpc(&mut cluster, node)).to_vec();
    let runtime = runtime();
    let changes = changing(ROWS);
    let (before, during) = changes.split_at(changes.len() / 4);
    let mut scan = Scan::of(vec![nodes[0]], 50);
    let begun = runtime.block_on(async {
        fill(nodes[1], ROWS).await;
        let kv = client(nodes[2]).await;
        change(kv.clone(), before.to_vec()).await;
        let mut to_come = during.chunks(AT_ONCE);
        let mut begun = before.to_vec();
        while !scan.is_over {
            let now = to_come.next().unwrap_or_default();
            begun.extend(now);
            let page = scan.keys.len() + 1;
            tokio::join!(scan.read_to(page), change(kv.clone(), now.to_vec()));
        }
        begun
    });
    assert!(begun.len() > before.len() + ROWS / 50, "too little changed for a scan of so many pages");

    let twice = scan.keys.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(twice, None, "every row once, in order");
    let listed: BTreeSet<&String> = scan.keys.iter().collect();
    let (gone, new): (Vec<usize>, Vec<usize>) = begun.iter().partition(|number| *number % 10 == DELETED);
    let stays = (0..ROWS).filter(|number| !gone.contains(number)).map(key);
    let missing: Vec<String> = stays.filter(|key| !listed.contains(key)).collect();
    assert!(missing.is_empty(), "rows that nobody touched: {missing:?}");
    let known: BTreeSet<String> = (0..ROWS).map(key).chain(new.into_iter().map(new_key)).collect();
    let unknown: Vec<_> = listed.iter().filter(|key| !known.contains(**key)).collect();
    assert!(unknown.is_empty(), "rows that never were: {unknown:?}");
    for number in before {
        let (key, is_there) = if number % 10 == DELETED { (key(*number), false) } else { (new_key(*number), true) };
        assert_eq!(listed.contains(&key), is_there, "{key} was changed before the scan began");
    }
}
