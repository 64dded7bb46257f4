//! `cube-bench`, the load generator: what a cluster does, how fast, and what it costs.
//!
//! `run` measures one workload, against a cluster of its own or one that is given. `marks` measures everything that has a
//! mark and says how far each is from it. `overload` asks for three times what the nodes take, `reads` compares
//! ways to read. `peers` lets Cube KV and etcd take turns with the same workload. `replay` kills a node and measures how it
//! catches up. `repair` has replicas differ and measures how they become equal. Each process's processor time is told, because
//! on a shared machine that is the figure that holds.

mod cluster;
mod etcd;
mod figures;
mod keys;
mod load;
mod marks;
mod options;
mod overload;
mod peers;
mod process;
mod reads;
mod repair;
mod replay;
mod report;
mod subject;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::options::{Command, Options};

fn main() -> cube_benches::Result<()> {
    let options = Options::parse();
    let mut builder = if options.threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(options.threads.max(1)).enable_all().build()?;
    runtime.block_on(async {
        let measure = async {
            match options.command {
                Command::Run(run) => marks::one(&run).await,
                Command::Marks(marks) => marks::all(&marks).await,
                Command::Overload(overload) => overload::measure(&overload).await,
                Command::Reads(reads) => reads::measure(&reads).await,
                Command::Peers(peers) => peers::compare(&peers).await,
                Command::Replay(replay) => replay::measure(&replay).await,
                Command::Repair(repair) => repair::measure(&repair).await,
            }
        };
        // What is dropped half done ends its processes and removes its folders; a process that is killed does not.
        tokio::select! {
            done = measure => done,
            stopped = told_to_stop() => stopped.and(Err("told to stop".into())),
        }
    })
}

async fn told_to_stop() -> cube_benches::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
