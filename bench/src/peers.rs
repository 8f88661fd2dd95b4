//! Brokers that Debian doesn't have: where they are kept, and how each is fetched and built by its own language's tool.
//!
//! They live in the user's cache, outside of the checkout, in the versions named here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

const RMQTTD_VERSION: &str = "0.24.0";
/// `peers/` beside this crate's sources, where the two that need a program round them have it.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// What HiveMQ's own start script gives the JVM.
pub const HIVEMQ_JVM_ARGUMENTS: [&str; 8] = [
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "-Djava.net.preferIPv4Stack=true",
    "-Djava.security.egd=file:/dev/./urandom",
    "-Xmx2g",
];

/// A broker to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Of crates.io.
    Rmqttd,
    /// mochi-mqtt, a Go module.
    Mochi,
    /// HiveMQ CE, of Maven Central.
    Hivemq,
}

impl Peer {
    /// As the report names it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Rmqttd => "rmqttd",
            Peer::Mochi => "mochi-mqtt",
            Peer::Hivemq => "HiveMQ CE",
        }
    }

    /// Whether there is something to start.
    pub fn is_built(self) -> bool {
        self.folder().is_ok_and(|folder| folder.join(self.mark()).exists())
    }

    /// The program; of HiveMQ, a class path.
    pub fn program(self) -> Result<PathBuf> {
        let folder = self.folder()?;
        Ok(match self {
            Peer::Rmqttd | Peer::Mochi => folder.join(self.mark()),
            Peer::Hivemq => format!("{0}/classes:{0}/dependency/*", folder.display()).into(),
        })
    }

    /// Fetches and builds it, unless it is there.
    pub fn build(self) -> Result<()> {
        if self.is_built() {
            return Ok(());
        }
        let folder = self.folder()?;
        fs::create_dir_all(&folder)?;
        match self {
            Peer::Rmqttd => run(Command::new("cargo")
                .args(["install", "rmqttd", "--locked", "--version", RMQTTD_VERSION, "--root"])
                .arg(&folder)
                .env("CARGO_TARGET_DIR", folder.join("build"))
                // This workspace's own flags are not for others.
                .current_dir(&folder)),
            Peer::Mochi => run(Command::new("go")
                .args(["build", "-o"])
                .arg(folder.join(self.mark()))
                .arg(".")
                .current_dir(Path::new(SOURCES).join("mochi"))),
            Peer::Hivemq => run(Command::new("mvn")
                .args(["--batch-mode", "--quiet", "package", "dependency:copy-dependencies"])
                .arg(format!("-Dbench.build={}", folder.display()))
                .current_dir(Path::new(SOURCES).join("hivemq"))),
        }
    }

    fn folder(self) -> Result<PathBuf> {
        let folder = match self {
            Peer::Rmqttd => "rmqttd",
            Peer::Mochi => "mochi",
            Peer::Hivemq => "hivemq",
        };
        Ok(cache()?.join("mqtt-broker/peers").join(folder))
    }

    /// The file in its folder that is written last.
    fn mark(self) -> &'static str {
        match self {
            Peer::Rmqttd => "bin/rmqttd",
            Peer::Mochi => "mochi",
            Peer::Hivemq => "dependency/hivemq-community-edition-embedded-2025.5.jar",
        }
    }
}

/// Builds these; each that fails says why, and the others go on.
pub fn build(peers: &[Peer]) -> Result<()> {
    let mut failed = Vec::new();
    for peer in peers {
        eprintln!("{}", peer.name());
        if let Err(why) = peer.build() {
            eprintln!("{}: {why:#}", peer.name());
            failed.push(peer.name());
        }
    }
    if !failed.is_empty() {
        bail!("not built, so not to be measured: {}", failed.join(", "));
    }
    Ok(())
}

fn cache() -> Result<PathBuf> {
    let explicit = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    explicit
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME says where the peers are kept")
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("running {program}"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}
