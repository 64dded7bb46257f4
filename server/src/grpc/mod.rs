//! The gRPC front door: `cube.v1.Kv` and `cube.v1.Admin`, with the standard health and reflection services.
//!
//! `serve.rs` holds the port and its connections, `door.rs` and `arriving.rs` look at what comes in on them. `kv.rs` has
//! the calls, `scan.rs` the stream of a scan's pages and `session.rs` the stream that carries many calls; `requests.rs` and
//! `convert.rs` turn messages into requests and answers into messages, `explained.rs` accounts of the work, `status.rs`
//! errors into statuses. Messages that come in are as large as the configured limits let a request be, and no larger.

mod admin;
mod arriving;
mod convert;
mod door;
mod explained;
mod health;
mod hints;
mod kv;
mod node;
mod repair;
mod replication;
mod requests;
mod scan;
mod schema;
mod serve;
mod session;
mod settings;
mod status;

use std::sync::Arc;

use cube_proto::v1::admin_server::AdminServer;
use cube_proto::v1::kv_server::KvServer;
use cube_storage::model::Limits;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use self::admin::AdminService;
pub use self::door::Door;
use self::health::HealthService;
use self::kv::KvService;
pub use self::serve::serve;
use crate::edge::Edge;

/// What a message holds beside keys and values, for each of its rows: lengths, versions, options.
const ROW_OVERHEAD_BYTES: usize = 64;
/// The fields of a message that come once.
const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// The largest request: a batch in full. Answers are bounded where they are made; one that is longer holds a single row,
/// which was written when the limits were others.
pub fn message_bytes_max(limits: &Limits) -> usize {
    let rows = limits.batch_bytes_max.max(limits.page_bytes_max).max(limits.value_bytes_max + limits.key_bytes_max);
    let overhead = limits.batch_rows_max.max(limits.page_rows_max).saturating_mul(ROW_OVERHEAD_BYTES);
    rows.saturating_add(overhead).saturating_add(MESSAGE_OVERHEAD_BYTES)
}

/// All services for clients.
pub fn routes(edge: Arc<Edge>) -> Result<Door, tonic_reflection::server::Error> {
    let bytes_max = message_bytes_max(edge.limits());
    let kv = KvServer::new(KvService::new(Arc::clone(&edge)));
    let admin = AdminServer::new(AdminService::new(Arc::clone(&edge)));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(cube_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(kv.max_decoding_message_size(bytes_max))
        .add_service(admin.max_decoding_message_size(bytes_max))
        .add_service(HealthServer::new(HealthService::new(Arc::clone(&edge))))
        .add_service(described().build_v1()?)
        // Tools that are a little older ask for this one.
        .add_service(described().build_v1alpha()?);
    Ok(Door::new(routes, edge, bytes_max))
}
