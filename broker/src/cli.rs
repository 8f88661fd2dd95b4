//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A replicated MQTT 3.1.1 and 5.0 broker.
///
/// Without arguments it serves mqtt://127.0.0.1:1883 and keeps everything in memory.
#[derive(Clone, Debug, Parser)]
#[command(name = "mqtt-broker", version)]
pub struct Cli {
    /// Run a cluster on this machine's loopback instead.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to run.
    #[command(flatten)]
    pub run: Run,
}

/// Other things to do than to run a broker.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run several nodes on this machine's loopback, to try them and to break them.
    Local(LocalArguments),
    /// Write a user and what proves the password into a password file.
    Passwd(PasswdArguments),
}

/// How to run a broker. Flags win over the environment, which wins over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Run {
    /// A configuration file (YAML).
    #[arg(long, value_name = "FILE", env = "MQTT_BROKER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Listen for clients; may be given several times. Replaces the file's listeners.
    #[arg(long, value_name = "mqtt://HOST:PORT", env = "MQTT_BROKER_LISTEN", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// For --listen mqtts://… and wss://…: the certificate (PEM).
    #[arg(long, value_name = "FILE", env = "MQTT_BROKER_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// For --listen mqtts://… and wss://…: its key (PEM).
    #[arg(long, value_name = "FILE", env = "MQTT_BROKER_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Users and what proves them; `mqtt-broker passwd` writes it.
    #[arg(long, value_name = "FILE", env = "MQTT_BROKER_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// What clients may.
    #[arg(long, value_name = "FILE", env = "MQTT_BROKER_ACL_FILE")]
    pub acl_file: Option<PathBuf>,
    /// Keep everything that must survive in this directory.
    #[arg(long, value_name = "DIR", env = "MQTT_BROKER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The name of this node within its cluster.
    #[arg(long, value_name = "NAME", env = "MQTT_BROKER_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where peers reach this node.
    #[arg(long, value_name = "HOST:PORT", env = "MQTT_BROKER_ADVERTISE")]
    pub advertise: Option<String>,
    /// Serve health, metrics and the API here.
    #[arg(long, value_name = "HOST:PORT", env = "MQTT_BROKER_ADMIN")]
    pub admin: Option<String>,
    /// How many worker threads; the default is one per core.
    #[arg(long, value_name = "N", env = "MQTT_BROKER_WORKERS")]
    pub workers: Option<u16>,
    /// Check the configuration and say what is wrong with it, without running.
    #[arg(long)]
    pub check_config: bool,
}

/// The arguments of `mqtt-broker passwd`. The password is read from standard input: its first line.
#[derive(Clone, Debug, Args)]
pub struct PasswdArguments {
    /// The password file; it is made if it is not there.
    pub file: PathBuf,
    /// The user.
    pub user: String,
    /// Remove the user instead.
    #[arg(long)]
    pub delete: bool,
    /// Let the user also prove the password by SCRAM-SHA-256.
    #[arg(long)]
    pub scram: bool,
}

/// The arguments of `mqtt-broker local`.
#[derive(Clone, Debug, Args)]
pub struct LocalArguments {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    pub nodes: u16,
    /// Where certificates, configuration files and data go.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Node i listens on PORT + i.
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// Start nothing: print a line per node, `HOST:PORT COMMAND`, whose command starts or restarts that node.
    #[arg(long)]
    pub print: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn listeners_may_be_given_several_times() {
        let cli = Cli::parse_from(["mqtt-broker", "--listen", "mqtt://127.0.0.1:1", "--listen", "mqtt://127.0.0.1:2"]);
        assert_eq!(cli.run.listen.len(), 2);
    }
}
