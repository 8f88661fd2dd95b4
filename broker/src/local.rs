//! `mqtt-broker local`: a cluster on this machine's loopback, to try it and to break it.
//!
//! It writes what a person would write by hand, certificates and one configuration file per node, then runs one
//! ordinary broker process per node. Nothing in the brokers knows that they are local.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// How long the nodes may take to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Distance of a node's admin port from its MQTT port.
const ADMIN_PORT_OFFSET: u16 = 1000;
/// Distance of a node's peer port from its MQTT port.
const PEER_PORT_OFFSET: u16 = 2000;
/// More nodes than this have no use on one machine, and would run into each other's ports.
const NODES_MAX: u16 = 9;

/// What `mqtt-broker local` was asked.
#[derive(Clone, Debug)]
pub struct Local {
    /// How many nodes, 1 to 9.
    pub nodes: u16,
    /// Where certificates, configuration files and data directories go.
    pub data_dir: PathBuf,
    /// Node i listens on `port` + i for MQTT, + 1000 for admin, + 2000 for peers.
    pub port: u16,
}

/// One node: where it serves MQTT, and the file that says everything else.
#[derive(Debug)]
struct Node {
    name: String,
    port: u16,
    config: PathBuf,
}

impl Local {
    /// Prints a line per node, `HOST:PORT COMMAND`; the command starts or restarts that node.
    pub fn print(&self, program: &Path) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for node in self.prepare()? {
            writeln!(out, "127.0.0.1:{} {} --config {}", node.port, program.display(), node.config.display())?;
        }
        Ok(())
    }

    /// Runs the nodes until SIGINT or SIGTERM, then ends them.
    pub async fn run(&self, program: &Path) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};

        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut running = Vec::new();
        for node in self.prepare()? {
            let child = start(program, &node).with_context(|| format!("starting {}", node.name))?;
            println!("{} serves mqtt://127.0.0.1:{} (process {})", node.name, node.port, child.id());
            running.push((node, child));
        }
        let mut check = tokio::time::interval(Duration::from_millis(250));
        while !running.is_empty() {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = check.tick() => {}
            }
            let mut alive = Vec::new();
            for (node, mut child) in running {
                match child.try_wait()? {
                    None => alive.push((node, child)),
                    Some(status) => report_end(program, &node, status),
                }
            }
            running = alive;
        }
        if running.is_empty() {
            bail!("no node is left");
        }
        stop(running.into_iter().map(|(_, child)| child).collect()).await
    }

    fn prepare(&self) -> Result<Vec<Node>> {
        if self.nodes == 0 || self.nodes > NODES_MAX {
            bail!("--nodes {}: choose from 1 to {NODES_MAX}", self.nodes);
        }
        if self.port.checked_add(PEER_PORT_OFFSET + self.nodes).is_none() {
            bail!("--port {}: choose at most {}", self.port, u16::MAX - PEER_PORT_OFFSET - self.nodes);
        }
        fs::create_dir_all(&self.data_dir).with_context(|| format!("creating {}", self.data_dir.display()))?;
        let data_dir = self.data_dir.canonicalize()?;
        let pki = data_dir.join("pki");
        let marker = data_dir.join("never-initialised");
        if !pki.exists() {
            make_certificates(&pki).with_context(|| format!("making certificates in {}", pki.display()))?;
            fs::write(&marker, "The first node founds the cluster while this file exists, and removes it.\n")?;
        }
        (0..self.nodes).map(|index| self.write_config(index, &data_dir, &pki, &marker)).collect()
    }

    fn write_config(&self, index: u16, data_dir: &Path, pki: &Path, marker: &Path) -> Result<Node> {
        let (name, port) = (format!("node-{index}"), self.port + index);
        let peers: Vec<String> =
            (0..self.nodes).map(|node| format!("\"127.0.0.1:{}\"", self.port + PEER_PORT_OFFSET + node)).collect();
        let mut text = String::from("# Written by `mqtt-broker local`.\n");
        writeln!(text, "node: {{ name: {name} }}")?;
        writeln!(text, "data_dir: {}", quoted(&data_dir.join(&name)))?;
        writeln!(text, "listeners:\n  - url: mqtt://127.0.0.1:{port}")?;
        writeln!(text, "admin: {{ listen: \"127.0.0.1:{}\" }}", port + ADMIN_PORT_OFFSET)?;
        writeln!(text, "cluster:\n  listen: \"127.0.0.1:{}\"", port + PEER_PORT_OFFSET)?;
        writeln!(text, "  advertise: \"127.0.0.1:{}\"", port + PEER_PORT_OFFSET)?;
        writeln!(text, "  peers: [{}]", peers.join(", "))?;
        writeln!(text, "  bootstrap: node-0\n  bootstrap_marker: {}", quoted(marker))?;
        writeln!(text, "  tls:\n    ca_file: {}", quoted(&pki.join("ca.crt")))?;
        writeln!(text, "    cert_file: {}", quoted(&pki.join("node.crt")))?;
        writeln!(text, "    key_file: {}", quoted(&pki.join("node.key")))?;
        let config = data_dir.join(format!("{name}.yaml"));
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        Ok(Node { name, port, config })
    }
}

/// A path as a YAML double-quoted scalar.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

fn start(program: &Path, node: &Node) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("--config").arg(&node.config).stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    // A group of its own: Ctrl-C reaches this process alone, which then ends the nodes in its own way.
    command.process_group(0);
    // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe. It makes the kernel end the node
    // when this process is killed without a chance to do so.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    Ok(command.spawn()?)
}

fn report_end(program: &Path, node: &Node, status: ExitStatus) {
    println!(
        "{} ended ({status}); to start it again: {} --config {}",
        node.name,
        program.display(),
        node.config.display()
    );
}

async fn stop(mut children: Vec<Child>) -> Result<()> {
    for child in &children {
        // SAFETY: `kill` takes no pointer. The child has not been waited for, so its process id is still its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    }
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    for child in &mut children {
        while child.try_wait()?.is_none() {
            if tokio::time::Instant::now() > deadline {
                child.kill()?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// An authority and one certificate that every node shares: what tells peers from strangers.
fn make_certificates(pki: &Path) -> Result<()> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "mqtt-broker local authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::from_params(&authority, &authority_key);

    let mut node = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    node.distinguished_name.push(DnType::CommonName, "mqtt-broker local node");
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let node_key = KeyPair::generate()?;
    let node_certificate = node.signed_by(&node_key, &issuer)?;

    // Under another name until complete, so that a start cut short begins anew.
    let unfinished = pki.with_extension("unfinished");
    fs::create_dir_all(&unfinished)?;
    fs::write(unfinished.join("ca.crt"), authority_certificate.pem())?;
    fs::write(unfinished.join("node.crt"), node_certificate.pem())?;
    let mut key = fs::OpenOptions::new();
    key.write(true).create(true).truncate(true).mode(0o600);
    key.open(unfinished.join("node.key"))?.write_all(node_key.serialize_pem().as_bytes())?;
    fs::rename(&unfinished, pki)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preparing_twice_keeps_certificates_and_founds_once() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local { nodes: 3, data_dir: folder.path().join("it's \"quoted\""), port: 21_883 };
        let nodes = local.prepare().unwrap();
        assert_eq!(nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [21_883, 21_884, 21_885]);
        let authority = fs::read(local.data_dir.join("pki/ca.crt")).unwrap();
        fs::remove_file(local.data_dir.join("never-initialised")).unwrap();
        local.prepare().unwrap();
        assert_eq!(fs::read(local.data_dir.join("pki/ca.crt")).unwrap(), authority);
        assert!(!local.data_dir.join("never-initialised").exists(), "a founded cluster must not be founded again");
    }

    #[test]
    fn ports_and_counts_out_of_range_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let local = |nodes, port| Local { nodes, data_dir: folder.path().into(), port };
        assert!(local(0, 1883).prepare().unwrap_err().to_string().contains("--nodes 0"));
        assert!(local(3, 65_000).prepare().unwrap_err().to_string().contains("--port 65000"));
    }
}
