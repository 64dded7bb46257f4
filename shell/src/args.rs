//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cube_client::Level;

use crate::session::DEFAULT_PORT;
use crate::statement::parse_duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  all was done
  1  a statement was refused or failed; it changed nothing
  2  the command line or a statement cannot be understood
  3  no node could be reached
  4  a write failed, and it is unknown whether it took effect
130  it was interrupted (Ctrl-C)

Statements:
  PUT user:alice \"Alice Johnson\" CL=QUORUM
  GET user:alice CL=ALL
  UPDATE user:alice SET value=\"Alice J.\" CL=QUORUM
  STATS
HELP lists all of them, HELP PUT tells how PUT is used. NO_COLOR turns colours off; CUBE_HISTORY names another file
for the history.";

/// The shell of Cube KV: interactive on a terminal, or for scripts
#[derive(Debug, Parser)]
#[command(name = "cube", version, about, after_long_help = EXIT_CODES, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    /// The name or address of any node of the cluster
    #[arg(long, global = true, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// The port on which it serves clients over gRPC
    #[arg(long, global = true, default_value_t = DEFAULT_PORT)]
    pub(crate) port: u16,
    /// How long a statement may take
    #[arg(long, global = true, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Prints one compact JSON document for each statement, one on each line
    #[arg(long, global = true, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Prints a header and rows as CSV for each statement
    #[arg(long, global = true)]
    pub(crate) csv: bool,
    /// Does these statements, separated by ;
    #[arg(short = 'e', long = "execute", value_name = "STATEMENTS", conflicts_with = "file")]
    pub(crate) execute: Vec<String>,
    /// Does the statements of this file; - is standard input
    pub(crate) file: Option<PathBuf>,
    /// Something else than statements
    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What is no statement.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Writes the rows of a file of JSON lines or CSV into a table
    Import(ImportArguments),
    /// Writes the rows of a table into a file of JSON lines or CSV, which import reads
    Export(ExportArguments),
    /// Shows what the nodes do, live: throughput, latency, hints, repairs, sync
    Top(TopArguments),
    /// Prints completions for a shell, as in: cube completions bash > /etc/bash_completion.d/cube
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
        /// Writes them into this folder instead, under the name by which the shell finds them
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
    /// Prints the manual page, as in: cube man | man -l -
    Man {
        /// Writes that page and those of import, export and the others into this folder instead
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// How rows are written in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum RowFormat {
    /// One JSON object on each line: {"key":...,"value":...}
    Jsonl,
    /// A header, and one row on each line: key,value
    Csv,
}

/// Rows have a key and a value, and may have sort, encoding (utf8 or base64), ttl (seconds or a duration) and timestamp
/// (milliseconds since 1970).
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The file; - is standard input
    pub(crate) file: PathBuf,
    /// How rows are written in it; told by the end of its name if it is not said
    #[arg(long)]
    pub(crate) format: Option<RowFormat>,
    /// The table
    #[arg(long, value_name = "KEYSPACE.TABLE", default_value = "default.kv")]
    pub(crate) table: String,
    /// The level of each write
    #[arg(long, value_name = "LEVEL", default_value = "QUORUM")]
    pub(crate) cl: Level,
    /// Writes under way at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) parallel: u16,
    /// Rows in a second, at the most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Where progress is kept, so that the same command goes on after an interruption; FILE.import-state if not said
    #[arg(long)]
    pub(crate) state: Option<PathBuf>,
    /// Writes rows with the time of their version, so that what is newer in the table stays
    #[arg(long)]
    pub(crate) keep_timestamps: bool,
}

/// A file has the rows that are in the table throughout, each once and in no order, with their versions and ends.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The file; - is standard output
    pub(crate) file: PathBuf,
    /// How rows are written; told by the end of the file's name if it is not said
    #[arg(long)]
    pub(crate) format: Option<RowFormat>,
    /// The table
    #[arg(long, value_name = "KEYSPACE.TABLE", default_value = "default.kv")]
    pub(crate) table: String,
    /// The level of each read
    #[arg(long, value_name = "LEVEL", default_value = "QUORUM")]
    pub(crate) cl: Level,
    /// Parts of the table that are read at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) parallel: u16,
    /// Rows in a second, at the most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Where progress is kept, so that the same command goes on after an interruption; FILE.export-state if not said
    #[arg(long)]
    pub(crate) state: Option<PathBuf>,
    /// Replaces a file that exists
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// On a terminal until q or Ctrl-C; elsewhere one look, in any form.
#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// How often the nodes are looked at
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "use seconds or a duration such as 500ms, 5s or 1m".to_owned())
}
