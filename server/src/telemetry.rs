//! The node's own log: lines on standard error, as text or JSON, each with the node's name. A panic is logged like
//! anything else, so that it is found where everything else is looked for.

use std::fmt;
use std::sync::OnceLock;

use thiserror::Error;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt as lines};

use crate::config::{LogFormat, LogLevel, LogSettings};

/// Why nothing is logged.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("log.level cannot be used: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The log is gone.
    #[error("the level of the log cannot be changed: {0}")]
    Reload(#[from] reload::Error),
    /// Something logs already.
    #[error("the log was started before: {0}")]
    Started(#[from] TryInitError),
}

/// What is logged, once something is.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Logs something else from now on.
pub fn set_level(level: &LogLevel) -> Result<(), TelemetryError> {
    let targets: Targets = level.as_str().parse()?;
    match FILTER.get() {
        Some(filter) => Ok(filter.reload(targets)?),
        None => Ok(()),
    }
}

/// Starts the log of this process, once.
pub fn start(settings: &LogSettings, node: &str) -> Result<(), TelemetryError> {
    let (targets, handle) = reload::Layer::new(settings.level.as_str().parse::<Targets>()?);
    let named = |format| lines::layer().with_writer(std::io::stderr).event_format(format);
    match settings.format {
        LogFormat::Text => {
            let prefix = format!("{node} ");
            let layer = named(Named { inner: Format::default(), prefix, skipped: "" }).with_ansi(false);
            tracing_subscriber::registry().with(layer.with_filter(targets)).try_init()?;
        }
        LogFormat::Json => {
            let prefix = format!("{{\"node\":{},", serde_json::Value::from(node));
            let inner = Format::default().json().flatten_event(true);
            let layer = lines::layer().with_writer(std::io::stderr).fmt_fields(JsonFields::new());
            let layer = layer.event_format(Named { inner, prefix, skipped: "{" });
            tracing_subscriber::registry().with(layer.with_filter(targets)).try_init()?;
        }
    }
    // Whoever comes second is refused above.
    let _first = FILTER.set(handle);
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, %backtrace, "{panic}");
    }));
    Ok(())
}

/// Puts the node's name into each line: spans do not reach tasks and threads that others start.
struct Named<F> {
    inner: F,
    /// What a line begins with.
    prefix: String,
    /// What the inner line begins with, which `prefix` brings along.
    skipped: &'static str,
}

impl<F> Named<F> {
    fn write(&self, line: &str, mut out: Writer<'_>) -> fmt::Result {
        out.write_str(&self.prefix)?;
        out.write_str(line.strip_prefix(self.skipped).unwrap_or(line))
    }
}

macro_rules! named_format {
    ($kind:ty) => {
        impl<S, N> FormatEvent<S, N> for Named<Format<$kind>>
        where
            S: Subscriber + for<'a> LookupSpan<'a>,
            N: for<'a> FormatFields<'a> + 'static,
        {
            fn format_event(&self, context: &FmtContext<'_, S, N>, out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
                let mut line = String::new();
                self.inner.format_event(context, Writer::new(&mut line), event)?;
                self.write(&line, out)
            }
        }
    };
}

named_format!(Full);
named_format!(Json);
