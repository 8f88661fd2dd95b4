//! The `mqtt-operator` binary: reads its command line, waits to lead, runs the controller, and gives the lease back.

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use kube::Client;
use mqtt_operator::{
    broker_client::BrokerClient,
    build::Settings,
    controller::{self, Scope, Surroundings},
    lease::Candidate,
    names::ADMIN_PORT,
    pod_monitor,
    telemetry::{self, LogFormat, Metrics},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Turns MqttBroker resources into running brokers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Namespaces to look after, separated by commas; none means all.
    #[arg(long, env = "MQTT_OPERATOR_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Where /healthz and /metrics are served.
    #[arg(long, env = "MQTT_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// DNS domain of the Kubernetes cluster.
    #[arg(long, env = "MQTT_OPERATOR_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,

    /// Image of brokers whose resource names none.
    #[arg(long, env = "MQTT_OPERATOR_BROKER_IMAGE", default_value = "localhost/mqtt-broker:dev")]
    broker_image: String,

    /// Namespace of the Lease by which one of several operators leads.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,

    /// Name of this operator among several.
    #[arg(long, env = "POD_NAME", default_value = "mqtt-operator")]
    identity: String,

    /// How log lines look.
    #[arg(long, env = "MQTT_OPERATOR_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the CustomResourceDefinition as YAML.
    Crd,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Crd) = arguments.command {
        print!("{}", mqtt_operator::api::crd_yaml()?);
        return Ok(());
    }
    telemetry::start_logging(arguments.log_format);

    let client = Client::try_default()
        .await
        .context("no way to the API server: run inside a cluster with a ServiceAccount, or set KUBECONFIG")?;
    let lease_namespace = arguments.lease_namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let candidate = Candidate::new(client.clone(), &lease_namespace, arguments.identity.clone());
    let metrics = Metrics::default();
    let mut stop = stop_on_signal()?;
    let namespaces: Vec<String> = arguments.namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect();
    let scope = if namespaces.is_empty() { Scope::All } else { Scope::Namespaces(namespaces) };

    let work = async {
        tracing::info!(identity = arguments.identity, ?scope, "waiting to lead");
        if !candidate.lead(&mut stop).await {
            return Ok(());
        }
        tracing::info!("leading");
        metrics.leads();
        let pod_monitors =
            pod_monitor::is_known(&client).await.context("the API server can't be asked for PodMonitors")?;
        tracing::info!(pod_monitors, "whether PodMonitors are made, as the API server knows them");
        let settings =
            Settings { cluster_domain: arguments.cluster_domain, broker_image: arguments.broker_image, pod_monitors };
        let surroundings = Surroundings {
            client,
            brokers: BrokerClient::new(ADMIN_PORT as u16),
            settings,
            instance: arguments.identity.clone(),
            metrics: metrics.clone(),
            now: Timestamp::now,
        };
        let controller = controller::run(surroundings, scope, stop.clone());
        tokio::select! {
            () = controller => {
                candidate.release().await;
                Ok(())
            }
            // Another may lead by now: whatever is under way ends with the process.
            () = candidate.keep() => anyhow::bail!("the lease is lost"),
        }
    };
    tokio::select! {
        result = work => result,
        result = telemetry::serve(arguments.listen, metrics.clone()) => result,
    }
}

/// Turns true at SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("can't listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen to SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = sender.send(true);
    });
    Ok(receiver)
}
