//! `mqtt-broker`: see `mqtt-broker --help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use mqtt_broker::cli::{Cli, Command, Run};
use mqtt_broker::config::Config;
use mqtt_broker::local::Local;
use mqtt_broker::node;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("MQTT_BROKER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        None => runtime.block_on(serve(&cli.run)),
        Some(Command::Local(arguments)) => {
            let local = Local { nodes: arguments.nodes, data_dir: arguments.data_dir, port: arguments.port };
            let program = std::env::current_exe()?;
            if arguments.print { local.print(&program) } else { runtime.block_on(local.run(&program)) }
        }
    }
}

async fn serve(run: &Run) -> Result<()> {
    let config = Config::load(run)?;
    if run.check_config {
        println!("the configuration is good");
        return Ok(());
    }
    node::start(config).await?.run().await
}
