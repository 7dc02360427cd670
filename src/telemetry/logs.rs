//! The log subscriber: one line per event on standard error.
//!
//! A [queue](super::queue) takes them when its reader stalls, so that no caller waits for it.
//!
//! Each line carries the spans that it happened in, and with them the field
//! `trace_id` of the call or the operation.

use std::io::{self, IsTerminal as _};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{
    Error, SERVICE_NAME, Settings, fields,
    queue::{Queue, StandardError},
};

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object per line, for collectors.
    Json,
}

/// Installs the subscriber for the whole process.
///
/// # Errors
/// When the filter cannot be read, a subscriber is there already, or no thread can be
/// started.
pub(super) fn install(
    settings: &Settings,
    traces: Option<&SdkTracerProvider>,
) -> Result<Queue, Error> {
    // PostgreSQL's notices to Howdah's own sessions come at INFO. What the setting says of that
    // target comes later, and holds.
    let quiet = format!("tokio_postgres=warn,{}", settings.log_filter);
    let filter = EnvFilter::builder().parse(&quiet)?;
    let spans = traces.map(|provider| {
        // Threads, source lines and polls say nothing of a call: its task moves between
        // threads at each await.
        tracing_opentelemetry::layer()
            .with_threads(false)
            .with_location(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_tracer(provider.tracer(SERVICE_NAME))
    });
    let queue = Queue::start(StandardError)?;
    tracing_subscriber::registry()
        .with(lines(settings.log_format, queue.clone()))
        .with(spans)
        .with(filter)
        .try_init()?;
    Ok(queue)
}

fn lines<W>(format: Format, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    match format {
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(writer)
            .boxed(),
        Format::Pretty => fmt::layer()
            .fmt_fields(fields::escaped())
            .with_ansi(io::stderr().is_terminal())
            .with_writer(writer)
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a caller may name itself.
    const FORGED: &str = "cert:CN=a\n2026-01-01 INFO audit: \u{1b}[2Jcall was made\u{202e}";

    /// What one event looks like, two spans deep.
    fn line(format: Format) -> String {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&buffer);
        let writer = move || Sink(Arc::clone(&buffer));
        let subscriber = tracing_subscriber::registry().with(lines(format, writer));
        tracing::subscriber::with_default(subscriber, || {
            let _call = tracing::error_span!("rpc", trace_id = "4bf92f35").entered();
            let _inner = tracing::info_span!("step", of = %FORGED).entered();
            tracing::info!(rows = 3, name = %FORGED, "work was done");
        });
        let bytes = written.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_line_has_message_fields_and_trace_id() {
        let line: serde_json::Value = serde_json::from_str(&line(Format::Json)).unwrap();
        assert_eq!(line["message"], "work was done");
        assert_eq!(line["rows"], 3);
        assert_eq!(line["spans"][0]["trace_id"], "4bf92f35");
    }

    #[test]
    fn pretty_line_has_the_trace_id() {
        let line = line(Format::Pretty);
        assert!(
            line.contains("4bf92f35") && line.contains("work was done rows=3"),
            "{line}"
        );
    }

    #[test]
    fn a_name_forges_no_line() {
        let line = line(Format::Pretty);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line}");
        let escaped = r"name=cert:CN=a\n2026-01-01 INFO audit: \u{1b}[2Jcall was made\u{202e}";
        assert!(line.contains(escaped), "{line}");
    }
}
