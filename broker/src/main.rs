//! `mqtt-broker`: see `mqtt-broker --help`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use mqtt_broker::cli::{Cli, Command, Run};
use mqtt_broker::config::Config;
use mqtt_broker::local::Local;
use mqtt_broker::node::{self, LOG_FILTER_DEFAULT, SetLogFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (set_log_filter, from_environment) = start_log();
    match run(cli, set_log_filter, from_environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the log; gives what changes its filter, and whether the environment has said it.
fn start_log() -> (SetLogFilter, bool) {
    let (filter, from_environment) = match EnvFilter::try_from_env("MQTT_BROKER_LOG") {
        Ok(filter) => (filter, true),
        Err(_) => (EnvFilter::new(LOG_FILTER_DEFAULT), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let stderr = std::io::stderr;
    // Colours are for eyes: who reads a file or a container's log wants `key=value`.
    let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    let set = move |text: &str| {
        let filter = EnvFilter::try_new(text).with_context(|| format!("log.filter: {text}"))?;
        Ok(handle.reload(filter)?)
    };
    (Box::new(set), from_environment)
}

fn run(cli: Cli, set_log_filter: SetLogFilter, from_environment: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        None => {
            let set_log_filter = (!from_environment).then_some(set_log_filter);
            runtime.block_on(serve(cli.run, set_log_filter))
        }
        Some(Command::Passwd(asked)) => node::passwd(&asked),
        Some(Command::Local(arguments)) => {
            let local = Local { nodes: arguments.nodes, data_dir: arguments.data_dir, port: arguments.port };
            let program = std::env::current_exe()?;
            if arguments.print { local.print(&program) } else { runtime.block_on(local.run(&program)) }
        }
    }
}

async fn serve(run: Run, set_log_filter: Option<SetLogFilter>) -> Result<()> {
    let config = Config::load(&run)?;
    if run.check_config {
        node::check_files(&config)?;
        println!("the configuration is good");
        return Ok(());
    }
    if let (Some(set), Some(filter)) = (&set_log_filter, &config.log_filter) {
        set(filter)?;
    }
    node::start(config, run, set_log_filter).await?.run().await
}
