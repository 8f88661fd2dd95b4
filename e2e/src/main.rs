//! `e2e demo`: the project's first command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mqtt_e2e::cluster::{Cluster, Place};
use mqtt_e2e::demo::{self, Counts};
use mqtt_e2e::installation::{BROKER, Installation, NAMESPACE};
use mqtt_e2e::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "A local Kubernetes of three nodes, and the demo on it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings up a Kubernetes, shows the brokers on it at work, and takes everything down.
    Demo(Demo),
}

#[derive(clap::Args)]
struct Demo {
    /// Which Kubernetes to use.
    #[arg(long, value_enum, default_value = "local")]
    on: Place,
    /// Leave the cluster up at the end, also after a failure.
    #[arg(long)]
    keep: bool,
    /// Where the cluster finds the images; needed with `--on kubeconfig`.
    #[arg(long)]
    registry: Option<String>,
}

// One thread: it starts programs and waits for them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Command::Demo(arguments) = Arguments::parse().command;
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Demo) -> Result<()> {
    let cluster = Cluster::hold(arguments.on, arguments.registry)?;
    let mut progress = Progress::begin("Brokers on Kubernetes that lose nothing they acknowledged.");
    if arguments.on == Place::Local && std::env::var_os("KUBECONFIG").is_some() {
        progress.say("KUBECONFIG is set, and not used: '--on kubeconfig' would run this there");
    }
    let told = tokio::select! {
        told = demo::tell(&cluster, &mut progress) => Some(told),
        asked = asked_to_stop() => {
            asked?;
            None
        }
    };
    match &told {
        Some(Ok(counts)) => summarise(counts, progress.finish()),
        Some(Err(error)) => {
            println!("{}", Installation::on(&cluster).diagnosis().await);
            println!("\nFAILED in step {}: {error:#}", progress.current());
            println!("what to do: read the above from the bottom; '--keep' leaves the cluster up to look at it");
        }
        None => println!("\ninterrupted in step {}", progress.current()),
    }
    if arguments.keep {
        cluster.keep()?;
        let prefix = cluster.prefix();
        println!("\nThe cluster stays. To go on by hand:");
        println!("  {prefix}kubectl get mqb -n {NAMESPACE} -w");
        println!("  {prefix}kubectl scale mqb {BROKER} -n {NAMESPACE} --replicas=5");
        println!(
            "  {prefix}mosquitto_sub -h $({prefix}kubectl get service {BROKER} -n {NAMESPACE} -o jsonpath={{.spec.clusterIP}}) -t '#' -v"
        );
        println!("To take everything down:\n  {}", cluster.down_words());
    } else {
        println!("\nTaking everything down.");
        if arguments.on == Place::Kubeconfig {
            Installation::on(&cluster).remove(&[]).await?;
        }
        cluster.down().await?;
        println!("Nothing of it is left but the caches. To stay in it by hand next time: cargo demo --keep");
    }
    match told {
        Some(told) => told.map(drop),
        None => anyhow::bail!("interrupted"),
    }
}

/// Returns when a person presses Ctrl-C, or whoever runs this wants it to end.
async fn asked_to_stop() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
        _ = terminate.recv() => Ok(()),
    }
}

fn summarise(counts: &Counts, steps: &[(String, f64)]) {
    println!("\nSummary");
    for (name, seconds) in steps {
        println!("{seconds:7.1}s  {name}");
    }
    println!("\n                              acknowledged   received");
    let line =
        |name: &str, (acknowledged, received): (usize, usize)| println!("  {name:26}  {acknowledged:12}  {received:9}");
    line("mosquitto, a pod killed", counts.killed);
    line("mosquitto, 3 to 5 to 3", counts.scaled);
    for (name, ledger) in
        [("ledger, a pod killed", &counts.killed_ledger), ("ledger, 3 to 5 to 3", &counts.scaled_ledger)]
    {
        for received in &ledger.received {
            line(name, (ledger.acknowledged, *received));
        }
    }
    println!(
        "\nLongest time that a publisher was without an acknowledgement: {:.1} s with a pod killed, {:.1} s while scaling.",
        counts.killed_ledger.longest_pause.as_secs_f64(),
        counts.scaled_ledger.longest_pause.as_secs_f64()
    );
}
