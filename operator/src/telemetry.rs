//! What the operator says about itself: Prometheus metrics, health, and logs.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::header, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Text,
}

/// Counters and histograms.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    writes: Family<WriteLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    reconcile_seconds: Histogram,
    leading: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mqtt_operator");
        let writes = Family::default();
        registry.register("writes", "Writes to the API server, by kind of object", writes.clone());
        let failures = Family::default();
        registry.register("reconcile_failures", "Reconciles that failed, by reason", failures.clone());
        let reconcile_seconds = Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]);
        registry.register("reconcile_seconds", "How long a reconcile takes", reconcile_seconds.clone());
        let leading = Gauge::default();
        registry.register("leading", "1 while this operator is the one that reconciles", leading.clone());
        Self { registry: Arc::new(registry), writes, failures, reconcile_seconds, leading }
    }
}

impl Metrics {
    /// Counts a write to the API server.
    pub fn wrote(&self, kind: &str) {
        self.writes.get_or_create(&WriteLabels { kind: kind.to_owned() }).inc();
    }

    /// Counts a reconcile that failed.
    pub fn failed(&self, reason: &str) {
        self.failures.get_or_create(&FailureLabels { reason: reason.to_owned() }).inc();
    }

    /// Says that this operator reconciles from now on; it ends when it doesn't any more.
    pub fn leads(&self) {
        self.leading.set(1);
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// The metrics as Prometheus reads them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }
}

/// Starts logging; `RUST_LOG` overrides the level.
pub fn start_logging(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn,kube_runtime=warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.init(),
    }
}

/// Serves `/healthz` and `/metrics` until the process ends.
pub async fn serve(listen: SocketAddr, metrics: Metrics) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| anyhow::anyhow!("can't listen on {listen}: {error}; choose another --listen"))?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/metrics",
            get(|State(metrics): State<Metrics>| async move {
                ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
            }),
        )
        .with_state(metrics);
    axum::serve(listener, router).await?;
    Ok(())
}
