//! Makes messages and services of the proto files, without protoc, and the descriptors for gRPC reflection.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// For clients; for operators; between nodes.
const FILES: &[&str] = &["kv.proto", "admin.proto", "peer.proto"];
/// Messages that may hold an account of the work.
const EXPLAINED: &[&str] =
    &["WriteReply", "GetReply", "RangeReply", "ScanPage", "BatchWriteReply", "BatchGetReply", "ErrorDetail"];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES.iter().map(|file| folder.join(file)), [folder])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut build = tonic_prost_build::configure();
    for message in EXPLAINED {
        // Hardly any has one, and all are moved: it takes the room of a pointer.
        build = build.boxed(format!(".cube.v1.{message}.explained"));
    }
    // Values and messages between nodes are passed on as they came, not copied.
    build.bytes(".").compile_fds(descriptors)?;
    Ok(())
}
