//! The way from this machine to a Service of the cluster: sockets made in the cluster's network, and which pod each has reached.
//!
//! Deliberately absent: what is spoken on those sockets.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::cluster::Cluster;

/// How long a pod may take to accept; a dead one behind a Service never does.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Where a Service answers.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address, as seen from the namespace.
    pub address: SocketAddr,
    /// The network namespace that reaches it; none when this process does.
    pub namespace: Option<PathBuf>,
}

impl Endpoint {
    /// Connects to whichever pod the Service chooses.
    ///
    /// A socket belongs to the namespace it was made in, for ever: so one thread goes there, makes it, and ends.
    pub async fn connect(&self) -> Result<TcpStream> {
        let (answer, wait) = oneshot::channel();
        let endpoint = self.clone();
        std::thread::Builder::new()
            .name("dial".into())
            // Nobody listening any more is no matter: the socket closes.
            .spawn(move || drop(answer.send(endpoint.dial())))
            .context("starting a thread to connect from")?;
        let stream = wait.await.map_err(|_| anyhow!("the connecting thread died"))??;
        Ok(TcpStream::from_std(stream)?)
    }

    fn dial(&self) -> Result<std::net::TcpStream> {
        if let Some(path) = &self.namespace {
            let namespace = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("entering {}", path.display()))?;
        }
        let stream = std::net::TcpStream::connect_timeout(&self.address, CONNECT_DEADLINE)
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// Local port of each open connection from here to the Service, and the address of the pod behind it, as connection tracking has it.
///
/// Only the local cluster can be asked: in another one the packets are rewritten where we can't look.
pub async fn pods_reached(cluster: &Cluster, service: SocketAddr) -> Result<BTreeMap<u16, IpAddr>> {
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    let list = ["-L", "-p", "tcp", "--orig-dst", &address, "--orig-port-dst", &port, "--state", "ESTABLISHED"];
    let table = cluster.program("conntrack").args(list).output().await?;
    Ok(table.lines().filter_map(tracked).collect())
}

/// `… src=US dst=SERVICE sport=LOCAL dport=… src=POD dst=US …`
fn tracked(line: &str) -> Option<(u16, IpAddr)> {
    let port = line.split_whitespace().find_map(|word| word.strip_prefix("sport="))?;
    let pod = line.split_whitespace().filter_map(|word| word.strip_prefix("src=")).nth(1)?;
    Some((port.parse().ok()?, pod.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracked_connection_names_the_pod_behind_the_service() {
        let line = "tcp      6 86397 ESTABLISHED src=172.30.3.1 dst=10.96.12.3 sport=40022 dport=1883 \
                    src=10.244.1.4 dst=172.30.3.1 sport=1883 dport=40022 [ASSURED] mark=0 use=1";
        assert_eq!(tracked(line), Some((40022, IpAddr::from([10, 244, 1, 4]))));
        assert_eq!(tracked("conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown."), None);
    }
}
